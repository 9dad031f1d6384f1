package group

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bubble runs f with a group of stages x ranks that is stopped in the end.
func bubble(t *testing.T, stages, ranks int, change func(*world, *Options), f func(t *testing.T, w *world, g *Group)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		o := w.options(stages, ranks)
		if change != nil {
			change(w, &o)
		}
		g := w.start(t, o)
		defer g.Stop(context.Background())
		f(t, w, g)
	})
}

// settle waits until the group is joined for the n-th time at least.
func (w *world) settle(t *testing.T, g *Group, n int) {
	t.Helper()
	for {
		s, changed := g.Watch()
		if s.Phase == supervise.Ready && len(w.joins()) >= n {
			return
		}
		if s.Final() {
			t.Fatalf("phase %s (%v)", s.Phase, s.Err)
		}
		<-changed
	}
}

// wantLog fails unless some line of the log has all parts.
func (w *world) wantLog(t *testing.T, parts ...string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for line := range strings.Lines(w.log.String()) {
		missing := slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) })
		if !missing {
			return
		}
	}
	t.Errorf("no line with %q in\n%s", parts, w.log.String())
}

// text reads a stream to its end.
func text(ctx context.Context, g *Group, req wire.GenerateRequest) (string, *wire.Done, error) {
	s, err := g.Generate(ctx, req)
	if err != nil {
		return "", nil, err
	}
	defer s.Close()
	var out strings.Builder
	for {
		tokens, done, err := s.Next(ctx)
		for _, t := range tokens {
			out.Write(t.Piece)
		}
		if done != nil || err != nil {
			return out.String(), done, err
		}
	}
}

// The shards load side by side, learn of each other, and the head answers.
func TestServe(t *testing.T) {
	bubble(t, 2, 2, nil, func(t *testing.T, w *world, g *Group) {
		if err := g.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := []wire.ConnectRequest{{Epoch: 1, Addresses: []string{"link-0-1", "link-1-1", "link-2-1", "link-3-1"}}}
		if diff := cmp.Diff(want, w.joins()); diff != "" {
			t.Error(diff)
		}
		got, done, err := text(t.Context(), g, wire.GenerateRequest{Prompt: []int32{1}, MaxTokens: 3})
		if err != nil || got != "2 2 2 " || done.Reason != wire.ReasonLength {
			t.Errorf("text %q of the head, shard 2; %+v, %v", got, done, err)
		}
		if said, err := g.Detokenize(t.Context(), []int32{1}); err != nil || said != "shard 2" {
			t.Errorf("detokenize %q, %v", said, err)
		}
		if ids, err := g.Tokenize(t.Context(), "a", true, false); err != nil || len(ids) != 1 || ids[0] != 2 {
			t.Errorf("tokenize %v, %v", ids, err)
		}
		if _, err := g.Stats(t.Context()); err != nil {
			t.Error(err)
		}
		info := g.Info()
		if info.Bytes != 400 || info.Layers != 4 || info.Context != 512 || info.Link != "" {
			t.Errorf("info %+v", info)
		}
		var rows [][]float32
		err = g.Eval(t.Context(), wire.EvalRequest{Tokens: []int32{4, 6, 8}, Prompt: 2}, func(_ int32, l []float32) { rows = append(rows, l) })
		if diff := cmp.Diff([][]float32{{3}, {4}}, rows); diff != "" || err != nil {
			t.Error(err, diff)
		}
		specs := []slice.Spec{
			{First: 0, End: 2, Parts: []int{1, 1}}, {First: 0, End: 2, Rank: 1, Parts: []int{1, 1}},
			{First: 2, End: 4, Parts: []int{1, 1}}, {First: 2, End: 4, Rank: 1, Parts: []int{1, 1}},
		}
		for i, m := range g.Members() {
			s := w.started[i][0].Shard
			if diff := cmp.Diff(specs, s.Shards); diff != "" {
				t.Error(diff)
			}
			if s.Index != i || s.Head != 2 || s.Group == "" || s.Group != w.started[0][0].Shard.Group || s.Listen != "127.0.0.1:0" {
				t.Errorf("shard %d was told %+v", i, s)
			}
			if m.State.Phase != supervise.Ready || m.Info.Bytes != 100 {
				t.Errorf("member %d: %+v", i, m)
			}
		}
	})
}

