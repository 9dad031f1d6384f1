// Package slice cuts a model into shards: pipeline stages (some layers),
// tensor ranks (some heads and columns of each layer), or both. A shard is a
// GGUF of its own that an unmodified libllama loads: a rewritten header, and
// ranges of the source's bytes. Nothing is copied to make one.
//
// The package owns what may be cut and how, architecture by architecture; what
// is not known to be right is refused with the reason. It is pure: it imports
// gguf and gguf/hyper alone, not net, os or log/slog. A File is immutable and
// may be used from any goroutine, as far as the source's reader allows.
package slice

import (
	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/slice/stage"
)

// Spec names one shard of a model.
type Spec struct {
	// First and End are the layers [First, End) in the whole model's numbers.
	First int `json:"first"`
	End   int `json:"end"`
	// Rank is the shard's place among the tensor ranks of its stage.
	Rank int `json:"rank"`
	// Parts is the relative size of each rank: {1, 1} cuts in halves, {2, 1}
	// gives the first two thirds. Where attention is cut, sizes are whole KV
	// heads, so Parts must divide them. One entry or none: the layers are whole.
	Parts []int `json:"parts,omitempty"`
}

// Ranks is the number of tensor ranks, at least 1.
func (s Spec) Ranks() int { return max(1, len(s.Parts)) }

// Range is a piece of a shard's data: Count runs of Length bytes, the first at
// Offset of part Part of the source and each next one Stride bytes further. A
// Part of -1 is no source: the bytes are Fill, repeated.
type Range struct {
	Part   int
	Offset int64
	Length int64
	Stride int64 // 0 if Count is 1
	Count  int64 // at least 1
	Fill   []byte
}

// Bytes is the size of the piece.
func (r Range) Bytes() int64 { return r.Length * r.Count }

// Tensor is one tensor of a shard and where its bytes come from, in order.
type Tensor struct {
	gguf.Tensor
	Source []Range
}

// File is a shard as a file that need not exist: Header, then the tensors'
// data at their offsets, padded with zeros to the alignment.
type File struct {
	Spec    Spec
	Header  []byte
	Tensors []Tensor
	Size    int64 // of the whole file, bytes
	Run     Run
}

// Run says how a shard computes, beside what is in the file.
type Run struct {
	Arch       string
	Embedding  int // width of a hidden state, elements
	Vocabulary int // tokens of the whole model
	// Positions is how many position values each token has in a batch of hidden
	// states: 1, or 4 with M-RoPE. There llama_batch.pos holds the first value of
	// every token, then the second of every token, and so on; for text the
	// first three are the position and the fourth is 0.
	Positions int

	// Embed is set in the first stage: how token ids become hidden states.
	// Shards are always fed with hidden states (llama_batch.embd).
	Embed *Embed
	// Capture is the graph node that ends a stage ("l_out-13": the hidden
	// states after its last layer); "" in the last stage, which gives logits.
	Capture string
	// Enter is the graph node whose value the fed hidden states replace: when
	// it has been computed, they are written over it ("inp_scaled" of gemma in
	// a later stage, where the library would scale them again). "": hidden
	// states are used as they are fed.
	Enter string
	// Reduce lists what tensor ranks sum up after each layer's parts; empty
	// without ranks.
	Reduce []Reduction
	// VocabFirst and VocabCount are the rows of the output head that this
	// shard computes; 0, 0 outside the last stage.
	VocabFirst int
	VocabCount int
}

// Embed looks up the rows of the embedding table outside the library.
type Embed struct {
	Type  gguf.TensorType
	Row   int64   // bytes of one row
	Rows  Range   // the table in the source, row after row
	Scale float32 // what every element is multiplied with; 1: nothing
}

// Reduction names graph nodes whose values are partial sums. One of the two is
// set; both are matched against the name without the layer number's prefix or
// suffix ("ffn_moe_out" for "ffn_moe_out-3").
type Reduction struct {
	// Weight matches a matrix product (MUL_MAT) by its first operand:
	// "attn_output.weight" for "blk.3.attn_output.weight".
	Weight string
	// Node matches a node by its own name.
	Node string
}

// ErrRefused is in every error about a model that must not be cut this way.
var ErrRefused = stage.ErrRefused
