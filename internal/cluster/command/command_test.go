package command_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/ids"
)

var (
	session = ids.Session{Master: "a", Clock: 3}
	start   = time.Unix(1000, 0).UTC()
)

// world is a state that commands change.
type world struct {
	t     testing.TB
	state cluster.State
}

func (w *world) decide(c command.Command) ([]cluster.Event, command.Result, error) {
	w.t.Helper()
	before := w.state
	events, result, err := command.Decide(w.state, c, session, start.Add(time.Duration(w.state.Index)*time.Second))
	if diff := cmp.Diff(before, w.state); diff != "" {
		w.t.Fatalf("deciding changed the state:\n%s", diff)
	}
	var no *command.Refusal
	if err != nil && (!errors.As(err, &no) || no.Code == "" || no.Message == "" || len(events) > 0) {
		w.t.Fatalf("%s: %v with %d events is no refusal", c.Kind, err, len(events))
	}
	for _, e := range events {
		b, err := e.Encode()
		if err != nil {
			w.t.Fatal(err)
		}
		if e, err = cluster.DecodeEvent(b); err != nil {
			w.t.Fatal(err)
		}
		if err := w.state.Admit(e); err != nil {
			w.t.Fatalf("%s made an event that does not fit: %v", c.Kind, err)
		}
		w.state = w.state.Apply(e)
	}
	if err := cluster.Check(w.state); err != nil {
		w.t.Fatalf("after %s: %v", c.Kind, err)
	}
	return events, result, err
}

func (w *world) do(c command.Command, err error) command.Result {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	_, r, err := w.decide(c)
	if err != nil {
		w.t.Fatalf("%s %s: %v", c.Kind, c.Body, err)
	}
	return r
}

func (w *world) refused(code, text string, c command.Command, err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	_, _, err = w.decide(c)
	var no *command.Refusal
	if !errors.As(err, &no) || no.Code != code || !strings.Contains(no.Message, text) {
		w.t.Errorf("%s: got %v\nwant %s ...%s...", c.Kind, err, code, text)
	}
}

func node(id ids.Node, gb int64) cluster.Node {
	return cluster.Node{ID: id, Worker: true, Downloads: true, Devices: []placement.Device{{Total: gb << 30}}}
}

func model(name string, holders ...ids.Node) cluster.Model {
	return cluster.Model{Name: name, Files: []cluster.File{{Name: "f.gguf", Size: 9, SHA256: "00"}}, Holders: holders,
		Profile: placement.Model{Name: name, Layers: make([]placement.Layer, 4), Embedding: 64}}
}

// three is a cluster of a, b and c with 10 GB each and the models big and
// org/small on a.
func three(t testing.TB) *world {
	w := &world{t: t}
	for _, id := range []ids.Node{"a", "b", "c"} {
		w.do(command.Of("", cluster.NodeSeen{Node: node(id, 10)}))
	}
	for _, name := range []string{"big", "org/small"} {
		w.do(command.Of("", cluster.ModelKnown{Model: model(name, "a")}))
	}
	return w
}

// at is an instance of two shards on two nodes.
func at(id string, gb int64, nodes ...ids.Node) cluster.Instance {
	i := cluster.Instance{ID: id, Context: 64, Slots: 1, Head: len(nodes) - 1}
	for k, n := range nodes {
		i.Shards = append(i.Shards, cluster.Shard{Node: n, Reserve: gb << 30, Spec: slice.Spec{First: k * 4 / len(nodes), End: (k + 1) * 4 / len(nodes)}})
	}
	return i
}

func load(model string) command.Load { return command.Load{Model: model, Context: 64, Slots: 1} }

