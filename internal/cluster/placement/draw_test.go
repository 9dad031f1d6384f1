package placement_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/skein-run/skein/internal/cluster/placement"
)

const mb = int64(1) << 20

// drawModel makes a model of any shape: layers of different kinds and sizes,
// with or without ranks, some with layers that can't stand alone.
func drawModel(t *rapid.T) placement.Model {
	n := rapid.IntRange(1, 10).Draw(t, "layers")
	m := placement.Model{
		Name: "model", Embedding: 64 * rapid.IntRange(1, 4).Draw(t, "embedding"), Vocabulary: rapid.IntRange(32, 4000).Draw(t, "vocabulary"),
		Whole: rapid.Int64Range(0, 8*mb).Draw(t, "whole"), Every: rapid.Int64Range(0, mb).Draw(t, "every"), First: rapid.Int64Range(0, mb).Draw(t, "first"),
		Head:  placement.Part{Shared: rapid.Int64Range(0, mb).Draw(t, "head"), Cut: rapid.Int64Range(0, 4*mb).Draw(t, "head cut")},
		Units: rapid.IntRange(1, 4).Draw(t, "units"),
	}
	m.HeadRead = m.Head
	if rapid.Bool().Draw(t, "windows") {
		m.Window = 256
	}
	hybrid := rapid.Bool().Draw(t, "hybrid")
	for range n {
		l := placement.Layer{
			Weights: placement.Part{Shared: rapid.Int64Range(1, mb).Draw(t, "shared"), Cut: rapid.Int64Range(0, 6*mb).Draw(t, "cut")},
			Cell:    placement.Part{Cut: rapid.Int64Range(1, 2048).Draw(t, "cell")},
			Scratch: placement.Part{Shared: 256, Cut: 1024}, Flops: 1e6, Reductions: 2,
		}
		l.Windowed = m.Window > 0 && rapid.Bool().Draw(t, "windowed")
		if hybrid && rapid.Bool().Draw(t, "recurrent") {
			l.Cell, l.Windowed, l.State = placement.Part{}, false, placement.Part{Shared: 4096}
		}
		l.Read = l.Weights
		m.Layers = append(m.Layers, l)
	}
	if hybrid && rapid.Bool().Draw(t, "lacking") {
		m.Lacking = []placement.Layer{{Weights: placement.Part{Shared: 1}, Cell: placement.Part{Shared: 1}}, {Weights: placement.Part{Shared: 1}, State: placement.Part{Shared: 4096}}}
	}
	switch rapid.IntRange(0, 7).Draw(t, "cuts") {
	case 0:
		m.NoPipeline = "its layers hang together"
	case 1: // stages of two layers at least
		m.Least = make([]int, n)
		for i := range n - 1 {
			m.Least[i] = i + 2
		}
	case 2: // cuts at every third layer only
		m.Least = make([]int, n)
		for i := 0; i < n; i += 3 {
			m.Least[i] = min(i+3, n)
		}
	}
	if rapid.IntRange(0, 4).Draw(t, "tensor") == 0 {
		m.NoTensor = "its heads hang together"
	}
	return m
}

// rarely is true once in n times; rapid likes small numbers, so it is the
// largest one.
func rarely(t *rapid.T, what string, n int) bool {
	return rapid.IntRange(0, n).Draw(t, what) == n
}

