package plan_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/cluster/plan"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/ids"
)

// world is a master's state and the nodes that act on it. Nothing in it has a
// clock: what happens next is drawn.
type world struct {
	t     *rapid.T
	state cluster.State
	seen  map[ids.Node]cluster.State // what each node knows: maybe older
	local map[ids.Node]map[plan.Key]plan.Local
	doing map[ids.Node]map[plan.Key]plan.Action
}

var nodes = []ids.Node{"a", "b", "c"}

func (w *world) change(c cluster.Change) error {
	e := cluster.Event{Index: w.state.Index + 1, Session: ids.Session{Master: "a", Clock: 1}, At: time.Unix(int64(w.state.Index), 0), Change: c}
	if err := w.state.Admit(e); err != nil {
		return err
	}
	w.state = w.state.Apply(e)
	if err := cluster.Check(w.state); err != nil {
		w.t.Fatal(err)
	}
	return nil
}

func (w *world) must(c cluster.Change) {
	if err := w.change(c); err != nil {
		w.t.Fatal(err)
	}
}

func newWorld(t *rapid.T) *world {
	w := &world{t: t, seen: map[ids.Node]cluster.State{}, local: map[ids.Node]map[plan.Key]plan.Local{}, doing: map[ids.Node]map[plan.Key]plan.Action{}}
	for _, id := range nodes {
		w.must(cluster.NodeSeen{Node: cluster.Node{ID: id, Worker: true, Devices: []placement.Device{{Total: 1000}}}})
		w.local[id], w.doing[id] = map[plan.Key]plan.Local{}, map[plan.Key]plan.Action{}
	}
	return w
}

// place makes an instance of shards on the nodes in turn.
func (w *world) place(id string, shards int) {
	w.must(cluster.ModelKnown{Model: cluster.Model{Name: id, Files: []cluster.File{{Name: "f", SHA256: "00"}}, Profile: placement.Model{Layers: make([]placement.Layer, shards)}, Holders: nodes[:1]}})
	w.must(cluster.ModelWanted{Wanted: cluster.Wanted{ID: id, Model: id, Context: 1, Slots: 1}})
	i := cluster.Instance{ID: id, Wanted: id, Model: id, Head: shards - 1}
	for k := range shards {
		i.Shards = append(i.Shards, cluster.Shard{Node: nodes[k%len(nodes)], Spec: slice.Spec{First: k, End: k + 1}, Reserve: 1})
	}
	w.must(cluster.InstancePlaced{Instance: i})
}

// ask lets a node plan, and begins what it says.
func (w *world) ask(id ids.Node) (did bool) {
	for _, a := range plan.Next(plan.View{Self: id, State: w.seen[id], Local: w.local[id]}) {
		did = true
		l := w.local[id][a.Key]
		switch a.Do {
		case plan.Report:
			// A report that does not fit any more is refused.
			l.Told = a.Report
			if err := w.change(a.Report); err != nil {
				l.Told = cluster.ShardReported{}
			}
		case plan.Forget:
			delete(w.local[id], a.Key)
			continue
		default:
			if l.Doing != "" && a.Do != plan.Stop {
				w.t.Fatalf("%v is to %s while it does %s", a.Key, a.Do, l.Doing)
			}
			l.Doing = a.Do
			w.doing[id][a.Key] = a
		}
		w.local[id][a.Key] = l
	}
	return did
}

// finish ends one action that is in progress.
func (w *world) finish(id ids.Node, k plan.Key) {
	a, l := w.doing[id][k], w.local[id][k]
	delete(w.doing[id], k)
	l.Doing = ""
	switch a.Do {
	case plan.Fetch:
		l.Fetched = true
	case plan.Start:
		if l.Runner != plan.None || a.Incarnation <= l.Incarnation {
			w.t.Fatalf("%v: process %d is started, %d is there", k, a.Incarnation, l.Incarnation)
		}
		l.Runner, l.Incarnation = plan.Up, a.Incarnation
	case plan.Load:
		l.Runner, l.Link = plan.Loaded, fmt.Sprintf("%s:%d:%d", id, k.Shard, l.Incarnation)
	case plan.Connect:
		l.Runner, l.Epoch = plan.Connected, a.Epoch
	case plan.Serve:
		l.Runner = plan.Serving
	case plan.Stop:
		l.Runner, l.Link, l.Epoch = plan.None, "", 0
	}
	w.local[id][k] = l
}

