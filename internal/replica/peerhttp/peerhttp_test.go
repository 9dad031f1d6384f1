package peerhttp

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/replica"
)

// fake is a node that answers as it is told.
type fake struct {
	err    error
	got    replica.Command
	follow func(replica.FollowRequest, io.ReadWriter) error
	log    io.Writer
}

func (f *fake) Status() (replica.Status, error) {
	return replica.Status{Index: 7, Session: ids.Session{Master: "m", Clock: 3}}, f.err
}
func (f *fake) Serve(_ context.Context, c replica.Command) (replica.Answer, error) {
	f.got = c
	return replica.Answer{Result: json.RawMessage(`{"a":1}`), Index: 8, Copies: 2}, f.err
}
func (f *fake) Follow(_ context.Context, r replica.FollowRequest, s io.ReadWriter) error {
	return f.follow(r, s)
}

func serve(t *testing.T, f *fake) Client {
	t.Helper()
	mux := http.NewServeMux()
	if f.log == nil {
		f.log = io.Discard
	}
	Handle(mux, f, func(*http.Request) ids.Node { return "me" }, slog.New(slog.NewTextHandler(f.log, nil)))
	s := httptest.NewUnstartedServer(mux)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	c := s.Client()
	c.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, s.Listener.Addr().String())
	}
	c.Transport.(*http.Transport).TLSClientConfig.ServerName = "example.com"
	return Client{HTTP: c}
}

func TestCalls(t *testing.T) {
	f := &fake{}
	c := serve(t, f)
	s, err := c.Status(t.Context(), "n")
	if err != nil || s.Index != 7 || s.Session.Clock != 3 {
		t.Errorf("%+v %v", s, err)
	}
	cmd := replica.Command{ID: "x", Kind: "load", Body: json.RawMessage(`{"m":"y"}`), Offered: true}
	a, err := c.Submit(t.Context(), "n", cmd)
	if err != nil || a.Copies != 2 || string(a.Result) != `{"a":1}` {
		t.Errorf("%+v %v", a, err)
	}
	if d := cmp.Diff(cmd, f.got); d != "" {
		t.Error(d)
	}
}

func TestErrorsKeepTheirKind(t *testing.T) {
	f := &fake{}
	c := serve(t, f)
	submit := func(err error) error {
		f.err = err
		_, err = c.Submit(t.Context(), "n", replica.Command{ID: "x"})
		return err
	}
	var no *replica.Refusal
	if err := submit(&replica.Refusal{Code: "memory", Message: "too large", Index: 7}); !errors.As(err, &no) || no.Code != "memory" || no.Index != 7 || no.Message != "too large" {
		t.Error(err)
	}
	var none *replica.NoMasterError
	if err := submit(&replica.NoMasterError{Last: ids.Session{Master: "a", Clock: 1}}); !errors.As(err, &none) || none.Last.Master != "a" {
		t.Error(err)
	}
	if err := submit(replica.ErrUnconfirmed); !errors.Is(err, replica.ErrUnconfirmed) {
		t.Error(err)
	}
	if err := submit(errors.New("disk on fire")); err == nil || err.Error() != "disk on fire" {
		t.Error(err)
	}
	c.HTTP.Transport = http.NewFileTransport(http.Dir(t.TempDir()))
	if _, err := c.Submit(t.Context(), "n", replica.Command{}); err == nil || !strings.Contains(err.Error(), "status 404") {
		t.Error(err)
	}
}

func TestStream(t *testing.T) {
	f := &fake{follow: func(r replica.FollowRequest, s io.ReadWriter) error {
		in, out := json.NewDecoder(s), json.NewEncoder(s)
		for {
			var n int
			if err := in.Decode(&n); err != nil {
				return err
			}
			if err := out.Encode(n + len(r.Runs)); err != nil {
				return err
			}
		}
	}}
	c := serve(t, f)
	s, err := c.Follow(t.Context(), "n", replica.FollowRequest{From: "me", Runs: make([]replica.Run, 10)})
	if err != nil {
		t.Fatal(err)
	}
	in, out := json.NewDecoder(s), json.NewEncoder(s)
	for n := range 5 {
		if err := out.Encode(n); err != nil {
			t.Fatal(err)
		}
		var got int
		if err := in.Decode(&got); err != nil || got != n+10 {
			t.Fatalf("%d %v", got, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	// A node can't follow in another's name: the master would count its disk twice.
	s, err = c.Follow(t.Context(), "n", replica.FollowRequest{From: "other"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if b, err := io.ReadAll(s); len(b) > 0 || err != nil {
		t.Errorf("%q %v", b, err)
	}
}

// told is a log as a channel of lines.
type told chan string

func (l told) Write(b []byte) (int, error) {
	l <- string(b)
	return len(b), nil
}

// TestBrokenStreamIsSaid: why a follower's stream ended stands in the log of the
// node that ended it; that a follower hung up does not.
func TestBrokenStreamIsSaid(t *testing.T) {
	log := make(told, 10)
	ended := make(chan struct{}, 1)
	f := &fake{log: log}
	c := serve(t, f)
	follow := func(from ids.Node) io.ReadWriteCloser {
		s, err := c.Follow(t.Context(), "n", replica.FollowRequest{From: from})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	expect := func(what ...string) {
		t.Helper()
		line := <-log
		for _, w := range what {
			if !strings.Contains(line, w) {
				t.Errorf("%q is missing in %s", w, line)
			}
		}
	}
	// Its caller hangs up.
	f.follow = func(_ replica.FollowRequest, s io.ReadWriter) error {
		defer func() { ended <- struct{}{} }()
		_, err := io.ReadAll(s)
		return errors.Join(err, errors.New("nobody to send to"))
	}
	if err := follow("me").Close(); err != nil {
		t.Fatal(err)
	}
	<-ended
	f.follow = func(replica.FollowRequest, io.ReadWriter) error { return errors.New("entry 7 can't be read") }
	s := follow("me")
	expect("level=WARN", "entry 7 can't be read", "node=me")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = follow("other")
	defer s.Close()
	expect("level=WARN", "named=other", "node=me")
}
