package hyper

import (
	"slices"

	"github.com/skein-run/skein/internal/gguf"
)

// The tables in this file say what llama.cpp v0.5.0 does with each
// architecture where the metadata alone does not tell (its src/models and
// create_memory). An architecture that is not named has plain attention in
// every layer, which is the safe side for an estimate.

// windowRule is the sliding-window layout of an architecture whose file gives
// no pattern for each layer.
type windowRule struct {
	period     int // one layer in period is dense; 0: only an explicit pattern
	denseFirst bool
	window     int  // where the file names none; 0: then there is none
	fixed      bool // window applies even where the file names another
}

func windowRuleOf(arch string, layers int) (windowRule, bool) {
	switch arch {
	case "afmoe", "cohere2", "laguna", "mellum", "muse-glimmer", "olmo2", "cohere2moe":
		return windowRule{period: 4, denseFirst: arch == "cohere2moe" || arch == "laguna"}, true
	case "exaone-moe":
		return windowRule{period: 4, window: 128}, true
	case "exaone4":
		// Only the 32B model has windows; the small one shares its name.
		return windowRule{period: 4, window: 4096}, layers == 64
	case "gemma2":
		return windowRule{period: 2, window: 4096}, true
	case "gemma3", "gemma-embedding":
		return windowRule{period: 6}, true
	case "gemma3n":
		return windowRule{period: 5}, true
	case "llama4":
		return windowRule{period: 4, window: 8192, fixed: true}, true
	case "modern-bert":
		return windowRule{period: 3, denseFirst: true}, true
	case "gpt-oss":
		return windowRule{period: 2}, true
	case "plamo3":
		return windowRule{period: 8}, true
	case "smallthinker":
		return windowRule{period: 4, denseFirst: true, fixed: true, window: 4096}, true
	case "gemma4", "gemma4-assistant", "granite_swa", "maple", "mimo2", "spark2_5", "step35", "dots3note", "dflash":
		return windowRule{}, true
	}
	return windowRule{}, false
}

// window fills Window and Windowed.
func (r *reader) window(h *Params) {
	h.Windowed = make([]bool, h.Layers)
	rule, ok := windowRuleOf(h.Arch, h.Layers)
	if !ok {
		return
	}
	given := r.has("attention.sliding_window")
	w := r.num("attention.sliding_window", rule.window)
	if h.Arch == "smallthinker" && !given {
		w = 0
	}
	if w == 0 {
		return
	}
	if rule.fixed {
		w = rule.window
	}
	h.Window = w
	key := h.Arch + ".attention.sliding_window_pattern"
	if kv, ok := r.m.Pair(key); ok && kv.Type == gguf.TypeArray {
		for i, v := range r.layers("attention.sliding_window_pattern", h.Layers, nil) {
			h.Windowed[i] = v != 0
		}
		return
	}
	period := r.num("attention.sliding_window_pattern", rule.period)
	for i := range h.Windowed {
		switch {
		case period == 0:
			h.Windowed[i] = rule.period != 0
		case rule.denseFirst:
			h.Windowed[i] = i%period != 0
		default:
			h.Windowed[i] = i%period < period-1
		}
	}
}

// recurrence fills the recurrent layers, the layers with a KV cache and the
// sizes of the recurrent state.
func (r *reader) recurrence(h *Params) {
	n := h.Layers
	h.Recurrent, h.Attention = make([]bool, n), make([]bool, n)
	for i := range n {
		h.Attention[i] = true
	}
	set := func(i int, recurrent, attention bool) { h.Recurrent[i], h.Attention[i] = recurrent, attention }
	switch h.Arch {
	case "mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7":
		for i := range n {
			set(i, true, false)
		}
	case "jamba", "plamo2", "granitehybrid", "lfm2", "lfm2moe", "kimi-linear", "kimi-k3", "bailingmoe3":
		for i := range n {
			set(i, h.KVHeads[i] == 0, h.KVHeads[i] != 0)
		}
	case "nemotron_h", "nemotron_h_moe":
		for i := range n {
			set(i, h.KVHeads[i] == 0 && h.FFN[i] == 0, h.KVHeads[i] != 0 && h.FFN[i] == 0)
		}
	case "falcon-h1":
		for i := range n {
			set(i, true, true)
		}
	case "qwen3next", "qwen35", "qwen35moe", "qwen4exp", "minimax-01":
		r.interval(h, set)
	}
	if !slices.Contains(h.Recurrent, true) {
		return
	}
	h.SSM = SSM{Conv: r.num("ssm.conv_kernel", 0), Inner: r.num("ssm.inner_size", 0), State: r.num("ssm.state_size", 0),
		Groups: r.num("ssm.group_count", 0), TimeStepRank: r.num("ssm.time_step_rank", 0)}
	wkv, short, kda := r.num("wkv.head_size", 0), r.num("shortconv.l_cache", 0), r.num("kda.head_dim", 0)
	heads := slices.Max(h.Heads)
	h.SSMState = h.SSM.State * h.SSM.Inner
	switch {
	case wkv > 0:
		h.ConvState = r.num("token_shift_count", 2) * h.Embedding
		h.SSMState = h.Embedding * wkv
	case short > 0:
		h.ConvState = h.Embedding * (short - 1)
	case kda > 0:
		conv := h.SSM.Conv
		if conv == 0 {
			conv = 4
		}
		h.ConvState = 3 * (conv - 1) * heads * kda
		h.SSMState = kda * kda * heads
	default:
		h.ConvState = max(h.SSM.Conv-1, 0) * (h.SSM.Inner + 2*h.SSM.Groups*h.SSM.State)
	}
	if h.Arch == "minimax-01" {
		h.SSMState = h.KeyDim * h.KeyDim * heads
	}
	// Windows of a hybrid model without a pattern apply to its attention layers.
	if w := r.num("attention.sliding_window", 0); h.Arch == "lfm2" && w > 0 {
		h.Window = w
		copy(h.Windowed, h.Attention)
	}
}

// interval marks all but every k-th layer recurrent.
func (r *reader) interval(h *Params, set func(i int, recurrent, attention bool)) {
	if r.has("attention.recurrent_layers") {
		for i, v := range r.layers("attention.recurrent_layers", h.Layers, nil) {
			set(i, v != 0, v == 0)
		}
		return
	}
	otherwise := 4
	if h.Arch == "minimax-01" {
		otherwise = 8
	}
	k := max(r.num("full_attention_interval", otherwise), 1)
	for i := range h.Layers {
		set(i, (i+1)%k != 0, (i+1)%k == 0)
	}
}

// exceptions applies what is left: layers that share the cache of another,
// models without a cache, and extra caches.
func (r *reader) exceptions(h *Params) {
	shared := 0
	h.Loops = 1
	switch h.Arch {
	case "nanbeige":
		h.Loops = max(r.num("num_loops", 1), 1)
	case "gemma3n":
		shared = max(h.Layers-20, 0)
	case "gemma4":
		shared = r.num("attention.shared_kv_layers", 0)
	case "bert", "jina-bert-v2", "jina-bert-v3", "nomic-bert", "nomic-bert-moe", "neo-bert", "eurobert", "modern-bert",
		"wavtokenizer-dec", "gemma-embedding", "dream", "llada", "llada-moe", "rnd1":
		h.Encoder = true
		shared = h.Layers
	case "minimax-m3", "glm-dsa", "deepseek32", "hy_v4", "dots3note", "qwen4exp":
		h.KVIndexer = r.num("attention.indexer.key_length", 0)
	}
	for i := max(h.Layers-shared, 0); i < h.Layers; i++ {
		h.Attention[i] = false
	}
}
