package stage

import (
	"fmt"
	"math"

	"github.com/skein-run/skein/internal/gguf"
)

// metadata rewrites what counts or lists layers.
func (s *Model) metadata(st Stage, first, lead, step int) (gguf.Metadata, error) {
	e := editor{meta: s.meta.Without(func(key string) bool { return key == s.key("deepstack_mapping") }), model: s}
	for _, name := range layerArrays() {
		e.pick(name, st.Layers)
	}
	e.set("block_count", uint32(len(st.Layers)))
	e.replace("nextn_predict_layers", uint32(0))
	e.replace("n_deepstack_layers", uint32(0))
	e.replace("leading_dense_block_count", uint32(lead))
	if s.rule.experts != "" {
		e.replace(s.rule.experts, uint32(step))
	}
	e.kinds(st.Layers)
	e.heads(st.Layers)
	e.scales(first)
	e.special()
	return e.meta, e.err
}

// editor changes metadata; the first error stays.
type editor struct {
	model *Model
	meta  gguf.Metadata
	err   error
}

// set writes a key of the architecture.
func (e *editor) set(name string, value any) {
	kv, err := gguf.Pair(e.model.key(name), value)
	if err != nil {
		e.err = err
		return
	}
	e.meta = e.meta.With(kv)
}

// has tells whether the file has a key of the architecture.
func (e *editor) has(name string) bool {
	_, ok := e.meta.Pair(e.model.key(name))
	return ok
}

// replace writes a key that is there already.
func (e *editor) replace(name string, value any) {
	if e.has(name) {
		e.set(name, value)
	}
}

// pick keeps an array's entries of the stage's layers.
func (e *editor) pick(name string, layers []int) {
	kv, ok := e.meta.Pair(e.model.key(name))
	if !ok || kv.Type != gguf.TypeArray {
		return
	}
	if kv.Len < uint64(e.model.Layers) {
		e.err = fmt.Errorf("%s has %d entries for %d layers: %w", kv.Key, kv.Len, e.model.Layers, gguf.ErrDamaged)
		return
	}
	picked, err := kv.Pick(layers)
	if err != nil {
		e.err = err
		return
	}
	e.meta = e.meta.With(picked)
}

// kinds writes out which layers are windowed or recurrent, where the library
// would count them out.
func (e *editor) kinds(layers []int) {
	list := func(of []bool) []uint32 {
		out := make([]uint32, len(layers))
		for i, l := range layers {
			if of[l] {
				out[i] = 1
			}
		}
		return out
	}
	h := e.model.hyper
	if kv, _ := e.meta.Pair(e.model.key("attention.sliding_window_pattern")); e.model.rule.pattern && h.Window > 0 && kv.Type != gguf.TypeArray {
		e.set("attention.sliding_window_pattern", list(h.Windowed))
	}
	if kv, _ := e.meta.Pair(e.model.key("attention.recurrent_layers")); e.model.rule.recurrent && kv.Type != gguf.TypeArray {
		e.set("attention.recurrent_layers", list(h.Recurrent))
	}
}

// heads keeps the sizes that the library takes from the first layer.
func (e *editor) heads(layers []int) {
	kv, ok := e.meta.Pair(e.model.key("attention.head_count"))
	heads := e.model.hyper.Heads
	if !ok || kv.Type != gguf.TypeArray || len(heads) == 0 || heads[0] == 0 {
		return
	}
	size := uint32(e.model.hyper.Embedding / heads[0])
	for _, name := range []string{"attention.key_length", "attention.value_length"} {
		if !e.has(name) {
			e.set(name, size)
		}
	}
	if heads[layers[0]] == 0 {
		// A layer without heads comes first only where it is recurrent, and
		// there the library takes this for the model's number of heads.
		out := make([]uint32, len(layers))
		for i, l := range layers {
			out[i] = uint32(heads[l])
		}
		out[0] = uint32(heads[0])
		e.set("attention.head_count", out)
	}
}

// scales writes out factors, and takes back those that apply to token
// embeddings only.
func (e *editor) scales(first int) {
	m := e.model
	if m.rule.scaleKey && first > 0 {
		e.set("embedding_scale", float32(0))
	}
	if m.arch == "minicpm" && !e.has("residual_scale") {
		e.set("residual_scale", float32(1.4)/float32(math.Sqrt(float64(m.Layers))))
	}
}

// special undoes what the library would guess from the number of layers.
func (e *editor) special() {
	m := e.model
	if m.rule.lite {
		if m.lite(m.Layers) {
			e.set("attention.q_lora_rank", uint32(0))
		}
		if gate, ok := e.meta.Uint(m.key("expert_gating_func")); !ok || gate == 0 {
			softmax, sigmoid := uint32(1), uint32(2)
			e.set("expert_gating_func", softmax)
			if (m.Layers == 47 || m.Layers == 48) && m.vocab == 154880 {
				e.set("expert_gating_func", sigmoid)
			}
		}
	}
	if m.rule.sectioned && !m.hasSections() {
		quarter := int32(max(1, m.rotated()/4))
		e.set("rope.dimension_sections", []int32{quarter, quarter, 0, 0})
	}
	if m.rule.sections && m.positions() == 1 {
		e.err = fmt.Errorf("the library takes no hidden states for this %s model: %w", m.arch, ErrRefused)
	}
}

// rotated is how many elements of a head positions rotate.
func (s *Model) rotated() int {
	n, ok := s.meta.Uint(s.key("rope.dimension_count"))
	if !ok || n > 1<<16 {
		return s.hyper.KeyDim
	}
	return int(n)
}
