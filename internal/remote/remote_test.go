package remote

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/runner/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// head is the model on the other side.
type head struct {
	err    error
	got    wire.GenerateRequest
	script []step
	closed chan struct{} // closed when a stream is
	wait   bool          // goes on after the script, until it is cancelled
	prompt func(note func(generation.PromptProgress))
	ready  chan struct{} // nil, or the first step waits for it
}

type step struct {
	tokens []wire.Token
	done   *wire.Done
	err    error
}

func (h *head) Info() wire.ModelInfo { return wire.ModelInfo{Description: "llama", Vocabulary: 7} }
func (h *head) Tokenize(_ context.Context, s string, a, p bool) ([]int32, error) {
	if !a || p {
		return nil, errors.New("flags got lost")
	}
	return []int32{int32(len(s)), 5}, h.err
}
func (h *head) Detokenize(_ context.Context, tokens []int32) (string, error) {
	return strings.Repeat("x", len(tokens)), h.err
}
func (h *head) Generate(ctx context.Context, req wire.GenerateRequest) (generation.Stream, error) {
	h.got = req
	if h.prompt != nil {
		h.prompt(generation.NoteOf(ctx))
	}
	if h.err != nil {
		return nil, h.err
	}
	return &script{h: h}, nil
}

type script struct {
	h *head
	n int
}

func (s *script) Next(ctx context.Context) ([]wire.Token, *wire.Done, error) {
	if s.n == len(s.h.script) {
		if s.h.wait {
			<-ctx.Done()
		}
		return nil, nil, errors.New("the runner is gone")
	}
	if s.h.ready != nil {
		<-s.h.ready
	}
	st := s.h.script[s.n]
	s.n++
	return st.tokens, st.done, st.err
}
func (s *script) Close() { close(s.h.closed) }

type heads map[string]*head

func (h heads) Head(id string) (generation.Model, bool) {
	m, ok := h[id]
	return m, ok
}

func serve(t *testing.T, h heads) (Client, *httptest.Server) {
	t.Helper()
	mux := http.NewServeMux()
	Handle(mux, h)
	s := httptest.NewUnstartedServer(mux)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	c := s.Client()
	c.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, s.Listener.Addr().String())
	}
	c.Transport.(*http.Transport).TLSClientConfig.ServerName = "example.com"
	t.Cleanup(c.CloseIdleConnections)
	return Client{HTTP: c, Node: "n1"}, s
}

