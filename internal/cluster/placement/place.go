package placement

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/cluster/placement/apportion"
	"github.com/skein-run/skein/internal/cluster/placement/cost"
)

// The lines that are assumed where nothing was measured: a network of 1 Gbit/s,
// and two processes of one machine.
var (
	DefaultLine = Line{Latency: 300e-6, Bandwidth: 117e6}
	LocalLine   = Line{Latency: 30e-6, Bandwidth: 2e9}
)

const (
	// maxRanks bounds tensor ranks: each layer waits for the slowest of all.
	maxRanks = 16
	// tries is how many lengths of a pipeline are tried along each order.
	tries = 4
	// anchors is how many fast nodes the neighbourhood is looked at of.
	anchors = 3
)

// Place decides which nodes hold which part of the model. Errors: *InvalidError,
// *NodeError, *NotEnoughNodesError, *RefusedError, *NoMemoryError.
func Place(c Cluster, r Request, now time.Time) (Plan, error) {
	r, err := r.validate()
	if err != nil {
		return Plan{}, err
	}
	t, err := newTable(c, r, now)
	if err != nil {
		return Plan{}, err
	}
	found := t.search()
	if found.best == nil {
		return Plan{}, t.refuse(found)
	}
	p := t.plan(found.best)
	p.Alternatives = found.alternatives(t)
	p.Explanation = t.explain(found)
	p.Visits = t.steps
	return p, nil
}

// findings are the best candidates of each way.
type findings struct {
	best     *candidate
	whole    *candidate
	pipeline *candidate
	tensor   *candidate
	mixed    *candidate
	holders  []*seat // seats that could hold the whole model, fastest first
}

// search tries all ways.
func (t *table) search() findings {
	f := t.searchAmong(t.spots(false))
	if f.best == nil && t.crowded() {
		f = t.searchAmong(t.spots(true))
	}
	return f
}

func (t *table) searchAmong(spots []spot) findings {
	var f findings
	if len(spots) < t.request.MinNodes {
		return f
	}
	f.whole, f.holders = t.wholes(spots)
	spots, ok := cuttable(spots)
	if !ok {
		spots = nil
	}
	byMemory := t.order(spots, func(a, b *seat) int { return cmp.Compare(b.free, a.free) })
	bySpeed := t.order(spots, func(a, b *seat) int { return cmp.Compare(b.speed.Bandwidth, a.speed.Bandwidth) })
	orders := [][]*seat{byMemory, bySpeed}
	for _, a := range bySpeed[:min(anchors, len(bySpeed))] {
		orders = append(orders, t.near(spots, a))
	}
	f.pipeline = t.pipelines(spots, orders)
	f.tensor = t.tensors(orders)
	if f.pipeline != nil || f.tensor != nil || f.whole != nil {
		f.mixed = t.mixes(orders)
	}
	sharding := t.request.Sharding
	for _, c := range []*candidate{f.whole, f.pipeline, f.tensor, f.mixed} {
		switch {
		case c == nil,
			sharding == Pipeline && (c.way == WayTensor || c.way == WayMixed),
			sharding == Tensor && (c.way == WayPipeline || c.way == WayMixed),
			// One node is what a wanted sharding falls back to, not what it is.
			sharding != Auto && c.way == WayWhole && (f.pipeline != nil && sharding == Pipeline || f.tensor != nil && sharding == Tensor):
			continue
		}
		if c.better(f.best) {
			f.best = c
		}
	}
	return f
}

// near orders seats by how close they are to one.
func (t *table) near(spots []spot, anchor *seat) []*seat {
	far := map[*seat]float64{}
	for _, s := range spots {
		for _, seat := range s.seats {
			if seat.node != anchor.node {
				far[seat] = t.line(anchor, seat).seconds(float64(t.request.Model.Embedding) * 4)
			}
		}
	}
	return t.order(spots, func(a, b *seat) int {
		return cmp.Or(cmp.Compare(far[a], far[b]), cmp.Compare(b.speed.Bandwidth, a.speed.Bandwidth), cmp.Compare(b.free, a.free))
	})
}

// wholes finds the node that is fastest with the whole model, and all that
// could hold it.
func (t *table) wholes(spots []spot) (*candidate, []*seat) {
	if t.request.MinNodes > 1 || len(t.request.Require) > 1 {
		return nil, nil
	}
	n := len(t.request.Model.Layers)
	p := cost.Piece{First: 0, End: n, Units: 1, All: 1, Whole: true}
	need := cost.Headroom(t.sums.Memory(p).Total)
	var best *candidate
	var holders []*seat
	for _, s := range spots {
		if len(t.request.Require) == 1 && !s.must {
			continue
		}
		for _, seat := range s.seats { // the faster device first
			t.steps++
			if seat.free < need {
				continue
			}
			g := single(seat)
			g.first, g.end, g.whole = 0, n, true
			holders = append(holders, seat)
			if c := t.rate(WayWhole, []*stage{g}); c.better(best) {
				best = c
			}
			break
		}
	}
	slices.SortStableFunc(holders, func(a, b *seat) int { return cmp.Compare(b.speed.Bandwidth, a.speed.Bandwidth) })
	return best, holders
}

