package reconcile_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/cluster/reconcile"
	"github.com/skein-run/skein/internal/ids"
)

// failer is a testing.T or a rapid.T.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

const mb = int64(1) << 20

// world is a state, who is there, and a master's memory.
type world struct {
	t       failer
	state   cluster.State
	members map[ids.Node]bool
	vitals  map[ids.Node]cluster.Vitals
	now     time.Time
	memory  reconcile.Memory
}

var session = ids.Session{Master: "a", Clock: 1}

func newWorld(t failer, gb map[ids.Node]int64) *world {
	w := &world{t: t, members: map[ids.Node]bool{}, vitals: map[ids.Node]cluster.Vitals{}, now: time.Unix(1000, 0).UTC()}
	for _, id := range slices.Sorted(maps.Keys(gb)) {
		w.members[id] = true
		total := gb[id] << 30
		w.vitals[id] = cluster.Vitals{At: w.now, Devices: []cluster.DeviceVitals{{Total: total, Available: total}}}
		w.must(cluster.NodeSeen{Node: cluster.Node{ID: id, Worker: true, Downloads: true, Candidate: true,
			Devices: []placement.Device{{Total: total, Speed: placement.Speed{Bandwidth: 1e10, Compute: 1e12}}}}})
	}
	w.wait(time.Minute)
	return w
}

// model is made known: so many layers of 1 GB.
func (w *world) model(name string, layers int, holders ...ids.Node) {
	w.t.Helper()
	m := placement.Model{Name: name, Embedding: 64, Vocabulary: 256, Units: 1, NoTensor: "its heads hang together"}
	for range layers {
		weights := placement.Part{Shared: 1000 * mb}
		m.Layers = append(m.Layers, placement.Layer{Weights: weights, Read: weights, Flops: 1e6, Cell: placement.Part{Shared: 64}})
	}
	w.must(cluster.ModelKnown{Model: cluster.Model{Name: name, Files: []cluster.File{{Name: name, SHA256: "00"}}, Profile: m, Holders: holders}})
}

func (w *world) must(c cluster.Change) {
	w.t.Helper()
	if err := w.change(c); err != nil {
		w.t.Fatalf("%s: %v", cluster.KindOf(c), err)
	}
}

func (w *world) change(c cluster.Change) error {
	e := cluster.Event{Index: w.state.Index + 1, Session: session, At: w.now, Change: c}
	if err := w.state.Admit(e); err != nil {
		return err
	}
	w.state = w.state.Apply(e)
	return cluster.Check(w.state)
}

func (w *world) want(id, model string) {
	w.t.Helper()
	w.must(cluster.ModelWanted{Wanted: cluster.Wanted{ID: id, Model: model, Context: 512, Slots: 1, Sharding: placement.Auto, MinNodes: 1}})
}

// decide carries out what is decided, as one who has the vitals at hand.
func (w *world) decide() reconcile.Output {
	w.t.Helper()
	in := reconcile.Input{State: w.state, Session: session, Members: w.members, Vitals: w.vitals, Asked: w.now, Now: w.now, Memory: w.memory}
	out := reconcile.Decide(in)
	if diff := cmp.Diff(out, reconcile.Decide(in), cmp.AllowUnexported(reconcile.Attempt{}, reconcile.Memory{})); diff != "" {
		w.t.Errorf("the same again is decided otherwise:\n%s", diff)
	}
	if len(out.Odd) > 0 {
		w.t.Errorf("odd: %v", out.Odd)
	}
	w.memory = out.Memory
	for _, c := range out.Changes {
		w.must(c)
	}
	return out
}

// run reports that all shards of all instances are at a phase, and that those
// that are released have stopped.
func (w *world) run(to cluster.Phase) {
	w.t.Helper()
	for _, id := range slices.Sorted(maps.Keys(w.state.Instances)) {
		i := w.state.Instances[id]
		for k, x := range i.Shards {
			if i.Releasing != "" && !x.Phase.Ended() {
				w.must(cluster.ShardReported{Instance: id, Shard: k, Incarnation: x.Incarnation, Phase: cluster.Stopped})
			}
		}
		if i.Releasing != "" {
			continue
		}
		for _, phase := range []cluster.Phase{cluster.Loaded, to} {
			for k := range i.Shards {
				now := w.state.Instances[id]
				if x := now.Shards[k]; x.Phase.Before(phase) {
					w.must(cluster.ShardReported{Instance: id, Shard: k, Incarnation: 1, Phase: phase, Link: "h:1", Epoch: now.Epoch()})
				}
			}
		}
	}
}