// drawCluster makes nodes that have, together, some of the memory that the
// model needs, or several times that.
func drawCluster(t *rapid.T, m placement.Model) placement.Cluster {
	n := rapid.IntRange(1, 7).Draw(t, "nodes")
	size := m.Whole + m.Every + m.Head.Sum() + 4*mb
	for _, l := range m.Layers {
		size += l.Weights.Sum() + l.Cell.Sum()*512
	}
	share := rapid.SampledFrom([]float64{0.3, 0.6, 1, 1.5, 3}).Draw(t, "share")
	memory := func(what string) int64 {
		return int64(float64(size) * share * rapid.Float64Range(0.1, 1).Draw(t, what))
	}
	speed := func() placement.Speed {
		return placement.Speed{Bandwidth: rapid.Float64Range(1e9, 1e12).Draw(t, "bandwidth"), Compute: rapid.Float64Range(1e10, 1e14).Draw(t, "compute")}
	}
	var c placement.Cluster
	for i := range n {
		node := placement.Node{ID: fmt.Sprintf("n%d", i), Worker: !rarely(t, "no worker", 20), Draining: rarely(t, "draining", 20),
			Downloads: true, Has: rapid.Bool().Draw(t, "has")}
		if rarely(t, "shared", 3) {
			node.Host = fmt.Sprintf("h%d", rapid.IntRange(0, 1).Draw(t, "host"))
		}
		total := memory("total")
		node.Devices = []placement.Device{{Total: total, Available: total, Speed: speed()}}
		if rarely(t, "in use", 3) {
			d := &node.Devices[0]
			d.Available = rapid.Int64Range(total/2, total).Draw(t, "available")
			d.Reserved = rapid.Int64Range(0, total/2).Draw(t, "reserved")
			d.Pending = rapid.Int64Range(0, d.Reserved).Draw(t, "pending")
			c.Loaded = append(c.Loaded, placement.Loaded{Model: fmt.Sprintf("m%d", i%2), Node: node.ID, Memory: d.Reserved})
		}
		if rarely(t, "gpu", 4) {
			total := memory("gpu total")
			node.Devices = append(node.Devices, placement.Device{ID: "GPU0", Total: total, Available: total, Speed: speed()})
		}
		c.Nodes = append(c.Nodes, node)
	}
	for range rapid.IntRange(0, 4).Draw(t, "links") {
		c.Links = append(c.Links, placement.Link{
			A: c.Nodes[rapid.IntRange(0, n-1).Draw(t, "a")].ID, B: c.Nodes[rapid.IntRange(0, n-1).Draw(t, "b")].ID,
			Line: placement.Line{Latency: rapid.Float64Range(1e-6, 1e-2).Draw(t, "latency"), Bandwidth: rapid.Float64Range(1e6, 1e10).Draw(t, "link")}})
	}
	return c
}

// draw makes a cluster and what is asked of it.
func draw(t *rapid.T) (placement.Cluster, placement.Request) {
	m := drawModel(t)
	c := drawCluster(t, m)
	r := placement.Request{
		Model: m, Context: rapid.IntRange(1, 1024).Draw(t, "context"), Slots: rapid.IntRange(1, 2).Draw(t, "slots"), Batch: 16,
		Sharding: rapid.SampledFrom([]placement.Sharding{placement.Auto, placement.Auto, placement.Pipeline, placement.Tensor}).Draw(t, "sharding"),
		MinNodes: rapid.SampledFrom([]int{1, 1, 1, 2, 3}).Draw(t, "min nodes"),
	}
	for _, n := range c.Nodes {
		switch {
		case rarely(t, "require", 15):
			r.Require = append(r.Require, n.ID)
		case rarely(t, "exclude", 15):
			r.Exclude = append(r.Exclude, n.ID)
		}
	}
	return c, r
}

func place(c placement.Cluster, r placement.Request) (placement.Plan, error) {
	return placement.Place(c, r, time.Time{})
}

// TestDrawsAreFair holds the properties below to account: they would say
// nothing about clusters that are always too small.
func TestDrawsAreFair(t *testing.T) {
	ways, all := map[string]int{}, 0
	rapid.Check(t, func(t *rapid.T) {
		all++
		p, err := place(draw(t))
		switch {
		case err != nil:
			ways["none"]++
		default:
			ways[string(p.Way)]++
		}
	})
	t.Log(ways)
	for _, way := range []string{"none", "whole", "pipeline", "tensor"} {
		if ways[way]*50 < all {
			t.Errorf("of %d draws %d were %s", all, ways[way], way)
		}
	}
}

// budgets is the free memory of each machine's devices.
func budgets(c placement.Cluster) map[[2]string]int64 {
	type sum struct{ available, total, reserved, pending int64 }
	sums := map[[2]string]sum{}
	for _, n := range c.Nodes {
		host := n.Host
		if host == "" {
			host = n.ID
		}
		for _, d := range n.Devices {
			key := [2]string{host, d.ID}
			s, ok := sums[key]
			if !ok {
				s = sum{available: d.Available, total: d.Total}
			}
			s.available, s.total = min(s.available, d.Available), min(s.total, d.Total)
			s.reserved += d.Reserved
			s.pending += d.Pending
			sums[key] = s
		}
	}
	out := map[[2]string]int64{}
	for key, s := range sums {
		out[key] = min(s.available-s.pending, s.total-s.reserved)
	}
	return out
}