// Progress of the group is the mean of its shards', and nobody is asked to
// connect before all have loaded.
func TestLoadTogether(t *testing.T) {
	hold := make(chan struct{})
	bubble(t, 2, 1, func(w *world, _ *Options) {
		hold = make(chan struct{}) // of this bubble
		w.loads = map[int]chan struct{}{1: hold}
	}, func(t *testing.T, w *world, g *Group) {
		synctest.Wait()
		if s := g.State(); s.Phase != supervise.Loading || s.Progress != 0.75 {
			t.Errorf("state %+v, want loading at 75 %%", s)
		}
		if n := len(w.joins()); n > 0 {
			t.Errorf("%d connects before all have loaded", n)
		}
		close(hold)
		if err := g.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A shard that dies ends the running generation with a clear error, comes
// back alone, and all are joined with the next epoch.
func TestShardDies(t *testing.T) {
	bubble(t, 3, 1, nil, func(t *testing.T, w *world, g *Group) {
		if err := g.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		s, err := g.Generate(t.Context(), wire.GenerateRequest{Prompt: []int32{1}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if tokens, _, err := s.Next(t.Context()); err != nil || len(tokens) != 1 {
			t.Fatalf("%v, %v", tokens, err)
		}
		w.live(0).exit("signal: killed")
		w.live(2).lose(0, "shard 0 closed its link")
		if _, done, err := s.Next(t.Context()); err != nil || done == nil || done.Code != wire.CodeShard {
			t.Errorf("the generation ended with %+v, %v", done, err)
		}
		w.settle(t, g, 2)
		w.wantLog(t, "shard 0: layers 0-1", "killed")
		if got, _, err := text(t.Context(), g, wire.GenerateRequest{Prompt: []int32{1}, MaxTokens: 1}); err != nil || got != "2 " {
			t.Errorf("after it: %q, %v", got, err)
		}
		joins := w.joins()
		if last := joins[len(joins)-1]; last.Epoch != uint64(len(joins)) || len(joins) < 2 || last.Addresses[0] != "link-0-2" || last.Addresses[2] != "link-2-1" {
			t.Errorf("joined by %+v", joins)
		}
		for i, want := range []int{2, 1, 1} {
			if got := w.births(i); got != want {
				t.Errorf("shard %d was started %d times, want %d", i, got, want)
			}
		}
	})
}

// The head's own death ends its streams and heals likewise.
func TestHeadDies(t *testing.T) {
	bubble(t, 2, 1, nil, func(t *testing.T, w *world, g *Group) {
		if err := g.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		s, err := g.Generate(t.Context(), wire.GenerateRequest{Prompt: []int32{1}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, _, err := s.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.live(1).exit("signal: killed")
		if _, _, err := s.Next(t.Context()); err == nil || !strings.Contains(err.Error(), "shard 1") {
			t.Errorf("error %v", err)
		}
		if got, _, err := text(t.Context(), g, wire.GenerateRequest{Prompt: []int32{1}, MaxTokens: 1}); err != nil || got != "1 " {
			t.Errorf("after it: %q, %v", got, err)
		}
	})
}

// Many deaths far apart are no loop, and never mistaken for broken links.
func TestManyDeaths(t *testing.T) {
	bubble(t, 2, 1, nil, func(t *testing.T, w *world, g *Group) {
		for n := range 12 {
			if err := g.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.live(n % 2).exit("signal: killed")
			w.live((n+1)%2).lose(n%2, "link closed")
			w.settle(t, g, n+2)
			<-time.After(2 * time.Minute)
		}
		if got := w.births(0) + w.births(1); got != 14 {
			t.Errorf("%d processes, want 14", got)
		}
	})
}

// Links that break with every shard alive are joined again without a new
// process; news of an earlier epoch changes nothing.
func TestLinksBreak(t *testing.T) {
	bubble(t, 2, 1, nil, func(t *testing.T, w *world, g *Group) {
		if err := g.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		old := *w.live(0)
		w.live(0).lose(1, "connection reset by peer")
		w.settle(t, g, 2)
		w.wantLog(t, "shard 1: layers 2-3: connection reset")
		old.epoch = 1
		old.lose(1, "late news")
		synctest.Wait()
		if got := len(w.joins()); got != 2 {
			t.Errorf("%d joins, want 2", got)
		}
		if w.births(0) != 1 || w.births(1) != 1 {
			t.Error("a process was started for a broken link")
		}
	})
}

// A shard that is stopped answers nothing: it is killed and started anew.
func TestFrozenShard(t *testing.T) {
	bubble(t, 2, 1, nil, func(t *testing.T, w *world, g *Group) {
		if err := g.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		close(w.live(0).frozen)
		began := time.Now()
		w.live(1).lose(0, "no heartbeat for 2s")
		w.settle(t, g, 2)
		w.wantLog(t, "gave no sign of life for")
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("back after %v", took)
		}
		if w.births(0) != 2 || w.births(1) != 1 {
			t.Errorf("%d and %d processes, want 2 and 1", w.births(0), w.births(1))
		}
	})
}

// So is one that beats but never connects.
func TestDeafShard(t *testing.T) {
	bubble(t, 2, 1, func(w *world, _ *Options) { w.deaf = map[int]bool{0: true} }, func(t *testing.T, w *world, g *Group) {
		if err := g.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if w.births(0) != 2 || w.births(1) != 1 {
			t.Errorf("%d and %d processes, want 2 and 1", w.births(0), w.births(1))
		}
	})
}

// Shards that can never reach each other are given up with the reason.
func TestNeverJoined(t *testing.T) {
	bubble(t, 2, 1, func(w *world, _ *Options) { w.apart = true }, func(t *testing.T, w *world, g *Group) {
		err := g.Wait(t.Context())
		if err == nil || !strings.Contains(err.Error(), "no route to shard 0") {
			t.Errorf("error %v", err)
		}
		<-g.Done()
		if got := len(w.joins()); got != 5 {
			t.Errorf("%d tries, want 5", got)
		}
		if s := g.State(); s.Phase != supervise.Failed {
			t.Errorf("phase %s", s.Phase)
		}
	})
}

// A crash loop says which shard, and its telling line.
func TestCrashLoop(t *testing.T) {
	bubble(t, 2, 1, func(w *world, _ *Options) { w.crash = map[int]bool{1: true} }, func(t *testing.T, w *world, g *Group) {
		<-g.Done()
		var lost *Lost
		if !errors.As(g.Err(), &lost) || lost.Index != 1 {
			t.Fatalf("error %v", g.Err())
		}
		for _, part := range []string{"shard 1: layers 2-3", "GGML_ASSERT(rows > 0) failed"} {
			if !strings.Contains(g.Err().Error(), part) {
				t.Errorf("%q lacks %q", g.Err(), part)
			}
		}
		if crash, ok := errors.AsType[*supervise.Crash](g.Err()); !ok || len(crash.Stderr) == 0 {
			t.Error("the last words are lost")
		}
		if s := w.live(0).status; s == "" {
			t.Error("the other shard lives on")
		}
	})
}

// A refusal is final and keeps its kind.
func TestRefused(t *testing.T) {
	bubble(t, 2, 1, func(w *world, _ *Options) {
		w.refuse = map[int]*wire.Failure{0: {Code: wire.CodeMemory, Message: "not enough memory"}}
	}, func(t *testing.T, w *world, g *Group) {
		<-g.Done()
		if refused, ok := errors.AsType[*supervise.Refused](g.Err()); !ok || refused.Failure.Code != wire.CodeMemory {
			t.Errorf("error %v", g.Err())
		}
		if err := g.Wait(t.Context()); err == nil || !strings.Contains(err.Error(), "shard 0: layers 0-1") {
			t.Errorf("error %v", err)
		}
	})
}

func TestStop(t *testing.T) {
	for name, ready := range map[string]bool{"while loading": false, "when ready": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &world{}
				if !ready {
					w.loads = map[int]chan struct{}{0: make(chan struct{})}
				}
				g := w.start(t, w.options(2, 2))
				if ready {
					if err := g.Wait(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				synctest.Wait()
				now, cancel := context.WithCancel(t.Context())
				cancel()
				g.Stop(now)
				g.Stop(t.Context())
				for i := range 4 {
					if w.live(i).status == "" {
						t.Errorf("shard %d lives", i)
					}
				}
				if s := g.State(); s.Phase != supervise.Stopped || g.Err() != nil {
					t.Errorf("state %+v", s)
				}
				if _, err := g.Generate(t.Context(), wire.GenerateRequest{Prompt: []int32{1}}); err == nil {
					t.Error("a stopped group generates")
				}
			})
		})
	}
}

func TestOptions(t *testing.T) {
	spec := func(first, end, rank int, parts ...int) Shard {
		return Shard{Spec: slice.Spec{First: first, End: end, Rank: rank, Parts: parts}}
	}
	for name, c := range map[string]struct {
		shards []Shard
		want   string
	}{
		"none":         {nil, "no shards"},
		"gap":          {[]Shard{spec(0, 2, 0), spec(3, 4, 0)}, "begins at layer 2"},
		"empty":        {[]Shard{spec(0, 0, 0)}, "begins at layer 0"},
		"rank missing": {[]Shard{spec(0, 2, 0, 1, 1)}, "1 of its 2 ranks"},
		"other parts":  {[]Shard{spec(0, 2, 0, 1, 1), spec(0, 2, 1, 2, 1)}, "another way"},
		"other end":    {[]Shard{spec(0, 2, 0, 1, 1), spec(0, 3, 1, 1, 1)}, "another way"},
		"fine":         {[]Shard{spec(0, 2, 0, 1, 1), spec(0, 2, 1, 1, 1), spec(2, 9, 0)}, ""},
	} {
		o := (&world{}).options(1, 1)
		o.Shards = c.shards
		err := o.validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
