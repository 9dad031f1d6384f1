package router

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/generation/keeper"
	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/runner/wire"
)

// board is a state that tests write.
type board struct {
	mu      sync.Mutex // guards what follows
	state   cluster.State
	applied uint64
	changed chan struct{}
}

func newBoard() *board {
	return &board{changed: make(chan struct{}), state: cluster.State{
		Nodes: map[ids.Node]cluster.Node{"self": {ID: "self", Online: true}, "peer": {ID: "peer", Online: true}},
	}}
}

func (b *board) State() (cluster.State, uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state, b.applied
}

func (b *board) Changes() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

// set writes the instances and whether the model is wanted.
func (b *board) set(wanted bool, problem string, instances ...cluster.Instance) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state.Wanted, b.state.Instances = map[string]cluster.Wanted{}, map[string]cluster.Instance{}
	if wanted {
		b.state.Wanted["w"] = cluster.Wanted{ID: "w", Model: "m", Problem: problem}
	}
	for _, i := range instances {
		b.state.Instances[i.ID] = i
	}
	b.applied++
	close(b.changed)
	b.changed = make(chan struct{})
}

func on(id string, node ids.Node, phase cluster.Phase) cluster.Instance {
	return cluster.Instance{ID: id, Model: "m", Slots: 1, Shards: []cluster.Shard{{Node: node, Phase: phase, Incarnation: 1}}}
}

// named is a model that says where it is.
type named struct {
	generation.Model
	where string
	lost  bool
}

func (n named) Info() wire.ModelInfo { return wire.ModelInfo{Description: n.where} }
func (n named) Detokenize(context.Context, []int32) (string, error) {
	if n.lost {
		return "", &generation.Error{Kind: generation.KindFailed, Message: "gone"}
	}
	return n.where, nil
}

func newRouter(t *testing.T, b *board, change func(*Options)) *Router {
	t.Helper()
	o := Options{
		Self: "self", Cluster: b, Logger: slog.New(slog.DiscardHandler), Tries: 3, Timeout: time.Minute, Queue: 1,
		Load:   func(context.Context, string) (uint64, error) { return 0, errors.New("nothing to load") },
		Vitals: func() map[ids.Node]cluster.Vitals { return nil },
		Head:   func(string) (generation.Model, bool) { return named{where: "here"}, true },
		Remote: func(_ context.Context, node ids.Node, instance string) (generation.Model, error) {
			return named{where: string(node) + "/" + instance}, nil
		},
	}
	if change != nil {
		change(&o)
	}
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func where(t *testing.T, m generation.Model) string {
	t.Helper()
	s, err := m.Detokenize(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestReachesHeads(t *testing.T) {
	b := newBoard()
	r := newRouter(t, b, nil)
	b.set(true, "", on("i", "self", cluster.Ready))
	m, err := r.Model(t.Context(), "m")
	if err != nil || where(t, m) != "here" {
		t.Fatal(m, err)
	}
	b.set(true, "", on("j", "peer", cluster.Ready))
	if got := where(t, m); got != "peer/j" {
		t.Error(got)
	}
	if again, err := r.Model(t.Context(), "m"); err != nil || again != m {
		t.Errorf("another model for the same name: %v", err)
	}
	if n := len(r.Open()); n != 0 {
		t.Errorf("%d places are held", n)
	}
}

// TestLoadsAndWaits: a model that nobody wants is loaded, once, and waited for
// through all its phases, also while the load has not arrived in this node's
// state.
func TestLoadsAndWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard()
		loads := 0
		r := newRouter(t, b, func(o *Options) {
			o.Load = func(context.Context, string) (uint64, error) { loads++; return 2, nil }
		})
		done := make(chan error, 1)
		go func() {
			_, err := r.Model(t.Context(), "m")
			done <- err
		}()
		synctest.Wait()
		b.set(false, "") // something else; the load is index 2
		synctest.Wait()
		b.set(true, "")
		synctest.Wait()
		b.set(true, "", on("i", "self", cluster.Loading))
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("done before it is ready: %v", err)
		default:
		}
		b.set(true, "", on("i", "self", cluster.Ready))
		if err := <-done; err != nil || loads != 1 {
			t.Errorf("%v, %d loads", err, loads)
		}
	})
}

