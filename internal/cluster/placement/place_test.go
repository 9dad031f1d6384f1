package placement_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/cluster/placement/cost"
)

func TestMemoryIsNeverOvercommitted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, r := draw(t)
		p, err := placement.Place(c, r, time.Time{})
		if err != nil {
			return
		}
		left := budgets(c)
		for _, s := range p.Shards {
			i := slices.IndexFunc(c.Nodes, func(n placement.Node) bool { return n.ID == s.Node })
			host := c.Nodes[i].Host
			if host == "" {
				host = s.Node
			}
			if s.Reserve < s.Memory.Total+s.Memory.Total/10 {
				t.Errorf("shard %+v has no headroom", s)
			}
			if left[[2]string{host, s.Device}] -= s.Reserve; left[[2]string{host, s.Device}] < 0 {
				t.Errorf("%s on %s is promised more than it has, by %d bytes", s.Device, host, -left[[2]string{host, s.Device}])
			}
		}
	})
}

func TestEveryLayerIsPlacedOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, r := draw(t)
		p, err := placement.Place(c, r, time.Time{})
		if err != nil {
			return
		}
		if len(p.Shards) != p.Stages*p.Ranks || p.Head != (p.Stages-1)*p.Ranks {
			t.Fatalf("%d shards, %d stages of %d ranks, head %d", len(p.Shards), p.Stages, p.Ranks, p.Head)
		}
		next := 0
		for i, s := range p.Shards {
			switch {
			case s.Spec.Rank != i%p.Ranks || s.Spec.Ranks() != p.Ranks:
				t.Errorf("shard %d has rank %d of %d", i, s.Spec.Rank, s.Spec.Ranks())
			case s.Spec.Rank == 0 && (s.Spec.First != next || s.Spec.End <= next):
				t.Errorf("shard %d has layers [%d, %d), %d comes next", i, s.Spec.First, s.Spec.End, next)
			case s.Spec.Rank > 0 && cmp.Diff(s.Spec.Parts, p.Shards[i-1].Spec.Parts) != "":
				t.Errorf("ranks of one stage have parts %v and %v", s.Spec.Parts, p.Shards[i-1].Spec.Parts)
			}
			sum := 0
			for _, part := range s.Spec.Parts {
				if part < 1 {
					t.Errorf("shard %d has parts %v", i, s.Spec.Parts)
				}
				sum += part
			}
			if len(s.Spec.Parts) > 0 && r.Model.Units%sum != 0 {
				t.Errorf("parts %v are not %d units", s.Spec.Parts, r.Model.Units)
			}
			if r.Model.Least != nil && p.Way == placement.WayPipeline && s.Spec.End < r.Model.Least[s.Spec.First] {
				t.Errorf("layers [%d, %d) can't be a stage", s.Spec.First, s.Spec.End)
			}
			if r.Model.Least != nil && s.Spec.End < len(r.Model.Layers) && r.Model.Least[s.Spec.End] == 0 {
				t.Errorf("no stage can begin with layer %d", s.Spec.End)
			}
			next = s.Spec.End
		}
		if next != len(r.Model.Layers) {
			t.Errorf("layers up to %d of %d are placed", next, len(r.Model.Layers))
		}
	})
}

func TestWishesAreKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, r := draw(t)
		p, err := placement.Place(c, r, time.Time{})
		if err != nil {
			return
		}
		var used []string
		for _, s := range p.Shards {
			if slices.Contains(used, s.Node) {
				t.Errorf("node %s has two shards", s.Node)
			}
			used = append(used, s.Node)
			i := slices.IndexFunc(c.Nodes, func(n placement.Node) bool { return n.ID == s.Node })
			if n := c.Nodes[i]; !n.Worker || n.Draining || slices.Contains(r.Exclude, n.ID) {
				t.Errorf("node %+v may not be used", n)
			}
		}
		for _, id := range r.Require {
			if !slices.Contains(used, id) {
				t.Errorf("required node %s is not among %v", id, used)
			}
		}
		if len(used) < r.MinNodes {
			t.Errorf("%d nodes, at least %d are wanted", len(used), r.MinNodes)
		}
		switch {
		case r.Model.NoTensor != "" && p.Ranks > 1, r.Model.NoPipeline != "" && p.Stages > 1:
			t.Errorf("a model that must not be cut is placed as %s", p.Way)
		case r.Sharding == placement.Pipeline && p.Ranks > 1, r.Sharding == placement.Tensor && p.Stages > 1:
			t.Errorf("%s was wanted, the plan is %s", r.Sharding, p.Way)
		}
	})
}