func model(t *testing.T, c Client, id string) *Model {
	t.Helper()
	m, err := c.Model(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestQuestions(t *testing.T) {
	h := &head{}
	c, _ := serve(t, heads{"i/1 x": h})
	m := model(t, c, "i/1 x") // whatever an id is made of
	if m.Info().Vocabulary != 7 {
		t.Errorf("%+v", m.Info())
	}
	if got, err := m.Tokenize(t.Context(), "abc", true, false); err != nil || !slices.Equal(got, []int32{3, 5}) {
		t.Errorf("%v %v", got, err)
	}
	if got, err := m.Detokenize(t.Context(), []int32{1, 2}); err != nil || got != "xx" {
		t.Errorf("%q %v", got, err)
	}
	h.err = &generation.Error{Kind: generation.KindBusy, Message: "full", RetryAfter: 3}
	var e *generation.Error
	if _, err := m.Tokenize(t.Context(), "abc", true, false); !errors.As(err, &e) || e.Kind != generation.KindBusy || e.RetryAfter != 3 {
		t.Errorf("%v", err)
	}
	if _, err := c.Model(t.Context(), "nothing"); !errors.As(err, &e) || e.Kind != generation.KindUnavailable {
		t.Errorf("%v", err)
	}
}

func TestGenerate(t *testing.T) {
	want := []wire.Token{
		{ID: 4, Token: 1, Piece: []byte("a")},
		{ID: 4, Token: 2, Piece: []byte{0xc3}, HasLogprob: true, Logprob: -0.5, Top: []wire.TokenLogprob{{Token: 2, Piece: []byte{0xc3}, Logprob: -0.5}}},
	}
	h := &head{closed: make(chan struct{}), script: []step{
		{tokens: want[:1]}, {tokens: want[1:], done: &wire.Done{ID: 4, Reason: wire.ReasonStop, Generated: 2}},
	}}
	c, _ := serve(t, heads{"i": h})
	req := wire.GenerateRequest{ID: 4, Prompt: []int32{9, 8}, Sampling: wire.NeutralSampling(), Drawn: 1}
	s, err := model(t, c, "i").Generate(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	var got []wire.Token
	for {
		tokens, done, err := s.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, tokens...)
		if done != nil {
			if done.Generated != 2 {
				t.Errorf("%+v", done)
			}
			break
		}
	}
	s.Close()
	s.Close()
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(req, h.got); d != "" {
		t.Error(d)
	}
	<-h.closed
}

func TestRunnerGone(t *testing.T) {
	h := &head{closed: make(chan struct{}), script: []step{{tokens: []wire.Token{{Token: 1}}}}}
	c, _ := serve(t, heads{"i": h})
	s, err := model(t, c, "i").Generate(t.Context(), wire.GenerateRequest{Prompt: []int32{1}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if tokens, _, err := s.Next(t.Context()); len(tokens) != 1 || err != nil {
		t.Fatal(tokens, err)
	}
	var e *generation.Error
	if _, _, err := s.Next(t.Context()); !errors.As(err, &e) || e.Kind != generation.KindFailed || !strings.Contains(e.Message, "the runner is gone") {
		t.Errorf("%v", err)
	}
}

func TestNodeGone(t *testing.T) {
	h := &head{closed: make(chan struct{}), wait: true, script: []step{{tokens: []wire.Token{{Token: 1}}}}}
	c, server := serve(t, heads{"i": h})
	s, err := model(t, c, "i").Generate(t.Context(), wire.GenerateRequest{Prompt: []int32{1}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, _, err := s.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	server.CloseClientConnections()
	var e *generation.Error
	if _, _, err := s.Next(t.Context()); !errors.As(err, &e) || e.Kind != generation.KindFailed || !strings.Contains(e.Message, "n1") {
		t.Errorf("%v", err)
	}
	<-h.closed // and there, the generation ended with its caller
}

func TestCallerGone(t *testing.T) {
	for name, end := range map[string]func(generation.Stream, context.CancelFunc){
		"closes":  func(s generation.Stream, _ context.CancelFunc) { s.Close() },
		"cancels": func(_ generation.Stream, cancel context.CancelFunc) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			h := &head{closed: make(chan struct{}), wait: true, script: []step{{tokens: []wire.Token{{Token: 1}}}}}
			c, _ := serve(t, heads{"i": h})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s, err := model(t, c, "i").Generate(ctx, wire.GenerateRequest{Prompt: []int32{1}})
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := s.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
			end(s, cancel)
			select {
			case <-h.closed:
			case <-time.After(20 * time.Second):
				t.Error("the generation goes on without its caller")
			}
			s.Close()
		})
	}
}

func TestRefusedAtStart(t *testing.T) {
	h := &head{err: &generation.Error{Kind: generation.KindContextExceeded, Message: "too long", PromptTokens: 9, Context: 8}}
	c, _ := serve(t, heads{"i": h})
	m := model(t, c, "i")
	var e *generation.Error
	if _, err := m.Generate(t.Context(), wire.GenerateRequest{}); !errors.As(err, &e) || e.Context != 8 || e.PromptTokens != 9 {
		t.Errorf("%v", err)
	}
}

// How far a prompt is comes from the other node too, before any token.
func TestProgressOfThePrompt(t *testing.T) {
	ready := make(chan struct{})
	h := &head{
		closed: make(chan struct{}), ready: ready,
		prompt: func(note func(generation.PromptProgress)) {
			note(generation.PromptProgress{Done: 256, Total: 600})
			note(generation.PromptProgress{Done: 512, Total: 600})
		},
		script: []step{{tokens: []wire.Token{{ID: 4, Token: 1}}}, {done: &wire.Done{ID: 4, Reason: wire.ReasonStop}}},
	}
	c, _ := serve(t, heads{"i": h})
	heard := make(chan generation.PromptProgress, 9)
	ctx := generation.WithProgress(t.Context(), func(p generation.PromptProgress) { heard <- p })
	s, err := model(t, c, "i").Generate(ctx, wire.GenerateRequest{ID: 4, Progress: true})
	if err != nil {
		t.Fatal(err)
	}
	for p := range heard { // the first may be overtaken
		if p.Total != 600 {
			t.Errorf("heard %v", p)
		}
		if p.Done == 512 {
			break
		}
	}
	close(ready)
	if tokens, _, err := s.Next(t.Context()); err != nil || len(tokens) != 1 {
		t.Errorf("%v %v", tokens, err)
	}
	s.Close()
	<-h.closed
}
