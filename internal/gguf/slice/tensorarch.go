package slice

import "fmt"

// tensorRule says what ranks may share of an architecture's layers, and why
// the rest stays whole on each rank. What is whole costs memory and time, but
// is right: it works on hidden states, which all ranks have.
type tensorRule struct {
	attention   string // why attention stays whole; "": it is cut by heads
	feedForward string // why the feed-forward network stays whole; "": it is cut by columns
	// experts is the node in which the experts of a layer have been summed up.
	experts string
	// as names an architecture that the library computes in exactly the same
	// way and whose attention can be cut, and rename what its tensors are called.
	as     string
	rename map[string]string
	// doubled: feed_forward_length counts gate and up together.
	doubled bool
}

// Why attention stays whole.
const (
	wideOnly = "the library takes attn_q and attn_output only as wide as the hidden state"
	wideNorm = "its query and key norms run over all heads at once"
	slopes   = "the library makes ALiBi slopes from the number of heads"
	latent   = "its keys and values are one latent vector that all heads share (MLA)"
	counted  = "the library derives its recurrent layers from the number of heads"
	indexed  = "its attention picks positions by an indexer that is counted in heads"
)

// tensorRuleOf is what is known about an architecture, found by reading
// llama.cpp v0.5.0 (src/models and src/llama-graph.cpp) and proved by running
// every entry whole and in ranks. Names are those of general.architecture.
func tensorRuleOf(arch string) (tensorRule, error) {
	r := tensorRule{experts: "ffn_moe_out"}
	switch arch {
	case "afmoe", "arcee", "bailingmoe", "cohere2moe", "deci", "dots1", "ernie4_5", "ernie4_5-moe",
		"exaone", "exaone-moe", "falcon-h1", "gemma", "gemma2", "gemma3", "glm4", "glm4moe", "gpt-oss",
		"granite", "granite_swa", "granitehybrid", "granitemoe", "grovemoe", "hunyuan-dense", "hunyuan-moe", "hunyuan_vl", "hy_v3",
		"jais2", "laguna", "llada", "llama", "llama4", "maincoder", "maple", "mellum", "mimo2", "minicpm",
		"mistral3", "muse-glimmer", "nanbeige", "nemotron_h", "nemotron_h_moe", "openelm", "paddleocr",
		"pangu-embedded", "plamo2", "plamo3", "qwen3", "qwen35", "qwen35moe", "qwen3moe", "qwen3next", "qwen3vl",
		"qwen3vlmoe", "rnd1", "seed_oss", "smollm3", "spark2_5", "talkie":
	case "smallthinker":
		r.experts = "ffn_out"
	case "qwen2":
		r.as, r.rename = "seed_oss", map[string]string{"ffn_norm": "post_attention_norm"}
	case "bailingmoe2", "chatglm", "codeshell", "cohere2", "command-r", "dbrx", "deepseek", "dream", "exaone4", "falcon",
		"gpt2", "gptneox", "grok", "internlm2", "jamba", "lfm2", "lfm2moe", "llada-moe", "nemotron", "olmo", "orion", "phi2", "phi3", "phimoe",
		"plamo", "pockettts", "qwen2moe", "qwen2vl", "stablelm", "starcoder", "starcoder2", "xverse":
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
		return r, fmt.Errorf("%s has recurrent layers only, which ranks can't share: %w", arch, ErrRefused)
	default:
		return r, fmt.Errorf("nobody has proved yet that ranks of %s compute what the whole does: %w", arch, ErrRefused)
	}
	return r, nil
}

// ruleFor is the rule of a model, which may have what others of its
// architecture lack.
func ruleFor(arch string, tensors []Tensor) (tensorRule, error) {
	rule, err := tensorRuleOf(arch)
	if err != nil || rule.as == "" {
		return rule, err
	}
	for _, t := range tensors {
		if t.Name == "output.bias" {
			// Only the architecture's own graph adds it.
			rule.as, rule.rename, rule.attention = "", nil, wideOnly
		}
	}
	return rule, nil
}
