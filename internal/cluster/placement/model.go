package placement

import (
	"errors"
	"fmt"
	"math"

	"github.com/skein-run/skein/internal/gguf/hyper"
)

// Model is what placement needs to know of a model: sizes layer by layer, and
// how it may be cut. It is plain data of a few KB. Package profile makes one.
type Model struct {
	Name   string  `json:"name"`
	Layers []Layer `json:"layers"`
	// Embedding is the width of a hidden state, elements; Vocabulary tokens.
	Embedding  int `json:"embedding"`
	Vocabulary int `json:"vocabulary"`
	Window     int `json:"window"` // tokens of sliding-window layers, 0: none
	// Parameters is the number of weights; 0: not known. By it the runner
	// chooses the chunks of prompts.
	Parameters uint64 `json:"parameters,omitempty"`
	// Trained is the longest context that the model was trained for, tokens;
	// 0: not said.
	Trained int `json:"trained,omitempty"`

	// Whole is what the model has outside its layers when it is not cut, Every
	// what each shard has outside them, First what the first stage has beside
	// that and Head what the last one has, all in bytes of weights.
	Whole int64 `json:"whole"`
	Every int64 `json:"every"`
	First int64 `json:"first"`
	Head  Part  `json:"head"`
	// HeadRead is what one token reads of the output head.
	HeadRead Part `json:"head_read"`

	// Lacking is what a stage has beside its own layers if none of them is of
	// the entry's kind: an empty layer, since the library wants one of each.
	// Invariant: no more than the smallest real layer of that kind.
	Lacking []Layer `json:"lacking"`
	// Padding is what every stage may have beside that. Its Cell counts as
	// that of a plain layer.
	Padding Layer `json:"padding"`

	// NoPipeline and NoTensor say why the model must not be cut that way; "":
	// it may be.
	NoPipeline string `json:"no_pipeline"`
	NoTensor   string `json:"no_tensor"`
	// Least is, for each first layer, the smallest end that a stage may have;
	// 0: no stage begins there. It never falls where it is not 0. nil: any
	// stage of one layer or more.
	Least []int `json:"least"`
	// Units is how many equal pieces the ranks of a stage can share out: whole
	// KV heads. Ranks get whole units, in any proportion.
	Units int `json:"units"`
	// Exact: keys and values are kept in f32 (hyper.Params.Exact).
	Exact bool `json:"exact,omitempty"`
}

// Part is an amount of which ranks keep Shared whole and share out Cut.
type Part struct {
	Shared int64 `json:"shared"`
	Cut    int64 `json:"cut"`
}

// Sum is the whole amount.
func (p Part) Sum() int64 { return p.Shared + p.Cut }

// of is what a rank with units of all has, rounded up.
func (p Part) of(units, all int) int64 {
	if units == all {
		return p.Sum()
	}
	return p.Shared + int64(math.Ceil(float64(p.Cut)*float64(units)/float64(all)))
}

// Layer is one layer of a model.
type Layer struct {
	Weights Part    `json:"weights"` // bytes
	Read    Part    `json:"read"`    // bytes that one token reads: of experts, those it is sent to
	Flops   float64 `json:"flops"`   // of one token
	Cell    Part    `json:"cell"`    // KV cache, bytes a token
	// Windowed layers keep a window of tokens only.
	Windowed bool `json:"windowed"`
	State    Part `json:"state"`   // recurrent state, bytes a slot
	Scratch  Part `json:"scratch"` // compute memory, bytes a token of a batch
	// Scores comes to Scratch for each cell of the layer's cache, bytes; 0: its
	// attention needs none.
	Scores Part `json:"scores,omitzero"`
	// Reductions is how many sums over the ranks the layer ends in.
	Reductions int `json:"reductions"`
}

// Kind is what the library tells layers apart by: which caches they have.
type Kind int

// Kind of a layer.
func (l Layer) Kind() Kind {
	var k Kind
	if l.Cell.Sum() > 0 {
		k++
	}
	if l.Windowed {
		k += 2
	}
	if l.State.Sum() > 0 {
		k += 4
	}
	return k
}

// scores is the memory of the layer's scores, bytes a token of a batch.
func (l Layer) scores(full, windowed int64) Part {
	cells := full
	if l.Windowed {
		cells = windowed
	}
	return Part{limit(float64(l.Scores.Shared) * float64(cells)), limit(float64(l.Scores.Cut) * float64(cells))}
}

