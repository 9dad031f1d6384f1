// Package shape shows the cluster in the shapes that clients of exo read: its
// state, model cards, instances and shards, camelCase, with unions as objects of
// one key, the tag. It also reads an instance that such a client sends.
//
// It is pure: what a node knows at a moment (view.Inputs) goes in, values for
// encoding/json come out. It imports the cluster's core alone. All functions
// may be called from any goroutine.
package shape

import (
	"strings"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/placement"
)

// Tag is a value of a union: {"RunnerReady":{...}}.
type Tag map[string]any

// Memory is a number of bytes.
type Memory struct {
	InBytes int64 `json:"inBytes"`
}

// Backend stands for llama.cpp where exo names an engine.
const Backend = "LlamaCpp"

// Tags and names of unions.
const (
	RingInstance  = "MlxRingInstance"
	JacclInstance = "MlxJacclInstance"
	PipelineShard = "PipelineShardMetadata"
	TensorShard   = "TensorShardMetadata"
	Ring          = "MlxRing"
	Jaccl         = "MlxJaccl"
	Pipeline      = "Pipeline"
	Tensor        = "Tensor"
)

// Card describes a model.
type Card struct {
	ModelID          string   `json:"modelId"`
	StorageSize      Memory   `json:"storageSize"`
	Layers           int      `json:"nLayers"`
	HiddenSize       int      `json:"hiddenSize"`
	SupportsTensor   bool     `json:"supportsTensor"`
	NumKeyValueHeads *int     `json:"numKeyValueHeads"` // null: none, or not known
	Tasks            []string `json:"tasks"`
	Components       *string  `json:"components"` // of image models: always null
	Family           string   `json:"family"`
	Quantization     string   `json:"quantization"`
	BaseModel        string   `json:"baseModel"`
	Capabilities     []string `json:"capabilities"`
	Backends         []string `json:"backends"`
	ReasoningDialect string   `json:"reasoningDialect"`
	ContextLength    int      `json:"contextLength"` // trained for; 0: not known
	UsesCFG          bool     `json:"usesCfg"`
	TrustRemoteCode  bool     `json:"trustRemoteCode"`
	IsCustom         bool     `json:"isCustom"`
	Vision           *string  `json:"vision"` // always null
	SamplingDefaults defaults `json:"samplingDefaults"`
}

// defaults are what a client may leave out of a request: the node's, which are
// neutral, so that all are null.
type defaults struct {
	Temperature       *float64 `json:"temperature"`
	TopP              *float64 `json:"topP"`
	TopK              *int     `json:"topK"`
	MinP              *float64 `json:"minP"`
	RepetitionPenalty *float64 `json:"repetitionPenalty"`
	PresencePenalty   *float64 `json:"presencePenalty"`
	FrequencyPenalty  *float64 `json:"frequencyPenalty"`
	Thinking          *string  `json:"thinking"`
	NonThinking       *string  `json:"nonThinking"`
}

// CardOf describes a model of the cluster. What only its file would tell is
// read from its name.
func CardOf(m cluster.Model) Card {
	c := Card{
		ModelID: m.Name, StorageSize: Memory{Size(m)}, Layers: len(m.Profile.Layers), HiddenSize: m.Profile.Embedding,
		SupportsTensor: TensorParts(m.Profile), Tasks: []string{"TextGeneration"}, Capabilities: []string{"text"},
		Backends: []string{Backend}, ReasoningDialect: "none", ContextLength: m.Profile.Trained,
	}
	if n := m.Profile.Units; n > 1 {
		c.NumKeyValueHeads = &n
	}
	c.BaseModel, c.Quantization = Named(m.Name)
	c.Family = family(c.BaseModel)
	return c
}

// Size is that of a model's files, bytes.
func Size(m cluster.Model) int64 {
	var n int64
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}

// TensorParts tells whether a model's layers can be shared out.
func TensorParts(p placement.Model) bool { return p.NoTensor == "" && p.Units > 1 }

// Named splits the quantization off a model's name, as GGUF files have it at
// the end: "org/Qwen3-8B-Q4_K_M" is Qwen3-8B in Q4_K_M.
func Named(model string) (base, quantization string) {
	base = model[strings.LastIndexByte(model, '/')+1:]
	base = strings.TrimSuffix(base, "-GGUF")
	if i := strings.LastIndexAny(base, "-."); i > 0 && quantized(base[i+1:]) {
		return base[:i], strings.ToUpper(base[i+1:])
	}
	return base, ""
}

// quantized tells whether a word names a quantization: Q4_K_M, IQ2_XS, F16,
// BF16, MXFP4.
func quantized(word string) bool {
	word = strings.ToUpper(word)
	for _, prefix := range []string{"IQ", "TQ", "Q", "BF", "F", "MXFP"} {
		rest, ok := strings.CutPrefix(word, prefix)
		if ok && rest != "" && rest[0] >= '0' && rest[0] <= '9' {
			return strings.Trim(rest, "0123456789_KSMLXUPNT") == ""
		}
	}
	return false
}

// family is the word that a model's name begins with, without its version:
// "Qwen3-8B" is of the family qwen.
func family(base string) string {
	base = strings.ToLower(base)
	if i := strings.IndexFunc(base, func(r rune) bool { return r < 'a' || r > 'z' }); i >= 0 {
		base = base[:i]
	}
	return base
}
