package stage

import "slices"

// rule is what is special about an architecture when its layers are cut.
type rule struct {
	refuse string // why its layers are not cut; "": they are
	// single: what bars stages does not bar one stage of all layers, which
	// ranks may share.
	single bool
	end    string // node that ends a layer; "": l_out
	// enter is the node that a later stage's input replaces, because the
	// library would do to it again what it did to the token embeddings.
	enter string
	// positions: a learned table of positions is added to the embeddings.
	positions bool
	// scaleKey: embedding_scale applies to hidden states as well.
	scaleKey bool
	// scaleRow: rows are multiplied with the root of their width, which the
	// library skips for hidden states.
	scaleRow bool
	// mrope is 4 where a token has four positions, whatever the file says.
	mrope int
	// sections: the library takes hidden states only with M-RoPE sections.
	sections bool
	// sectioned: the same, but M-RoPE with any sections does what the library
	// does without, as long as all positions of a token are the same.
	sectioned bool
	// pattern: windowed layers are named by a key that takes an array.
	pattern bool
	// recurrent: recurrent layers are named by a key that takes an array.
	recurrent bool
	// number is what the library decides by a layer's number alone.
	number func(layer int) int
	// counts are numbers of layers that make the library take another model.
	counts []int
	// lite: certain numbers of layers mean a model without q_lora_rank, and
	// others choose how experts are gated.
	lite bool
	// experts is the step of layers with experts, a key.
	experts string
	// indexer: layers may use what an indexer in an earlier layer picked.
	indexer bool
	// sparse: layers after the leading dense ones attend in another way, and
	// the library wants one of them.
	sparse bool
	// both: windows do not suffice, a layer without one must be there too.
	both bool
}

const (
	noText    = "it is an embedding model and gives no next token"
	diffusion = "it is a diffusion model, which does not generate token after token"
	draft     = "it drafts for another model and reads that model's hidden states"
	unproved  = "no stage of it has been compared with the whole model yet"
	streams   = "several residual streams pass from layer to layer, and hidden states carry one"
	firstBack = "every layer reads what the first layer made"
	byCount   = "the library scales its layers by how many there are"
	looped    = "its layers are run several times over"
)

// every tells whether a layer is the last of each group of n.
func every(n int) func(int) int {
	return func(layer int) int {
		if (layer+1)%n == 0 {
			return 1
		}
		return 0
	}
}

// Architectures lists every architecture that llama.cpp v0.5.0 knows.
func Architectures() []string {
	return []string{"afmoe", "apertus", "arcee", "arctic", "arwkv7", "baichuan", "bailingmoe", "bailingmoe2", "bailingmoe3",
		"bert", "bitnet", "bloom", "chameleon", "chatglm", "clip", "codeshell", "cogvlm", "cohere2", "cohere2moe", "command-r",
		"dbrx", "deci", "deepseek", "deepseek2", "deepseek2-ocr", "deepseek32", "deepseek4", "dflash", "dots1", "dots3note",
		"dream", "eagle3", "ernie4_5", "ernie4_5-moe", "eurobert", "exaone", "exaone-moe", "exaone4", "falcon", "falcon-h1",
		"gemma", "gemma-embedding", "gemma2", "gemma3", "gemma3n", "gemma4", "gemma4-assistant", "glm-dsa", "glm4", "glm4moe",
		"gpt-oss", "gpt2", "gptj", "gptneox", "granite", "granite_swa", "granitehybrid", "granitemoe", "graniteswitch", "grok",
		"grovemoe", "hrm_text", "hunyuan-dense", "hunyuan-moe", "hunyuan_vl", "hy_v3", "hy_v4", "internlm2", "jais", "jais2",
		"jamba", "jina-bert-v2", "jina-bert-v3", "kimi-k3", "kimi-linear", "laguna", "lfm2", "lfm2moe", "llada", "llada-moe",
		"llama", "llama-embed", "llama4", "maincoder", "mamba", "mamba2", "maple", "mellum", "mimo2", "minicpm", "minicpm3",
		"minimax-01", "minimax-m2", "minimax-m3", "mistral3", "mistral4", "modern-bert", "mpt", "muse-glimmer", "nanbeige",
		"nemotron", "nemotron_h", "nemotron_h_moe", "neo-bert", "nomic-bert", "nomic-bert-moe", "olmo", "olmo2", "olmoe",
		"openelm", "orion", "paddleocr", "pangu-embedded", "phi2", "phi3", "phimoe", "plamo", "plamo2", "plamo3", "plm",
		"pockettts", "qwen", "qwen2", "qwen2moe", "qwen2vl", "qwen3", "qwen35", "qwen35moe", "qwen3moe", "qwen3next",
		"qwen3tts", "qwen3vl", "qwen3vlmoe", "qwen4exp", "refact", "rnd1", "rwkv6", "rwkv6qwen2", "rwkv7", "seed_oss",
		"smallthinker", "smollm3", "spark2_5", "stablelm", "starcoder", "starcoder2", "step35", "t5", "t5encoder", "talkie",
		"wavtokenizer-dec", "xverse"}
}

