package rank

import (
	"fmt"
	"math"
)

// Sharing says how tensor ranks may share a model.
type Sharing struct {
	// Units is how many equal pieces the heads of every layer fall into: each
	// rank has at least one, and whole ones. 0: attention is not cut, so any
	// parts do.
	Units int
	// Within is how many ranks may share one unit, each with a copy of its KV
	// head; 1 if none may. Only used where there are more ranks than units.
	Within int
	// Whole says what stays whole on each rank and why; "" if nothing that
	// matters.
	Whole string
}

// Sharing says how ranks may share the model.
func (m *Model) Sharing() Sharing {
	if m.heads == nil {
		return Sharing{Whole: "attention, because " + m.rule.attention}
	}
	n, within := units(m.heads)
	return Sharing{Units: n, Within: within}
}

// Parts gives the parts nearest to the weights (relative speeds or memories,
// above 0) that the model can be cut in, one for each rank.
func (m *Model) Parts(weights []float64) ([]int, error) {
	wanted, err := scaled(weights)
	if err != nil {
		return nil, err
	}
	if m.heads == nil {
		return reduced(wanted), nil
	}
	parts := nearest(m.heads, wanted)
	if parts == nil {
		n, within := units(m.heads)
		return nil, fmt.Errorf("%d ranks can't share %d groups of heads; use %s", len(weights), n, rankCounts(n, within))
	}
	return parts, nil
}

// scaled makes whole numbers of weights, the largest of them 1,000.
func scaled(weights []float64) ([]int, error) {
	if len(weights) == 0 {
		return nil, fmt.Errorf("no weights are given; give one for each rank")
	}
	var largest float64
	for _, w := range weights {
		if !(w > 0) || math.IsInf(w, 1) {
			return nil, fmt.Errorf("weight %v: each must be a number above 0", w)
		}
		largest = max(largest, w)
	}
	out := make([]int, len(weights))
	for i, w := range weights {
		out[i] = max(1, int(math.Round(w/largest*1000)))
	}
	return out, nil
}

// units counts the equal pieces that all layers' heads can be cut into at the
// same places, and how many ranks can share one piece.
func units(layers []*attention) (n, within int) {
	var pieces, share uint64
	for _, a := range layers {
		if a == nil {
			continue
		}
		// As many groups as make whole quantization blocks stay together.
		together := a.block / gcd(a.block, a.heads/a.groups)
		if a.groups%together != 0 {
			return 1, 1
		}
		pieces = gcd(a.groups/together, pieces)
	}
	for _, a := range layers {
		if a == nil {
			continue
		}
		size := a.heads / a.groups
		if a.groups != pieces || size%a.block != 0 {
			return int(max(pieces, 1)), 1
		}
		share = gcd(size/a.block, share)
	}
	return int(max(pieces, 1)), int(max(share, 1))
}

// nearest gives the parts nearest to the wanted ones that fit every layer; nil
// if so many ranks can't share it.
func nearest(layers []*attention, wanted []int) []int {
	n, within := units(layers)
	var at []int
	switch ranks := len(wanted); {
	case ranks <= n:
		at, _ = cuts(n, wanted)
	case ranks%n == 0 && ranks/n <= within:
		// Each unit is shared by as many ranks.
		at = []int{0}
		for u := range n {
			inner, _ := cuts(within, wanted[u*(ranks/n):(u+1)*(ranks/n)])
			for _, c := range inner[1:] {
				at = append(at, u*within+c)
			}
		}
	default:
		return nil
	}
	parts := make([]int, len(wanted))
	for i := range parts {
		parts[i] = at[i+1] - at[i]
	}
	for _, a := range layers {
		if a != nil && !a.cut(parts, 0) {
			return nil
		}
	}
	return reduced(parts)
}

// reduced divides parts by what divides all of them.
func reduced(parts []int) []int {
	var common uint64
	for _, p := range parts {
		common = gcd(uint64(p), common)
	}
	out := make([]int, len(parts))
	for i, p := range parts {
		out[i] = p / int(common)
	}
	return out
}

// rankCounts says how many ranks can share units.
func rankCounts(n, within int) string {
	if n == 1 && within == 1 {
		return "one rank, which is the whole"
	}
	if n == 1 || within == 1 {
		n *= within
		return fmt.Sprintf("at most %d ranks", n)
	}
	return fmt.Sprintf("at most %d ranks, or a multiple of %d up to %d", n, n, n*within)
}

// partsError says which parts would do instead.
func partsError(layers []*attention, parts []int) error {
	n, within := units(layers)
	what := fmt.Sprintf("parts %s can't cut %d groups of heads, of which each rank needs whole ones", written(parts), n)
	if p := nearest(layers, parts); p != nil {
		return fmt.Errorf("%s; use %s, for instance", what, written(p))
	}
	return fmt.Errorf("%s; use %s", what, rankCounts(n, within))
}
