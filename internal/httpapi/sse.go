package httpapi

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/generation"
)

// writeTimeout is how long a client may leave a stream unread before it is
// taken for gone; the deadline is renewed at most every writeRenewal.
const (
	writeTimeout = time.Minute
	writeRenewal = 10 * time.Second
)

// ErrClientGone is what sending on a stream gives when nobody reads it.
var ErrClientGone = errors.New("the client is gone")

// LastData is the extension by which the API's document says how the data of a
// stream's last event read, where they are no JSON.
const LastData = "x-last-data"

// EventStream answers a request with server-sent events. The response begins
// with the first event, or with the first keep-alive comment when none came
// for an interval: until then the request can still be answered with a plain
// error. Any goroutine may send; events are written whole and flushed.
type EventStream struct {
	control  *http.ResponseController
	interval time.Duration

	mu      sync.Mutex
	w       http.ResponseWriter // guarded by mu
	begun   bool                // guarded by mu
	ended   bool                // guarded by mu: no more keep-alives
	err     error               // guarded by mu: the first failed write; sticky
	last    time.Time           // guarded by mu: of the last write
	renewed time.Time           // guarded by mu: when the write deadline was set
	timer   *time.Timer         // guarded by mu
}

// NewEventStream makes the stream of a request. keepAlive is the longest
// silence before a comment is sent; 0: none. The caller ends it with End
// before its handler returns.
func NewEventStream(w http.ResponseWriter, keepAlive time.Duration) *EventStream {
	s := &EventStream{control: http.NewResponseController(w), interval: keepAlive, w: w, last: time.Now()}
	if keepAlive > 0 {
		s.mu.Lock()
		s.timer = time.AfterFunc(keepAlive, s.keepAlive)
		s.mu.Unlock()
	}
	return s
}

// Send writes whole events and flushes them. An error is lasting and is
// an ErrClientGone.
func (s *EventStream) Send(events []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.send(events)
}

// End stops the keep-alives and says whether the response has begun. If not,
// it may still be answered in another way. Send may be called afterwards.
func (s *EventStream) End() (begun bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if s.timer != nil {
		s.timer.Stop()
	}
	s.clearDeadline()
	return s.begun
}

// clearDeadline, with mu held: the connection may serve another request, which
// must not inherit a deadline.
func (s *EventStream) clearDeadline() {
	if !s.renewed.IsZero() {
		_ = s.control.SetWriteDeadline(time.Time{})
		s.renewed = time.Time{}
	}
}

// keepOpen keeps a connection open, and says nothing.
const keepOpen = ": keep-alive\n\n"

// Begin answers at once, with a comment: for clients that take silence for a
// failure. What comes after can't be a plain error any more.
func (s *EventStream) Begin() error { return s.Send([]byte(keepOpen)) }

// AppendPrompt appends a comment that tells how far a prompt is, as exo's
// clients read it. Others skip comments.
func AppendPrompt(b []byte, model string, p generation.PromptProgress) []byte {
	b = append(b, `: prefill_progress {"PrefillProgressChunk":{"model":`...)
	b = appendJSON(b, model)
	return fmt.Appendf(b, `,"processed_tokens":%d,"total_tokens":%d}}`+"\n\n", p.Done, p.Total)
}

// keepAlive runs on the timer's goroutine. The timer is not reset with every
// event, which would cost more than the event: it looks when it fires.
func (s *EventStream) keepAlive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.err != nil {
		return
	}
	if left := s.interval - time.Since(s.last); left > 0 {
		s.timer.Reset(left)
		return
	}
	if s.send([]byte(keepOpen)) == nil {
		s.timer.Reset(s.interval)
	}
}

func (s *EventStream) send(events []byte) error { // with mu held
	if s.err != nil {
		return s.err
	}
	if !s.begun {
		h := s.w.Header()
		h.Set("Content-Type", "text/event-stream; charset=utf-8")
		h.Set("Cache-Control", "no-cache")
		h.Set("X-Accel-Buffering", "no") // nginx must pass events on as they come
		s.w.WriteHeader(http.StatusOK)
		s.begun = true
	}
	s.last = time.Now()
	if s.last.Sub(s.renewed) > writeRenewal {
		// A writer without deadlines (a test's recorder) cannot block either.
		_ = s.control.SetWriteDeadline(s.last.Add(writeTimeout))
		s.renewed = s.last
		if s.ended {
			defer s.clearDeadline()
		}
	}
	if _, err := s.w.Write(events); err != nil {
		s.err = fmt.Errorf("%w: %w", ErrClientGone, err)
	} else if err := s.control.Flush(); err != nil {
		s.err = fmt.Errorf("%w: %w", ErrClientGone, err)
	}
	return s.err
}
