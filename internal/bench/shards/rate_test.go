package shards

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/runner/wire"
)

// paced is a model that takes each time for a prompt token and each step for
// one token of every stream.
type paced struct {
	name   string
	token  time.Duration // of the prompt
	step   time.Duration
	broken bool
	log    *[]string

	mu    sync.Mutex
	open  int
	begun int
}

func (p *paced) Info() wire.ModelInfo { return wire.ModelInfo{Vocabulary: 100} }

func (p *paced) Generate(ctx context.Context, req wire.GenerateRequest) (generation.Stream, error) {
	p.mu.Lock()
	p.open++
	p.begun++
	p.mu.Unlock()
	if p.log != nil && req.MaxTokens == 1 {
		*p.log = append(*p.log, p.name)
	}
	return &pacedStream{p: p, ctx: ctx, req: req}, nil
}

type pacedStream struct {
	p   *paced
	ctx context.Context
	req wire.GenerateRequest
	n   int
}

func (s *pacedStream) Next(context.Context) ([]wire.Token, *wire.Done, error) {
	prefill := time.Duration(len(s.req.Prompt)) * s.p.token
	done := &wire.Done{PromptTokens: len(s.req.Prompt), Generated: s.n, PrefillSeconds: prefill.Seconds()}
	switch {
	case s.p.broken:
		done.Reason, done.Code, done.Error = wire.ReasonError, wire.CodeShard, "shard 1 is gone"
		return nil, done, nil
	case s.ctx.Err() != nil:
		done.Reason = wire.ReasonCancelled
		return nil, done, nil
	case s.n == s.req.MaxTokens:
		done.Reason = wire.ReasonLength
		return nil, done, nil
	}
	wait := s.p.step
	if s.n == 0 {
		wait = prefill
	}
	<-time.After(wait)
	s.n++
	return []wire.Token{{Token: 1}}, nil, nil
}

func (s *pacedStream) Close() {
	s.p.mu.Lock()
	s.p.open--
	s.p.mu.Unlock()
}

func TestBench(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		sharded := &paced{name: "s", token: time.Millisecond, step: 20 * time.Millisecond, log: &order}
		one := &paced{name: "1", token: 2 * time.Millisecond, step: 40 * time.Millisecond, log: &order}
		two := &paced{name: "2", token: time.Millisecond, step: 25 * time.Millisecond, log: &order}
		o := BenchOptions{Model: "m", Layout: Layout{Stages: 2, Ranks: 1}, Streams: 4, PromptTokens: 100, DecodeTokens: 10, Rounds: 3, WholeThreads: []int{1, 2}}
		var said []string
		got, err := Bench(t.Context(), sharded, []Baseline{{Name: "whole-1-thread", Model: one, Streams: 2}, {Name: "whole-2-threads", Model: two, Streams: 4}}, o,
			func(f string, a ...any) { said = append(said, fmt.Sprintf(f, a...)) })
		if err != nil {
			t.Fatal(err)
		}
		f := func(kind string, streams int, baseline string, baselineStreams int, sharded, whole float64) Figure {
			return Figure{Model: "m", Figure: kind, Stages: 2, Ranks: 1, Streams: streams, PromptTokens: 100, Activations: "f32", Baseline: baseline,
				BaselineStreams: baselineStreams, Sharded: sharded, Whole: whole, Ratio: sharded / whole, Unit: "tok/s"}
		}
		want := []Figure{
			f(Decode, 4, "whole-1-thread", 2, 200, 50), f(Prefill, 1, "whole-1-thread", 1, 1000, 500),
			f(Decode, 4, "whole-2-threads", 4, 200, 160), f(Prefill, 1, "whole-2-threads", 1, 1000, 1000),
		}
		// The window opens and closes on a token of some stream, so a rate may
		// be off by a few tokens out of all that were counted.
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Figure{}, "ShardedEach", "WholeEach"), cmpopts.EquateApprox(0.15, 0)); diff != "" {
			t.Error(diff)
		}
		// Nobody is always the first, and all take part in every round.
		if diff := cmp.Diff(strings.Split("s12 12s 2s1", " "), []string{strings.Join(order[:3], ""), strings.Join(order[3:6], ""), strings.Join(order[6:], "")}); diff != "" {
			t.Error(diff)
		}
		if len(said) != 9 || len(got[0].ShardedEach) != 3 {
			t.Errorf("%d lines, %d rounds", len(said), len(got[0].ShardedEach))
		}
		for _, m := range []*paced{sharded, one, two} {
			if m.open != 0 {
				t.Errorf("%s: %d streams are open", m.name, m.open)
			}
		}
	})
}

// Two copies share the streams, and their prompts are no figure.
func TestTwin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		pace := func(name string) *paced {
			return &paced{name: name, token: time.Millisecond, step: 20 * time.Millisecond, log: &order}
		}
		o := BenchOptions{Layout: Layout{Stages: 2, Ranks: 1}, Streams: 4, PromptTokens: 100, DecodeTokens: 10, Rounds: 1, WholeThreads: []int{1}, Twice: true}
		a, b := pace("a"), pace("b")
		got, err := Bench(t.Context(), pace("s"), []Baseline{{Name: "two-wholes", Model: NewTwin(a, b), Streams: 4, DecodeOnly: true}}, o, func(string, ...any) {})
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != 1 || got[0].Figure != Decode || math.Abs(got[0].Ratio-1) > 0.15 {
			t.Errorf("%+v", got)
		}
		if a.begun != 2 || b.begun != 2 {
			t.Errorf("the copies got %d and %d streams", a.begun, b.begun)
		}
		if d := cmp.Diff("s", strings.Join(order, "")); d != "" {
			t.Errorf("prompts were timed of others than the shards: %s", d)
		}
	})
}

func TestBenchFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := BenchOptions{Streams: 1, PromptTokens: 4, DecodeTokens: 4, Rounds: 1, WholeThreads: []int{1}}
		_, err := Bench(t.Context(), &paced{broken: true}, nil, o, func(string, ...any) {})
		if err == nil || !strings.Contains(err.Error(), "shard 1 is gone") {
			t.Errorf("error %v", err)
		}
		for _, whole := range [][]int{nil, {0}, {3}, {1, 1}, {1, 2, 1}} {
			o := o
			o.WholeThreads = whole
			if err := o.Validate(); err == nil || !strings.Contains(err.Error(), "name 1, 2, or both") {
				t.Errorf("whole threads %v: error %v", whole, err)
			}
		}
		o.Layout.TLS, o.WholeThreads = true, nil
		if err := o.Validate(); err != nil {
			t.Errorf("with TLS against without: %v", err)
		}
		if _, err := Bench(t.Context(), &paced{}, nil, BenchOptions{}, func(string, ...any) {}); err == nil {
			t.Error("no streams are no error")
		}
	})
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1}, 5}, {[]float64{9, 1, 2}, 2}} {
		if got := median(c.in); got != c.want {
			t.Errorf("median of %v is %v, want %v", c.in, got, c.want)
		}
	}
}