func TestLoad(t *testing.T) {
	w := three(t)
	l := load("big")
	l.Instances = []cluster.Instance{at("i", 6, "a", "b")}
	r := w.do(l.Command("c1"))
	if diff := cmp.Diff(command.Result{Command: "c1", Model: "big", Wanted: []string{"c1"}, Instances: []string{"i"}}, r); diff != "" {
		t.Error(diff)
	}
	// The same command again is answered with what it came to.
	events, r, err := w.decide(mustCommand(l.Command("c1")))
	if err != nil || len(events) > 0 || !r.Again || r.Instances[0] != "i" || r.Wanted[0] != "c1" {
		t.Errorf("again: %d events, %+v, %v", len(events), r, err)
	}
	w.refused(command.AlreadyLoaded, "instance i, loading); unload it first, or ask for one more with replicas: 2", mustCommand(l.Command("c2")), nil)

	// Of two plans that were made of one moment, one is carried out.
	other := load("org/small")
	other.Instances = []cluster.Instance{at("j", 6, "b", "c")}
	w.refused(command.StalePlan, "shard 0 needs 6.0 GB, node b has 4.0 GB that are not promised); plan again", mustCommand(other.Command("c3")), nil)
	if _, ok := w.state.Wanted["c3"]; ok {
		t.Error("a refused load left a want")
	}
	other.Instances = nil // the master finds a place
	w.do(other.Command("c3"))
	w.refused(command.AlreadyLoaded, "being placed", mustCommand(other.Command("c4")), nil)

	l.Instances, l.Replicas = nil, 3
	if r := w.do(l.Command("c5")); !cmp.Equal(r.Wanted, []string{"c5", "c5.1"}) || w.state.Wanted["c5"].Copy != 1 || w.state.Wanted["c5.1"].Copy != 2 {
		t.Errorf("replicas: %+v", r)
	}
	r = w.do(command.Unload{Model: "big"}.Command("c6"))
	if diff := cmp.Diff(command.Result{Command: "c6", Model: "big", Wanted: []string{"c1", "c5", "c5.1"}, Instances: []string{"i"}, Freed: 12 << 30}, r); diff != "" {
		t.Error(diff)
	}
	if w.state.Instances["i"].Releasing != "unloaded" {
		t.Errorf("%+v", w.state.Instances["i"])
	}
	if r := w.do(command.Unload{Model: "big"}.Command("c6")); !r.Again || r.Model != "big" {
		t.Errorf("unload again: %+v", r)
	}
}

func TestUnloadOne(t *testing.T) {
	w := three(t)
	l := load("big")
	l.Replicas, l.Instances = 2, []cluster.Instance{at("i", 1, "a"), at("j", 1, "b")}
	w.do(l.Command("c1"))
	drain, below := 5*time.Second, -time.Second
	w.refused(command.Invalid, "-1s; give 0 or more", mustCommand(command.Unload{Instance: "i", Drain: &below}.Command("c2")), nil)
	if r := w.do(command.Unload{Instance: "i", Drain: &drain}.Command("c2")); !cmp.Equal(r.Wanted, []string{"c1"}) || r.Model != "big" {
		t.Errorf("%+v", r)
	}
	if i := w.state.Instances["i"]; i.Drain == nil || *i.Drain != drain {
		t.Errorf("open generations may go on for %v", i.Drain)
	}
	if r := w.do(command.Unload{Wanted: "c1.1"}.Command("c3")); !cmp.Equal(r.Instances, []string{"j"}) {
		t.Errorf("%+v", r)
	}
	w.refused(command.NotLoaded, "big is not loaded; loaded are: none", mustCommand(command.Unload{Model: "big"}.Command("c4")), nil)
}

func mustCommand(c command.Command, err error) command.Command {
	if err != nil {
		panic(err)
	}
	return c
}

