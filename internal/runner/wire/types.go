// Package wire is the protocol between a node and its runner child process:
// the messages, their encoding, and a Conn that frames them over a pair of
// byte streams (the child's stdin and stdout).
//
// Every frame is length-checked before anything is allocated, and the first
// frame each side sends is a Hello with the protocol version, so that a node
// never talks to a runner of another build by accident. The package knows
// neither processes nor llama.cpp; it is used by internal/runner (child side)
// and internal/supervise (node side).
package wire

// Version is the protocol version. It grows by one with every incompatible
// change; both sides must agree.
//
//	1  2026-11-22  first version
//	2  2026-11-22  shards: Connect, Broken, Eval
//	3  2026-11-22  snapshots: StateGet, StatePut, Adopt
const Version = 3

// Hello is the first frame in both directions.
type Hello struct {
	Version int    `json:"version"`
	Build   string `json:"build"` // version of the skein binary
}

// EngineSpec says which library the runner loads and is sent first of all.
type EngineSpec struct {
	Dir      string `json:"dir"`       // folder where ggml looks for its backends
	Llama    string `json:"llama"`     // path of libllama
	GGML     string `json:"ggml"`      // path of libggml
	GGMLBase string `json:"ggml_base"` // path of libggml-base
}

// EngineInfo describes the loaded library.
type EngineInfo struct {
	Dir        string   `json:"dir"`
	Version    string   `json:"version"`     // llama_version()
	SystemInfo string   `json:"system_info"` // llama_print_system_info()
	Devices    []Device `json:"devices"`
	// Problems are backends beside the library that show no device, a sentence
	// each. Only a probe looks for them.
	Problems []string `json:"problems,omitempty"`
}

// Device is one ggml backend device.
type Device struct {
	Name        string `json:"name"`        // "CPU", "CUDA0", ...
	Description string `json:"description"` // marketing name
	Backend     string `json:"backend"`     // registry name: "CPU", "CUDA", "Vulkan", "Metal"
	Type        string `json:"type"`        // cpu | gpu | igpu | accel
	MemoryFree  uint64 `json:"memory_free"` // bytes
	MemoryTotal uint64 `json:"memory_total"`
}

// AllLayers in LoadRequest.GPULayers is the whole model, also where it does not fit.
const AllLayers = 1 << 20

// Processor is what LoadRequest.On calls the processor, as the library does.
const Processor = "CPU"

// On is the same load with all layers on a device that EngineInfo names.
func (r LoadRequest) On(device string) LoadRequest {
	r.Device, r.GPULayers = device, AllLayers
	if device == Processor {
		r.Device, r.GPULayers = "", 0
	}
	return r
}

// LoadRequest asks the runner to load a model and open its context.
type LoadRequest struct {
	Paths        []string `json:"paths"`         // one file, or all parts of a split GGUF in order
	Slots        int      `json:"slots"`         // streams that may run at once
	Context      int      `json:"context"`       // tokens for each slot
	Threads      int      `json:"threads"`       // 0: chosen by the runner
	ChunkTokens  int      `json:"chunk_tokens"`  // prompt tokens a step may take; 0: default
	GPULayers    int      `json:"gpu_layers"`    // the last ones, the output head being one; negative: of a whole model as many as fit, of a shard all; 0: no GPU is used
	Device       string   `json:"device"`        // "CUDA0": that GPU alone, as EngineInfo names it; "": any
	CacheBytes   int64    `json:"cache_bytes"`   // host memory for spilled prefixes; 0: none
	Mmap         bool     `json:"mmap"`          // map weights instead of reading them
	VocabOnly    bool     `json:"vocab_only"`    // tokenizer only; Generate is refused
	PrefixReuse  string   `json:"prefix_reuse"`  // exact (default) | longest | off
	PendingLimit int      `json:"pending_limit"` // requests that may wait for a slot; more are refused
	// PlainAttention avoids the library's flash attention kernels: the same
	// results, rounded otherwise. Comparing the two tells how far the library is
	// from itself on a model.
	PlainAttention bool `json:"plain_attention,omitempty"`
	// Shard makes the runner one shard of the model; nil: the whole of it.
	Shard *ShardSpec `json:"shard,omitempty"`
}

// ModelInfo describes a loaded model.
type ModelInfo struct {
	Description    string  `json:"description"` // "llama 135M Q4_1"
	Parameters     uint64  `json:"parameters"`
	Bytes          uint64  `json:"bytes"` // size of all tensors
	Layers         int     `json:"layers"`
	Embedding      int     `json:"embedding"`
	Vocabulary     int     `json:"vocabulary"`
	TrainedContext int     `json:"trained_context"`
	Context        int     `json:"context"` // tokens of each slot, as opened
	Slots          int     `json:"slots"`
	Threads        int     `json:"threads"`
	ChunkTokens    int     `json:"chunk_tokens"`
	BOS            int32   `json:"bos"` // -1: none
	EOS            int32   `json:"eos"`
	AddBOS         bool    `json:"add_bos"`
	BOSPiece       string  `json:"bos_piece"`
	EOSPiece       string  `json:"eos_piece"`
	EndTokens      []int32 `json:"end_tokens"`    // every end-of-generation token
	ChatTemplate   string  `json:"chat_template"` // "": the model has none
	Memory         string  `json:"memory"`        // attention | sliding_window | recurrent | hybrid
	GPULayers      int     `json:"gpu_layers"`    // on accelerators, the output head being one; 0: none is used
	LoadSeconds    float64 `json:"load_seconds"`
	Link           string  `json:"link,omitempty"` // address for links of other shards; "": a whole model
}