func TestSaysWhyNot(t *testing.T) {
	b := newBoard()
	b.set(true, "needs 8 GB, 2 GB are free")
	var e *generation.Error
	_, err := newRouter(t, b, nil).Model(t.Context(), "m")
	if !errors.As(err, &e) || e.Kind != generation.KindUnavailable || !strings.Contains(e.Message, "2 GB are free") {
		t.Errorf("%v", err)
	}
	b.set(false, "")
	no := &generation.Error{Kind: generation.KindNoMemory, Message: "no memory"}
	_, err = newRouter(t, b, func(o *Options) {
		o.Load = func(context.Context, string) (uint64, error) { return 0, no }
	}).Model(t.Context(), "m")
	if !errors.Is(err, no) {
		t.Errorf("%v", err)
	}
	_, err = newRouter(t, b, func(o *Options) {
		o.Load = func(context.Context, string) (uint64, error) { return 1, nil } // and it is not wanted any more
	}).Model(t.Context(), "m")
	if !errors.As(err, &e) || !strings.Contains(e.Message, "unloaded") {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the client left"))
	b.set(true, "")
	if _, err := newRouter(t, b, nil).Model(ctx, "m"); err == nil || !strings.Contains(err.Error(), "the client left") {
		t.Errorf("%v", err)
	}
}

func TestFullQueue(t *testing.T) {
	b := newBoard()
	r := newRouter(t, b, func(o *Options) { o.Slots = 1 })
	for name, wanted := range map[string]bool{"before it is loaded": false, "loaded": true} {
		if wanted {
			b.set(true, "", on("i", "self", cluster.Ready))
		}
		var leave []func()
		for range 2 { // one slot, one waits
			f, err := r.Enter("m")
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			leave = append(leave, f)
		}
		var e *generation.Error
		if _, err := r.Enter("m"); !errors.As(err, &e) || e.Kind != generation.KindBusy || e.RetryAfter == 0 || !strings.Contains(e.Message, "1 requests run and 1 wait") {
			t.Errorf("%s: %v", name, err)
		}
		if f, err := r.Enter("another"); err != nil {
			t.Errorf("%s: another model: %v", name, err)
		} else {
			f()
		}
		for _, f := range leave {
			f()
			f()
		}
	}
	if len(r.users) > 0 {
		t.Errorf("left: %v", r.users)
	}
}

// TestOnlyTheLostPlaceIsLeft: what broke was the way to it, so it is taken
// again, after the cluster had time to say otherwise.
func TestOnlyTheLostPlaceIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard()
		b.set(true, "", on("i", "self", cluster.Ready))
		r := newRouter(t, b, nil)
		begin := time.Now()
		p, err := places{r, "m"}.Route(t.Context(), keeper.Want{Prompt: []int32{1}, Lost: "i@1"})
		if err != nil || p.ID != "i@1" || time.Since(begin) != again {
			t.Errorf("%q %v after %v", p.ID, err, time.Since(begin))
		}
		p.Release()
		// One that has begun anew is taken at once.
		i := on("i", "self", cluster.Ready)
		i.Shards[0].Incarnation = 2
		b.set(true, "", i)
		begin = time.Now()
		if p, err = (places{r, "m"}).Route(t.Context(), keeper.Want{Prompt: []int32{1}, Lost: "i@1"}); err != nil || p.ID != "i@2" || time.Since(begin) > 0 {
			t.Errorf("%q %v after %v", p.ID, err, time.Since(begin))
		}
	})
}

// TestSilentHead: a head that does not answer is asked again, and another one
// is taken as soon as there is one.
func TestSilentHead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard()
		b.set(true, "", on("i", "self", cluster.Ready))
		asked := 0
		r := newRouter(t, b, func(o *Options) {
			o.Head = func(string) (generation.Model, bool) { asked++; return named{where: "here"}, asked > 3 }
		})
		m, err := r.Model(t.Context(), "m")
		if err != nil || where(t, m) != "here" || asked < 4 {
			t.Errorf("%v, asked %d times", err, asked)
		}
	})
}

