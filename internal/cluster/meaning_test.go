package cluster_test

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/ids"
)

var update = flag.Bool("update", false, "write the golden log of the newest version")

// play applies changes that must all fit.
func play(t testing.TB, s cluster.State, changes ...cluster.Change) cluster.State {
	t.Helper()
	for _, c := range changes {
		e := cluster.Event{Index: s.Index + 1, Session: ids.Session{Master: "a", Clock: 1}, At: time.Unix(int64(1000+s.Index), 0).UTC(), Change: c}
		if err := s.Admit(e); err != nil {
			t.Fatal(err)
		}
		s = s.Apply(e)
		if err := cluster.Check(s); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// running is a cluster with one instance of two stages, both ready.
func running(t testing.TB) cluster.State {
	return play(t, play(t, cluster.State{}, beginning()...), story()...)
}

func story() []cluster.Change {
	out := []cluster.Change{cluster.InstancePlaced{Instance: cluster.Instance{ID: "i", Wanted: "w0", Model: "big", Way: placement.WayPipeline, Context: 512, Slots: 1, Head: 1,
		Shards: []cluster.Shard{{Node: "a", Spec: slice.Spec{First: 0, End: 2}, Reserve: 60}, {Node: "b", Spec: slice.Spec{First: 2, End: 4}, Reserve: 60}}}}}
	for shard := range 2 {
		out = append(out,
			cluster.ShardReported{Instance: "i", Shard: shard, Phase: cluster.Fetching},
			cluster.ShardReported{Instance: "i", Shard: shard, Incarnation: 1, Phase: cluster.Loading},
			cluster.ShardReported{Instance: "i", Shard: shard, Incarnation: 1, Phase: cluster.Loaded, Link: "10.0.0.1:7"})
	}
	return append(out,
		cluster.ShardReported{Instance: "i", Shard: 0, Incarnation: 1, Phase: cluster.Connected, Epoch: 2},
		cluster.ShardReported{Instance: "i", Shard: 0, Incarnation: 1, Phase: cluster.Ready, Epoch: 2},
		cluster.ShardReported{Instance: "i", Shard: 1, Incarnation: 1, Phase: cluster.Ready, Epoch: 2})
}

func phases(i cluster.Instance) string {
	var out []string
	for _, s := range i.Shards {
		out = append(out, string(s.Phase))
	}
	return strings.Join(out, " ")
}

func TestLifeOfAnInstance(t *testing.T) {
	s := running(t)
	if i := s.Instances["i"]; i.Status() != "ready" || i.Epoch() != 2 {
		t.Fatalf("status %s, epoch %d", i.Status(), i.Epoch())
	}
	s = play(t, s, cluster.ModelUnwanted{Wanted: "w0", Cause: "unloaded by a person"})
	if i := s.Instances["i"]; i.Status() != "stopping" || i.Releasing != "unloaded by a person" {
		t.Fatalf("after the unload: %+v", i)
	}
	s = play(t, s, cluster.ShardReported{Instance: "i", Shard: 0, Incarnation: 1, Phase: cluster.Stopped})
	if _, there := s.Instances["i"]; !there {
		t.Fatal("it is gone before its second shard has stopped")
	}
	s = play(t, s, cluster.ShardReported{Instance: "i", Shard: 1, Incarnation: 1, Phase: cluster.Stopped})
	if len(s.Instances) != 0 {
		t.Fatalf("it is still there: %+v", s.Instances)
	}
}

func TestNewProcessMeansConnectingAgain(t *testing.T) {
	s := play(t, running(t), cluster.ShardReported{Instance: "i", Shard: 0, Incarnation: 2, Phase: cluster.Loading})
	if i := s.Instances["i"]; phases(i) != "loading loaded" || i.Epoch() != 3 || i.Shards[0].Link != "" || i.Shards[1].Link == "" || i.Status() != "loading" {
		t.Errorf("%s, epoch %d, links %q %q", phases(i), i.Epoch(), i.Shards[0].Link, i.Shards[1].Link)
	}
}

func TestLostNode(t *testing.T) {
	s := play(t, running(t), cluster.NodeGone{Node: "b", Cause: "cable"})
	if i := s.Instances["i"]; phases(i) != "ready lost" || i.Status() != "failed" || i.Shards[1].Error != "node b is gone: cable" {
		t.Errorf("%s, %s, %q", phases(i), i.Status(), i.Shards[1].Error)
	}
	if _, wanted := s.Wanted["w0"]; !wanted {
		t.Error("what was wanted is forgotten with the node")
	}
	// The memory of a lost shard is free when its node is back; the rest is not.
	c := s.Placement("big", nil, nil)
	if len(c.Loaded) != 1 || c.Loaded[0].Node != "a" {
		t.Errorf("%+v hold memory", c.Loaded)
	}
	// What runs on the others ends with the release.
	s = play(t, s, cluster.InstanceReleased{Instance: "i", Cause: "node b is gone"}, cluster.ShardReported{Instance: "i", Shard: 0, Incarnation: 1, Phase: cluster.Stopped},
		cluster.NodeForgotten{Node: "b"})
	if len(s.Instances) != 0 {
		t.Errorf("%+v is left", s.Instances)
	}
}

// TestModelsBeforeTheirHashes: until a model is hashed it is that of the node
// that told it. That node may tell it anew; another one's of the same name waits,
// or takes its place when the node is gone.
func TestModelsBeforeTheirHashes(t *testing.T) {
	s := play(t, cluster.State{}, beginning()...)
	s = play(t, s, cluster.ModelKnown{Model: unhashed("new", "a")})
	theirs := unhashed("new", "b")
	theirs.Files[0].SHA256 = "0b"
	ours := unhashed("new", "a")
	ours.Files[0].SHA256 = "0a"
	both := unhashed("new", "a")
	both.Holders = append(both.Holders, "b")
	next := func(c cluster.Change) error {
		return s.Admit(cluster.Event{Index: s.Index + 1, Session: s.Session, Change: c})
	}
	for _, c := range []cluster.Change{
		cluster.ModelKnown{Model: unhashed("new", "b")}, cluster.ModelKnown{Model: theirs}, cluster.FilesMoved{Model: "new", Node: "b"}, cluster.ModelKnown{Model: both},
	} {
		if next(c) == nil {
			t.Errorf("taken: %+v", c)
		}
	}
	done := play(t, s, cluster.ModelKnown{Model: ours})
	if m := done.Models["new"]; !m.Hashed() || !slices.Equal(m.Holders, []ids.Node{"a"}) {
		t.Errorf("hashed: %+v", m)
	}
	if err := done.Admit(cluster.Event{Index: done.Index + 1, Session: done.Session, Change: cluster.ModelKnown{Model: unhashed("new", "a")}}); err == nil {
		t.Error("hashes that are known were taken away")
	}
	s = play(t, s, cluster.NodeGone{Node: "a", Cause: "cable"}, cluster.ModelKnown{Model: theirs})
	if m := s.Models["new"]; m.Files[0].SHA256 != "0b" || !slices.Equal(m.Holders, []ids.Node{"b"}) {
		t.Errorf("taken over: %+v", m)
	}
	if err := next(cluster.ModelKnown{Model: ours}); err == nil || !strings.Contains(err.Error(), "rename one") {
		t.Errorf("the first one's, when it is back: %v", err)
	}
}

// TestModelsThatNobodyHas: a file may be exchanged for another one of its name.
// Once nobody has the old one and nothing runs from it, the new one is the model.
func TestModelsThatNobodyHas(t *testing.T) {
	s := play(t, cluster.State{}, beginning()...)
	old, other := unhashed("new", "a"), unhashed("new", "a")
	old.Files[0].SHA256, other.Files[0].SHA256 = "0a", "0b"
	s = play(t, s, cluster.ModelKnown{Model: old}, cluster.ModelWanted{Wanted: cluster.Wanted{ID: "w7", Model: "new", Context: 512, Slots: 1}})
	known := cluster.ModelKnown{Model: other}
	admit := func() error {
		return s.Admit(cluster.Event{Index: s.Index + 1, Session: s.Session, Change: known})
	}
	if err := admit(); err == nil {
		t.Error("taken while a node has the old files")
	}
	s = play(t, s, cluster.FilesMoved{Model: "new", Node: "a", Gone: true})
	if !s.Abandoned(s.Models["new"]) {
		t.Error("nobody has it and nothing runs from it")
	}
	placed := play(t, s, cluster.InstancePlaced{Instance: on("i7", "w7", "new", 10, "a")})
	if placed.Abandoned(placed.Models["new"]) {
		t.Error("it runs")
	}
	if err := placed.Admit(cluster.Event{Index: placed.Index + 1, Session: placed.Session, Change: known}); err == nil {
		t.Error("taken while the old one runs")
	}
	s = play(t, s, known)
	if m := s.Models["new"]; m.Files[0].SHA256 != "0b" || !slices.Equal(m.Holders, []ids.Node{"a"}) {
		t.Errorf("the new one: %+v", m)
	}
}

func TestRefusals(t *testing.T) {
	s := running(t)
	for _, c := range []struct {
		name   string
		change cluster.Change
		want   string
	}{
		{"memory", place(60, 60), "shard 0 needs 60 B, node a has 40 B that are not promised"},
		{"sum of one event", place(30, 30, "c", "c"), ""},
		{"overflow", place(30, 1<<62, "c", "c"), "shard 1 needs 4194304.0 TB, node c has 70 B"},
		{"unknown node", place(1, 1, "z", "a"), "node z is not there"},
		{"layers", cluster.InstancePlaced{Instance: cluster.Instance{ID: "x", Wanted: "w0", Model: "big", Shards: []cluster.Shard{{Node: "c", Spec: slice.Spec{First: 0, End: 3}, Reserve: 1}}}}, "layers up to 3 of 4 are placed"},
		{"nobody wants it", cluster.InstancePlaced{Instance: cluster.Instance{ID: "x", Wanted: "w9", Model: "big"}}, `big is not wanted as "w9"`},
		{"wanted twice", cluster.ModelWanted{Wanted: cluster.Wanted{ID: "w0", Model: "big", Context: 1, Slots: 1}}, "w0 is wanted already"},
		{"unknown model", cluster.ModelWanted{Wanted: cluster.Wanted{ID: "w7", Model: "none", Context: 1, Slots: 1}}, "there is no model none"},
		{"other files", cluster.ModelKnown{Model: func() cluster.Model { m := model("big"); m.Files[0].SHA256 = "ff"; return m }()}, "another model named big"},
		{"model in use", cluster.ModelForgotten{Model: "big"}, "big is wanted; unload it first"},
		{"old process", cluster.ShardReported{Instance: "i", Shard: 0, Incarnation: 0, Phase: cluster.Ready}, "it is about process 0, and 1 holds the shard"},
		{"backwards", cluster.ShardReported{Instance: "i", Shard: 0, Incarnation: 1, Phase: cluster.Loading}, "it is ready already"},
		{"old connection", cluster.ShardReported{Instance: "i", Shard: 0, Incarnation: 1, Phase: cluster.Ready, Epoch: 1}, "it was ready in epoch 1, and this is epoch 2"},
		{"no reason", cluster.ShardReported{Instance: "i", Shard: 0, Incarnation: 1, Phase: cluster.Failed}, "a failure needs its reason"},
		{"node with shards", cluster.NodeForgotten{Node: "a"}, "unknown, or online"},
		{"blank in id", cluster.NodeSeen{Node: cluster.Node{ID: "a b"}}, "no blanks"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := s.Admit(cluster.Event{Index: s.Index + 1, Session: s.Session, Change: c.change})
			switch {
			case c.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v\nwant ...%s...", err, c.want)
			}
		})
	}
}

func place(first, second int64, nodes ...ids.Node) cluster.Change {
	if len(nodes) == 0 {
		nodes = []ids.Node{"a", "b"}
	}
	return cluster.InstancePlaced{Instance: cluster.Instance{ID: "x", Wanted: "w0", Model: "big", Head: 1,
		Shards: []cluster.Shard{{Node: nodes[0], Spec: slice.Spec{First: 0, End: 2}, Reserve: first}, {Node: nodes[1], Spec: slice.Spec{First: 2, End: 4}, Reserve: second}}}}
}

// TestPlansAreAdmitted: what the planner makes of a state and of what nodes
// report can be placed, whatever else is loaded.
func TestPlansAreAdmitted(t *testing.T) {
	found := 0
	rapid.Check(t, func(t *rapid.T) {
		_, states := drawHistory(t)
		s := states[len(states)-1]
		reports := map[ids.Node]cluster.Report{}
		for id, n := range s.Nodes {
			r := cluster.Report{Available: map[string]int64{}}
			for k, d := range n.Devices {
				r.Available[d.ID] = rapid.Int64Range(0, 60<<20).Draw(t, "available")
				n.Devices[k].Speed = placement.Speed{Bandwidth: 1e9, Compute: 1e9}
				n.Devices[k].Total = 60 << 20
			}
			s = s.Apply(cluster.Event{Index: s.Index + 1, Session: s.Session, Change: cluster.NodeSeen{Node: n}})
			reports[id] = r
		}
		for _, w := range s.Wanted {
			m := s.Models[w.Model].Profile
			m.Layers = append([]placement.Layer(nil), m.Layers...)
			for k := range m.Layers {
				m.Layers[k].Weights.Cut = rapid.Int64Range(1, 16<<20).Draw(t, "weights")
			}
			p, err := placement.Place(s.Placement(w.Model, reports, nil), placement.Request{Model: m, Context: 16, Slots: 1, Batch: 1}, time.Time{})
			if err != nil {
				continue
			}
			found++
			e := cluster.Event{Index: s.Index + 1, Session: s.Session, Change: cluster.InstancePlaced{Instance: w.Instance("new", 16, p)}}
			if err := s.Admit(e); err != nil {
				t.Errorf("the plan %+v is refused: %v", p, err)
			}
		}
	})
	if found == 0 {
		t.Error("nothing was ever planned")
	}
}

// TestGoldenLogs: logs that each version wrote make the state that they made
// then. A file is never changed; a new version adds one with -update.
func TestGoldenLogs(t *testing.T) {
	const newest = "testdata/log-v5"
	if *update {
		s, log := cluster.State{}, []byte{}
		changes := append(beginning(), story()...)
		changes = append(changes, cluster.FilesMoved{Model: "big", Node: "c"}, cluster.NodeDrained{Node: "d"}, cluster.NodeGone{Node: "b", Cause: "cable"},
			cluster.DownloadBegan{Download: cluster.Download{Node: "c", Model: "org/small", From: "a", Bytes: 9}}, cluster.DownloadEnded{Node: "c", Model: "org/small", Error: "disk full"},
			cluster.WantedProblem{Wanted: "w0", Problem: "no room"}, cluster.InstanceReleased{Instance: "i", Cause: "moved"}, cluster.CommandDropped{Command: "c0", Reason: "no room any more"},
			cluster.NodeForgotten{Node: "z"}, cluster.ModelForgotten{Model: "big"}, cluster.SessionBegan{}, cluster.ModelUnwanted{Wanted: "w1", Cause: "unloaded"})
		changes = append(changes, swapStory()...)
		changes = append(changes, cluster.KeyAdded{Key: aKey("ops", cluster.RoleManage)}, cluster.KeyAdded{Key: aKey("ci", cluster.RoleChat)}, cluster.KeyRevoked{Name: "ops"}, cluster.Audited{What: "promote node a", Result: "done"})
		fourth := model("fourth")
		fourth.Holders = []ids.Node{"a"}
		changes = append(changes, cluster.ModelKnown{Model: unhashed("fourth", "a")}, cluster.ModelKnown{Model: fourth}, cluster.ModelKnown{Model: unhashed("fifth", "a")}, cluster.NodeGone{Node: "a", Cause: "cable"},
			cluster.ModelKnown{Model: unhashed("fifth", "c")})
		fifth, exchanged := unhashed("fifth", "c"), unhashed("fifth", "c")
		fifth.Files[0].SHA256, exchanged.Files[0].SHA256 = "5a", "5b"
		changes = append(changes, cluster.ModelKnown{Model: fifth}, cluster.FilesMoved{Model: "fifth", Node: "c", Gone: true}, cluster.ModelKnown{Model: exchanged})
		for _, c := range changes {
			e := cluster.Event{Index: s.Index + 1, Session: ids.Session{Master: "a", Clock: 1}, At: time.Unix(int64(1000+s.Index), 0).UTC(), Command: "c1", By: "ops", Via: "b", Change: c}
			s = s.Apply(e)
			b, err := e.Encode()
			if err != nil {
				t.Fatal(err)
			}
			log = append(append(log, b...), '\n')
		}
		snapshot, err := s.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(newest+".jsonl", log, 0o644), os.WriteFile(newest+".state.json", append(snapshot, '\n'), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	logs, err := filepath.Glob("testdata/log-v*.jsonl")
	if err != nil || len(logs) != cluster.EventVersion {
		t.Fatalf("there are logs %v for %d versions (%v)", logs, cluster.EventVersion, err)
	}
	for _, path := range logs {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		s := cluster.State{}
		for line := range bytes.Lines(b) {
			e, err := cluster.DecodeEvent(line)
			if err != nil {
				t.Fatal(err)
			}
			s = s.Apply(e)
		}
		b, err = os.ReadFile(strings.TrimSuffix(path, ".jsonl") + ".state.json")
		if err != nil {
			t.Fatal(err)
		}
		want, err := cluster.DecodeState(b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, s); diff != "" {
			t.Errorf("%s makes another state now (-then +now):\n%s", path, diff)
		}
	}
}

func TestNewerVersionsAreRefused(t *testing.T) {
	for _, b := range []string{`{"v":6,"index":1,"kind":"session_began","change":{}}`, `{"v":1,"index":1,"kind":"moon_rose","change":{}}`} {
		if _, err := cluster.DecodeEvent([]byte(b)); !errors.Is(err, cluster.ErrVersion) {
			t.Errorf("%s: %v", b, err)
		}
	}
	if _, err := cluster.DecodeState([]byte(`{"v":6,"state":{}}`)); !errors.Is(err, cluster.ErrVersion) {
		t.Errorf("snapshot: %v", err)
	}
}

// FuzzDecodeEvent: bytes of a peer never panic, and what is read can be
// applied and written again.
func FuzzDecodeEvent(f *testing.F) {
	s := cluster.State{}
	for _, c := range append(beginning(), story()...) {
		b, err := (cluster.Event{Index: s.Index + 1, Session: ids.Session{Master: "a", Clock: 1}, Change: c}).Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, c := range []cluster.Change{cluster.KeyAdded{Key: aKey("ops", cluster.RoleManage)}, cluster.KeyRevoked{Name: "ops"}, cluster.Audited{What: "x", Result: "y"}} {
		b, err := (cluster.Event{Index: 1, By: "ops", Command: "c", Change: c}).Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"v":1,"index":18446744073709551615,"kind":"shard_reported","change":{"shard":-1}}`))
	base := running(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := cluster.DecodeEvent(b)
		if err != nil {
			return
		}
		e.Index, e.Session = base.Index+1, base.Session
		s := base.Apply(e)
		if err := cluster.Check(s); err != nil {
			t.Errorf("after %s: %v", b, err)
		}
		if _, err := e.Encode(); err != nil {
			t.Errorf("%s can't be written again: %v", b, err)
		}
	})
}