func TestMoreMemoryNeverTurnsYesIntoNo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, r := draw(t)
		if _, err := placement.Place(c, r, time.Time{}); err != nil {
			return
		}
		for i, n := range c.Nodes {
			n.Devices = slices.Clone(n.Devices)
			for j := range n.Devices {
				more := rapid.Int64Range(0, 20*mb).Draw(t, "more")
				n.Devices[j].Total += more
				n.Devices[j].Available += more
			}
			c.Nodes[i] = n
		}
		if _, err := placement.Place(c, r, time.Time{}); err != nil {
			t.Errorf("it fitted, and does not with more memory: %v", err)
		}
	})
}

func TestOrderDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, r := draw(t)
		first, errFirst := placement.Place(c, r, time.Time{})
		seed := rapid.Uint64().Draw(t, "seed")
		random := rand.New(rand.NewPCG(seed, 0))
		random.Shuffle(len(c.Nodes), func(i, j int) { c.Nodes[i], c.Nodes[j] = c.Nodes[j], c.Nodes[i] })
		random.Shuffle(len(c.Links), func(i, j int) { c.Links[i], c.Links[j] = c.Links[j], c.Links[i] })
		random.Shuffle(len(c.Loaded), func(i, j int) { c.Loaded[i], c.Loaded[j] = c.Loaded[j], c.Loaded[i] })
		for i := range c.Nodes {
			d := slices.Clone(c.Nodes[i].Devices)
			slices.Reverse(d)
			c.Nodes[i].Devices = d
		}
		slices.Reverse(r.Require)
		second, errSecond := placement.Place(c, r, time.Time{})
		if diff := cmp.Diff(fmt.Sprint(errFirst), fmt.Sprint(errSecond)); diff != "" {
			t.Errorf("another error (-first +second):\n%s", diff)
		}
		if diff := cmp.Diff(first, second); diff != "" {
			t.Errorf("another plan (-first +second):\n%s", diff)
		}
	})
}

// even is a model of equal layers of 10 MB.
func even(layers, units int) placement.Model {
	m := placement.Model{Name: "even", Embedding: 1024, Vocabulary: 32000, Whole: 20 * mb, Every: mb,
		Head: placement.Part{Shared: mb, Cut: 9 * mb}, HeadRead: placement.Part{Cut: 9 * mb}, Units: units}
	for range layers {
		m.Layers = append(m.Layers, placement.Layer{Weights: placement.Part{Shared: mb / 10, Cut: 10 * mb}, Read: placement.Part{Shared: mb / 10, Cut: 10 * mb},
			Flops: 2e7, Cell: placement.Part{Cut: 1024}, Scratch: placement.Part{Shared: 16384, Cut: 32768}, Reductions: 2})
	}
	return m
}

func node(id string, free int64) placement.Node {
	return placement.Node{ID: id, Worker: true, Has: true, Devices: []placement.Device{{Total: free, Available: free, Speed: placement.Speed{Bandwidth: 1e10, Compute: 1e12}}}}
}

// A node that does not answer, since it died a moment ago, takes neither models
// nor the memory of its machine.
func TestSilentNode(t *testing.T) {
	told := time.Unix(1, 0)
	live, silent := onHost(node("live", 8<<30), "host"), onHost(node("silent", 0), "host")
	live.Reported = told
	silent.Devices[0].Total = 8 << 30
	for _, nodes := range [][]placement.Node{{live, silent}, {silent, live}} {
		r := placement.Request{Model: even(4, 1<<20), Context: 512, Slots: 1}
		p, err := placement.Place(placement.Cluster{Nodes: nodes}, r, told)
		if err != nil || p.Shards[0].Node != "live" {
			t.Errorf("%+v, %v; want it on the live one", p.Shards, err)
		}
		r.Require = []string{"silent"}
		if _, err := placement.Place(placement.Cluster{Nodes: nodes}, r, told); err == nil || !strings.Contains(err.Error(), "does not answer") {
			t.Errorf("placed on a silent node: %v", err)
		}
	}
}

