// Package hyper reads a model's hyper-parameters from its metadata and says what
// memory the model and a context of it take.
//
// It owns what llama.cpp v0.5.0 makes of each architecture: which layers attend
// over a window, which keep recurrent state, how large caches are. It is pure,
// like package gguf, which it imports alone; it must not import net, os, os/exec
// or log/slog. All functions may be called from any goroutine.
package hyper

import (
	"fmt"
	"slices"

	"github.com/skein-run/skein/internal/gguf"
)

// maxLayers is llama.cpp's LLAMA_MAX_LAYERS; no slice for each layer is made
// for more.
const maxLayers = 512

// Params are the hyper-parameters of a model in the vocabulary of this module. Sizes are elements, context and window tokens.
type Params struct {
	Arch       string
	Layers     int // without draft layers
	Draft      int // multi-token-prediction layers after them, which a plain context does not use
	Context    int // trained
	Embedding  int
	Vocabulary int
	FFN        []int // each layer
	Heads      []int // each layer
	KVHeads    []int // each layer; 0: no attention in it
	KeyDim     int   // of a head
	ValueDim   int
	KeyDimSWA  int // of a head in windowed layers
	ValDimSWA  int

	Experts     int
	ExpertsUsed int
	ExpertFFN   int

	// Window is the sliding window in tokens, 0 for none; Windowed tells for
	// each layer whether it applies there.
	Window   int
	Windowed []bool

	// Recurrent tells for each layer whether it has recurrent state;
	// Attention whether it has a KV cache. A layer may have both or neither.
	Recurrent []bool
	Attention []bool
	// ConvState and SSMState are the state of one recurrent layer and
	// sequence, f32 elements.
	ConvState int
	SSMState  int
	SSM       SSM

	// MLA: keys and values share one latent vector a token, so only K is kept.
	MLA    bool
	KVRank int
	Causal bool
	// Exact tells that all weights are f32: what is computed of them again in
	// other shapes is to give the same tokens, so their keys and values are kept
	// in f32 too, and flash kernels, which round them to f16, are not used.
	Exact   bool
	Encoder bool // no KV cache at all: embedding and diffusion models
	// KVIndexer is the width of the extra key cache of sparse attention.
	KVIndexer int
	// Loops is how often the layers are run, each time with a cache of its own.
	Loops int
}

// SSM holds the sizes of state-space layers.
type SSM struct{ Conv, Inner, State, Groups, TimeStepRank int }

// Kinds of memory, as Params.Memory gives them.
const (
	MemoryAttention     = "attention"
	MemorySlidingWindow = "sliding_window"
	MemoryRecurrent     = "recurrent"
	MemoryHybrid        = "hybrid"
)

// Memory is the kind of memory that the model needs for each sequence.
func (h *Params) Memory() string {
	recurrent, attention := slices.Contains(h.Recurrent, true), slices.Contains(h.Attention, true)
	switch {
	case recurrent && attention:
		return MemoryHybrid
	case recurrent:
		return MemoryRecurrent
	case slices.Contains(h.Windowed, true):
		return MemorySlidingWindow
	}
	return MemoryAttention
}

