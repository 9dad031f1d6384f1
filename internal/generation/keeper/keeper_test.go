package keeper

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/runner/wire"
)

// model is deterministic: the next token depends on all before it alone.
type model struct {
	id    string
	fail  int // tokens after which it is lost; -1: never
	how   int // 0: error of the stream, 1: Done with the shard's code, 2: error together with the last tokens
	calls []wire.GenerateRequest
	start error
	open  *int // streams that are not closed or ended
}

func (m *model) Info() wire.ModelInfo { return wire.ModelInfo{Description: m.id} }
func (m *model) Tokenize(context.Context, string, bool, bool) ([]int32, error) {
	return []int32{1, 2}, m.start
}
func (m *model) Detokenize(context.Context, []int32) (string, error) { return m.id, m.start }
func (m *model) Generate(_ context.Context, req wire.GenerateRequest) (generation.Stream, error) {
	m.calls = append(m.calls, req)
	if m.start != nil {
		return nil, m.start
	}
	*m.open++
	return &run{m: m, tokens: slices.Clone(req.Prompt), limit: req.MaxTokens}, nil
}

func next(tokens []int32) int32 {
	h := int32(7)
	for _, t := range tokens {
		h = (h*31 + t) % 997
	}
	return h
}

type run struct {
	m      *model
	tokens []int32
	n      int
	limit  int
	over   bool
}

var errGone = &generation.Error{Kind: generation.KindFailed, Message: "the runner is gone"}

func (r *run) Next(context.Context) ([]wire.Token, *wire.Done, error) {
	if r.m.fail >= 0 && r.n >= r.m.fail {
		r.finish()
		if r.m.how == 1 {
			return nil, &wire.Done{Reason: wire.ReasonError, Code: wire.CodeShard, Error: "shard 1 is lost", CachedTokens: 1}, nil
		}
		return nil, nil, errGone
	}
	t := next(r.tokens)
	r.tokens = append(r.tokens, t)
	r.n++
	out := []wire.Token{{ID: 99, Token: t}}
	if r.limit > 0 && r.n >= r.limit {
		r.finish()
		return out, &wire.Done{Reason: wire.ReasonLength, PromptTokens: len(r.tokens) - r.n, Generated: r.n}, nil
	}
	if r.m.how == 2 && r.n == r.m.fail {
		r.finish()
		return out, nil, errGone
	}
	return out, nil, nil
}

func (r *run) finish() {
	if !r.over {
		r.over = true
		*r.m.open--
	}
}
func (r *run) Close() { r.finish() }

// router hands out places in turn.
type router struct {
	models []*model
	wants  []Want
	held   int
	err    error
}

func (r *router) Route(_ context.Context, w Want) (Place, error) {
	r.wants = append(r.wants, w)
	if len(r.models) == 0 {
		return Place{}, r.err
	}
	m := r.models[0]
	if len(r.models) > 1 || r.err != nil {
		r.models = r.models[1:]
	}
	r.held++
	given := false
	return Place{ID: m.id, Model: m, Release: func() {
		if !given {
			given = true
			r.held--
		}
	}}, nil
}

func read(s generation.Stream) (tokens []int32, done *wire.Done, err error) {
	for {
		out, d, err := s.Next(context.Background())
		for _, t := range out {
			tokens = append(tokens, t.Token)
		}
		if d != nil || err != nil {
			return tokens, d, err
		}
	}
}