// ruleOf is what is known about an architecture, from reading llama.cpp v0.5.0
// (src/models) and from running every one that is not refused, whole and in
// stages.
func ruleOf(arch string) rule {
	if !slices.Contains(Architectures(), arch) {
		return rule{refuse: "the architecture is not known here"}
	}
	switch arch {
	case "bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3", "eurobert",
		"gemma-embedding", "llama-embed", "t5encoder":
		return rule{refuse: noText}
	case "dream", "llada", "llada-moe", "rnd1":
		return rule{refuse: diffusion}
	case "eagle3", "dflash", "gemma4-assistant":
		return rule{refuse: draft}
	case "clip", "wavtokenizer-dec", "gptj":
		return rule{refuse: "the library does not run it as a language model"}
	case "t5":
		return rule{refuse: "each layer of its decoder reads what the encoder made"}
	case "cogvlm":
		return rule{refuse: "the library takes hidden states for a picture there and uses other weights"}
	case "graniteswitch":
		return rule{refuse: "every layer picks its adapter by the token ids, which a later stage does not have"}
	case "deepseek4", "qwen4exp", "hy_v4":
		return rule{refuse: streams, single: arch != "qwen4exp"}
	case "kimi-k3":
		return rule{refuse: "its layers read the results of several earlier ones", single: true}
	case "talkie":
		return rule{refuse: "every layer adds the token embeddings again", single: true}
	case "rwkv7", "arwkv7":
		return rule{refuse: firstBack}
	case "gemma3n", "gemma4":
		return rule{refuse: "its layers read embeddings of their own by token id, or share an earlier layer's cache"}
	case "minicpm3", "minimax-01":
		return rule{refuse: byCount, single: true}
	case "hrm_text":
		return rule{refuse: looped}
	case "qwen3tts":
		return rule{refuse: "the library fixes the size of its output head"}
	case "apertus", "bitnet", "chameleon", "deepseek2-ocr", "plm", "rwkv6", "rwkv6qwen2", "step35":
		return rule{refuse: unproved}
	case "afmoe":
		return rule{enter: "inp_embd_scaled", pattern: true, number: every(4)}
	case "baichuan":
		return rule{counts: []int{32, 40}}
	case "bloom":
		return rule{enter: "inp_norm-0"}
	case "cohere2", "cohere2moe", "exaone-moe", "gpt-oss", "granite_swa", "laguna", "maple", "mellum",
		"mimo2", "olmo2", "plamo3", "spark2_5":
		return rule{pattern: true, scaleKey: arch == "granite_swa"}
	case "command-r":
		return rule{counts: []int{64}}
	case "deepseek2", "mistral4":
		return rule{lite: true}
	case "dots3note":
		return rule{pattern: true, indexer: true, both: true}
	case "ernie4_5-moe":
		return rule{experts: "interleave_moe_layer_step"}
	case "exaone4":
		return rule{pattern: true, counts: []int{64}}
	case "gemma":
		return rule{enter: "inp_scaled"}
	case "gemma2":
		return rule{enter: "inp_scaled", pattern: true, counts: []int{46}}
	case "gemma3":
		return rule{scaleRow: true, pattern: true, counts: []int{62}}
	case "glm-dsa":
		return rule{indexer: true}
	case "glm4":
		return rule{sections: true}
	case "glm4moe":
		return rule{mrope: 4, sectioned: true}
	case "gpt2", "starcoder":
		return rule{positions: true}
	case "granite", "granitehybrid", "granitemoe", "grok", "minicpm":
		return rule{scaleKey: true}
	case "llama4":
		return rule{pattern: true, number: every(4), experts: "interleave_moe_layer_step"}
	case "minimax-m3":
		return rule{sparse: true}
	case "mpt":
		return rule{positions: true}
	case "paddleocr", "qwen2vl", "qwen3vl", "qwen3vlmoe":
		return rule{mrope: 4}
	case "muse-glimmer":
		return rule{enter: "embd_norm", pattern: true}
	case "nemotron_h", "nemotron_h_moe":
		return rule{end: "nemotron_h_block_out"}
	case "plamo2":
		return rule{end: "ffn_residual"}
	case "qwen35", "qwen35moe":
		return rule{mrope: 4, recurrent: true}
	case "qwen3next":
		return rule{recurrent: true}
	case "smallthinker":
		return rule{pattern: true, number: func(layer int) int { return every(4)(layer + 3) }}
	case "smollm3":
		return rule{number: every(4)}
	}
	return rule{}
}

// ownHead tells whether the library wants output.weight of an architecture and
// does not take the embedding table in its place.
func ownHead(arch string) bool {
	switch arch {
	case "baichuan", "bailingmoe", "bailingmoe2", "codeshell", "dbrx", "deepseek4", "dots1", "exaone-moe", "falcon-h1", "gpt-oss",
		"gptneox", "hy_v4", "internlm2", "kimi-k3", "talkie",
		"jais", "kimi-linear", "maple", "mellum", "mimo2", "minimax-m2", "minimax-m3", "muse-glimmer", "nemotron",
		"olmo2", "olmoe", "orion", "phi2", "phimoe", "plamo", "qwen", "qwen2moe", "stablelm", "xverse":
		return true
	}
	return false
}

// layerArrays are the keys whose arrays have one entry a layer.
func layerArrays() []string {
	return []string{"attention.head_count", "attention.head_count_kv", "feed_forward_length",
		"attention.sliding_window_pattern", "attention.recurrent_layers", "attention.rope_pattern",
		"attention.indexer.types", "expert_feed_forward_length", "expert_used_count",
		"swiglu_clamp_exp", "swiglu_clamp_shexp"}
}
