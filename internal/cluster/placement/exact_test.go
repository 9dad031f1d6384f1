package placement_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/skein-run/skein/internal/cluster/placement"
)

func seatsOf(p placement.Plan) (out []placement.Seat) {
	for _, s := range p.Shards {
		out = append(out, placement.Seat{Node: s.Node, Device: s.Device, Spec: s.Spec})
	}
	return out
}

// What Place plans can be had exactly so, and is the same plan.
func TestExactlyRepeatsAPlan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, r := draw(t)
		p, err := placement.Place(c, r, time.Time{})
		if err != nil {
			return
		}
		again, err := placement.Exactly(c, r, seatsOf(p), time.Time{})
		if err != nil {
			t.Fatalf("a plan can't be had as it is: %v", err)
		}
		if again.Way != p.Way || again.Head != p.Head || again.Stages != p.Stages || again.Ranks != p.Ranks || again.Predicted != p.Predicted {
			t.Errorf("got %+v, want %+v", again, p)
		}
		if d := cmp.Diff(p.Shards, again.Shards); d != "" {
			t.Errorf("shards differ (-plan +exactly):\n%s", d)
		}
	})
}

func TestMaxNodesIsKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, r := draw(t)
		r.MaxNodes = max(r.MinNodes, len(r.Require), 1) + rapid.IntRange(0, 2).Draw(t, "more")
		p, err := placement.Place(c, r, time.Time{})
		if err == nil && len(p.Shards) > r.MaxNodes {
			t.Errorf("%d shards, at most %d nodes were allowed", len(p.Shards), r.MaxNodes)
		}
	})
}

func TestExactlyRefuses(t *testing.T) {
	var c placement.Cluster
	var r placement.Request
	var p placement.Plan
	rapid.Check(t, func(t *rapid.T) { // a plan of two stages to spoil
		c2, r2 := draw(t)
		r2.Sharding = placement.Pipeline
		if p2, err := placement.Place(c2, r2, time.Time{}); err == nil && p2.Stages > 1 {
			c, r, p = c2, r2, p2
		}
	})
	if p.Stages < 2 {
		t.Fatal("no pipeline was drawn")
	}
	spoil := func(f func(s []placement.Seat) []placement.Seat) []placement.Seat { return f(seatsOf(p)) }
	var invalid *placement.InvalidError
	for name, seats := range map[string][]placement.Seat{
		"none":         nil,
		"first only":   spoil(func(s []placement.Seat) []placement.Seat { return s[:1] }),
		"last only":    spoil(func(s []placement.Seat) []placement.Seat { return s[1:] }),
		"one node":     spoil(func(s []placement.Seat) []placement.Seat { s[1].Node = s[0].Node; return s }),
		"a gap":        spoil(func(s []placement.Seat) []placement.Seat { s[1].Spec.First++; return s }),
		"beyond":       spoil(func(s []placement.Seat) []placement.Seat { s[len(s)-1].Spec.End++; return s }),
		"a rank":       spoil(func(s []placement.Seat) []placement.Seat { s[0].Spec.Rank = 1; return s }),
		"parts of one": spoil(func(s []placement.Seat) []placement.Seat { s[0].Spec.Parts = []int{1, 1}; return s }),
	} {
		if _, err := placement.Exactly(c, r, seats, time.Time{}); !errors.As(err, &invalid) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	var node *placement.NodeError
	for name, f := range map[string]func(s *placement.Seat){"node": func(s *placement.Seat) { s.Node = "nobody" }, "device": func(s *placement.Seat) { s.Device = "CUDA9" }} {
		seats := seatsOf(p)
		f(&seats[0])
		if _, err := placement.Exactly(c, r, seats, time.Time{}); !errors.As(err, &node) {
			t.Errorf("an unknown %s: got %v", name, err)
		}
	}
	for i := range c.Nodes {
		for k := range c.Nodes[i].Devices {
			c.Nodes[i].Devices[k].Available = 1
		}
	}
	var memory *placement.NoMemoryError
	if _, err := placement.Exactly(c, r, seatsOf(p), time.Time{}); !errors.As(err, &memory) {
		t.Errorf("without memory: got %v", err)
	}
}
