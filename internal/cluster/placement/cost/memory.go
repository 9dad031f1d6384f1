package cost

import (
	"math"

	"github.com/skein-run/skein/internal/gguf/hyper"
)

// Memory is what a shard takes, bytes.
type Memory struct {
	Weights   int64 `json:"weights"`
	KV        int64 `json:"kv"`
	Recurrent int64 `json:"recurrent"`
	Compute   int64 `json:"compute"`
	Output    int64 `json:"output"`
	Total     int64 `json:"total"`
}

// Headroom is the tenth by which an estimate may be wrong.
func Headroom(n int64) int64 {
	if n > math.MaxInt64/11*10 {
		return math.MaxInt64
	}
	return n + (n+9)/10
}

// Piece is a shard's share: layers [first, end) and of those units of all.
type Piece struct {
	First, End int
	Units, All int  // 1, 1: whole layers
	Whole      bool // the model as it is, uncut
}

// Sums are the model's amounts summed up from layer 0, so that any piece's
// memory and time take constant work.
type Sums struct {
	m             Model
	weights, read []Part // [i]: of layers [0, i)
	cells, window []Part // KV bytes a token of plain, of windowed layers
	state         []Part
	flops         []float64
	full, sliding []int // how many layers have that kind of cache
	reductions    []int
	scratch       Part // the largest, with its scores
	maxState      int64
	spec          hyper.Spec
	kinds         [][]int   // [k][i]: layers of the kind of Lacking[k] in [0, i)
	most          *memoryOf // set by Largest
	least         int64     // set by Smallest
	fullCells     int64
	windowCells   int64
}

func plus(a, b Part) Part { return Part{clampAdd(a.Shared, b.Shared), clampAdd(a.Cut, b.Cut)} }

func minus(a, b Part) Part { return Part{a.Shared - b.Shared, a.Cut - b.Cut} }

// clampAdd keeps sums of absurd files from overflowing.
func clampAdd(a, b int64) int64 {
	const most = math.MaxInt64 / 16
	return min(a, most) + min(b, most-min(a, most))
}

// Use is what a model is loaded for: tokens of each slot, slots, and tokens of a
// prompt chunk.
type Use struct{ Context, Slots, Batch int }

// NewSums sums a model up.
func NewSums(m Model, u Use) *Sums {
	n := len(m.Layers)
	s := &Sums{m: m, weights: make([]Part, n+1), read: make([]Part, n+1), cells: make([]Part, n+1), window: make([]Part, n+1),
		state: make([]Part, n+1), flops: make([]float64, n+1), full: make([]int, n+1), sliding: make([]int, n+1), reductions: make([]int, n+1),
		spec: hyper.Spec{Context: u.Context, Slots: u.Slots, Batch: max(u.Batch, u.Slots), Exact: m.Exact}}
	s.fullCells, s.windowCells = s.spec.Cells(m.Window)
	s.kinds = make([][]int, len(m.Lacking))
	for k := range s.kinds {
		s.kinds[k] = make([]int, n+1)
	}
	for i, l := range m.Layers {
		s.weights[i+1] = plus(s.weights[i], l.Weights)
		s.read[i+1] = plus(s.read[i], l.Read)
		s.state[i+1] = plus(s.state[i], l.State)
		s.flops[i+1] = s.flops[i] + l.Flops
		s.reductions[i+1] = s.reductions[i] + l.Reductions
		s.cells[i+1], s.window[i+1], s.full[i+1], s.sliding[i+1] = s.cells[i], s.window[i], s.full[i], s.sliding[i]
		switch {
		case l.Cell.Sum() > 0 && l.Windowed:
			s.window[i+1], s.sliding[i+1] = plus(s.window[i], l.Cell), s.sliding[i]+1
		case l.Cell.Sum() > 0:
			s.cells[i+1], s.full[i+1] = plus(s.cells[i], l.Cell), s.full[i]+1
		}
		for k, lacking := range m.Lacking {
			s.kinds[k][i+1] = s.kinds[k][i]
			if l.Kind() == lacking.Kind() {
				s.kinds[k][i+1]++
			}
		}
		work := plus(l.Scratch, l.scores(s.fullCells, s.windowCells))
		s.scratch = Part{max(s.scratch.Shared, work.Shared), max(s.scratch.Cut, work.Cut)}
		s.maxState = max(s.maxState, l.State.Sum())
	}
	return s
}

// extra is what a stage has beside its own layers, bytes; cells and state for
// each slot.
type extra struct {
	weights, cells, state int64
	full, window          bool // it has such a cache
}

// padding is what the empty layers of a piece take.
func (s *Sums) padding(p Piece) extra {
	var e extra
	if p.Whole || p.End-p.First == len(s.m.Layers) {
		return e
	}
	add := func(l Layer, cells int64) {
		e.weights += l.Weights.Sum()
		e.cells += l.Cell.Sum() * cells
		e.state += l.State.Sum()
	}
	add(s.m.Padding, s.fullCells)
	e.full = s.m.Padding.Cell.Sum() > 0
	for i, l := range s.m.Lacking {
		if s.kinds[i][p.End] > s.kinds[i][p.First] {
			continue
		}
		if l.Windowed {
			add(l, s.windowCells)
			e.window = true
		} else {
			add(l, s.fullCells)
			e.full = e.full || l.Cell.Sum() > 0
		}
	}
	return e
}

