package placement

import (
	"math"
	"slices"

	"github.com/skein-run/skein/internal/cluster/placement/apportion"
	"github.com/skein-run/skein/internal/cluster/placement/cost"
)

// shape is what decides which pieces fit: the same for many seats.
type shape struct {
	free       int64
	units, all int
}

// ends gives, for each first layer, the largest end of a piece that fits
// stage g; first itself where none does. Invariant: it never falls as first
// grows, since a piece within another never takes more memory. The result must
// not be changed.
func (t *table) ends(g *stage) []int {
	if len(g.seats) == 1 {
		return t.endsOf(shape{g.seats[0].free, g.units[0], g.all})
	}
	var out []int
	for i, s := range g.seats {
		one := t.endsOf(shape{s.free, g.units[i], g.all})
		if out == nil {
			out = slices.Clone(one)
			continue
		}
		for first := range out {
			out[first] = min(out[first], one[first])
		}
	}
	return out
}

// endsOf is ends for one rank.
func (t *table) endsOf(k shape) []int {
	if out, ok := t.known[k]; ok {
		return out
	}
	n := len(t.request.Model.Layers)
	rows := t.needsOf(cut{k.units, k.all})
	out := make([]int, n)
	end := 0
	for first := range n {
		end = max(end, first)
		for ; end < n; end++ {
			t.steps++
			need := &rows[first][end-first]
			if *need == 0 {
				*need = cost.Headroom(t.sums.Memory(cost.Piece{First: first, End: end + 1, Units: k.units, All: k.all}).Total)
			}
			if *need > k.free {
				break
			}
		}
		out[first] = end
	}
	t.known[k] = out
	return out
}

// cut is the share of its layers that a rank has.
type cut struct{ units, all int }

// needsOf are the needs of the pieces of a cut with their headroom, by first
// layer and number of layers less one; 0 where nobody asked yet. They do not
// depend on the seat, and many seats ask for the same: without, most of the time
// on a hundred nodes went into working them out again.
func (t *table) needsOf(k cut) [][]int64 {
	if rows, ok := t.needs[k]; ok {
		return rows
	}
	n := len(t.request.Model.Layers)
	all := make([]int64, n*(n+1)/2)
	rows := make([][]int64, n)
	for first := range rows {
		rows[first], all = all[:n-first], all[n-first:]
	}
	t.needs[k] = rows
	return rows
}

// least is the smallest end of a stage that begins with a layer, beyond all
// layers if there is none.
func (t *table) least(first int) int {
	if t.request.Model.Least == nil {
		return first + 1
	}
	if end := t.request.Model.Least[first]; end > first {
		return end
	}
	return len(t.request.Model.Layers) + 1
}

// split gives each stage its layers, all stages at least one, near to what
// their speed and memory call for. It reports false when they do not fit.
func (t *table) split(stages []*stage) bool {
	n, k := len(t.request.Model.Layers), len(stages)
	if k > n {
		return false
	}
	// reach[s][i]: stages s and later can hold the layers from i on.
	reach := make([][]bool, k+1)
	reach[k] = make([]bool, n+1)
	reach[k][n] = true
	fit := make([][]int, k)
	before := make([]int, n+2) // before[j]: how many i < j are reachable in the next stage
	for s := k - 1; s >= 0; s-- {
		for j := range n + 1 {
			before[j+1] = before[j]
			if reach[s+1][j] {
				before[j+1]++
			}
		}
		fit[s] = t.ends(stages[s])
		reach[s] = make([]bool, n+1)
		for i := range n {
			low, high := t.least(i), fit[s][i]
			reach[s][i] = low <= high && before[high+1]-before[low] > 0
		}
	}
	if !reach[0][0] {
		return false
	}
	wanted := t.wanted(stages)
	first := 0
	for s, g := range stages {
		g.first = first
		best := -1
		for j := t.least(first); j <= fit[s][first]; j++ {
			t.steps++
			if reach[s+1][j] && (best < 0 || math.Abs(t.sums.Position(j)-wanted[s]) < math.Abs(t.sums.Position(best)-wanted[s])) {
				best = j
			}
		}
		g.end = best
		first = best
	}
	return true
}

// wanted is where each stage should end: they would take equal time, as far as
// memory allows.
func (t *table) wanted(stages []*stage) []float64 {
	total := t.sums.Position(len(t.request.Model.Layers))
	weights := t.sums.Weights()
	whole := float64(t.sums.Memory(cost.Piece{First: 0, End: len(t.request.Model.Layers), Units: 1, All: 1}).Total) * 1.1
	speeds, most := make([]float64, len(stages)), make([]float64, len(stages))
	for s, g := range stages {
		speeds[s] = g.speed()
		room := math.Inf(1) // bytes of the stage, all ranks together
		for i, seat := range g.seats {
			room = min(room, float64(seat.free)*float64(g.all)/float64(g.units[i]))
		}
		most[s] = room / max(whole, weights, 1) * total
	}
	ends := apportion.Fill(total, speeds, most)
	for s := 1; s < len(ends); s++ {
		ends[s] += ends[s-1]
	}
	return ends
}