func (m Model) validate() error {
	switch {
	case len(m.Layers) == 0:
		return errors.New("it has no layers")
	case m.Embedding < 1:
		return errors.New("its hidden states have no width")
	case m.Least != nil && len(m.Least) != len(m.Layers):
		return fmt.Errorf("%d smallest ends are given for %d layers", len(m.Least), len(m.Layers))
	}
	return nil
}

// Memory is what a shard takes, bytes.
type Memory struct {
	Weights   int64 `json:"weights"`
	KV        int64 `json:"kv"`
	Recurrent int64 `json:"recurrent"`
	Compute   int64 `json:"compute"`
	Output    int64 `json:"output"`
	Total     int64 `json:"total"`
}

// headroom is the tenth by which an estimate may be wrong.
func headroom(n int64) int64 {
	if n > math.MaxInt64/11*10 {
		return math.MaxInt64
	}
	return n + (n+9)/10
}

// piece is a shard's share: layers [first, end) and of those units of all.
type piece struct {
	first, end int
	units, all int // 1, 1: whole layers
	whole      bool
}

// sums are the model's amounts summed up from layer 0, so that any piece's
// memory and time take constant work.
type sums struct {
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
	most          *memoryOf // set by largest
	least         int64     // set by smallest
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

func newSums(r Request) *sums {
	m := r.Model
	n := len(m.Layers)
	s := &sums{m: m, weights: make([]Part, n+1), read: make([]Part, n+1), cells: make([]Part, n+1), window: make([]Part, n+1),
		state: make([]Part, n+1), flops: make([]float64, n+1), full: make([]int, n+1), sliding: make([]int, n+1), reductions: make([]int, n+1),
		spec: hyper.Spec{Context: r.Context, Slots: r.Slots, Batch: max(r.Batch, r.Slots), Exact: m.Exact}}
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
func (s *sums) padding(p piece) extra {
	var e extra
	if p.whole || p.end-p.first == len(s.m.Layers) {
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
		if s.kinds[i][p.end] > s.kinds[i][p.first] {
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
func (s *sums) last(p piece) bool { return p.end == len(s.m.Layers) }

// weightsOf is the weights of a piece, bytes.
func (s *sums) weightsOf(p piece) int64 {
	w := minus(s.weights[p.end], s.weights[p.first]).of(p.units, p.all)
	if p.whole {
		return w + s.m.Whole
	}
	w += s.m.Every + s.padding(p).weights
	if p.first == 0 {
		w += s.m.First
	}
	if s.last(p) {
		w += s.m.Head.of(p.units, p.all)
	}
	return w
}

// memory is what a piece takes. It grows with the piece: more layers or more
// units never take less, which the search for a split relies on.
func (s *sums) memory(p piece) Memory {
	slots := float64(s.spec.Slots)
	part := func(of []Part) float64 { return float64(minus(of[p.end], of[p.first]).of(p.units, p.all)) }
	m := Memory{
		Weights:   s.weightsOf(p),
		KV:        limit(slots * (part(s.cells)*float64(s.fullCells) + part(s.window)*float64(s.windowCells))),
		Recurrent: limit(slots * part(s.state)),
	}
	pad := s.padding(p)
	m.KV = limit(float64(m.KV) + slots*float64(pad.cells))
	m.Recurrent = limit(float64(m.Recurrent) + slots*float64(pad.state))
	usesFull, usesWindow := pad.full || s.full[p.end] > s.full[p.first], pad.window || s.sliding[p.end] > s.sliding[p.first]
	masks := s.spec.Masks(s.fullCells, s.windowCells, usesFull, usesWindow)
	work := float64(s.spec.Batch) * float64(s.scratch.of(p.units, p.all))
	if m.Recurrent > 0 {
		work += 2 * slots * float64(max(s.maxState, pad.state))
	}
	// A stage before the last marks every token of a batch as an output, of a
	// few rows; their head needs less than the layers do.
	m.Output = limit(float64(s.spec.Batch) * fewRows * 4)
	head := 0.0
	if s.last(p) {
		rows := math.Ceil(float64(s.m.Vocabulary) * float64(p.units) / float64(p.all))
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