// reader reads "<arch>.<name>" keys and keeps the first complaint.
type reader struct {
	m    *gguf.Model
	arch string
	err  error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

// has tells whether the key is there.
func (r *reader) has(name string) bool {
	_, ok := r.m.Pair(r.arch + "." + name)
	return ok
}

// num reads an optional number below 2^31.
func (r *reader) num(name string, otherwise int) int {
	key := r.arch + "." + name
	kv, ok := r.m.Pair(key)
	if !ok {
		return otherwise
	}
	if kv.Type == gguf.TypeArray { // one entry a layer where one number is meant: the largest counts
		vs, err := r.m.Uints(key)
		if err != nil || len(vs) == 0 {
			r.fail("metadata %q is not a number: %w", key, gguf.ErrDamaged)
			return otherwise
		}
		return r.small(key, slices.Max(vs))
	}
	v, ok := r.m.Uint(key)
	if !ok {
		r.fail("metadata %q is not a number of at least 0: %w", key, gguf.ErrDamaged)
		return otherwise
	}
	return r.small(key, v)
}

func (r *reader) small(key string, v uint64) int {
	if v >= 1<<31 {
		r.fail("metadata %q is %d, which is impossible: %w", key, v, gguf.ErrDamaged)
		return 0
	}
	return int(v)
}

// need reads a required number.
func (r *reader) need(name string) int {
	if !r.has(name) {
		r.fail("metadata %q is missing: %w", r.arch+"."+name, gguf.ErrDamaged)
	}
	return r.num(name, 0)
}

// layers reads a number that is one for all layers or one for each.
func (r *reader) layers(name string, n int, otherwise []int) []int {
	key := r.arch + "." + name
	kv, ok := r.m.Pair(key)
	if !ok {
		return slices.Clone(otherwise)
	}
	out := make([]int, n)
	if kv.Type != gguf.TypeArray {
		v := r.num(name, 0)
		for i := range out {
			out[i] = v
		}
		return out
	}
	if kv.Len < uint64(n) {
		r.fail("metadata %q has %d entries for %d layers: %w", key, kv.Len, n, gguf.ErrDamaged)
		return out
	}
	vs, err := r.m.Uints(key)
	if err != nil {
		r.fail("%w: %w", err, gguf.ErrDamaged)
		return out
	}
	for i := range out {
		out[i] = r.small(key, vs[i])
	}
	return out
}

// Read reads the hyper-parameters, with the defaults that llama.cpp v0.5.0
// applies for the architecture. An architecture that is not known here is read
// by the common keys.
func Read(m *gguf.Model) (*Params, error) {
	h, err := read(m)
	if err != nil {
		return nil, fmt.Errorf("read hyper-parameters: %w", err)
	}
	return h, nil
}

func read(m *gguf.Model) (*Params, error) {
	arch := m.Arch()
	if arch == "" {
		return nil, fmt.Errorf("metadata \"general.architecture\" is missing: %w", gguf.ErrDamaged)
	}
	r := &reader{m: m, arch: arch}
	all := r.need("block_count")
	if all < 1 || all > maxLayers {
		r.fail("the model has %d layers, 1 to %d are possible: %w", all, maxLayers, gguf.ErrDamaged)
	}
	if r.err != nil {
		return nil, r.err
	}
	draft := r.num("nextn_predict_layers", 0)
	if draft >= all {
		draft = 0
	}
	h := &Params{
		Arch: arch, Layers: all - draft, Draft: draft,
		Context: r.need("context_length"), Embedding: r.need("embedding_length"),
		Experts: r.num("expert_count", 0), ExpertsUsed: r.num("expert_used_count", 0),
		ExpertFFN: r.num("expert_feed_forward_length", 0),
		KVRank:    r.num("attention.kv_lora_rank", 0),
		Causal:    true,
	}
	if v, ok := m.Bool(arch + ".attention.causal"); ok {
		h.Causal = v
	}
	n := h.Layers
	zero := make([]int, n)
	h.FFN = r.layers("feed_forward_length", n, zero)
	h.Heads = r.layers("attention.head_count", n, zero)
	h.KVHeads = r.layers("attention.head_count_kv", n, h.Heads)
	if i := slices.IndexFunc(h.Heads, func(v int) bool { return v > 0 }); i >= 0 {
		h.KeyDim = r.num("attention.key_length", h.Embedding/h.Heads[i])
		h.ValueDim = r.num("attention.value_length", h.Embedding/h.Heads[i])
	}
	h.KeyDimSWA = r.num("attention.key_length_swa", h.KeyDim)
	h.ValDimSWA = r.num("attention.value_length_swa", h.ValueDim)
	h.MLA = r.num("attention.key_length_mla", 0) > 0 && r.num("attention.value_length_mla", 0) > 0
	h.Vocabulary = r.vocabulary()
	h.Exact = !slices.ContainsFunc(m.Tensors(), func(t gguf.Tensor) bool { return t.Type != gguf.F32 })
	r.window(h)
	r.recurrence(h)
	r.exceptions(h)
	return h, r.err
}

// vocabulary is the number of rows of the output head, or of the embedding.
func (r *reader) vocabulary() int {
	for _, name := range []string{"output.weight", "token_embd.weight"} {
		if t, ok := r.m.Tensor(name); ok {
			return r.small(name, t.Shape[1])
		}
	}
	if kv, ok := r.m.Pair("tokenizer.ggml.tokens"); ok {
		return r.small(kv.Key, kv.Len)
	}
	return r.num("vocab_size", 0)
}