// placed shows where something wanted is: "a+b ready, c loading".
func (w *world) placed(wanted string) string {
	var out []string
	for _, i := range w.instances(wanted) {
		var nodes []string
		for _, x := range i.Shards {
			nodes = append(nodes, string(x.Node))
		}
		out = append(out, strings.Join(nodes, "+")+" "+i.Status())
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func (w *world) instances(wanted string) []cluster.Instance {
	var out []cluster.Instance
	for _, id := range slices.Sorted(maps.Keys(w.state.Instances)) {
		if w.state.Instances[id].Wanted == wanted {
			out = append(out, w.state.Instances[id])
		}
	}
	return out
}

func (w *world) is(wanted, want string) {
	w.t.Helper()
	if got := w.placed(wanted); got != want {
		w.t.Errorf("%s is placed as %q, want %q (problem %q)", wanted, got, want, w.state.Wanted[wanted].Problem)
	}
}

func (w *world) problem(wanted, text string) {
	w.t.Helper()
	if got := w.state.Wanted[wanted].Problem; text == "" && got != "" || !strings.Contains(got, text) {
		w.t.Errorf("problem %q, want ...%s...", got, text)
	}
}

func (w *world) wait(d time.Duration) { w.now = w.now.Add(d) }

func TestWantedIsPlaced(t *testing.T) {
	w := newWorld(t, map[ids.Node]int64{"a": 4, "b": 4, "c": 4})
	w.model("m", 6, "a")
	w.want("w", "m")
	if out := w.decide(); !out.Wake.Equal(w.now.Add(time.Second)) || len(out.Changes) > 0 {
		t.Errorf("a place may come with an offer in a moment: %+v", out)
	}
	w.wait(time.Second)
	w.decide()
	w.is("w", "a+b loading")
	w.run(cluster.Ready)
	if out := w.decide(); len(out.Changes) > 0 || !out.Wake.IsZero() {
		t.Errorf("all is well, and there is more to do: %+v", out)
	}
}

func TestVitalsAreAskedForOnlyToPlace(t *testing.T) {
	w := newWorld(t, map[ids.Node]int64{"a": 4, "b": 4})
	w.model("m", 2, "a")
	w.want("w", "m")
	w.wait(time.Second)
	delete(w.members, "b")
	in := reconcile.Input{State: w.state, Session: session, Members: w.members, Now: w.now}
	out := reconcile.Decide(in)
	if !out.Ask || len(out.Changes) != 1 || cluster.KindOf(out.Changes[0]) != "node_gone" {
		t.Errorf("%+v", out)
	}
	w.decide()
	w.run(cluster.Ready)
	in.State = w.state
	if out := reconcile.Decide(in); out.Ask {
		t.Error("vitals are asked for, and nothing is to be placed")
	}
}

func TestLostNodeIsReplaced(t *testing.T) {
	w := newWorld(t, map[ids.Node]int64{"a": 4, "b": 4, "c": 4})
	w.model("m", 6, "a")
	w.want("w", "m")
	w.wait(time.Second)
	w.decide()
	w.run(cluster.Ready)
	delete(w.members, "b")
	out := w.decide()
	var kinds []string
	for _, c := range out.Changes {
		kinds = append(kinds, cluster.KindOf(c))
	}
	// a's memory is not free before its shard has stopped.
	if diff := cmp.Diff([]string{"node_gone", "instance_released"}, kinds); diff != "" {
		t.Error(diff)
	}
	w.problem("w", "") // there will be memory in a moment
	if cause := w.instances("w")[0].Releasing; cause != "shard 1 is lost: node b is gone: it does not answer" {
		t.Errorf("cause %q", cause)
	}
	w.run(cluster.Ready) // it stops
	w.decide()           // at once: memory came back
	w.is("w", "a+c loading")
	w.run(cluster.Ready)
	// The node comes back, and nothing moves.
	w.members["b"] = true
	w.decide()
	w.is("w", "a+c ready")
	if !w.state.Nodes["b"].Online {
		t.Error("b is back and not noted")
	}
}

func TestNoRoom(t *testing.T) {
	w := newWorld(t, map[ids.Node]int64{"a": 4, "b": 4})
	w.model("big", 10, "a")
	w.model("small", 2, "a")
	w.want("big", "big")
	w.want("small", "small")
	w.wait(time.Second)
	w.decide()
	w.is("small", "a loading") // not delayed by the one that does not fit
	w.problem("big", "Need 1")
	w.run(cluster.Ready)
	out := w.decide()
	if len(out.Changes) > 0 || !out.Wake.Equal(w.now.Add(time.Second)) {
		t.Errorf("after a miss: %+v", out)
	}
	// Back-off, up to a limit.
	for _, pause := range []int{1, 2, 4, 8, 16, 30, 30} {
		w.wait(time.Duration(pause)*time.Second - time.Millisecond)
		if n := w.memory.Attempts["big"].Misses; w.decide().Memory.Attempts["big"].Misses != n {
			t.Fatalf("tried before its time, after %d misses", n)
		}
		w.wait(time.Millisecond)
		w.decide()
	}
	index := w.state.Index
	w.vitals["b"].Devices[0].Available -= 100 * mb
	w.wait(30 * time.Second)
	w.decide()
	if w.state.Index != index {
		t.Error("other figures alone made an event")
	}
	// A new node: at once.
	total := int64(8) << 30
	w.members["c"] = true
	w.vitals["c"] = cluster.Vitals{At: w.now, Devices: []cluster.DeviceVitals{{Total: total, Available: total}}}
	w.must(cluster.NodeSeen{Node: cluster.Node{ID: "c", Worker: true, Downloads: true, Devices: []placement.Device{{Total: total, Speed: placement.Speed{Bandwidth: 1e10, Compute: 1e12}}}}})
	w.decide()
	if len(w.instances("big")) != 1 {
		t.Errorf("problem %q", w.state.Wanted["big"].Problem)
	}
	w.problem("big", "")
}

// TestRequiredNodeIsAway: what is to run on a node that is gone waits for it,
// says so, and is placed there when it is back.
func TestRequiredNodeIsAway(t *testing.T) {
	w := newWorld(t, map[ids.Node]int64{"a": 4, "b": 4})
	w.model("m", 2, "a", "b")
	w.must(cluster.ModelWanted{Wanted: cluster.Wanted{ID: "w", Model: "m", Context: 512, Slots: 1, Sharding: placement.Auto, MinNodes: 1, Require: []ids.Node{"b"}}})
	w.wait(time.Second)
	w.decide()
	w.run(cluster.Ready)
	w.wait(time.Minute)
	delete(w.members, "b")
	w.decide()
	w.decide()
	w.problem("w", "node b is required, but it is not online; start it, or unload the model and load it elsewhere")
	w.members["b"] = true
	w.decide()
	w.is("w", "b loading")
}

func TestNoFiles(t *testing.T) {
	w := newWorld(t, map[ids.Node]int64{"a": 4, "b": 4})
	w.model("m", 2, "b")
	delete(w.members, "b")
	w.want("w", "m")
	w.wait(time.Second)
	w.decide()
	w.problem("w", "no node that has the files of m is online; start one of: b")
	w.members["b"] = true
	w.decide()
	if got := w.placed("w"); got == "" {
		t.Errorf("not placed: %q", w.state.Wanted["w"].Problem)
	}
}

// fail reports that the first shard of what is wanted failed.
func (w *world) fail(wanted string) ids.Node {
	w.t.Helper()
	i := w.instances(wanted)[0]
	w.must(cluster.ShardReported{Instance: i.ID, Shard: 0, Incarnation: i.Shards[0].Incarnation, Phase: cluster.Failed, Error: "the library refuses it"})
	return i.Shards[0].Node
}

func TestFailuresBackOffAndEnd(t *testing.T) {
	w := newWorld(t, map[ids.Node]int64{"a": 4, "b": 4})
	w.model("m", 2, "a")
	w.want("w", "m")
	w.wait(time.Second)
	w.decide()
	var where []ids.Node
	for n := 1; n <= reconcile.MaxFailures; n++ {
		if len(w.instances("w")) != 1 {
			t.Fatalf("attempt %d: %q, %q", n, w.placed("w"), w.state.Wanted["w"].Problem)
		}
		where = append(where, w.fail("w"))
		w.decide()
		w.run(cluster.Ready)
		w.decide()
		if n < reconcile.MaxFailures {
			w.problem("w", "failed on node "+string(where[n-1])+": the library refuses it. It is tried again in a moment")
			w.wait(time.Duration(1<<(n-1))*time.Second - time.Millisecond)
			w.decide()
			w.is("w", "")
			w.wait(time.Millisecond)
			w.decide()
		}
	}
	if where[0] == where[1] {
		t.Errorf("tried on %v: not elsewhere after a failure", where)
	}
	w.problem("w", "it failed 5 times in a row")
	w.wait(time.Hour)
	if out := w.decide(); len(out.Changes) > 0 {
		t.Errorf("after the limit: %+v", out.Changes)
	}
	w.must(cluster.FilesMoved{Model: "m", Node: "b"}) // something changed
	w.decide()
	if len(w.instances("w")) != 1 {
		t.Errorf("not tried again: %q", w.state.Wanted["w"].Problem)
	}
}

func TestSteadyInstancesStartAnew(t *testing.T) {
	w := newWorld(t, map[ids.Node]int64{"a": 4})
	w.model("m", 2, "a")
	w.want("w", "m")
	w.wait(time.Second)
	w.decide()
	for range 2 * reconcile.MaxFailures {
		w.run(cluster.Ready)
		w.wait(time.Hour)
		w.fail("w")
		w.decide()
		w.run(cluster.Ready)
		w.decide()
		w.wait(time.Second)
		w.decide()
		w.is("w", "a loading")
	}
}

func TestDrain(t *testing.T) {
	w := newWorld(t, map[ids.Node]int64{"a": 4, "b": 4, "c": 4})
	w.model("m", 2, "a")
	w.want("w", "m")
	w.wait(time.Second)
	w.decide()
	w.run(cluster.Ready)
	w.is("w", "a ready")
	w.must(cluster.NodeDrained{Node: "a"})
	w.decide()
	w.is("w", "a ready, b loading")
	w.decide()
	w.is("w", "a ready, b loading") // the old one serves until the new one does
	w.run(cluster.Ready)
	out := w.decide()
	if len(out.Changes) != 1 || !strings.Contains(fmt.Sprint(out.Changes[0]), "node a is being drained; instance") {
		t.Errorf("%+v", out.Changes)
	}
	w.run(cluster.Ready)
	w.is("w", "b ready")
	if out := w.decide(); len(out.Changes) > 0 {
		t.Errorf("%+v", out.Changes)
	}
}

func TestDrainWithoutRoom(t *testing.T) {
	w := newWorld(t, map[ids.Node]int64{"a": 4, "b": 1})
	w.model("m", 3, "a")
	w.want("w", "m")
	w.wait(time.Second)
	w.decide()
	w.run(cluster.Ready)
	w.must(cluster.NodeDrained{Node: "a"})
	w.decide()
	w.is("w", "a ready")
	w.problem("w", "it can't move off node a, which is being drained: Need ")
	w.must(cluster.NodeDrained{Node: "a", Resume: true})
	w.decide()
	w.problem("w", "")
	w.is("w", "a ready")
}

func TestTwoInstancesOfOneWanted(t *testing.T) {
	w := newWorld(t, map[ids.Node]int64{"a": 4, "b": 4})
	w.model("m", 2, "a")
	w.want("w", "m")
	w.wait(time.Second)
	w.decide()
	w.is("w", "a loading")
	second := w.instances("w")[0]
	second.ID, second.Shards = "second", slices.Clone(second.Shards)
	second.Shards[0].Node = "b"
	w.must(cluster.InstancePlaced{Instance: second})
	w.decide()
	w.is("w", "a loading, b loading") // the first that serves will stay
	w.must(cluster.ShardReported{Instance: "second", Shard: 0, Incarnation: 1, Phase: cluster.Ready})
	out := w.decide()
	w.is("w", "a stopping, b ready")
	if len(out.Changes) != 1 || !strings.Contains(fmt.Sprint(out.Changes[0]), "it runs twice; instance second is kept") {
		t.Errorf("%+v", out.Changes)
	}
}

func TestReplicasLieApart(t *testing.T) {
	w := newWorld(t, map[ids.Node]int64{"a": 16, "b": 4})
	w.model("m", 2, "a", "b")
	w.want("w1", "m")
	w.want("w2", "m")
	w.want("w3", "m")
	w.wait(time.Second)
	w.decide()
	w.is("w1", "a loading")
	w.is("w2", "b loading")
	w.is("w3", "a loading") // no node is left: better there than nowhere
}

func TestNodesAreForgottenAfterADay(t *testing.T) {
	w := newWorld(t, map[ids.Node]int64{"a": 4, "b": 4})
	delete(w.members, "b")
	w.decide()
	out := w.decide()
	if !out.Wake.Equal(w.now.Add(24 * time.Hour)) {
		t.Errorf("wake %v", out.Wake)
	}
	w.wait(24 * time.Hour)
	w.decide()
	if _, ok := w.state.Nodes["b"]; ok {
		t.Error("b is still listed")
	}
}

func TestRefusalCodes(t *testing.T) {
	for want, err := range map[string]error{
		command.NoFiles: &reconcile.NoFilesError{Model: "m"}, command.NoMemory: &placement.NoMemoryError{},
		command.NotEnoughNodes: &placement.NotEnoughNodesError{}, command.Invalid: &placement.InvalidError{}, command.Unplaceable: errors.New("else"),
	} {
		if r := reconcile.Refusal(fmt.Errorf("x: %w", err)); r.Code != want || r.Message == "" {
			t.Errorf("%v: %+v, want %s", err, r, want)
		}
	}
}

// TestContextIsHalved: a model that fits only with less context gets that.
func TestContextIsHalved(t *testing.T) {
	w := newWorld(t, map[ids.Node]int64{"a": 4})
	w.model("m", 2, "a")
	w.must(cluster.ModelWanted{Wanted: cluster.Wanted{ID: "w", Model: "m", Context: 1 << 24, Slots: 1, Sharding: placement.Auto}})
	w.wait(time.Second)
	w.decide()
	i := w.instances("w")
	if len(i) != 1 || i[0].Context < 512 || i[0].Context >= 1<<24 {
		t.Errorf("%+v, problem %q", i, w.state.Wanted["w"].Problem)
	}
}

// TestDecisionsComeToRest: whatever happened, when nothing happens any more
// and shards do as they are told, everything wanted runs once or says why not,
// and no further changes are asked for.
func TestDecisionsComeToRest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		gb := map[ids.Node]int64{}
		for _, id := range []ids.Node{"a", "b", "c", "d"} {
			gb[id] = rapid.Int64Range(1, 8).Draw(t, "gb")
		}
		w := newWorld(t, gb)
		nodes := slices.Sorted(maps.Keys(gb))
		for n, name := range []string{"m", "n", "o"} {
			w.model(name, rapid.IntRange(1, 6).Draw(t, "layers"), nodes[n])
		}
		for n := range rapid.IntRange(1, 30).Draw(t, "happenings") {
			node := rapid.SampledFrom(nodes).Draw(t, "node")
			switch rapid.IntRange(0, 7).Draw(t, "what") {
			case 0:
				w.want(fmt.Sprint("w", n), rapid.SampledFrom([]string{"m", "n", "o"}).Draw(t, "model"))
			case 1:
				w.members[node] = node == "a" || !w.members[node]
			case 2:
				_ = w.change(cluster.NodeDrained{Node: node, Resume: rapid.Bool().Draw(t, "resume")}) // may be so
			case 3:
				w.run(rapid.SampledFrom([]cluster.Phase{cluster.Loaded, cluster.Ready}).Draw(t, "phase"))
			case 4:
				if all := slices.Sorted(maps.Keys(w.state.Wanted)); len(all) > 0 {
					w.must(cluster.ModelUnwanted{Wanted: rapid.SampledFrom(all).Draw(t, "unwanted"), Cause: "unloaded"})
				}
			case 5:
				for _, id := range slices.Sorted(maps.Keys(w.state.Wanted)) {
					if all := w.instances(id); len(all) > 0 && !all[0].Shards[0].Phase.Ended() {
						w.fail(id)
						break
					}
				}
			default:
				w.decide()
			}
			w.wait(time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond)
		}
		rest := 0
		for n := 0; rest < 3; n++ {
			if n > 100 {
				t.Fatalf("it goes on for ever: %+v", w.state.Wanted)
			}
			w.wait(30 * time.Second)
			before := w.state.Index
			w.decide()
			w.run(cluster.Ready)
			if rest++; w.state.Index != before {
				rest = 0
			}
		}
		for id, wanted := range w.state.Wanted {
			n := len(w.instances(id))
			if n > 1 || n == 0 && wanted.Problem == "" {
				t.Errorf("%s: %q, problem %q", id, w.placed(id), wanted.Problem)
			}
		}
		for id := range w.state.Instances {
			if i := w.state.Instances[id]; i.Status() != "ready" {
				t.Errorf("%s is %s", id, i.Status())
			}
		}
	})
}