// crash kills a process.
func (w *world) crash(id ids.Node, k plan.Key) {
	l := w.local[id][k]
	if l.Runner == plan.None || l.Doing == plan.Stop {
		return
	}
	delete(w.doing[id], k)
	l.Runner, l.Link, l.Epoch, l.Doing = plan.None, "", 0, ""
	w.local[id][k] = l
}

func sorted[V any](m map[plan.Key]V) []plan.Key {
	return slices.SortedFunc(maps.Keys(m), func(a, b plan.Key) int {
		if a.Instance != b.Instance {
			if a.Instance < b.Instance {
				return -1
			}
			return 1
		}
		return a.Shard - b.Shard
	})
}

// run draws what happens, with crashes, and with nodes that know old states.
func (w *world) run(steps int) {
	for range steps {
		id := rapid.SampledFrom(nodes).Draw(w.t, "node")
		switch rapid.IntRange(0, 4).Draw(w.t, "happens") {
		case 0, 1:
			w.ask(id)
		case 2:
			if keys := sorted(w.doing[id]); len(keys) > 0 {
				w.finish(id, rapid.SampledFrom(keys).Draw(w.t, "finishes"))
			}
		case 3:
			w.seen[id] = w.state
		case 4:
			if keys := sorted(w.local[id]); len(keys) > 0 && rapid.Bool().Draw(w.t, "crash") {
				w.crash(id, rapid.SampledFrom(keys).Draw(w.t, "dies"))
			}
		}
	}
}

// settle lets everything finish, without faults, until nobody has anything to
// do. It must come to that.
func (w *world) settle() {
	for range 200 {
		busy := false
		for _, id := range nodes {
			busy = busy || w.seen[id].Index != w.state.Index
			w.seen[id] = w.state
			busy = w.ask(id) || busy
			for _, k := range sorted(w.doing[id]) {
				w.finish(id, k)
				busy = true
			}
		}
		if !busy {
			return
		}
	}
	w.t.Fatalf("it goes on for ever: %+v", w.state.Instances)
}

func TestEverythingComesUpAndGoesDown(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.place("one", 1)
		w.place("many", rapid.IntRange(2, 5).Draw(t, "shards"))
		w.run(rapid.IntRange(0, 120).Draw(t, "steps"))
		w.settle()
		// Processes die when all are connected: the others connect again.
		for range rapid.IntRange(0, 3).Draw(t, "deaths") {
			k := plan.Key{Instance: "many", Shard: rapid.IntRange(0, len(w.state.Instances["many"].Shards)-1).Draw(t, "dead")}
			w.crash(w.state.Instances["many"].Shards[k.Shard].Node, k)
			w.run(rapid.IntRange(0, 30).Draw(t, "steps after"))
			w.settle()
		}
		for _, i := range w.state.Instances {
			if i.Status() != "ready" {
				t.Fatalf("%s is %s: %+v", i.ID, i.Status(), i.Shards)
			}
			for k, s := range i.Shards {
				l := w.local[s.Node][plan.Key{Instance: i.ID, Shard: k}]
				if l.Runner != plan.Serving || len(i.Shards) > 1 && l.Epoch != i.Epoch() || l.Incarnation != s.Incarnation {
					t.Errorf("%s, shard %d: %+v for epoch %d", i.ID, k, l, i.Epoch())
				}
			}
		}
		w.must(cluster.ModelUnwanted{Wanted: "many", Cause: "unloaded"})
		w.run(rapid.IntRange(0, 60).Draw(t, "more steps"))
		w.settle()
		if _, there := w.state.Instances["many"]; there {
			t.Errorf("it is still there: %+v", w.state.Instances["many"])
		}
		for id, local := range w.local {
			for k := range local {
				if k.Instance == "many" {
					t.Errorf("node %s still has %v: %+v", id, k, local[k])
				}
			}
		}
		if s := w.state.Instances["one"].Status(); s != "ready" {
			t.Errorf("the other model is %s", s)
		}
	})
}

