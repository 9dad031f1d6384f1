package hyper

import (
	"fmt"
	"math"
	"slices"

	"github.com/skein-run/skein/internal/gguf"
)

// Spec says how a context would be opened.
type Spec struct {
	Context int // tokens of each slot
	Slots   int // sequences; each has its own cells, they are not unified
	Batch   int // tokens computed at once (n_ubatch); 0: 512
	// Outputs is the number of tokens a batch may ask logits for; 0: Slots.
	Outputs int
	// KeyType and ValueType of the KV cache; 0: F16.
	KeyType, ValueType gguf.TensorType
	// Exact is Params.Exact: the cache is of f32, whatever the types say, and
	// attention plain. For finds it out.
	Exact bool
	// FullWindow keeps the whole context in sliding-window layers too.
	FullWindow bool
}

const defaultBatch = 512 // tokens

func (s Spec) validate() (Spec, error) {
	if s.Batch == 0 {
		s.Batch = defaultBatch
	}
	if s.Outputs == 0 {
		s.Outputs = s.Slots
	}
	if s.KeyType == 0 {
		s.KeyType = gguf.F16
	}
	if s.ValueType == 0 {
		s.ValueType = gguf.F16
	}
	const most = 1 << 30
	if s.Context < 1 || s.Slots < 1 || s.Batch < 1 || s.Outputs < 1 || s.Context > most || s.Slots > 1<<16 || s.Batch > 1<<20 || s.Outputs > 1<<20 {
		return s, fmt.Errorf("context %d, slots %d, batch %d and outputs %d must be at least 1 and sensible", s.Context, s.Slots, s.Batch, s.Outputs)
	}
	if !s.KeyType.Known() || !s.ValueType.Known() {
		return s, fmt.Errorf("KV types %s and %s must be types the engine knows", s.KeyType, s.ValueType)
	}
	return s, nil
}

// Estimate is the memory that a model and its context take, in bytes.
type Estimate struct {
	Weights   int64 // tensor data
	KV        int64 // attention caches of all slots
	Recurrent int64 // recurrent state of all slots
	Compute   int64 // scratch of one batch: masks and activations
	Output    int64 // logits handed to the caller
	Total     int64
}

// contextPad is what the library rounds a slot's context up to.
const contextPad = 256

func pad(cells int64) int64 { return (cells + contextPad - 1) / contextPad * contextPad }

// For says what memory the model and a context need.
//
// Weights, KV and Recurrent are what libllama v0.5.0 allocates, to the byte up
// to padding, for all architectures but deepseek4, whose compressed caches are
// taken as full ones. Compute is a bound from above, derived from its graphs on
// the CPU with flash attention; it can be up to twice the real one, mostly
// where a model is small (the test's table shows how close). Threads' work
// buffers and the process itself (together some 10 MB) are not in it, nor the
// mapped file beside weights that the library repacks for the CPU: the system
// takes those pages back when it needs them.
func For(m *gguf.Model, spec Spec) (Estimate, error) {
	spec, err := spec.validate()
	if err != nil {
		return Estimate{}, fmt.Errorf("estimate memory: %w", err)
	}
	h, err := Read(m)
	if err != nil {
		return Estimate{}, fmt.Errorf("estimate memory: %w", err)
	}
	spec.Exact = h.Exact
	full, windowed := spec.Cells(h.Window)
	kv, masks := h.cache(spec, full, windowed)
	recurrent := 0.0
	for _, yes := range h.Recurrent {
		if yes {
			recurrent += float64(h.ConvState+h.SSMState) * 4 * float64(spec.Slots)
		}
	}
	e := Estimate{
		Weights:   m.TensorBytes(),
		KV:        clamp(kv),
		Recurrent: clamp(recurrent),
		Compute:   clamp(masks + h.activations(spec)),
		Output:    clamp(float64(spec.Outputs) * float64(h.Vocabulary) * 4),
	}
	e.Total = clamp(float64(e.Weights) + float64(e.KV) + float64(e.Recurrent) + float64(e.Compute) + float64(e.Output))
	return e, nil
}

// clamp turns a size into an integer. Sizes are summed as floats because a
// hostile file may name any product of 31-bit numbers.
func clamp(v float64) int64 {
	if v >= math.MaxInt64/4 {
		return math.MaxInt64 / 4
	}
	return int64(v)
}

// cache is the size of all KV caches and of the attention masks for them.
func (h *Params) cache(spec Spec, full, windowed int64) (kv, masks float64) {
	usesFull, usesWindow := false, false
	for i, yes := range h.Attention {
		if !yes {
			continue
		}
		cells := full
		if h.Windowed[i] {
			cells = windowed
			usesWindow = true
		} else {
			usesFull = true
		}
		kv += h.cell(spec, i) * float64(cells) * float64(spec.Slots)
	}
	return kv, spec.Masks(full, windowed, usesFull, usesWindow)
}

func rowBytes(t gguf.TensorType, n int) float64 {
	elements, bytes := t.Block()
	return math.Ceil(float64(n)/float64(elements)) * float64(bytes)
}

// activations is the scratch memory of the widest point of the graph.
func (h *Params) activations(spec Spec) float64 {
	widest := 0.0 // f32 values for each token
	full, windowed := spec.Cells(h.Window)
	for i := range h.Layers {
		cells := full
		if h.Windowed[i] {
			cells = windowed
		}
		widest = max(widest, h.widest(i)+h.scores(spec, i)*float64(cells))
	}
	state := 0.0
	if slices.Contains(h.Recurrent, true) {
		// The states of the batch's sequences are gathered and written back.
		state = 2 * 4 * float64(h.ConvState+h.SSMState) * float64(spec.Slots)
	}
	return Inputs + max(4*float64(spec.Batch)*widest+state, spec.Head(h.Vocabulary, h.Embedding))
}

// feedForward counts the values a token needs at once in layer i's
// feed-forward part: residual, norm, gate, up, their product, and what
// fragmentation costs (found by comparison with the library, see the test).
func (h *Params) feedForward(i int) float64 {
	embedding, wide := float64(h.Embedding), float64(h.FFN[i])
	if h.Experts > 0 && h.ExpertsUsed > 0 {
		expert := float64(h.ExpertFFN)
		if expert == 0 {
			expert = wide
		}
		used := float64(h.ExpertsUsed)
		routed := max(3*used*expert, used*expert+2*used*embedding)
		return 4*embedding + max(routed, 3*wide)
	}
	return 4*embedding + 3*wide
}

// FitContext finds the largest context for each slot, at most spec.Context and
// a multiple of 256 below that, whose estimate stays within limit bytes. It
// reports false, with the estimate of the smallest context, when none does.
func FitContext(m *gguf.Model, limit int64, spec Spec) (int, Estimate, bool, error) {
	want := spec.Context
	e, err := For(m, spec)
	if err != nil || e.Total <= limit {
		return want, e, err == nil, err
	}
	low, high := 0, (want-1)/contextPad // in steps; low fits or is 0
	var best Estimate
	for low < high {
		mid := (low + high + 1) / 2
		spec.Context = mid * contextPad
		if e, err = For(m, spec); err != nil {
			return 0, Estimate{}, false, err
		}
		if e.Total <= limit {
			low, best = mid, e
		} else {
			high = mid - 1
		}
	}
	if low == 0 {
		spec.Context = min(want, contextPad)
		e, err = For(m, spec)
		return spec.Context, e, false, err
	}
	return low * contextPad, best, true, nil
}
