package hyper

import (
	"math"

	"github.com/skein-run/skein/internal/gguf"
)

// Layer is what one layer adds to the memory of a model or a shard of it.
type Layer struct {
	// Cell is the KV cache's bytes for one token of one slot; 0: no cache.
	Cell int64
	// Windowed layers keep Spec.Cells' windowed cells a slot, others the full.
	Windowed bool
	// State is the recurrent state of one slot, bytes.
	State int64
	// Scratch is the memory for one token of a batch while the layer computes,
	// bytes. Layers take turns in it: the largest counts.
	Scratch int64
	// Scores is what comes to that for each cell, bytes: plain attention holds
	// a score of each head.
	Scores int64
}

// PerLayer gives what each layer adds, for a KV cache of the spec's types. A
// planner sums it up over the layers of any shard.
func (h *Params) PerLayer(spec Spec) ([]Layer, error) {
	spec, err := spec.validate()
	if err != nil {
		return nil, err
	}
	out := make([]Layer, h.Layers)
	for i := range out {
		out[i] = Layer{Cell: clamp(h.cell(spec, i)), Windowed: h.Attention[i] && h.Windowed[i], Scratch: clamp(4 * h.widest(i)), Scores: clamp(4 * h.scores(spec, i))}
		if h.Recurrent[i] {
			out[i].State = clamp(float64(h.ConvState+h.SSMState) * 4)
		}
	}
	return out, nil
}

// Cells is the number of tokens that each slot has room for in plain layers
// and in those with a sliding window of that many tokens (0: none).
func (s Spec) Cells(window int) (full, windowed int64) {
	if s.Batch == 0 {
		s.Batch = defaultBatch
	}
	full = pad(int64(s.Context))
	windowed = full
	if !s.FullWindow && window > 0 {
		windowed = min(full, pad(min(full, int64(window)+int64(s.Batch))))
	}
	return full, windowed
}

// Inputs is what every graph needs beside its layers, bytes: token ids,
// positions, row numbers, alignment.
const Inputs = 64 << 10

// Masks is the memory of the attention masks for a batch, bytes: one for each
// kind of cache that the layers use, of f16 for flash attention and f32 for plain.
func (s Spec) Masks(full, windowed int64, usesFull, usesWindow bool) float64 {
	if s.Batch == 0 {
		s.Batch = defaultBatch
	}
	masks, each := 0.0, 2.0
	if s.Exact {
		each = 4
	}
	if usesFull {
		masks += float64(full) * float64(s.Batch) * each
	}
	if usesWindow {
		masks += float64(windowed) * float64(s.Batch) * each
	}
	return masks
}

// Head is the scratch memory of the output head for rows tokens of the
// vocabulary, bytes. It does not add to that of the layers: the larger counts.
func (s Spec) Head(rows, embedding int) float64 {
	outputs := s.Outputs
	if outputs == 0 {
		outputs = s.Slots
	}
	return 4 * float64(outputs) * (float64(rows) + 2*float64(embedding))
}

// cell is the KV cache's bytes for a token in layer i.
func (h *Params) cell(spec Spec, i int) float64 {
	if !h.Attention[i] {
		return 0
	}
	k, v := h.KeyDim, h.ValueDim
	if h.Windowed[i] {
		k, v = h.KeyDimSWA, h.ValDimSWA
	}
	keys, values := spec.KeyType, spec.ValueType
	if spec.Exact {
		keys, values = gguf.F32, gguf.F32
	}
	bytes := rowBytes(keys, k*h.KVHeads[i]) + rowBytes(keys, h.KVIndexer)
	if !h.MLA {
		bytes += rowBytes(values, v*h.KVHeads[i])
	}
	return bytes * float64(max(h.Loops, 1))
}

// scores is how many f32 values layer i needs at once for each token and each
// token before it.
func (h *Params) scores(spec Spec, i int) float64 {
	if !spec.Exact || !h.Attention[i] {
		return 0
	}
	return float64(h.Heads[i])
}

// widest is how many f32 values layer i needs at once for each token.
func (h *Params) widest(i int) float64 {
	embedding := float64(h.Embedding)
	values := h.feedForward(i)
	if h.Attention[i] {
		k, v := float64(max(h.KeyDim, h.KeyDimSWA)), float64(max(h.ValueDim, h.ValDimSWA))
		q, kv := float64(h.Heads[i]), float64(h.KVHeads[i])
		// residual and norm; queries, keys before and after rotation; values
		values = max(values, 2*embedding+2*q*k+kv*(2*k+v))
	}
	if h.Recurrent[i] {
		inner := float64(max(h.SSM.Inner, h.Embedding))
		mixed := inner + 2*float64(h.SSM.Groups*h.SSM.State)
		// residual and norm; projection (with its gate); convolution in and out; result twice
		values = max(values, 2*embedding+inner+mixed+2*mixed+2*inner)
	}
	return math.Max(values, 0)
}