// TestVitalsFromBeforeMemoryWasFreed: a model that does not fit by figures from
// before a shard stopped is no miss; the nodes are asked again.
func TestVitalsFromBeforeMemoryWasFreed(t *testing.T) {
	w := newWorld(t, map[ids.Node]int64{"a": 4})
	w.model("m", 3, "a")
	w.model("n", 3, "a")
	w.want("w", "m")
	w.wait(time.Second)
	w.decide()
	w.run(cluster.Ready)
	w.decide()
	w.must(cluster.ModelUnwanted{Wanted: "w", Cause: "unloaded"})
	w.want("v", "n")
	w.wait(time.Second)
	asked := w.now
	w.run(cluster.Ready) // it stops after the nodes were asked
	w.wait(time.Millisecond)
	in := reconcile.Input{State: w.state, Session: session, Members: w.members, Now: w.now, Asked: asked, Memory: w.memory,
		Vitals: map[ids.Node]cluster.Vitals{"a": {Devices: []cluster.DeviceVitals{{Total: 4 << 30, Available: 100 * mb}}}}}
	out := reconcile.Decide(in)
	if !out.Ask || len(out.Memory.Attempts) > 0 || len(out.Changes) > 0 {
		t.Errorf("%+v", out)
	}
	in.Memory, in.Asked, in.Now = out.Memory, w.now, w.now.Add(time.Millisecond)
	if out = reconcile.Decide(in); out.Memory.Attempts["v"].Misses != 1 {
		t.Errorf("newer figures say no, and it is no miss: %+v", out)
	}
}

// TestNodeThatWasJustNotedIsWaitedFor: an instance that is adopted brings its
// nodes, which the mesh may see a moment later.
func TestNodeThatWasJustNotedIsWaitedFor(t *testing.T) {
	w := newWorld(t, map[ids.Node]int64{"a": 4, "b": 4})
	delete(w.members, "b")
	w.decide()
	w.wait(time.Hour)
	w.must(cluster.NodeSeen{Node: w.state.Nodes["b"]})
	if out := w.decide(); len(out.Changes) > 0 || !out.Wake.Equal(w.now.Add(2*time.Second)) {
		t.Errorf("%+v", out)
	}
	w.wait(2 * time.Second)
	w.decide()
	if w.state.Nodes["b"].Online {
		t.Error("it never came and is online")
	}
}
