package cluster_test

import (
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/ids"
)

// on is an instance of one shard.
func on(id, wanted, model string, reserve int64, at ids.Node) cluster.Instance {
	return cluster.Instance{ID: id, Wanted: wanted, Model: model, Context: 512, Slots: 1,
		Shards: []cluster.Shard{{Node: at, Spec: slice.Spec{First: 0, End: layers}, Reserve: reserve}}}
}

// swap of what is wanted as old for another model, at a.
func swap(id, old, model string, reserve int64, overlap bool) cluster.SwapBegan {
	return cluster.SwapBegan{Swap: cluster.Swap{ID: id, Old: []cluster.Wanted{{ID: old}}, New: cluster.Wanted{ID: id, Model: model, Context: 512, Slots: 1},
		Place: on("p"+id, id, model, reserve, "a"), Overlap: overlap, Drain: 5 * time.Second}}
}

// reach has an instance of one shard come to a phase.
func reach(id string, to cluster.Phase) []cluster.Change {
	var out []cluster.Change
	for _, phase := range []cluster.Phase{cluster.Loading, cluster.Loaded, cluster.Ready} {
		if out = append(out, cluster.ShardReported{Instance: id, Incarnation: 1, Phase: phase}); phase == to {
			return out
		}
	}
	return append(out, cluster.ShardReported{Instance: id, Incarnation: 1, Phase: to, Error: "it broke"})
}

// pair is one model that runs with 60 of 100 bytes of a, and another that
// nobody wants.
func pair(t testing.TB) cluster.State {
	s := play(t, play(t, cluster.State{}, beginning()...), cluster.ModelUnwanted{Wanted: "w1", Cause: "unloaded"}, cluster.InstancePlaced{Instance: on("i", "w0", "big", 60, "a")})
	return play(t, s, reach("i", cluster.Ready)...)
}

// swapStory is for the golden log: a swap that is undone, and one that is done.
func swapStory() []cluster.Change {
	out := []cluster.Change{cluster.ModelUnwanted{Wanted: "w0", Cause: "unloaded"}, cluster.ShardReported{Instance: "i", Incarnation: 1, Phase: cluster.Stopped}, cluster.NodeSeen{Node: node("a")}, cluster.ModelKnown{Model: func() cluster.Model { m := model("big"); m.Holders = nodeNames[:1]; return m }()},
		cluster.ModelKnown{Model: func() cluster.Model { m := model("org/small"); m.Holders = nodeNames[:1]; return m }()},
		cluster.ModelWanted{Wanted: cluster.Wanted{ID: "w5", Model: "big", Context: 512, Slots: 1}}, cluster.InstancePlaced{Instance: on("j", "w5", "big", 60, "a")}}
	out = append(append(out, reach("j", cluster.Ready)...), swap("s1", "w5", "org/small", 90, false), cluster.ShardReported{Instance: "j", Incarnation: 1, Phase: cluster.Stopped},
		cluster.InstancePlaced{Instance: on("ps1", "s1", "org/small", 90, "a")}, cluster.SwapUndone{Swap: "s1", Cause: "it broke"})
	return append(out, cluster.ModelKnown{Model: model("third")}, swap("s2", "w5", "third", 10, true), cluster.InstancePlaced{Instance: on("ps2", "s2", "third", 10, "a")}, cluster.SwapEnded{Swap: "s2"})
}

