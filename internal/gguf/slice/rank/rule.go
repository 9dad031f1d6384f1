package rank

import (
	"fmt"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/slice/stage"
)

// rule says what ranks may share of an architecture's layers, and why
// the rest stays whole on each rank. What is whole costs memory and time, but
// is right: it works on hidden states, which all ranks have.
type rule struct {
	attention string // why attention stays whole; "": it is cut by heads
	// experts is the node in which the experts of a layer have been summed up.
	experts string
	// as names an architecture that the library computes in exactly the same
	// way and whose attention can be cut, and rename what its tensors are called.
	as     string
	rename map[string]string
	// unread are tensors that the architecture's own graph passes over and the
	// other's does not.
	unread []string
	// doubled: feed_forward_length counts gate and up together.
	doubled bool
}

// Why attention stays whole.
const (
	wideOnly = "the library takes attn_q and attn_output only as wide as the hidden state"
	wideNorm = "its query and key norms run over all heads at once"
	slopes   = "the library makes ALiBi slopes from the number of heads"
	latent   = "its keys and values are one latent vector that all heads share (MLA)"
	scaledBy = "the library scales the attention of this size by the number of heads"
	fixed    = "it has one head, or heads that end within quantization blocks"
	counted  = "the library derives its recurrent layers from the number of heads"
	indexed  = "its attention picks positions by an indexer that is counted in heads"
)

// ruleOf is what is known about an architecture, found by reading
// llama.cpp v0.5.0 (src/models and src/llama-graph.cpp) and proved by running
// every entry whole and in ranks. Names are those of general.architecture.
func ruleOf(arch string) (rule, error) {
	r := rule{experts: expertsOf(arch)}
	switch arch {
	case "afmoe", "arcee", "bailingmoe", "cohere2moe", "deci", "dots1", "ernie4_5", "ernie4_5-moe",
		"exaone", "exaone-moe", "falcon-h1", "gemma", "gemma2", "gemma3", "glm4", "glm4moe", "gpt-oss",
		"granite", "granite_swa", "granitehybrid", "granitemoe", "grovemoe", "hunyuan-dense", "hunyuan-moe", "hunyuan_vl", "hy_v3",
		"jais2", "laguna", "llama", "llama4", "maincoder", "maple", "mellum", "mimo2", "minicpm",
		"mistral3", "muse-glimmer", "nanbeige", "nemotron_h", "nemotron_h_moe", "openelm", "paddleocr",
		"pangu-embedded", "plamo2", "plamo3", "qwen3", "qwen35", "qwen35moe", "qwen3moe", "qwen3next", "qwen3vl",
		"qwen3vlmoe", "seed_oss", "smallthinker", "smollm3", "spark2_5", "talkie":
	case "internlm2", "xverse":
		r.as, r.unread = "llama", []string{"ffn_gate.scale", "ffn_up.scale", "ffn_down.scale"}
	case "qwen2":
		r.as, r.rename = "seed_oss", map[string]string{"ffn_norm": "post_attention_norm"}
	case "bailingmoe2", "chatglm", "codeshell", "cohere2", "command-r", "dbrx", "deepseek", "exaone4", "falcon",
		"gpt2", "gptneox", "grok", "jamba", "lfm2", "lfm2moe", "nemotron", "olmo", "orion", "phi2", "phi3", "phimoe",
		"plamo", "pockettts", "qwen2moe", "qwen2vl", "stablelm", "starcoder", "starcoder2":
		r.attention = wideOnly
	case "qwen":
		r.attention, r.doubled = wideOnly, true
	case "minimax-m2", "olmo2", "olmoe":
		r.attention = wideNorm
	case "baichuan", "bloom", "jais", "mpt", "refact":
		r.attention = slopes
	case "deepseek2", "minicpm3", "mistral4":
		r.attention = latent
	case "kimi-linear", "minimax-01", "bailingmoe3":
		r.attention = counted
	case "deepseek32", "deepseek4", "dots3note", "glm-dsa", "minimax-m3", "hy_v4":
		r.attention = indexed
	case "mamba", "mamba2":
		return r, fmt.Errorf("%s has recurrent layers only, which ranks can't share: %w", arch, stage.ErrRefused)
	default:
		return r, fmt.Errorf("nobody has proved yet that ranks of %s compute what the whole does: %w", arch, stage.ErrRefused)
	}
	return r, nil
}

// expertsOf is the node in which the experts of a layer have been summed up,
// for architectures whose experts have been compared with the whole.
func expertsOf(arch string) string {
	switch arch {
	case "smallthinker":
		return "ffn_out"
	case "afmoe", "bailingmoe", "bailingmoe2", "bailingmoe3", "cohere2moe", "dbrx", "deepseek", "deepseek2", "deepseek32", "deepseek4",
		"dots1", "dots3note", "ernie4_5-moe", "exaone-moe", "glm-dsa", "glm4moe", "gpt-oss", "granite", "granitemoe", "grok", "grovemoe",
		"hunyuan-moe", "hy_v3", "hy_v4", "kimi-linear", "laguna", "lfm2moe", "llama", "llama4", "maple", "mellum", "mimo2",
		"minicpm", "minimax-01", "minimax-m2", "minimax-m3", "mistral3", "mistral4", "olmoe", "phimoe", "qwen2moe", "qwen3moe",
		"qwen3next", "qwen3vlmoe", "qwen35moe", "refact":
		return "ffn_moe_out"
	}
	return ""
}

// ruleFor is the rule of a model, which may have what others of its
// architecture lack. meta is that of the layers that the library will see.
func ruleFor(meta gguf.Metadata, arch string, tensors []Tensor) (rule, error) {
	r, err := ruleOf(arch)
	if err != nil {
		return r, err
	}
	layers, _ := meta.Uint(arch + ".block_count")
	if arch == "gemma2" && layers == 46 || arch == "gemma3" && layers == 62 {
		r.attention = scaledBy
	}
	for _, t := range tensors {
		switch {
		case t.Name == "ffn_down_exps.weight" && r.experts == "":
			return r, fmt.Errorf("ranks of %s with experts have not been compared with the whole yet: %w", arch, stage.ErrRefused)
		case t.Layer < 0 && t.Name == "output.bias" && r.as != "":
			// Only the architecture's own graph adds it.
			r.as, r.rename, r.attention = "", nil, wideOnly
		}
	}
	return r, nil
}

// Reason says why ranks must not share an architecture's layers, by an error
// that wraps stage.ErrRefused, or else why attention stays whole on each rank;
// "" if it is cut.
func Reason(arch string) (attention string, err error) {
	r, err := ruleOf(arch)
	return r.attention, err
}
