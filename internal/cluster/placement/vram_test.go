package placement_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/skein-run/skein/internal/cluster/placement"
)

// withGPU gives a node a card with a memory of its own.
func withGPU(n placement.Node, total int64) placement.Node {
	n.Devices = append(n.Devices, placement.Device{ID: "CUDA0", Total: total, Available: total, Whole: true,
		Speed: placement.Speed{Bandwidth: 3e11, Compute: 1e13}})
	return n
}

func ask(model placement.Model) placement.Request {
	return placement.Request{Model: model, Context: 256, Slots: 1, Batch: 64}
}

// TestVideoMemory: a card is a budget of its own beside the host's memory. What
// is promised there is not there any more, and the host has what it had.
func TestVideoMemory(t *testing.T) {
	small := even(8, 8) // some 120 MB
	c := placement.Cluster{Nodes: []placement.Node{withGPU(node("a", 400*mb), 200*mb), node("b", 400*mb)}}
	p, err := place(c, ask(small))
	if err != nil || p.Way != placement.WayWhole || p.Shards[0].Node != "a" || p.Shards[0].Device != "CUDA0" {
		t.Fatalf("%+v, %v", p.Shards, err)
	}
	// A second one: the card is full, the host is not.
	gpu := &c.Nodes[0].Devices[1]
	gpu.Reserved, gpu.Available = p.Shards[0].Reserve, gpu.Total-p.Shards[0].Reserve
	p, err = place(c, ask(small))
	if err != nil || p.Shards[0].Device != "" {
		t.Errorf("%+v, %v", p.Shards, err)
	}
	// Promised and not yet allocated counts too.
	gpu.Available, gpu.Pending = gpu.Total, gpu.Reserved
	if p, err = place(c, ask(small)); err != nil || p.Shards[0].Device != "" {
		t.Errorf("%+v, %v", p.Shards, err)
	}
}

// TestCardsTakeWholeModels: a model that fits no memory is cut over the hosts',
// not over cards.
func TestCardsTakeWholeModels(t *testing.T) {
	c := placement.Cluster{Nodes: []placement.Node{withGPU(node("a", 100*mb), 90*mb), withGPU(node("b", 100*mb), 90*mb)}}
	p, err := place(c, ask(even(8, 8)))
	if err != nil || len(p.Shards) < 2 {
		t.Fatalf("%+v, %v", p.Shards, err)
	}
	for _, s := range p.Shards {
		if s.Device != "" {
			t.Errorf("a part lies on %s of %s", s.Device, s.Node)
		}
	}
	var seats []placement.Seat
	for _, s := range p.Shards {
		seats = append(seats, placement.Seat{Node: s.Node, Device: "CUDA0", Spec: s.Spec})
	}
	if _, err := placement.Exactly(c, ask(even(8, 8)), seats, time.Time{}); err == nil || !strings.Contains(err.Error(), "whole models only") {
		t.Error("a preview with a part on a card is taken")
	}
	// Not the memory of both together.
	c.Nodes = c.Nodes[:1]
	var no *placement.NoMemoryError
	if _, err := place(c, ask(even(8, 8))); !errors.As(err, &no) {
		t.Errorf("%v", err)
	}
}

// TestCardOfTwoNodes: nodes of one machine share its card as they share its
// memory.
func TestCardOfTwoNodes(t *testing.T) {
	c := placement.Cluster{Nodes: []placement.Node{onHost(withGPU(node("a", 50*mb), 200*mb), "h"), onHost(withGPU(node("b", 50*mb), 200*mb), "h")}}
	c.Nodes[1].Devices[1].Reserved = 150 * mb
	c.Nodes[1].Devices[1].Pending = 150 * mb
	if p, err := place(c, ask(even(8, 8))); err == nil {
		t.Errorf("memory of a card is given twice: %+v", p.Shards)
	}
}

// TestWholeDevicesHoldNoParts holds that for any cluster.
func TestWholeDevicesHoldNoParts(t *testing.T) {
	whole := 0
	rapid.Check(t, func(t *rapid.T) {
		c, r := draw(t)
		for i := range c.Nodes {
			for k := range c.Nodes[i].Devices {
				d := &c.Nodes[i].Devices[k]
				d.Whole = d.ID != ""
			}
		}
		p, err := place(c, r)
		if err != nil {
			return
		}
		for _, s := range p.Shards {
			if s.Device != "" {
				whole++
				if len(p.Shards) > 1 {
					t.Errorf("%d shards, one on %s", len(p.Shards), s.Device)
				}
			}
		}
	})
	if whole == 0 {
		t.Error("no model was ever placed on a card")
	}
}
