package cost

import (
	"errors"
	"fmt"
	"math"
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

// Validate says what is missing to place the model.
func (m Model) Validate() error {
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
