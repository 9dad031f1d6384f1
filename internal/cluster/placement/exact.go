package placement

import (
	"fmt"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/cluster/placement/cost"
	"github.com/skein-run/skein/internal/gguf/slice"
)

// Seat is where somebody else wants a shard.
type Seat struct {
	Node string
	// Device of the node; "": the host's own memory, or if no shard can lie
	// there the node's fastest.
	Device string
	Spec   slice.Spec
}

// Exactly makes the plan of a split that was decided elsewhere: these shards on
// these nodes, stage after stage and in a stage rank after rank, as Plan.Shards
// has them. It changes nothing about it: what can't be had so is an error.
// Sharding, MinNodes, MaxNodes, Require and Exclude of the request do not
// count. Errors: *InvalidError, *NodeError, *RefusedError, *NoMemoryError.
func Exactly(c Cluster, r Request, seats []Seat, now time.Time) (Plan, error) {
	r.Sharding, r.MinNodes, r.MaxNodes, r.Require, r.Exclude = Auto, 1, 0, nil, nil
	for _, s := range seats {
		if slices.Contains(r.Require, s.Node) {
			return Plan{}, &InvalidError{fmt.Sprintf("node %s is given two shards; a node holds one shard of an instance", s.Node)}
		}
		r.Require = append(r.Require, s.Node)
	}
	r, err := r.validate()
	if err != nil {
		return Plan{}, err
	}
	t, err := newTable(c, r, now)
	if err != nil {
		return Plan{}, err
	}
	stages, err := t.seated(seats)
	if err != nil {
		return Plan{}, err
	}
	way := WayWhole
	switch ranks := len(stages[0].seats); {
	case len(stages) > 1 && ranks > 1:
		way = WayMixed
	case len(stages) > 1:
		way = WayPipeline
	case ranks > 1:
		way = WayTensor
	}
	for _, g := range stages {
		for _, s := range g.seats {
			if s.whole && way != WayWhole {
				return Plan{}, &NodeError{Node: s.node, Why: fmt.Sprintf("its device %s takes whole models only", s.device)}
			}
		}
	}
	if why := r.Model.NoPipeline; why != "" && len(stages) > 1 {
		return Plan{}, &RefusedError{Model: r.Model.Name, Way: WayPipeline, Why: why}
	}
	if why := r.Model.NoTensor; why != "" && len(stages[0].seats) > 1 {
		return Plan{}, &RefusedError{Model: r.Model.Name, Way: WayTensor, Why: why}
	}
	left := map[memory]int64{}
	for _, g := range stages {
		for rank, s := range g.seats {
			key := memory{s.host, s.device}
			if _, ok := left[key]; !ok {
				left[key] = t.free[key]
			}
			if left[key] -= cost.Headroom(t.sums.Memory(g.piece(rank)).Total); left[key] < 0 {
				return Plan{}, t.noMemory()
			}
		}
	}
	p := t.plan(t.rate(way, stages))
	p.Explanation = "placed as it was asked for"
	return p, nil
}

// seated lines the seats up as stages.
func (t *table) seated(seats []Seat) ([]*stage, error) {
	invalid := func(format string, args ...any) error { return &InvalidError{fmt.Sprintf(format, args...)} }
	layers, units := len(t.request.Model.Layers), t.request.Model.Units
	if len(seats) == 0 {
		return nil, invalid("no shards are given")
	}
	ranks := seats[0].Spec.Ranks()
	if ranks > maxRanks || len(seats)%ranks != 0 {
		return nil, invalid("%d shards are not stages of %d ranks (at most %d)", len(seats), ranks, maxRanks)
	}
	spots := t.spots(true)
	var out []*stage
	next := 0
	for from := 0; from < len(seats); from += ranks {
		first := seats[from].Spec
		g := &stage{first: first.First, end: first.End, all: 1, whole: len(seats) == 1}
		switch {
		case first.First != next || first.End <= next || first.End > layers:
			return nil, invalid("shard %d has layers [%d, %d) of %d, and layer %d comes next", from, first.First, first.End, layers, next)
		case !g.whole && t.least(first.First) > first.End:
			return nil, invalid("%s can't be cut into layers [%d, %d): a stage that begins with layer %d needs more layers", t.request.Model.Name, first.First, first.End, first.First)
		}
		next = first.End
		sum := 0
		if ranks > 1 {
			for _, n := range first.Parts {
				if n < 1 || n > units {
					return nil, invalid("the ranks' parts are %v; each must be from 1 to %d", first.Parts, units)
				}
				sum += n
			}
			if units%sum != 0 {
				return nil, invalid("%s can be shared out over ranks in %d equal pieces, and parts of %v do not divide them", t.request.Model.Name, units, first.Parts)
			}
			g.all = units
		}
		for rank, want := range seats[from : from+ranks] {
			if want.Spec.Rank != rank || want.Spec.First != first.First || want.Spec.End != first.End || !slices.Equal(want.Spec.Parts, first.Parts) {
				return nil, invalid("shard %d does not fit the others of its stage", from+rank)
			}
			s, err := take(spots, want)
			if err != nil {
				return nil, err
			}
			g.seats = append(g.seats, s)
			if ranks > 1 {
				g.units = append(g.units, first.Parts[rank]*units/sum)
			} else {
				g.units = append(g.units, 1)
			}
		}
		out = append(out, g)
	}
	if next != layers {
		return nil, invalid("layers up to %d of %d are placed", next, layers)
	}
	return out, nil
}

// take finds the wanted device. The node is there: it was required.
func take(spots []spot, want Seat) (*seat, error) {
	for _, s := range spots {
		if s.node != want.Node {
			continue
		}
		for _, seat := range s.seats {
			if seat.device == want.Device {
				return seat, nil
			}
		}
		if want.Device == "" && len(s.seats) > 0 {
			return s.seats[0], nil
		}
	}
	return nil, &NodeError{Node: want.Node, Why: fmt.Sprintf("it has no device %q that can hold a shard", want.Device)}
}
