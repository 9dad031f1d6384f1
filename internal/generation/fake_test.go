package generation

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/runner/wire"
)

// script is what a fake runner does for one generation.
type script struct {
	pieces []string // one token each
	done   wire.Done
	err    error // instead of done: the runner dies
	refuse error // Generate itself fails
	hang   bool  // after the pieces, wait to be cancelled
	atOnce bool  // all tokens, and done, in one Next
}

// fakeModel tokenizes bytes to token ids and plays scripts in order of their
// choice, the last one for all that follow.
type fakeModel struct {
	info    wire.ModelInfo
	scripts []script
	special map[string]int32

	mu       sync.Mutex // guards all below
	requests []wire.GenerateRequest
	texts    []string // what was tokenized
	open     int      // streams not closed
	waiting  chan struct{}
}

func newFake(scripts ...script) *fakeModel {
	return &fakeModel{
		info: wire.ModelInfo{
			Description: "fake", Context: 100, Vocabulary: 1000, AddBOS: true, BOS: 256, BOSPiece: "<s>", EOSPiece: "</s>",
			ChatTemplate: "{{ bos_token }}{% for m in messages %}{{ m.role[0] }}:{{ m.content }}|{% endfor %}",
		},
		scripts: scripts, special: map[string]int32{}, waiting: make(chan struct{}, 64),
	}
}

func (f *fakeModel) Info() wire.ModelInfo { return f.info }

func (f *fakeModel) Tokenize(_ context.Context, text string, addSpecial, parseSpecial bool) ([]int32, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.texts = append(f.texts, text)
	if id, ok := f.special[text]; ok && parseSpecial {
		return []int32{id}, nil
	}
	var ids []int32
	if addSpecial && f.info.AddBOS {
		ids = append(ids, f.info.BOS)
	}
	for _, b := range []byte(text) {
		ids = append(ids, int32(b))
	}
	return ids, nil
}

func (f *fakeModel) Detokenize(_ context.Context, tokens []int32) (string, error) {
	var text []byte
	for _, t := range tokens {
		text = append(text, byte(t))
	}
	return string(text), nil
}

func (f *fakeModel) Generate(ctx context.Context, req wire.GenerateRequest) (Stream, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	// Choices start in any order; their seeds tell which is which.
	index := 0
	if len(f.requests) > 0 || len(f.scripts) > 1 {
		index = int(req.Sampling.Seed % 16)
	}
	f.requests = append(f.requests, req)
	s := f.scripts[min(index, len(f.scripts)-1)]
	if s.refuse != nil {
		return nil, s.refuse
	}
	f.open++
	if req.MaxTokens > 0 && len(s.pieces) > req.MaxTokens {
		s.pieces = s.pieces[:req.MaxTokens]
		s.done.Reason = wire.ReasonLength
	}
	if s.done.Reason == "" {
		s.done.Reason = wire.ReasonStop
	}
	return &fakeStream{model: f, ctx: ctx, req: req, script: s}, nil
}

type fakeStream struct {
	model  *fakeModel
	ctx    context.Context // the generation's
	req    wire.GenerateRequest
	script script
	next   int
	ended  bool
	closed bool
}

func (s *fakeStream) token(i int) wire.Token {
	piece := s.script.pieces[i]
	t := wire.Token{ID: s.req.ID, Token: int32(300 + i), Piece: []byte(piece)}
	if id, ok := s.model.special[piece]; ok {
		t.Token, t.Piece = id, nil // a control token shows no text
	}
	if s.req.Logprobs {
		t.HasLogprob, t.Logprob = true, -float32(i)
		for j := range s.req.TopLogprobs {
			t.Top = append(t.Top, wire.TokenLogprob{Token: int32(j), Piece: []byte{'a' + byte(j)}, Logprob: -float32(j)})
		}
	}
	return t
}

func (s *fakeStream) Next(ctx context.Context) ([]wire.Token, *wire.Done, error) {
	if s.ended || s.closed {
		panic("Next after the end")
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, context.Cause(ctx)
	}
	done := s.script.done
	if s.ctx.Err() != nil {
		done.Reason = wire.ReasonCancelled
		s.ended = true
		return nil, &done, nil
	}
	if s.script.atOnce {
		s.ended = true
		var all []wire.Token
		for i := range s.script.pieces {
			all = append(all, s.token(i))
		}
		return all, &done, nil
	}
	if s.next < len(s.script.pieces) {
		s.next++
		return []wire.Token{s.token(s.next - 1)}, nil, nil
	}
	if s.script.err != nil {
		s.ended = true
		return nil, nil, s.script.err
	}
	if s.script.hang {
		s.model.waiting <- struct{}{}
		<-ctx.Done()
		return nil, nil, context.Cause(ctx)
	}
	s.ended = true
	return nil, &done, nil
}

func (s *fakeStream) Close() {
	s.model.mu.Lock()
	defer s.model.mu.Unlock()
	if !s.closed {
		s.closed = true
		s.model.open--
	}
}

// result is a request's events, joined.
type result struct {
	text, reasoning []string // of each choice
	finish          []string
	logprobs        [][]TokenLogprob
	usage           *Usage
	events          []Event
}

var start = time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)

func newService(t testing.TB) *Service {
	t.Helper()
	s, err := New(Options{Clock: func() time.Time { return start }, Seed: func() uint64 { return 160 }})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// play runs a request and checks what holds for all of them.
func play(t *testing.T, m *fakeModel, req Request) (result, error) {
	t.Helper()
	s := newService(t)
	p, err := s.Prepare(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	n := max(req.Choices, 1)
	r := result{text: make([]string, n), reasoning: make([]string, n), finish: make([]string, n), logprobs: make([][]TokenLogprob, n)}
	err = s.Generate(t.Context(), m, p, req, func(e Event) error {
		if r.usage != nil || r.finish[e.Choice] != "" {
			t.Errorf("event after the end: %+v", e)
		}
		if strings.ToValidUTF8(e.Text, "") != e.Text || strings.ToValidUTF8(e.Reasoning, "") != e.Reasoning {
			t.Errorf("invalid UTF-8 in %+v", e)
		}
		r.events = append(r.events, e)
		r.text[e.Choice] += e.Text
		r.reasoning[e.Choice] += e.Reasoning
		r.logprobs[e.Choice] = append(r.logprobs[e.Choice], e.Logprobs...)
		r.finish[e.Choice] = e.FinishReason
		r.usage = e.Usage
		return nil
	})
	if m.open != 0 {
		t.Errorf("%d streams are open", m.open)
	}
	if open := s.Open(); len(open) != 0 {
		t.Errorf("generations are still recorded: %+v", open)
	}
	if err == nil && (r.usage == nil || slices.Contains(r.finish, "")) {
		t.Errorf("no end: finish %q, usage %v", r.finish, r.usage)
	}
	return r, err
}

func kindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}

func prompt(s string) *string { return &s }