func newModel(t interface{ Fatal(...any) }, r *router) *Model {
	m, err := New(Options{Router: r, Tries: DefaultTries, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestNothingIsLostOrDoubled: wherever places are lost, and however, the
// tokens are those of an undisturbed run.
func TestNothingIsLostOrDoubled(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		open := 0
		limit := rapid.IntRange(1, 30).Draw(rt, "limit")
		r := &router{}
		for i := range rapid.IntRange(0, 4).Draw(rt, "losses") {
			r.models = append(r.models, &model{
				id: fmt.Sprint("m", i), fail: rapid.IntRange(1, 8).Draw(rt, "fail"), how: rapid.IntRange(0, 2).Draw(rt, "how"), open: &open,
			})
		}
		r.models = append(r.models, &model{id: "last", fail: -1, open: &open})
		all := slices.Clone(r.models)
		req := wire.GenerateRequest{ID: 5, Prompt: []int32{3, 1, 4}, MaxTokens: limit, Drawn: 2}
		s, err := newModel(rt, r).Generate(context.Background(), req)
		if err != nil {
			rt.Fatal(err)
		}
		got, done, err := read(s)
		if err != nil {
			rt.Fatal(err)
		}
		s.Close()
		want := slices.Clone(req.Prompt)
		for range limit {
			want = append(want, next(want))
		}
		if !slices.Equal(got, want[3:]) {
			rt.Fatalf("tokens %v, undisturbed %v", got, want[3:])
		}
		if done.Generated != limit || done.PromptTokens != 3 || done.Reason != wire.ReasonLength || done.ID != 5 {
			rt.Fatalf("%+v", done)
		}
		for _, m := range all {
			for _, c := range m.calls {
				if n := len(c.Prompt) - 3; c.Drawn != 2+n || c.MaxTokens != limit-n {
					rt.Fatalf("a part with %d produced tokens was asked for %+v", n, c)
				}
			}
		}
		if r.held != 0 || open != 0 {
			rt.Fatalf("%d places and %d streams are still held", r.held, open)
		}
	})
}

func TestLostPlaceIsNamed(t *testing.T) {
	open := 0
	r := &router{models: []*model{{id: "a", fail: 1, open: &open}, {id: "b", fail: -1, open: &open}}}
	s, err := newModel(t, r).Generate(t.Context(), wire.GenerateRequest{Prompt: []int32{1}, MaxTokens: 3})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := read(s); err != nil {
		t.Fatal(err)
	}
	if len(r.wants) != 2 || r.wants[1].Lost != "a" || len(r.wants[1].Prompt) != 2 {
		t.Errorf("%+v", r.wants)
	}
}

func TestGivesUpWithBothReasons(t *testing.T) {
	open := 0
	r := &router{err: &generation.Error{Kind: generation.KindNoMemory, Message: "needs 8 GB, 2 GB are free"}, models: []*model{{id: "a", fail: 2, open: &open}}}
	var told error
	m, err := New(Options{Router: r, Tries: 3, Timeout: time.Minute, Lost: func(_ string, _, end error) { told = end }})
	if err != nil {
		t.Fatal(err)
	}
	s, err := m.Generate(t.Context(), wire.GenerateRequest{Prompt: []int32{1}, MaxTokens: 9})
	if err != nil {
		t.Fatal(err)
	}
	tokens, _, err := read(s)
	if len(tokens) != 2 || err == nil || !strings.Contains(err.Error(), "the runner is gone") || !strings.Contains(err.Error(), "2 GB are free") {
		t.Errorf("%v, %v", tokens, err)
	}
	if told == nil {
		t.Error("the loss was not told")
	}
	if len(r.wants) != 2 {
		t.Errorf("no memory was asked about %d times", len(r.wants)-1)
	}
	s.Close()
	if r.held != 0 {
		t.Errorf("%d places held", r.held)
	}
}

// TestWhatIsWrongEverywhere is not tried elsewhere.
func TestWhatIsWrongEverywhere(t *testing.T) {
	for _, kind := range []generation.Kind{generation.KindInvalid, generation.KindContextExceeded, generation.KindBusy} {
		open := 0
		r := &router{models: []*model{{id: "a", start: &generation.Error{Kind: kind, Message: "no"}, open: &open}, {id: "b", fail: -1, open: &open}}}
		_, err := newModel(t, r).Generate(t.Context(), wire.GenerateRequest{Prompt: []int32{1}})
		var known *generation.Error
		if !errors.As(err, &known) || known.Kind != kind {
			t.Errorf("%s: %v", kind, err)
		}
		if r.held != 0 {
			t.Errorf("%s: a place is held", kind)
		}
	}
}

func TestStartFailsElsewhereItWorks(t *testing.T) {
	open := 0
	r := &router{models: []*model{{id: "a", start: errGone, open: &open}, {id: "b", fail: -1, open: &open}}}
	m := newModel(t, r)
	s, err := m.Generate(t.Context(), wire.GenerateRequest{Prompt: []int32{1}, MaxTokens: 2})
	if err != nil {
		t.Fatal(err)
	}
	if tokens, _, err := read(s); len(tokens) != 2 || err != nil {
		t.Errorf("%v %v", tokens, err)
	}
	if m.Info().Description != "b" {
		t.Errorf("info of %q", m.Info().Description)
	}
}

func TestQuestionsGoOn(t *testing.T) {
	open := 0
	r := &router{models: []*model{{id: "a", start: errGone, open: &open}, {id: "b", open: &open}}}
	if text, err := newModel(t, r).Detokenize(t.Context(), nil); err != nil || text != "b" {
		t.Errorf("%q %v", text, err)
	}
	if r.held != 0 {
		t.Errorf("%d places held", r.held)
	}
}

func TestCancelledIsNoLoss(t *testing.T) {
	open := 0
	r := &router{models: []*model{{id: "a", fail: 1, open: &open}, {id: "b", fail: -1, open: &open}}}
	ctx, cancel := context.WithCancel(t.Context())
	s, err := newModel(t, r).Generate(ctx, wire.GenerateRequest{Prompt: []int32{1}, MaxTokens: 5})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, _, err := read(s); err == nil {
		t.Error("a cancelled generation went on elsewhere")
	}
	s.Close()
	s.Close()
	if len(r.wants) != 1 || r.held != 0 || open != 0 {
		t.Errorf("wants %d, held %d, open %d", len(r.wants), r.held, open)
	}
}

// cut is a place that can't be reached for some tries.
type cut struct {
	*model
	broken int
}

func (c *cut) Generate(ctx context.Context, req wire.GenerateRequest) (generation.Stream, error) {
	if c.broken > 0 && len(c.calls) > 0 {
		c.broken--
		return nil, &generation.Error{Kind: generation.KindFailed, Message: "reach node n: connection refused"}
	}
	return c.model.Generate(ctx, req)
}

// only gives one place again and again.
type only struct {
	model generation.Model
	wants []Want
	limit int // then it has none
}

func (o *only) Route(_ context.Context, w Want) (Place, error) {
	o.wants = append(o.wants, w)
	if len(o.wants) > o.limit {
		return Place{}, &generation.Error{Kind: generation.KindNoMemory, Message: "there is no room"}
	}
	return Place{ID: "a", Model: o.model}, nil
}

// TestTheOnlyPlaceIsTriedUntilItAnswers: a link that is broken for longer than
// the number of tries ends nothing, and no token is lost or doubled.
func TestTheOnlyPlaceIsTriedUntilItAnswers(t *testing.T) {
	open := 0
	m := &cut{model: &model{id: "a", fail: 2, open: &open}, broken: 10}
	r := &only{model: m, limit: 100}
	k, err := New(Options{Router: r, Tries: 3, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	req := wire.GenerateRequest{Prompt: []int32{3, 1, 4}, MaxTokens: 4}
	s, err := k.Generate(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	got, done, err := read(s)
	if err != nil || done.Generated != 4 {
		t.Fatalf("%v, %+v, %v", got, done, err)
	}
	want := slices.Clone(req.Prompt)
	for range 4 {
		want = append(want, next(want))
	}
	if !slices.Equal(got, want[3:]) {
		t.Errorf("tokens %v, undisturbed %v", got, want[3:])
	}
	for i, w := range r.wants[1:12] {
		if w.Lost != "a" || w.Again != i {
			t.Errorf("try %d asked for %+v", i+1, w)
		}
	}
	m.broken, m.calls = 1000, nil
	r.limit = len(r.wants) + 50
	if s, err = k.Generate(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if _, _, err := read(s); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("%v", err)
	}
	if open != 0 {
		t.Errorf("%d streams are open", open)
	}
}