// Sampling says how the next token is drawn from the logits. The zero value
// of a field is not its neutral value: use NeutralSampling.
type Sampling struct {
	Temperature      float32 `json:"temperature"` // 0: greedy
	TopK             int     `json:"top_k"`       // 0: all
	TopP             float32 `json:"top_p"`       // 1: all
	MinP             float32 `json:"min_p"`       // 0: none
	TypicalP         float32 `json:"typical_p"`   // 1: off
	Seed             uint64  `json:"seed"`
	RepeatPenalty    float32 `json:"repeat_penalty"`    // 1: off
	RepeatLastN      int     `json:"repeat_last_n"`     // tokens looked back at; -1: whole context
	FrequencyPenalty float32 `json:"frequency_penalty"` // 0: off
	PresencePenalty  float32 `json:"presence_penalty"`  // 0: off
	// LogitBias is added to the logits before everything else.
	LogitBias map[int32]float32 `json:"logit_bias,omitempty"`
}

// NeutralSampling draws from the model's own distribution.
func NeutralSampling() Sampling {
	return Sampling{Temperature: 1, TopP: 1, TypicalP: 1, RepeatPenalty: 1, RepeatLastN: 64}
}

// GenerateRequest starts a generation. ID is chosen by the node, is unique on
// the connection, and names the generation in every frame about it.
type GenerateRequest struct {
	ID          uint64   `json:"id"`
	Prompt      []int32  `json:"prompt"`
	MaxTokens   int      `json:"max_tokens"` // 0: as many as the context holds
	Sampling    Sampling `json:"sampling"`
	Logprobs    bool     `json:"logprobs"`
	TopLogprobs int      `json:"top_logprobs"` // 0..20
	IgnoreEnd   bool     `json:"ignore_end"`   // go on after an end-of-generation token (benchmarks)
	// NoCache computes the whole prompt, whatever is cached of it (benchmarks).
	NoCache bool `json:"no_cache,omitempty"`
	// Progress asks for Prompt frames while a prompt of several batches is
	// computed.
	Progress bool `json:"progress,omitempty"`
	// Drawn is how many of the prompt's last tokens an earlier part of this
	// generation produced: their random numbers are skipped, and penalties
	// count them as produced.
	Drawn int `json:"drawn"`
}

// Prompt tells how many of a prompt's tokens are computed.
type Prompt struct {
	Done  int `json:"done"`
	Total int `json:"total"`
}

// Reasons why a generation ended.
const (
	ReasonStop      = "stop"      // end-of-generation token
	ReasonLength    = "length"    // MaxTokens or the context is used up
	ReasonCancelled = "cancelled" // Cancel frame
	ReasonError     = "error"     // see Done.Error
)

// Error codes of a Done or a Failure.
const (
	CodeBusy            = "busy"             // PendingLimit reached
	CodeContextExceeded = "context_exceeded" // prompt does not fit a slot
	CodeInvalid         = "invalid"          // the request makes no sense (token id out of range, ...)
	CodeEngine          = "engine"           // library missing, wrong version, wrong ABI
	CodeModel           = "model"            // the library refuses the model file
	CodeMemory          = "memory"           // not enough memory for the model or its context
	CodeInternal        = "internal"         // decode failed
)

// Token is one generated token.
type Token struct {
	ID      uint64 // generation
	Token   int32
	Piece   []byte // text of the token; may end within a UTF-8 sequence; empty for control tokens
	Logprob float32
	// Top is sorted by falling probability; empty without TopLogprobs.
	Top []TokenLogprob
	// HasLogprob tells whether Logprob was asked for.
	HasLogprob bool
}

// TokenLogprob is one candidate at a position.
type TokenLogprob struct {
	Token   int32
	Piece   []byte
	Logprob float32 // natural logarithm
}

// Done ends a generation; nothing about its ID follows.
type Done struct {
	ID             uint64  `json:"id"`
	Reason         string  `json:"reason"`
	Code           string  `json:"code,omitempty"`
	Error          string  `json:"error,omitempty"`
	PromptTokens   int     `json:"prompt_tokens"`
	CachedTokens   int     `json:"cached_tokens"` // of PromptTokens, taken from the prefix cache
	Generated      int     `json:"generated"`
	QueueSeconds   float64 `json:"queue_seconds"`   // waiting for a slot
	PrefillSeconds float64 `json:"prefill_seconds"` // slot to first token
	DecodeSeconds  float64 `json:"decode_seconds"`  // first to last token
}

// Failure answers a request that has no generation (Load, Tokenize, ...).
type Failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// Error makes a Failure an error.
func (f *Failure) Error() string { return f.Message }

// Stats is a snapshot of the runner's scheduler.
type Stats struct {
	SlotsBusy       int    `json:"slots_busy"`
	Pending         int    `json:"pending"`
	Steps           uint64 `json:"steps"`
	DecodedTokens   uint64 `json:"decoded_tokens"`
	PromptTokens    uint64 `json:"prompt_tokens"` // computed, not cached
	CachedTokens    uint64 `json:"cached_tokens"`
	CacheBytes      int64  `json:"cache_bytes"`
	CacheEntries    int    `json:"cache_entries"`
	GoroutinesCount int    `json:"goroutines"`
}