// TestWork counts steps, not time: work grows with nodes times layers and not
// with subsets, also where memory is nearly full and where it does not suffice.
func TestWork(t *testing.T) {
	model := even(80, 8)
	for _, free := range []int64{2000 * mb, 100 * mb, 25 * mb} {
		c := placement.Cluster{}
		random := rand.New(rand.NewPCG(1, 2))
		for i := range 1000 {
			n := node(fmt.Sprintf("n%04d", i), free+random.Int64N(10*mb))
			n.Devices[0].Speed.Bandwidth *= 1 + random.Float64()
			c.Nodes = append(c.Nodes, n)
		}
		p, err := placement.Place(c, placement.Request{Model: model, Context: 256, Slots: 1, Batch: 64}, time.Time{})
		if err != nil {
			t.Fatalf("%d MB each: %v", free/mb, err)
		}
		if most := 1000 * len(model.Layers) * 8; p.Visits > most {
			t.Errorf("%d MB each: %d steps, at most %d are expected", free/mb, p.Visits, most)
		}
		t.Logf("%d MB each: %s of %d, %d steps", free/mb, p.Way, len(p.Shards), p.Visits)
	}
}

func TestWays(t *testing.T) {
	fast := placement.Line{Latency: 5e-6, Bandwidth: 5e9}
	slow := placement.Line{Latency: 1e-3, Bandwidth: 1e7}
	r := func(change func(*placement.Request)) placement.Request {
		r := placement.Request{Model: even(20, 4), Context: 256, Slots: 4, Batch: 64}
		if change != nil {
			change(&r)
		}
		return r
	}
	two := []placement.Node{node("a", 500*mb), node("b", 500*mb)}
	for _, c := range []struct {
		name    string
		cluster placement.Cluster
		request placement.Request
		want    string // way and nodes
		says    string
	}{
		{"fits one", placement.Cluster{Nodes: two, Default: slow}, r(nil), "whole a", "one stream is fastest there"},
		{"fast link", placement.Cluster{Nodes: two, Default: fast}, r(nil), "tensor a b", "As a whole on 1"},
		{"replicas are named", placement.Cluster{Nodes: two, Default: slow}, r(nil), "whole a", "Two replicas, on a and b"},
		{"pipeline wanted", placement.Cluster{Nodes: two, Default: slow}, r(func(r *placement.Request) { r.Sharding = placement.Pipeline }), "pipeline a b", "10+10 layers"},
		{"too large for one", placement.Cluster{Nodes: []placement.Node{node("a", 150*mb), node("b", 150*mb)}, Default: slow}, r(nil), "pipeline a b", "no node has"},
		{"two nodes wanted", placement.Cluster{Nodes: two, Default: slow}, r(func(r *placement.Request) { r.MinNodes = 2 }), "pipeline a b", "more than one node"},
		{"one required", placement.Cluster{Nodes: two, Default: slow}, r(func(r *placement.Request) { r.Require = []string{"b"} }), "whole b", "fits b whole"},
		{"refused as ranks", placement.Cluster{Nodes: two, Default: slow}, r(func(r *placement.Request) {
			r.Sharding, r.Model.NoTensor = placement.Tensor, "its heads hang together"
		}), "whole a", "not split as tensor: its heads hang together"},
		{"one machine, three nodes", placement.Cluster{Nodes: []placement.Node{onHost(node("a", 900*mb), "h"), onHost(node("b", 900*mb), "h"), onHost(node("c", 900*mb), "h")}},
			r(func(r *placement.Request) { r.MinNodes, r.Sharding = 3, placement.Pipeline }), "pipeline a b c", "7+7+6 layers"},
		{"files are there", placement.Cluster{Nodes: []placement.Node{without(node("a", 500*mb)), node("b", 500*mb)}, Default: slow}, r(nil), "whole b", "fits b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := placement.Place(c.cluster, c.request, time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			got := string(p.Way)
			for _, s := range p.Shards {
				got += " " + s.Node
			}
			if got != c.want {
				t.Errorf("placed as %q, want %q\n%s", got, c.want, p.Explanation)
			}
			if !strings.Contains(p.Explanation, c.says) {
				t.Errorf("the explanation lacks %q:\n%s", c.says, p.Explanation)
			}
		})
	}
}

func onHost(n placement.Node, host string) placement.Node { n.Host = host; return n }

func without(n placement.Node) placement.Node { n.Has, n.Downloads = false, true; return n }

