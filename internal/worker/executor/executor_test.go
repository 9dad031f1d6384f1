package executor

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/generation/prefix"
	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/runner/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// open begins a generation that stays open, and takes its first token.
func open(t *testing.T, m generation.Model) generation.Stream {
	t.Helper()
	s, err := m.Generate(t.Context(), wire.GenerateRequest{Prompt: []int32{5, 6, 7, 8, 9}})
	if err != nil {
		t.Fatal(err)
	}
	if tokens, _, err := s.Next(t.Context()); err != nil || len(tokens) != 1 {
		t.Fatal(tokens, err)
	}
	return s
}

// serving gives the head, which must be there.
func serving(t *testing.T, e *Executor, id string) generation.Model {
	t.Helper()
	m, ok := e.Head(id)
	if !ok {
		t.Fatalf("%s is not served", id)
	}
	return m
}

func phases(w *world, id string) []cluster.Phase {
	var out []cluster.Phase
	w.locked(func() {
		for _, r := range w.reports {
			if r.Instance == id {
				out = append(out, r.Phase)
			}
		}
	})
	return out
}

func TestWholeModel(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		a, b := w.start("a"), w.start("b")
		w.place("m", "a")
		w.waitStatus("m", "ready")
		synctest.Wait()
		h := serving(t, a, "m")
		if _, ok := b.Head("m"); ok {
			t.Error("the other node serves it too")
		}
		if got := h.Info(); got.Context != 512 || got.Slots != 2 || got.ChunkTokens != 4 {
			t.Errorf("%+v", got)
		}
		if ids, err := h.Tokenize(t.Context(), "x", true, true); err != nil || len(ids) != 2 {
			t.Errorf("%v, %v", ids, err)
		}
		if text, err := h.Detokenize(t.Context(), []int32{1}); err != nil || text != "m/0" {
			t.Errorf("%q, %v", text, err)
		}
		s := open(t, h)
		var v cluster.Vitals
		a.Fill(&v)
		if len(v.Instances) != 1 || v.Instances[0].Running != 1 || v.Instances[0].Waiting != 0 || v.Instances[0].Now <= 0 {
			t.Errorf("%+v", v.Instances)
		}
		// An unloaded model finishes what is open, and takes nothing new.
		w.unload("m")
		synctest.Wait()
		if _, ok := a.Head("m"); ok {
			t.Error("it is served while it is unloaded")
		}
		var told *generation.Error
		if _, err := h.Generate(t.Context(), wire.GenerateRequest{Prompt: []int32{1}}); !errors.As(err, &told) || told.Kind != generation.KindUnavailable {
			t.Errorf("error %v", err)
		}
		if w.State().Instances["m"].Status() != "stopping" {
			t.Errorf("it is %s", w.State().Instances["m"].Status())
		}
		began := time.Now()
		s.Close()
		w.waitStatus("m", "")
		if took := time.Since(began); took > time.Second {
			t.Errorf("stopped after %v", took)
		}
		synctest.Wait()
		w.locked(func() {
			if w.held != 0 {
				t.Errorf("%d slices are held", w.held)
			}
		})
		if _, err := h.Generate(t.Context(), wire.GenerateRequest{Prompt: []int32{1}}); !errors.As(err, &told) || told.Kind != generation.KindFailed {
			t.Errorf("error %v", err)
		}
		if diff := cmp.Diff(cluster.Stopped, phases(w, "m")[len(phases(w, "m"))-1]); diff != "" {
			t.Error(diff)
		}
	})
}

// A stream that goes on for ever does not keep a model that is unloaded.
func TestDrainHasALimit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		a, _ := w.start("a"), w.start("b")
		w.place("m", "b", "a")
		w.waitStatus("m", "ready")
		synctest.Wait()
		s := open(t, serving(t, a, "m"))
		defer s.Close()
		w.unload("m")
		began := time.Now()
		w.waitStatus("m", "")
		if took := time.Since(began); took < 30*time.Second || took > 45*time.Second {
			t.Errorf("stopped after %v", took)
		}
		if _, _, err := s.Next(t.Context()); err == nil {
			t.Error("the stream goes on")
		}
	})
}