func TestRefusals(t *testing.T) {
	w := three(t)
	with := func(change func(*command.Load)) command.Command {
		l := load("big")
		change(&l)
		return mustCommand(l.Command("c"))
	}
	of := func(c cluster.Change) command.Command { return mustCommand(command.Of("c", c)) }
	w.do(load("org/small").Command("w0"))
	for _, c := range []struct {
		name, code, text string
		command          command.Command
	}{
		{"model", command.UnknownModel, "there is no model tiny; there are: big, org/small", mustCommand(load("tiny").Command("c"))},
		{"no id", command.Invalid, "give the command one", mustCommand(load("big").Command(""))},
		{"context", command.Invalid, "must be at least 1", with(func(l *command.Load) { l.Context = 0 })},
		{"replicas", command.Invalid, "from 1 to 64", with(func(l *command.Load) { l.Replicas = 65 })},
		{"sharding", command.Invalid, "auto, pipeline or tensor", with(func(l *command.Load) { l.Sharding = "half" })},
		{"node", command.UnknownNode, "there is no node z; there are: a, b, c", with(func(l *command.Load) { l.Require = []ids.Node{"z"} })},
		{"nodes", command.NotEnoughNodes, "4 nodes are wanted and 3 workers are online", with(func(l *command.Load) { l.MinNodes = 4 })},
		{"id taken", command.Conflict, "w0 is wanted already, for org/small; choose another id", with(func(l *command.Load) { l.ID = "w0" })},
		{"too many places", command.StalePlan, "2 places", with(func(l *command.Load) { l.Instances = make([]cluster.Instance, 2) })},
		{"no place", command.StalePlan, "plan again", with(func(l *command.Load) { l.Placed = true })},
		{"unload unknown", command.UnknownModel, "there are: big", mustCommand(command.Unload{Model: "none"}.Command("c"))},
		{"unload", command.NotLoaded, "loaded are: org/small", mustCommand(command.Unload{Model: "big"}.Command("c"))},
		{"drain", command.UnknownNode, "there are: a, b, c", of(cluster.NodeDrained{Node: "z"})},
		{"forget online", command.InUse, "stop it there", of(cluster.NodeForgotten{Node: "a"})},
		{"forget unknown", command.UnknownNode, "there is no node z", of(cluster.NodeForgotten{Node: "z"})},
		{"forget model", command.InUse, "unload it first", of(cluster.ModelForgotten{Model: "org/small"})},
		{"files", command.UnknownModel, "there is no model x", of(cluster.FilesMoved{Model: "x", Node: "a"})},
		{"report", command.Stale, "there is no shard 0", of(cluster.ShardReported{Instance: "i", Phase: cluster.Ready})},
		{"other files", command.Conflict, "rename one of the two", of(cluster.ModelKnown{Model: func() cluster.Model { m := model("big", "b"); m.Files[0].SHA256 = "11"; return m }()})},
		{"garbage", command.Invalid, "can't be read", command.Command{ID: "c", Kind: "load", Body: json.RawMessage(`[]`)}},
		{"kind", command.Invalid, "there is no such change", command.Command{ID: "c", Kind: "dance", Body: json.RawMessage(`{}`)}},
		{"no command", command.Invalid, "is no command", of(cluster.CommandDropped{Command: "c", Reason: "x"})},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.t = t
			w.refused(c.code, c.text, c.command, nil)
		})
	}
}

// TestNothingTwice: what is so already makes no events.
func TestNothingTwice(t *testing.T) {
	w := three(t)
	l := load("big")
	l.Instances = []cluster.Instance{at("i", 1, "a", "b")}
	w.do(l.Command("c1"))
	for _, c := range []cluster.Change{
		cluster.NodeSeen{Node: node("a", 10)}, cluster.NodeGone{Node: "c", Cause: "cable"}, cluster.NodeDrained{Node: "b"},
		cluster.ModelKnown{Model: model("big", "b")}, cluster.FilesMoved{Model: "big", Node: "c"}, cluster.FilesMoved{Model: "big", Node: "c", Gone: true},
		cluster.WantedProblem{Wanted: "c1", Problem: "no room"}, cluster.ShardReported{Instance: "i", Incarnation: 1, Phase: cluster.Loading},
		cluster.InstanceReleased{Instance: "i", Cause: "moved"},
	} {
		w.do(command.Of("", c))
		events, _, err := w.decide(mustCommand(command.Of("", c)))
		if err != nil || len(events) > 0 {
			t.Errorf("%s twice: %d events, %v", cluster.KindOf(c), len(events), err)
		}
	}
	// New facts are no repetition.
	if events, _, _ := w.decide(mustCommand(command.Of("", cluster.NodeSeen{Node: node("a", 12)}))); len(events) != 1 {
		t.Error("a node's new facts are lost")
	}
}

func TestBatch(t *testing.T) {
	w := three(t)
	w.do(load("big").Command("c1"))
	i := at("i", 6, "a", "b")
	i.Wanted, i.Model = "c1", "big"
	j := i
	j.ID = "j"
	events, r, err := w.decide(mustCommand(command.Batch("", []cluster.Change{
		cluster.NodeGone{Node: "z"}, cluster.NodeDrained{Node: "z"}, cluster.InstancePlaced{Instance: i}, cluster.InstancePlaced{Instance: j}, cluster.NodeGone{Node: "c", Cause: "cable"}})))
	if err != nil || len(events) != 2 || len(r.Refused) != 2 || !strings.Contains(r.Refused[1], "placed already, as instance i") {
		t.Errorf("%d events, %+v, %v", len(events), r, err)
	}
}

func TestResolve(t *testing.T) {
	w := three(t)
	w.do(command.Of("", cluster.ModelKnown{Model: model("x/Small", "a")}))
	for name, want := range map[string]string{"BIG": "big", "ORG/small": "org/small", "big": "big", "small": "!any of: org/small, x/Small", "none": "!there are: big, org/small, x/Small"} {
		got, err := command.Resolve(w.state, name)
		if text, bad := strings.CutPrefix(want, "!"); bad && (err == nil || !strings.Contains(err.Error(), text)) || !bad && got != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}