// TestUnevenMachines: layers go by speed, as far as memory allows.
func TestUnevenMachines(t *testing.T) {
	a, b := node("a", 400*mb), node("b", 400*mb)
	b.Devices[0].Speed.Bandwidth *= 3
	p, err := placement.Place(placement.Cluster{Nodes: []placement.Node{a, b}},
		placement.Request{Model: even(20, 1), Context: 256, Slots: 1, Batch: 64, Sharding: placement.Pipeline, MinNodes: 2}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range p.Shards {
		layers := s.Spec.End - s.Spec.First
		if s.Node == "b" && (layers < 13 || layers > 16) {
			t.Errorf("the node of three times the speed has %d of 20 layers", layers)
		}
	}
	// With room for ten layers only, it has ten at most.
	b.Devices[0].Total, b.Devices[0].Available = 130*mb, 130*mb
	p, err = placement.Place(placement.Cluster{Nodes: []placement.Node{a, b}},
		placement.Request{Model: even(20, 1), Context: 256, Slots: 1, Batch: 64, Sharding: placement.Pipeline, MinNodes: 2}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range p.Shards {
		if layers := s.Spec.End - s.Spec.First; s.Node == "b" && (layers < 8 || layers > 11) {
			t.Errorf("the node with 130 MB has %d of 20 layers", layers)
		}
	}
}

func TestErrors(t *testing.T) {
	now := time.Unix(1000, 0)
	base := placement.Request{Model: even(20, 4), Context: 256, Slots: 1, Batch: 64}
	with := func(change func(*placement.Request)) placement.Request { r := base; change(&r); return r }
	small := func() []placement.Node { return []placement.Node{node("a", 20*mb), node("b", 20*mb)} }
	for _, c := range []struct {
		name    string
		cluster placement.Cluster
		request placement.Request
		want    string
	}{
		{"no memory", placement.Cluster{Nodes: small()}, base, "Need 253.2 MB, have 40.0 MB. even does not fit these nodes with a context of 256 tokens a slot"},
		{"loaded", placement.Cluster{Nodes: []placement.Node{used(node("a", 300*mb), 290*mb)},
			Loaded: []placement.Loaded{{Model: "big", Node: "a", Memory: 280 * mb}, {Model: "little", Node: "a", Memory: 10 * mb}}}, base,
			"Need 253.2 MB, have 10.0 MB. Loaded: big (280.0 MB), little (10.0 MB). Unload big to free memory."},
		{"loaded, both", placement.Cluster{Nodes: []placement.Node{used(node("a", 300*mb), 290*mb)},
			Loaded: []placement.Loaded{{Model: "x", Node: "a", Memory: 145 * mb}, {Model: "y", Node: "a", Memory: 145 * mb}}}, base,
			"Loaded: x (145.0 MB), y (145.0 MB). Unload models to free memory."},
		{"not enough nodes", placement.Cluster{Nodes: small()}, with(func(r *placement.Request) { r.MinNodes = 3 }), "3 nodes are wanted and 2 can take a shard"},
		{"who is not used", placement.Cluster{Nodes: []placement.Node{{ID: "x"}, node("a", mb)}}, with(func(r *placement.Request) { r.MinNodes = 2 }), "x: it runs no shards (--no-worker)"},
		{"too few layers", placement.Cluster{Nodes: []placement.Node{node("a", 500*mb), node("b", 500*mb), node("c", 500*mb)}},
			with(func(r *placement.Request) { r.Model, r.MinNodes, r.Sharding = even(2, 1), 3, placement.Pipeline }), "can be split into 2 parts"},
		{"unknown required", placement.Cluster{Nodes: small()}, with(func(r *placement.Request) { r.Require = []string{"z"} }), "node z is required, but there is no such node"},
		{"required and excluded", placement.Cluster{Nodes: small()}, with(func(r *placement.Request) { r.Require, r.Exclude = []string{"a"}, []string{"a"} }), "required and excluded"},
		{"required but stale", placement.Cluster{Nodes: []placement.Node{node("a", 500*mb)}, Fresh: time.Second}, with(func(r *placement.Request) { r.Require = []string{"a"} }), "node a is required, but its last report is"},
		{"refused", placement.Cluster{Nodes: small()}, with(func(r *placement.Request) {
			r.Model.NoPipeline, r.Model.NoTensor = "nobody has proved it", "its heads hang together"
		}), "even cannot be split as pipeline: nobody has proved it; and no single node has room for it. Need"},
		{"bad sharding", placement.Cluster{Nodes: small()}, with(func(r *placement.Request) { r.Sharding = "rows" }), `sharding "rows" must be auto, pipeline or tensor`},
		{"bad context", placement.Cluster{Nodes: small()}, with(func(r *placement.Request) { r.Context = 0 }), "context 0"},
		{"twice", placement.Cluster{Nodes: append(small(), node("a", mb))}, base, "node a is listed twice"},
		{"bad link", placement.Cluster{Nodes: small(), Links: []placement.Link{{A: "a", B: "b"}}}, base, "measure it again"},
		{"no layers", placement.Cluster{Nodes: small()}, with(func(r *placement.Request) { r.Model.Layers = nil }), "it has no layers"},
		{"files missing", placement.Cluster{Nodes: []placement.Node{{ID: "a", Worker: true}}}, base, "1 nodes are wanted and 0 can take a shard"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := placement.Place(c.cluster, c.request, now)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v\nwant ...%s...", err, c.want)
			}
		})
	}
}