// Who unloads says how long open generations may go on.
func TestDrainAsAsked(t *testing.T) {
	for asked, most := range map[time.Duration]time.Duration{0: time.Second, 5 * time.Second: 6 * time.Second, time.Minute: 61 * time.Second} {
		bubble(t, func(t *testing.T) {
			w := newWorld(t, "a", "b")
			a, _ := w.start("a"), w.start("b")
			w.place("m", "b", "a")
			w.waitStatus("m", "ready")
			synctest.Wait()
			s := open(t, serving(t, a, "m"))
			defer s.Close()
			w.give(command.Unload{Model: "m", Drain: &asked})
			began := time.Now()
			w.waitStatus("m", "")
			if took := time.Since(began); took < asked || took > most {
				t.Errorf("asked for %v, stopped after %v", asked, took)
			}
		})
	}
}

// What fits a prompt's beginning is told, until the process is gone.
func TestPrefixes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "a")
		a := w.start("a")
		w.place("m", "a")
		w.waitStatus("m", "ready")
		synctest.Wait()
		s, err := serving(t, a, "m").Generate(t.Context(), wire.GenerateRequest{Prompt: []int32{5, 6, 7, 8, 9}, MaxTokens: 4})
		if err != nil {
			t.Fatal(err)
		}
		for done := (*wire.Done)(nil); done == nil; {
			if _, done, err = s.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		s.Close()
		var v cluster.Vitals
		a.Fill(&v)
		if v.Instances[0].Chunk != 4 || v.Instances[0].Running != 0 {
			t.Errorf("%+v", v.Instances[0])
		}
		if got := prefix.Match(prefix.Chain([]int32{5, 6, 7, 8, 9, 0, 1, 2, 33}, 4), v.Instances[0].Prefixes); got != 2 {
			t.Errorf("%d chunks match, want 2", got)
		}
		w.live("m/0").exit("signal: killed")
		w.wait("a new process", func(s cluster.State) bool {
			i := s.Instances["m"]
			return i.Shards[0].Incarnation == 2 && i.Status() == "ready"
		})
		synctest.Wait()
		v = cluster.Vitals{}
		a.Fill(&v)
		if len(v.Instances) != 1 || len(v.Instances[0].Prefixes) != 0 {
			t.Errorf("a new process knows %+v", v.Instances)
		}
	})
}

func TestShardsOfTwoNodes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		a, b := w.start("a"), w.start("b")
		w.place("m", "a", "b")
		w.waitStatus("m", "ready")
		synctest.Wait()
		if _, ok := a.Head("m"); ok {
			t.Error("a follower gives itself for the head")
		}
		h := serving(t, b, "m")
		want := []wire.ConnectRequest{{Epoch: 2, Addresses: []string{"m/0#1", "m/1#1"}}}
		w.locked(func() {
			for _, name := range []string{"m/0", "m/1"} {
				if diff := cmp.Diff(want, w.joins[name]); diff != "" {
					t.Errorf("%s (-want +got):\n%s", name, diff)
				}
			}
			spec := w.loads["m/1"][0].Shard
			if spec.Index != 1 || spec.Head != 1 || len(spec.Shards) != 2 || spec.StepSeconds != 0.25 || spec.Group != "m" {
				t.Errorf("%+v", spec)
			}
		})

		// A process dies: its streams end, a new one comes, all connect anew.
		s := open(t, h)
		began := time.Now()
		w.live("m/0").exit("signal: killed")
		w.live("m/1").lose(0, "the connection was closed")
		if _, done, err := s.Next(t.Context()); err == nil && (done == nil || done.Code != wire.CodeShard) {
			t.Errorf("the stream ended with %+v", done)
		}
		s.Close()
		synctest.Wait()
		if _, ok := b.Head("m"); ok {
			t.Error("it is served while a shard is missing")
		}
		w.wait("the second epoch", func(s cluster.State) bool { i := s.Instances["m"]; return i.Epoch() == 3 && i.Status() == "ready" })
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("back after %v", took)
		}
		synctest.Wait()
		w.locked(func() {
			want = append(want, wire.ConnectRequest{Epoch: 3, Addresses: []string{"m/0#2", "m/1#1"}})
			if diff := cmp.Diff(want, w.joins["m/1"]); diff != "" {
				t.Errorf("joins of the head (-want +got):\n%s", diff)
			}
		})
		if n := w.births("m/1"); n != 1 {
			t.Errorf("the head was started %d times", n)
		}
		open(t, serving(t, b, "m")).Close()
	})
}