// pipelines finds the best pipeline of two stages or more, or of as many as
// are asked for. Whether there is one does not depend on the orders.
func (t *table) pipelines(spots []spot, orders [][]*seat) *candidate {
	if t.request.Model.NoPipeline != "" {
		return nil
	}
	sure := t.roomy(spots)
	if sure == nil {
		sure = t.chains(spots)
	}
	if sure == nil {
		return nil
	}
	var best *candidate
	consider := func(stages []*stage) {
		if len(stages) < 2 || len(stages) > t.most() || !t.split(stages) {
			return
		}
		if c := t.rate(WayPipeline, stages); c.better(best) {
			best = c
		}
	}
	for _, order := range orders {
		least := t.leastStages(order)
		for k := least; k < least+tries && k <= min(len(order), t.most()); k++ {
			stages := make([]*stage, k)
			for i, s := range order[:k] {
				stages[i] = single(s)
			}
			consider(stages)
		}
	}
	if best == nil {
		consider(sure)
	}
	return best
}

// most is how many nodes may be used.
func (t *table) most() int {
	if t.request.MaxNodes > 0 {
		return t.request.MaxNodes
	}
	return math.MaxInt
}

// leastStages guesses how many seats of an order a pipeline needs.
func (t *table) leastStages(order []*seat) int {
	n := len(t.request.Model.Layers)
	all := float64(cost.Headroom(t.sums.Largest(n, true)))
	fixed := float64(cost.Headroom(t.sums.Largest(0, false)))
	least := max(t.stages(), len(t.request.Require))
	room := 0.0
	for i, s := range order {
		t.steps++
		if room += max(float64(s.free)-fixed, 0); room >= (all-fixed)*0.8 && i+1 >= least {
			return i + 1
		}
	}
	return max(least, len(order))
}

// chains tries fixed orders of the nodes, one of which any set of up to three
// nodes has.
func (t *table) chains(spots []spot) []*stage {
	const rotated = 12 // nodes up to which each is tried as the first
	turns := 1
	if len(spots) <= rotated {
		turns = len(spots)
	}
	var best []*stage
	for turn := range turns {
		order := append(slices.Clone(spots[turn:]), spots[:turn]...)
		for range 2 {
			if found := t.chain(order); found != nil && (best == nil || len(found) < len(best)) {
				best = found
			}
			slices.Reverse(order)
			if len(spots) > rotated && best != nil {
				return best
			}
		}
	}
	return best
}

// tensors finds the best set of ranks that hold all layers.
func (t *table) tensors(orders [][]*seat) *candidate {
	m := t.request.Model
	if m.NoTensor != "" || m.Units < 2 || m.Least != nil && t.least(0) > len(m.Layers) {
		return nil
	}
	var best *candidate
	least := max(t.stages(), len(t.request.Require))
	for _, order := range orders {
		for k := least; k <= min(m.Units, maxRanks, len(order), t.most()); k++ {
			g := t.ranks(order[:k])
			if g == nil {
				continue
			}
			if c := t.rate(WayTensor, []*stage{g}); c.better(best) {
				best = c
			}
		}
	}
	return best
}

// ranks shares all layers out over seats, as units by speed and memory.
func (t *table) ranks(seats []*seat) *stage {
	n, units := len(t.request.Model.Layers), t.request.Model.Units
	g := &stage{seats: seats, all: units, first: 0, end: n}
	most := make([]int, len(seats))
	speeds, room := make([]float64, len(seats)), make([]float64, len(seats))
	for i, s := range seats {
		low, high := 0, units-1
		for low < high {
			mid := (low + high + 1) / 2
			if t.fits(cost.Piece{First: 0, End: n, Units: mid, All: units}, s.free) {
				low = mid
			} else {
				high = mid - 1
			}
		}
		most[i], speeds[i], room[i] = low, s.speed.Bandwidth, float64(low)
	}
	out, ok := apportion.Whole(units, apportion.Fill(float64(units), speeds, room), most)
	if !ok {
		return nil
	}
	g.units = out
	return g
}

// mixes finds the best pipeline whose stages are ranks.
func (t *table) mixes(orders [][]*seat) *candidate {
	m := t.request.Model
	if m.NoTensor != "" || m.NoPipeline != "" || t.request.Sharding != Auto {
		return nil
	}
	var best *candidate
	for _, order := range orders {
		least := t.leastStages(order)
		for _, ranks := range []int{2, 4} {
			if ranks > m.Units {
				continue
			}
			from := max(2, (least+ranks-1)/ranks)
			for k := from; k < from+tries && k*ranks <= min(len(order), t.most()) && k <= len(m.Layers); k++ {
				stages := make([]*stage, k)
				for i := range stages {
					stages[i] = t.evenRanks(order[i*ranks : (i+1)*ranks])
				}
				if slices.Contains(stages, nil) || !t.split(stages) {
					continue
				}
				if c := t.rate(WayMixed, stages); c.better(best) {
					best = c
				}
			}
		}
	}
	return best
}

// evenRanks shares a stage's layers out by speed alone; what fits is found out
// when the layers are known.
func (t *table) evenRanks(seats []*seat) *stage {
	units := t.request.Model.Units
	speeds, room, most := make([]float64, len(seats)), make([]float64, len(seats)), make([]int, len(seats))
	for i, s := range seats {
		speeds[i], room[i], most[i] = s.speed.Bandwidth, math.Inf(1), units-1
	}
	out, ok := apportion.Whole(units, apportion.Fill(float64(units), speeds, room), most)
	if !ok {
		return nil
	}
	return &stage{seats: seats, units: out, all: units}
}