// TestUnloadedIsNotLoadedForALoss: what was unloaded under a generation stays
// unloaded; a new request has it loaded.
func TestUnloadedIsNotLoadedForALoss(t *testing.T) {
	b := newBoard()
	b.set(false, "")
	loads := 0
	r := newRouter(t, b, func(o *Options) {
		o.Load = func(context.Context, string) (uint64, error) { loads++; return 1, nil }
	})
	var e *generation.Error
	_, err := places{r, "m"}.Route(t.Context(), keeper.Want{Prompt: []int32{1}, Lost: "i@1"})
	if !errors.As(err, &e) || e.Kind != generation.KindUnavailable || !strings.Contains(e.Message, "was unloaded") || loads != 0 {
		t.Errorf("%v, %d loads", err, loads)
	}
	if _, err = (places{r, "m"}).Route(t.Context(), keeper.Want{Prompt: []int32{1}}); err == nil || loads != 1 {
		t.Errorf("%v, %d loads", err, loads)
	}
}

// TestSwappedIsNotLoaded: a request for a model that a swap ends does not undo
// the swap.
func TestSwappedIsNotLoaded(t *testing.T) {
	b := newBoard()
	b.set(false, "")
	b.state.Swaps = map[string]cluster.Swap{"s": {ID: "s", Old: []cluster.Wanted{{ID: "w", Model: "m"}}, New: cluster.Wanted{ID: "s", Model: "new"}}}
	r := newRouter(t, b, func(o *Options) {
		o.Load = func(context.Context, string) (uint64, error) { t.Error("it is loaded"); return 1, nil }
	})
	var e *generation.Error
	if _, err := r.Model(t.Context(), "m"); !errors.As(err, &e) || e.Kind != generation.KindUnavailable || e.RetryAfter == 0 || !strings.Contains(e.Message, "m is being swapped for new") {
		t.Errorf("%v", err)
	}
}

// TestLostPlaceIsTriedAgain: while the way to the only place is broken, it is
// tried again with growing pauses.
func TestLostPlaceIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard()
		b.set(true, "", on("i", "self", cluster.Ready))
		r := newRouter(t, b, nil)
		for tried, want := range []time.Duration{again, 2 * again, longest, longest, longest} {
			begin := time.Now()
			p, err := places{r, "m"}.Route(t.Context(), keeper.Want{Prompt: []int32{1}, Lost: "i@1", Again: tried})
			if err != nil || p.ID != "i@1" || time.Since(begin) != want {
				t.Errorf("tried %d times: %q %v after %v, want %v", tried, p.ID, err, time.Since(begin), want)
			}
		}
	})
}

// TestWaitsForANodeToComeBack: an answer whose model has no place any more waits
// for one, as long as it may; a new request is told at once.
func TestWaitsForANodeToComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard()
		const problem = "node peer, which it is to run on, is not online"
		b.set(true, problem)
		r := newRouter(t, b, nil)
		var e *generation.Error
		if _, err := (places{r, "m"}).Route(t.Context(), keeper.Want{Prompt: []int32{1}}); !errors.As(err, &e) || e.Kind != generation.KindUnavailable {
			t.Errorf("a new request: %v", err)
		}
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := (places{r, "m"}).Route(ctx, keeper.Want{Prompt: []int32{1}, Lost: "i@1"}); err == nil || !strings.Contains(err.Error(), problem) || time.Since(begin) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		go func() {
			time.Sleep(20 * time.Second) // of the test's own clock
			b.set(true, "", on("i", "peer", cluster.Ready))
		}()
		begin = time.Now()
		p, err := places{r, "m"}.Route(t.Context(), keeper.Want{Prompt: []int32{1}, Lost: "j@1"})
		if err != nil || p.ID != "i@1" || time.Since(begin) != 20*time.Second {
			t.Errorf("%q %v after %v", p.ID, err, time.Since(begin))
		}
	})
}