// Links break and nobody dies: a new epoch without a new process.
func TestLinksBreak(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		_, b := w.start("a"), w.start("b")
		w.place("m", "a", "b")
		w.waitStatus("m", "ready")
		synctest.Wait()
		for n := range 3 {
			s := open(t, serving(t, b, "m"))
			w.live("m/0").lose(1, "reset by peer")
			w.live("m/1").lose(0, "reset by peer")
			synctest.Wait()
			if _, ok := b.Head("m"); ok {
				t.Error("it is served with broken links")
			}
			for {
				_, done, err := s.Next(t.Context())
				if err != nil || done != nil {
					break
				}
			}
			s.Close()
			epoch := uint64(3 + n)
			w.wait("the next epoch", func(s cluster.State) bool { i := s.Instances["m"]; return i.Epoch() == epoch && i.Status() == "ready" })
			synctest.Wait()
		}
		if w.births("m/0") != 1 || w.births("m/1") != 1 {
			t.Errorf("%d and %d processes", w.births("m/0"), w.births("m/1"))
		}
		open(t, serving(t, b, "m")).Close()
	})
}

// The head is stopped and says nothing; the others notice, and it is killed.
func TestFrozenHead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		_, b := w.start("a"), w.start("b")
		w.place("m", "a", "b")
		w.waitStatus("m", "ready")
		synctest.Wait()
		s := open(t, serving(t, b, "m"))
		close(w.live("m/1").frozen)
		began := time.Now()
		w.live("m/0").lose(1, "silent for 1.5s")
		var told *generation.Error
		if _, _, err := s.Next(t.Context()); !errors.As(err, &told) || told.Kind != generation.KindFailed {
			t.Errorf("error %v", err)
		}
		s.Close()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("told after %v", took)
		}
		w.wait("a new head", func(s cluster.State) bool {
			i := s.Instances["m"]
			return i.Shards[1].Incarnation > 1 && i.Status() == "ready"
		})
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("back after %v", took)
		}
		if w.births("m/1") != 2 {
			t.Errorf("%d processes", w.births("m/1"))
		}
	})
}

// Shards that can never reach each other fail with the reason.
func TestNeverConnected(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		w.apart = true
		w.start("a")
		w.start("b")
		w.place("m", "a", "b")
		w.waitStatus("m", "failed")
		i := w.State().Instances["m"]
		var text string
		for _, s := range i.Shards {
			text += s.Error
		}
		if !strings.Contains(text, "broke 5 times") || !strings.Contains(text, "no route to shard 0") {
			t.Errorf("errors %q", text)
		}
		w.locked(func() {
			for name, joins := range w.joins {
				last := uint64(0)
				for _, j := range joins {
					if j.Epoch <= last {
						t.Errorf("%s: epoch %d after %d", name, j.Epoch, last)
					}
					last = j.Epoch
				}
			}
		})
	})
}

