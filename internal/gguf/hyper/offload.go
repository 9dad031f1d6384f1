package hyper

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/skein-run/skein/internal/gguf"
)

// offloadSpare is the part of an accelerator's free memory that is left alone:
// its driver needs some, and what a batch needs is estimated for the processor's
// kernels.
const offloadSpare = 10

// Offload gives how many of the last layers fit into so much memory of an
// accelerator, with their caches and the scratch memory of a batch. The output
// head counts as one more behind the layers: Layers+1 is the whole model. The
// library puts them there in that order, the head first.
func Offload(m *gguf.Model, spec Spec, free int64) (int, error) {
	spec, err := spec.validate()
	if err != nil {
		return 0, fmt.Errorf("layers of an accelerator: %w", err)
	}
	h, err := Read(m)
	if err != nil {
		return 0, fmt.Errorf("layers of an accelerator: %w", err)
	}
	spec.Exact = h.Exact
	layers, err := h.PerLayer(spec)
	if err != nil {
		return 0, err
	}
	weights := make([]float64, h.Layers)
	head := 0.0
	for _, t := range m.Tensors() {
		switch i := layerOf(t.Name); {
		case i >= 0 && i < h.Layers:
			weights[i] += float64(t.Bytes)
		case i < 0 && !strings.HasPrefix(t.Name, "token_embd."):
			head += float64(t.Bytes)
		}
	}
	if _, own := m.Tensor("output.weight"); !own {
		if t, ok := m.Tensor("token_embd.weight"); ok {
			head += float64(t.Bytes) // a copy of it
		}
	}
	full, windowed := spec.Cells(h.Window)
	left := float64(free)*(1-1/float64(offloadSpare)) - Inputs - spec.Masks(full, windowed, true, h.Window > 0) - head
	scratch := spec.Head(h.Vocabulary, h.Embedding)
	if left < scratch {
		return 0, nil
	}
	n := 1
	for i := h.Layers - 1; i >= 0; i-- {
		l := layers[i]
		cells := full
		if l.Windowed {
			cells = windowed
		}
		left -= weights[i] + (float64(l.Cell)*float64(cells)+float64(l.State))*float64(spec.Slots)
		scratch = max(scratch, float64(spec.Batch)*(float64(l.Scratch)+float64(l.Scores)*float64(cells)))
		if left < scratch {
			break
		}
		n++
	}
	return n, nil
}

// layerOf is 3 for "blk.3.attn_q.weight", -1 for what is no layer's.
func layerOf(name string) int {
	rest, ok := strings.CutPrefix(name, "blk.")
	number, _, dot := strings.Cut(rest, ".")
	if !ok || !dot {
		return -1
	}
	i, err := strconv.Atoi(number)
	if err != nil || i < 0 {
		return -1
	}
	return i
}