// TestModelsDoNotDelayEachOther: what is planned for one instance is the same
// whatever is being done about others.
func TestModelsDoNotDelayEachOther(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.place("first", rapid.IntRange(1, 4).Draw(t, "shards"))
		w.place("second", rapid.IntRange(1, 4).Draw(t, "shards"))
		w.run(rapid.IntRange(0, 100).Draw(t, "steps"))
		for _, id := range nodes {
			v := plan.View{Self: id, State: w.seen[id], Local: w.local[id]}
			all := plan.Next(v)
			for _, name := range []string{"first", "second"} {
				var want []plan.Action
				for _, a := range all {
					if a.Key.Instance == name {
						want = append(want, a)
					}
				}
				alone := v
				alone.Local = map[plan.Key]plan.Local{}
				for k, l := range v.Local {
					if k.Instance == name {
						alone.Local[k] = l
					}
				}
				alone.State.Instances = map[string]cluster.Instance{}
				if i, ok := v.State.Instances[name]; ok {
					alone.State.Instances[name] = i
				}
				if diff := cmp.Diff(want, plan.Next(alone)); diff != "" {
					t.Errorf("node %s plans otherwise for %s alone (-both +alone):\n%s", id, name, diff)
				}
			}
		}
	})
}

// TestOvertakenProcess: one that is older than the process which the state knows
// of gives way to a newer one, since its own reports are refused.
func TestOvertakenProcess(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.place("one", 1)
		w.settle()
		i := w.state.Instances["one"]
		w.must(cluster.ShardReported{Instance: "one", Incarnation: i.Shards[0].Incarnation + 2, Phase: cluster.Ready})
		w.settle()
		i = w.state.Instances["one"]
		if l := w.local["a"][plan.Key{Instance: "one"}]; i.Status() != "ready" || l.Runner != plan.Serving || l.Incarnation != i.Shards[0].Incarnation {
			t.Errorf("%s, local %+v of %+v", i.Status(), l, i.Shards[0])
		}
	})
}

// TestOrphansAreStopped: what runs for nobody is stopped, then forgotten.
func TestOrphansAreStopped(t *testing.T) {
	k := plan.Key{Instance: "gone", Shard: 1}
	v := plan.View{Self: "a", Local: map[plan.Key]plan.Local{k: {Runner: plan.Serving, Doing: plan.Load}}}
	if diff := cmp.Diff([]plan.Action{{Do: plan.Stop, Key: k}}, plan.Next(v)); diff != "" {
		t.Error(diff)
	}
	v.Local[k] = plan.Local{Runner: plan.Serving, Doing: plan.Stop}
	if got := plan.Next(v); len(got) > 0 {
		t.Errorf("while it stops: %+v", got)
	}
	v.Local[k] = plan.Local{Fetched: true}
	if diff := cmp.Diff([]plan.Action{{Do: plan.Forget, Key: k}}, plan.Next(v)); diff != "" {
		t.Error(diff)
	}
}

// TestFailureIsTold: a shard that can't run here is reported once, its process
// stopped, and nothing is tried again.
func TestFailureIsTold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.place("many", 3)
		w.settle()
		k := plan.Key{Instance: "many", Shard: 1}
		l := w.local["b"][k]
		l.Failed = "the library refuses it"
		w.local["b"][k] = l
		w.settle()
		if s := w.state.Instances["many"].Shards[1]; s.Phase != cluster.Failed || s.Error != "the library refuses it" {
			t.Errorf("it is %s: %s", s.Phase, s.Error)
		}
		if _, there := w.local["b"][k]; there {
			t.Error("it is still there")
		}
	})
}