// TestSwapKeepsItsMemory: what the old model frees is nobody else's, and the
// new one gets it when it is free.
func TestSwapKeepsItsMemory(t *testing.T) {
	s := play(t, pair(t), swap("s1", "w0", "org/small", 90, false))
	if i := s.Instances["i"]; i.Releasing != "swapped for org/small" || i.Drain == nil || *i.Drain != 5*time.Second {
		t.Fatalf("the old one: %+v", i)
	}
	if _, ok := s.Wanted["w0"]; ok || s.Wanted["s1"].Model != "org/small" || s.Swaps["s1"].Old[0].Model != "big" {
		t.Fatalf("wanted %v, swaps %+v", s.Wanted, s.Swaps)
	}
	third := model("third")
	third.Holders = nodeNames[:1]
	s = play(t, s, cluster.ModelKnown{Model: third}, cluster.ModelWanted{Wanted: cluster.Wanted{ID: "w9", Model: "third", Context: 512, Slots: 1}})
	no := func(c cluster.Change, want string) {
		t.Helper()
		err := s.Admit(cluster.Event{Index: s.Index + 1, Session: s.Session, Change: c})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%T: got %v, want ...%s...", c, err, want)
		}
	}
	no(cluster.InstancePlaced{Instance: on("x", "w9", "third", 11, "a")}, "node a has 10 B that are not promised")
	no(cluster.InstancePlaced{Instance: on("ps1", "s1", "org/small", 90, "a")}, "node a has 40 B")
	no(cluster.ModelWanted{Wanted: cluster.Wanted{ID: "w7", Model: "big", Context: 1, Slots: 1}}, "big is being swapped for org/small")
	no(cluster.ModelUnwanted{Wanted: "s1", Cause: "x"}, "big is being swapped for org/small")
	no(cluster.ModelForgotten{Model: "big"}, "big is")
	no(swap("s2", "w9", "big", 10, false), "being swapped")
	no(swap("s2", "s1", "third", 10, false), "wanted already")
	c := s.Placement("third", map[ids.Node]cluster.Report{"a": {Available: map[string]int64{"": 40}}}, nil)
	if d := c.Nodes[0].Devices[0]; d.Reserved != 60+30 || d.Pending != 30 {
		t.Errorf("the planner of another sees %+v", d)
	}
	if d := s.Placement("org/small", nil, nil).Nodes[0].Devices[0]; d.Reserved != 60 {
		t.Errorf("the planner of the new one sees %+v", d)
	}
	s = play(t, s, cluster.ShardReported{Instance: "i", Incarnation: 1, Phase: cluster.Stopped})
	no(cluster.InstancePlaced{Instance: on("x", "w9", "third", 11, "a")}, "node a has 10 B that are not promised")
	s = play(t, s, cluster.InstancePlaced{Instance: on("ps1", "s1", "org/small", 90, "a")})
	s = play(t, s, append(reach("ps1", cluster.Ready), cluster.SwapEnded{Swap: "s1"})...)
	if len(s.Swaps) > 0 || s.Instances["ps1"].Status() != "ready" {
		t.Errorf("%+v", s)
	}
}

// TestSwapUndone: what went is wanted as it was, and why is kept until the new
// one is wanted again.
func TestSwapUndone(t *testing.T) {
	before := pair(t)
	s := play(t, before, swap("s1", "w0", "org/small", 90, false), cluster.ShardReported{Instance: "i", Incarnation: 1, Phase: cluster.Stopped},
		cluster.InstancePlaced{Instance: on("ps1", "s1", "org/small", 90, "a")})
	s = play(t, s, append(reach("ps1", cluster.Failed), cluster.SwapUndone{Swap: "s1", Cause: "it broke"})...)
	if s.Wanted["w0"].Since != before.Wanted["w0"].Since || len(s.Wanted) != 1 || len(s.Instances) != 0 || s.Swaps["s1"].Undone != "it broke" {
		t.Errorf("%+v", s)
	}
	if again := play(t, s, cluster.ModelWanted{Wanted: cluster.Wanted{ID: "w8", Model: "org/small", Context: 1, Slots: 1}}); len(again.Swaps) > 0 {
		t.Error("it is told though it is loaded again")
	}
	if s = play(t, s, cluster.SwapForgotten{Swap: "s1"}); len(s.Swaps) > 0 {
		t.Error("it is not forgotten")
	}
}

// TestSwapOverlaps: where there is room for both, the old one runs until the
// new one is ready, and goes on if that fails.
func TestSwapOverlaps(t *testing.T) {
	s := play(t, pair(t), swap("s1", "w0", "org/small", 40, true), cluster.InstancePlaced{Instance: on("ps1", "s1", "org/small", 40, "a")})
	if s.Instances["i"].Status() != "ready" {
		t.Fatal("the old one does not serve meanwhile")
	}
	undone := play(t, s, append(reach("ps1", cluster.Failed), cluster.SwapUndone{Swap: "s1", Cause: "it broke"})...)
	if undone.Instances["i"].Status() != "ready" || len(undone.Wanted) != 1 {
		t.Errorf("undone: %+v", undone)
	}
	done := play(t, s, append(reach("ps1", cluster.Ready), cluster.SwapEnded{Swap: "s1"})...)
	if i := done.Instances["i"]; i.Releasing == "" || *i.Drain != 5*time.Second || len(done.Wanted) != 1 || done.Wanted["s1"].Model != "org/small" {
		t.Errorf("done: %+v", done)
	}
}
