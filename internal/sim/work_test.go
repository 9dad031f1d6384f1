package sim

import (
	"testing"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
)

// TestToldIsForgotten: as in the product, what a node told of a shard is out of
// its mind once its state has it. Else it would not tell it again of an instance
// that was released, is offered by a half that lost, and is placed once more.
func TestToldIsForgotten(t *testing.T) {
	w := New(Options{Seed: 1, Nodes: []NodeOptions{
		{ID: "a", Memory: 1 << 30, Models: []Model{{Name: "m", Layers: 2, Bytes: 1 << 20}}},
		{ID: "b", Memory: 1 << 30},
	}})
	w.Start("a")
	w.Start("b")
	w.Run(5 * time.Second)
	w.Load("a", command.Load{Model: "m"}, false)
	w.Run(10 * time.Second)
	if wrong := append(w.Settled(), w.Wrong()...); len(wrong) > 0 {
		t.Fatal(wrong)
	}
	shards := 0
	for _, n := range w.nodes {
		for k, l := range n.local {
			if shards++; l.Told != (cluster.ShardReported{}) {
				t.Errorf("%s still takes %v for told: %+v", n.opts.ID, k, l.Told)
			}
		}
	}
	if shards == 0 {
		t.Error("no node has a shard")
	}
}