// A model that is refused, one that can't be fetched and one that takes for
// ever to load do not delay another.
func TestFailuresAreOnesOwn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "a")
		w.refuse["bad/0"] = &wire.Failure{Code: wire.CodeModel, Message: "unknown model architecture: 'x'"}
		w.hold["slow/0"] = make(chan struct{})
		w.fetch["far"] = func(ctx context.Context, progress func(done, total int64)) error {
			progress(25, 100)
			<-ctx.Done()
			return context.Cause(ctx)
		}
		w.fetch["lost"] = func(context.Context, func(int64, int64)) error { return errors.New("no node has it") }
		a := w.start("a")
		for _, id := range []string{"bad", "slow", "far", "lost", "fine"} {
			w.place(id, "a")
		}
		w.waitStatus("fine", "ready")
		w.waitStatus("bad", "failed")
		w.waitStatus("lost", "failed")
		synctest.Wait()
		for id, want := range map[string]string{"bad": "unknown model architecture", "lost": "no node has it"} {
			if got := w.State().Instances[id].Shards[0].Error; !strings.Contains(got, want) {
				t.Errorf("%s: %q", id, got)
			}
		}
		v := cluster.Vitals{Devices: []cluster.DeviceVitals{{ID: ""}}}
		a.Fill(&v)
		got := map[string]cluster.ShardVitals{}
		for _, s := range v.Shards {
			s.Speed = 0
			got[s.Instance] = s
		}
		want := map[string]cluster.ShardVitals{
			"slow": {Instance: "slow", Phase: cluster.Loading, Progress: 0.5},
			"far":  {Instance: "far", Phase: cluster.Fetching, Progress: 0.25, Done: 25, Total: 100},
			"fine": {Instance: "fine", Phase: cluster.Ready},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("vitals (-want +got):\n%s", diff)
		}
		if v.Devices[0].Pending != 2<<30 {
			t.Errorf("%d bytes pending", v.Devices[0].Pending)
		}
		if s := w.State().Instances["far"].Status(); s != "downloading" {
			t.Errorf("far is %s", s)
		}
		// What is in progress is given up at once.
		began := time.Now()
		w.unload("far")
		w.unload("slow")
		w.waitStatus("far", "")
		w.waitStatus("slow", "")
		if took := time.Since(began); took > 6*time.Second {
			t.Errorf("unloaded after %v", took)
		}
	})
}

// A crash loop is a failure with the last words.
func TestCrashLoop(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "a")
		w.start("a")
		w.place("m", "a")
		w.waitStatus("m", "ready")
		for w.State().Instances["m"].Status() != "failed" {
			synctest.Wait()
			f := w.live("m/0")
			if _, err := f.stderr.Write([]byte("x.cpp:1: GGML_ASSERT(y) failed\n")); err == nil {
				f.exit("signal: aborted")
			}
			n := w.State().Index
			w.wait("news", func(s cluster.State) bool { return s.Index > n })
		}
		if got := w.State().Instances["m"].Shards[0].Error; !strings.Contains(got, "crashed 5 times") || !strings.Contains(got, "GGML_ASSERT(y)") {
			t.Errorf("error %q", got)
		}
	})
}

// Reports are delivered when they can be, and what is refused is not sent again
// and again.
func TestReports(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "a")
		w.deny = errors.New("no master")
		w.start("a")
		w.place("m", "a")
		const told = "a report is not delivered"
		timer := time.NewTimer(worthTelling - time.Second)
		<-timer.C
		w.locked(func() {
			if strings.Contains(w.logs.String(), told) {
				t.Errorf("a moment without a master is told of: %s", w.logs.String())
			}
		})
		timer.Reset(5 * time.Second)
		<-timer.C
		w.locked(func() {
			if strings.Count(w.logs.String(), told) != 1 {
				t.Errorf("it is not told once that reports fail: %s", w.logs.String())
			}
			if w.state.Instances["m"].Shards[0].Phase != cluster.Placed || w.tries > 20 || w.tries < 4 {
				t.Errorf("%d tries, %s", w.tries, w.state.Instances["m"].Shards[0].Phase)
			}
			w.deny = &command.Refusal{Code: command.Stale, Message: "about what is no more"}
			w.tries = 0
		})
		timer.Reset(time.Minute)
		<-timer.C
		w.locked(func() {
			if w.tries != 1 {
				t.Errorf("refused %d times", w.tries)
			}
			w.deny = nil
		})
		// The state moves on, and so does the report.
		w.must(cluster.NodeSeen{Node: cluster.Node{ID: "z"}})
		w.waitStatus("m", "ready")
		// What was over by then is left out.
		if diff := cmp.Diff([]cluster.Phase{cluster.Loaded, cluster.Ready}, phases(w, "m")); diff != "" {
			t.Errorf("reports (-want +got):\n%s", diff)
		}
	})
}

