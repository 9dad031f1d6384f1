package httpapi

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const comment = ": keep-alive\n\n"

// Comments come after an interval of silence, counted from the last event.
func TestKeepAliveTiming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := httptest.NewRecorder()
		s := NewEventStream(w, 10*time.Second)
		body := func() string { s.mu.Lock(); defer s.mu.Unlock(); return w.Body.String() }

		time.Sleep(6 * time.Second)
		if err := s.Send([]byte("data: a\n\n")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(9 * time.Second) // 15 s after the start, 9 s after the event
		synctest.Wait()
		if got := body(); got != "data: a\n\n" {
			t.Errorf("after 9 s of silence: %q", got)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := body(); got != "data: a\n\n"+comment {
			t.Errorf("after 11 s of silence: %q", got)
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if got := strings.Count(body(), comment); got != 3 {
			t.Errorf("after 31 s of silence: %d comments", got)
		}
		if !s.End() {
			t.Error("End does not know that the response has begun")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := strings.Count(body(), comment); got != 3 {
			t.Errorf("after the end: %d comments", got)
		}
		if w.Code != 200 || !w.Flushed {
			t.Errorf("status %d, flushed %t", w.Code, w.Flushed)
		}
	})
}

// A stream that has sent nothing can still be answered otherwise.
func TestStreamNotBegun(t *testing.T) {
	for _, keepAlive := range []time.Duration{0, time.Hour} {
		w := httptest.NewRecorder()
		s := NewEventStream(w, keepAlive)
		if s.End() {
			t.Error("the response has begun by itself")
		}
		WriteError(w, Invalid("p", "c", "no"))
		if w.Code != 400 || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("status %d, %v", w.Code, w.Header())
		}
	}
}

// failingWriter is a client that went away.
type failingWriter struct {
	http.ResponseWriter
	writes int
}

var errBroken = errors.New("broken pipe")

func (f *failingWriter) Write([]byte) (int, error) { f.writes++; return 0, errBroken }

func TestClientGoneIsLasting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &failingWriter{ResponseWriter: httptest.NewRecorder()}
		s := NewEventStream(w, time.Second)
		for range 2 {
			if err := s.Send([]byte("data: a\n\n")); !errors.Is(err, ErrClientGone) || !errors.Is(err, errBroken) {
				t.Errorf("error %v", err)
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if w.writes != 1 {
			t.Errorf("%d writes to a client that is gone", w.writes)
		}
		s.End()
	})
}

// deadlines is a writer that notes its write deadlines.
type deadlines struct {
	*httptest.ResponseRecorder
	set []time.Time
}

func (d *deadlines) SetWriteDeadline(at time.Time) error { d.set = append(d.set, at); return nil }

// A client that reads nothing does not hold a stream for ever, and the
// deadline does not outlive the stream.
func TestWriteDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
		s := NewEventStream(w, 0)
		send := func() {
			if err := s.Send([]byte("data: a\n\n")); err != nil {
				t.Fatal(err)
			}
		}
		start := time.Now()
		send()
		send()
		time.Sleep(writeRenewal + time.Second)
		send()
		want := []time.Time{start.Add(writeTimeout), time.Now().Add(writeTimeout)}
		if len(w.set) != 2 || !w.set[0].Equal(want[0]) || !w.set[1].Equal(want[1]) {
			t.Errorf("deadlines %v, want %v", w.set, want)
		}
		s.End()
		send()
		if len(w.set) != 5 || !w.set[2].IsZero() || w.set[3].IsZero() || !w.set[4].IsZero() {
			t.Errorf("deadlines after the end: %v", w.set[2:])
		}
	})
}
