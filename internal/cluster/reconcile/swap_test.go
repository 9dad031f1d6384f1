package reconcile_test

import (
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/cluster/reconcile"
	"github.com/skein-run/skein/internal/ids"
)

// swapped begins a swap of what is wanted as w0 for a model.
func (w *world) swapped(model string) (overlap bool, err error) {
	w.t.Helper()
	next := cluster.Wanted{ID: "s", Model: model, Context: 512, Slots: 1, Sharding: placement.Auto, MinNodes: 1}
	old := []cluster.Wanted{w.state.Wanted["w0"]}
	p, tokens, overlap, err := reconcile.SwapPlan(w.state, w.vitals, nil, old, next, w.now)
	if err != nil {
		return false, err
	}
	w.must(cluster.SwapBegan{Swap: cluster.Swap{ID: "s", Old: old, New: next, Place: next.Instance("p", tokens, p), Overlap: overlap}})
	return overlap, nil
}

// full is a node that one model of 4 GB fills, beside a smaller one.
func full(t *testing.T, gb map[ids.Node]int64) *world {
	w := newWorld(t, gb)
	w.model("big", 4, "a")
	w.model("other", 3, "a")
	w.model("small", 1, "a")
	w.model("huge", 9, "a")
	w.want("w0", "big")
	w.wait(time.Minute)
	w.decide()
	w.run(cluster.Ready)
	for id, v := range w.vitals {
		for _, i := range w.instances("w0") {
			if i.Shards[0].Node == id {
				v.Devices[0].Available -= i.Memory()
				w.vitals[id] = v
			}
		}
	}
	return w
}

func TestSwapWaitsForItsMemory(t *testing.T) {
	w := full(t, map[ids.Node]int64{"a": 6})
	if overlap, err := w.swapped("other"); err != nil || overlap {
		t.Fatalf("overlap %v, %v", overlap, err)
	}
	w.decide()
	w.is("s", "") // the old one still ends
	w.run(cluster.Ready)
	w.decide()
	w.is("s", "a loading")
	w.run(cluster.Ready)
	w.decide()
	w.is("s", "a ready")
	if len(w.state.Swaps) > 0 || len(w.state.Wanted) != 1 {
		t.Errorf("swaps %+v, wanted %+v", w.state.Swaps, w.state.Wanted)
	}
}

func TestSwapBesideTheOld(t *testing.T) {
	w := full(t, map[ids.Node]int64{"a": 16})
	if overlap, err := w.swapped("small"); err != nil || !overlap {
		t.Fatalf("overlap %v, %v", overlap, err)
	}
	w.decide()
	w.is("w0", "a ready")
	w.is("s", "a loading")
	w.run(cluster.Ready)
	w.decide()
	if i := w.state.Instances["p"]; i.Status() != "ready" || len(w.state.Swaps) > 0 {
		t.Errorf("%+v, %+v", i, w.state.Swaps)
	}
	w.is("w0", "a stopping")
}

func TestSwapWithoutRoom(t *testing.T) {
	w := full(t, map[ids.Node]int64{"a": 6})
	if _, err := w.swapped("huge"); err == nil || reconcile.Refusal(err).Code != "no_memory" || strings.Contains(err.Error(), "Loaded: big") {
		t.Errorf("%v", err)
	}
}

func TestSwapThatFailsIsUndone(t *testing.T) {
	for _, gb := range []int64{6, 16} { // one after the other, and beside each other
		w := full(t, map[ids.Node]int64{"a": gb})
		overlap, err := w.swapped("other")
		if err != nil || overlap != (gb == 16) {
			t.Fatal(overlap, err)
		}
		if !overlap {
			w.run(cluster.Ready) // the old one ends
			w.vitals["a"].Devices[0].Available = gb << 30
		}
		w.decide()
		w.fail("s")
		w.decide()
		if s := w.state.Swaps["s"]; !strings.Contains(s.Undone, "shard 0 failed on node a") {
			t.Fatalf("%+v", w.state.Swaps)
		}
		w.decide()
		w.run(cluster.Ready)
		w.is("w0", "a ready")
		w.wait(11 * time.Minute)
		w.decide()
		if len(w.state.Swaps) > 0 {
			t.Error("it is told for ever")
		}
	}
}

// A node of the new place goes on the way: another place is found, or there is
// none and the old model is brought back.
func TestSwapLosesItsPlace(t *testing.T) {
	for _, second := range []bool{true, false} {
		gb, model := map[ids.Node]int64{"a": 6}, "other"
		if second {
			gb, model = map[ids.Node]int64{"a": 5, "b": 6, "c": 6}, "small"
		}
		w := full(t, gb)
		if overlap, err := w.swapped(model); err != nil || overlap != second {
			t.Fatalf("overlap %v, %v", overlap, err)
		}
		w.decide()
		w.run(cluster.Loading)
		w.decide()
		at := w.instances("s")[0].Shards[0].Node
		w.must(cluster.NodeDrained{Node: at})
		w.must(cluster.ShardReported{Instance: w.instances("s")[0].ID, Incarnation: 1, Phase: cluster.Stopped})
		w.decide()
		w.decide()
		if second {
			if i := w.instances("s"); len(i) != 1 || i[0].Shards[0].Node == at {
				t.Errorf("%s was drained; placed: %s", at, w.placed("s"))
			}
			continue
		}
		if s := w.state.Swaps["s"]; s.Undone == "" || len(w.state.Wanted) != 1 || w.state.Wanted["w0"].Model != "big" {
			t.Errorf("%+v, %+v", s, w.state.Wanted)
		}
	}
}