// An answer about a report may come when the state has moved on: a refusal,
// when the newer state is here already, and the word of a master that is one no
// longer. In neither case the report waits for an event that nobody makes.
func TestLateAnswers(t *testing.T) {
	for name, end := range map[string]func(w *world) (uint64, error){
		"refused": func(w *world) (uint64, error) {
			w.must(cluster.NodeSeen{Node: cluster.Node{ID: "z"}})
			time.Sleep(time.Second)
			return 0, &command.Refusal{Code: command.Stale, Message: "about what was then"}
		},
		"lost": func(w *world) (uint64, error) {
			w.locked(func() { w.session = ids.Session{Master: "z", Clock: 2} })
			w.must(cluster.SessionBegan{})
			time.Sleep(time.Second)
			return 1000, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, "a")
				ready := 0
				w.late = func(c command.Command) (uint64, error, bool) {
					if !strings.Contains(string(c.Body), `"phase":"ready"`) {
						return 0, nil, false
					}
					if ready++; ready > 1 {
						return 0, nil, false
					}
					index, err := end(w)
					return index, err, true
				}
				w.start("a")
				w.place("m", "a")
				w.waitStatus("m", "ready")
				synctest.Wait()
				if ready != 2 {
					t.Errorf("it was told %d times", ready)
				}
			})
		})
	}
}

// When the log of this node's half gives way, its instance is adopted by the
// other half a moment later: its processes go on. One that is not is stopped.
func TestAdoption(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		a := w.start("a")
		w.start("b")
		before := w.State()
		rewind := func() {
			w.locked(func() {
				w.state = before
				close(w.changed)
				w.changed = make(chan struct{})
			})
			time.Sleep(time.Second)
			synctest.Wait()
		}
		w.place("m", "b", "a")
		w.waitStatus("m", "ready")
		synctest.Wait()
		s := open(t, serving(t, a, "m"))
		rewind()
		serving(t, a, "m")
		w.place("m", "b", "a")
		w.waitStatus("m", "ready")
		synctest.Wait()
		if n := w.births("m/0") + w.births("m/1"); n != 2 {
			t.Errorf("%d processes for two shards", n)
		}
		serving(t, a, "m")
		s.Close()
		rewind()
		time.Sleep(time.Minute)
		synctest.Wait()
		if _, ok := a.Head("m"); ok {
			t.Error("what nobody wants is still served")
		}
		w.locked(func() {
			if w.held != 0 {
				t.Errorf("%d slices are held", w.held)
			}
		})
	})
}

// A node that comes back begins with new incarnations.
func TestRestartOfTheNode(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "a", "b")
		a := w.start("a")
		w.start("b")
		w.place("m", "a", "b")
		w.waitStatus("m", "ready")
		synctest.Wait()
		a.Stop(context.Background())
		w.live("m/1").lose(0, "the connection was closed")
		w.start("a")
		w.wait("a new epoch", func(s cluster.State) bool {
			i := s.Instances["m"]
			return i.Shards[0].Incarnation == 2 && i.Status() == "ready"
		})
		if n := w.births("m/0"); n != 2 {
			t.Errorf("%d processes", n)
		}
	})
}