// last tells whether a piece ends the model.
func (s *Sums) last(p Piece) bool { return p.End == len(s.m.Layers) }

// weightsOf is the weights of a piece, bytes.
func (s *Sums) weightsOf(p Piece) int64 {
	w := minus(s.weights[p.End], s.weights[p.First]).of(p.Units, p.All)
	if p.Whole {
		return w + s.m.Whole
	}
	w += s.m.Every + s.padding(p).weights
	if p.First == 0 {
		w += s.m.First
	}
	if s.last(p) {
		w += s.m.Head.of(p.Units, p.All)
	}
	return w
}

// Memory is what a piece takes. It grows with the piece: more layers or more
// units never take less, which the search for a split relies on.
func (s *Sums) Memory(p Piece) Memory {
	slots := float64(s.spec.Slots)
	part := func(of []Part) float64 { return float64(minus(of[p.End], of[p.First]).of(p.Units, p.All)) }
	m := Memory{
		Weights:   s.weightsOf(p),
		KV:        limit(slots * (part(s.cells)*float64(s.fullCells) + part(s.window)*float64(s.windowCells))),
		Recurrent: limit(slots * part(s.state)),
	}
	pad := s.padding(p)
	m.KV = limit(float64(m.KV) + slots*float64(pad.cells))
	m.Recurrent = limit(float64(m.Recurrent) + slots*float64(pad.state))
	usesFull, usesWindow := pad.full || s.full[p.End] > s.full[p.First], pad.window || s.sliding[p.End] > s.sliding[p.First]
	masks := s.spec.Masks(s.fullCells, s.windowCells, usesFull, usesWindow)
	work := float64(s.spec.Batch) * float64(s.scratch.of(p.Units, p.All))
	if m.Recurrent > 0 {
		work += 2 * slots * float64(max(s.maxState, pad.state))
	}
	// A stage before the last marks every token of a batch as an output, of a
	// few rows; their head needs less than the layers do.
	m.Output = limit(float64(s.spec.Batch) * fewRows * 4)
	head := 0.0
	if s.last(p) {
		rows := math.Ceil(float64(s.m.Vocabulary) * float64(p.Units) / float64(p.All))
		head = s.spec.Head(int(rows), s.m.Embedding)
		m.Output = max(m.Output, limit(slots*rows*4))
	}
	m.Compute = limit(hyper.Inputs + masks + max(work, head))
	m.Total = limit(float64(m.Weights) + float64(m.KV) + float64(m.Recurrent) + float64(m.Compute) + float64(m.Output))
	return m
}

// fewRows is the vocabulary of a stage without an output head.
const fewRows = 32

func limit(v float64) int64 {
	if v >= math.MaxInt64/4 {
		return math.MaxInt64 / 4
	}
	return int64(v)
}

// Largest is the memory of so many layers if each were the largest of its
// kind in every respect.
func (s *Sums) Largest(layers int, last bool) int64 {
	n := len(s.m.Layers)
	one := Piece{Units: 1, All: 1}
	if s.most == nil {
		m := memoryOf{}
		all := s.Memory(Piece{First: 0, End: n, Units: 1, All: 1})
		for i := range n {
			one.First, one.End = i, i+1
			w := minus(s.weights[i+1], s.weights[i]).Sum()
			cells := minus(s.cells[i+1], s.cells[i]).Sum()*s.fullCells + minus(s.window[i+1], s.window[i]).Sum()*s.windowCells
			m.layer = max(m.layer, w+int64(s.spec.Slots)*(cells+minus(s.state[i+1], s.state[i]).Sum()))
		}
		// What does not depend on the layers: the most that any piece has.
		pad := s.worstPadding()
		m.fixed = s.m.Every + s.m.First + all.Compute + int64(s.spec.Batch)*fewRows*4 + pad.weights + int64(s.spec.Slots)*(pad.cells+pad.state)
		if pad.full || pad.window {
			m.fixed += limit(s.spec.Masks(s.fullCells, s.windowCells, true, true)) + int64(s.spec.Slots)*2*pad.state
		}
		m.head = s.m.Head.Sum() + all.Output
		s.most = &m
	}
	v := float64(layers)*float64(s.most.layer) + float64(s.most.fixed)
	if last {
		v += float64(s.most.head)
	}
	return limit(v)
}

// worstPadding is what a stage would have that lacks every kind of layer.
func (s *Sums) worstPadding() extra {
	e := extra{}
	for _, l := range append([]Layer{s.m.Padding}, s.m.Lacking...) {
		e.weights += l.Weights.Sum()
		e.cells += l.Cell.Sum() * s.fullCells
		e.state += l.State.Sum()
		e.full = e.full || l.Cell.Sum() > 0
	}
	return e
}

// memoryOf are the bounds that Largest works with, bytes.
type memoryOf struct{ layer, fixed, head int64 }

// Smallest is a bound from below for the memory of any stage.
func (s *Sums) Smallest() int64 {
	if s.least == 0 {
		for i := range s.m.Layers {
			m := s.Memory(Piece{First: i, End: i + 1, Units: 1, All: 1}).Total
			if s.least == 0 || m < s.least {
				s.least = m
			}
		}
	}
	return s.least
}