func used(n placement.Node, by int64) placement.Node {
	n.Devices[0].Reserved = by
	n.Devices[0].Available -= by
	return n
}

// TestCalibratedPredictionIsWhatWasMeasured: a whole model on the machine that
// was measured with it is predicted to be as fast as it was.
func TestCalibratedPredictionIsWhatWasMeasured(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := even(rapid.IntRange(1, 40).Draw(t, "layers"), 4)
		got := cost.Measured{Decode: rapid.Float64Range(1, 100).Draw(t, "decode"), Depth: 128, Prefill: rapid.Float64Range(10, 1000).Draw(t, "prefill"),
			Streams: 4}
		got.Aggregate = got.Decode * rapid.Float64Range(1, 3).Draw(t, "gain")
		v, err := cost.Calibrate(m, got)
		if err != nil {
			t.Fatal(err)
		}
		c := placement.Cluster{Nodes: []placement.Node{{ID: "a", Worker: true, Has: true, Devices: []placement.Device{{Total: 1 << 40, Available: 1 << 40, Speed: v}}}}}
		p, err := placement.Place(c, placement.Request{Model: m, Context: 512, Slots: 4, Batch: 512, Depth: 128}, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		near := func(what string, got, want float64) {
			if math.Abs(got/want-1) > 1e-6 {
				t.Errorf("%s is predicted as %g, measured %g", what, got, want)
			}
		}
		near("decode", p.Predicted.Decode, got.Decode)
		near("aggregate", p.Predicted.Aggregate, got.Aggregate)
		// A prompt cannot be faster than its weights are read once.
		if p.Predicted.Prefill > got.Prefill*(1+1e-6) {
			t.Errorf("prefill is predicted as %g, measured %g", p.Predicted.Prefill, got.Prefill)
		}
	})
}

// TestPipelinesTakeShortChunks: as the runner does, for models of some size.
func TestPipelinesTakeShortChunks(t *testing.T) {
	speed := placement.Speed{Bandwidth: 40e9, Compute: 1e9}
	var prefill []float64
	for _, parameters := range []uint64{0, 2e9} {
		m := even(16, 4)
		m.Parameters = parameters
		var c placement.Cluster
		c.Default = placement.Line{Latency: 1e-6, Bandwidth: 1e12}
		for _, id := range []string{"a", "b"} {
			c.Nodes = append(c.Nodes, placement.Node{ID: id, Worker: true, Has: true, Devices: []placement.Device{{Total: 1 << 40, Available: 1 << 40, Speed: speed}}})
		}
		p, err := placement.Place(c, placement.Request{Model: m, Context: 4096, Slots: 1, MinNodes: 2, Sharding: placement.Pipeline, Prompt: 2048}, time.Time{})
		if err != nil || len(p.Shards) != 2 {
			t.Fatalf("%+v, %v", p, err)
		}
		prefill = append(prefill, p.Predicted.Prefill)
	}
	// 8 chunks of 256 tokens take 9 turns of a stage, 32 of 64 take 33 that are a quarter as long.
	if got, want := prefill[1]/prefill[0], 9/(33.0/4); math.Abs(got/want-1) > 0.01 {
		t.Errorf("chunks of 64 make a prompt %g times as fast as those of 256, want %g", got, want)
	}
}