func TestLoadSettings(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, "a", "b", "c")
		for _, id := range []ids.Node{"b", "c"} { // one machine
			n := w.State().Nodes[id]
			n.Host = "box"
			w.must(cluster.NodeSeen{Node: n})
		}
		o := w.options("b")
		o.Queue, o.Listen = 10, "10.0.0.1"
		o.Available = func() (int64, error) { return 2 << 30, nil }
		o.Link = func(l string) string { return "reachable/" + l }
		e, err := Start(o)
		if err != nil {
			t.Fatal(err)
		}
		defer e.Stop(context.Background())
		w.place("m", "a", "b", "c")
		w.place("alone", "b")
		w.waitStatus("alone", "ready")
		w.wait("a link", func(s cluster.State) bool { return s.Instances["m"].Shards[1].Link == "reachable/m/1#1" })
		w.locked(func() {
			m, alone := w.loads["m/1"][0], w.loads["alone/0"][0]
			if alone.Shard != nil || m.Shard.Listen != "10.0.0.1:0" {
				t.Errorf("shards %+v and %+v", alone.Shard, m.Shard)
			}
			if m.Threads != 4 || alone.Threads != 8 || m.GPULayers != 0 || m.PrefixReuse != "exact" || m.Context != 512 || m.Slots != 2 || m.PendingLimit != 12*128 {
				t.Errorf("%+v, %+v", m, alone)
			}
			// 1 GB each is promised to both, of 2 GB; one of them may be loaded.
			for _, l := range []wire.LoadRequest{m, alone} {
				if l.CacheBytes > 1<<29 || l.CacheBytes < 0 {
					t.Errorf("cache of %d bytes", l.CacheBytes)
				}
			}
		})
	})
}

// TestLoadOnADevice: what is placed in a card's memory runs on that card alone,
// and what is placed in the host's on the processor, but for an accelerator that
// works there.
func TestLoadOnADevice(t *testing.T) {
	for _, c := range []struct {
		device  string
		unified bool
		layers  int
		given   int // --gpu-layers
	}{{"CUDA1", false, wire.AllLayers, -1}, {"CUDA1", true, wire.AllLayers, -1}, {"", false, 0, -1}, {"", true, -1, -1}, {"", false, 3, 3}, {"", false, 0, 0}} {
		bubble(t, func(t *testing.T) {
			w := newWorld(t, "b")
			n := w.State().Nodes["b"]
			n.Devices = append(append([]placement.Device{}, n.Devices...), placement.Device{ID: "CUDA1", Total: 8 << 30})
			w.must(cluster.NodeSeen{Node: n})
			o := w.options("b")
			o.Unified = func() bool { return c.unified }
			o.Load.GPULayers = c.given
			e, err := Start(o)
			if err != nil {
				t.Fatal(err)
			}
			defer e.Stop(context.Background())
			w.device = c.device
			w.place("m", "b")
			w.waitStatus("m", "ready")
			w.locked(func() {
				if l := w.loads["m/0"][0]; l.Device != c.device || l.GPULayers != c.layers {
					t.Errorf("placed on %q, unified %v: device %q, %d layers", c.device, c.unified, l.Device, l.GPULayers)
				}
			})
		})
	}
}

func TestOptions(t *testing.T) {
	w := newWorld(t, "a")
	for name, change := range map[string]func(*Options){
		"no node":    func(o *Options) { o.Self = "" },
		"no files":   func(o *Options) { o.Files = nil },
		"no program": func(o *Options) { o.Runner.Launch = nil },
		"negative":   func(o *Options) { o.Settle = -1 },
		"limit":      func(o *Options) { o.BreakLimit = -1 },
	} {
		o := w.options("a")
		change(&o)
		if _, err := Start(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestVitalsHandler(t *testing.T) {
	want := cluster.Vitals{At: time.Unix(1000, 0).UTC(), Instances: []cluster.InstanceVitals{{Instance: "i", Running: 2, Chunk: 4, Prefixes: []uint32{7}}}}
	mux := http.NewServeMux()
	mux.Handle(VitalsPattern, VitalsHandler(func(r *http.Request) bool { return r.Header.Get("Caller") != "" }, func(context.Context) (cluster.Vitals, error) { return want, nil }))
	ask := func(caller string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/vitals", nil)
		r.Header.Set("Caller", caller)
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		return w
	}
	if got := ask("").Code; got != http.StatusForbidden {
		t.Errorf("a stranger gets %d", got)
	}
	var got cluster.Vitals
	if err := json.Unmarshal(ask("b").Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
