// Package generation turns a neutral request into text: it renders the chat
// template, tokenizes, runs the model, and cuts the produced bytes into text,
// reasoning and finish reasons, exactly once and in one place for every API
// dialect. It keeps prompt and produced tokens of every open generation.
//
// It owns no process and no socket: a Model is handed in by the caller.
package generation

import (
	"encoding/json"

	"github.com/skein-run/skein/internal/chat/calls"
	"github.com/skein-run/skein/internal/runner/wire"
)

// Call is a call of a function that the model asks the client for.
type Call = calls.Call

// Tool is a function that the model may ask for.
type Tool struct {
	Name       string
	Definition json.RawMessage // as the client gave it: {"type":"function","function":{...}}
}

// Message is one turn of a conversation, in the vocabulary of chat templates.
type Message struct {
	Role    string // system | developer | user | assistant | tool
	Content string
	Name    string // optional: participant's name
	// ReasoningContent is what an assistant turn thought; templates that know
	// the field may render or drop it.
	ReasoningContent string
	ToolCallID       string
	// Calls are those that an assistant turn made; their Arguments must be JSON.
	Calls []Call
}

// Request is one request for text, free of any API dialect. Exactly one of
// Messages, Prompt and Tokens is set.
type Request struct {
	Model    string
	Messages []Message
	Prompt   *string // raw text completion, no template
	Tokens   []int32 // raw completion from token ids

	Choices     int // n; at least 1
	MaxTokens   int // 0: up to the context
	Stop        []string
	Sampling    wire.Sampling
	SeedSet     bool // Sampling.Seed was given by the client; otherwise one is drawn
	Logprobs    bool
	TopLogprobs int
	Echo        bool // completions: the prompt is part of the answer
	IgnoreEnd   bool // benchmarks: go on after end-of-generation tokens
	NoCache     bool // benchmarks: compute the prompt, whatever is cached of it

	// Progress asks for events that tell how far the prompt is.
	Progress bool

	// ID names the request for its client, in answers and for a cancel; "": it
	// has no name.
	ID string

	// TemplateArgs are extra variables for the chat template
	// (chat_template_kwargs, enable_thinking, ...).
	TemplateArgs map[string]any

	// Tools are for conversations only.
	Tools []Tool
	// MustCall has the answer begin with a call, of the function CallName if it
	// is set.
	MustCall bool
	CallName string
	// OneCall ends the answer with its first call.
	OneCall bool
}

// Finish reasons.
const (
	FinishStop   = "stop"
	FinishLength = "length"
	FinishCalls  = "tool_calls" // as FinishStop, and there was a call
)

// Event is what a generation yields. A zero Usage pointer and an empty
// FinishReason mean "more to come".
type Event struct {
	Choice    int    // 0..Choices-1
	Text      string // answer text, valid UTF-8, possibly empty
	Reasoning string // text inside <think>..</think>
	Logprobs  []TokenLogprob
	// Calls are whole; the event's Text comes before them.
	Calls []Call

	// Prompt is set with Request.Progress only: alone, while a long prompt is
	// computed, and whole with the first text of the first choice.
	Prompt *PromptProgress

	// FinishReason is set on the last event of a choice.
	FinishReason string
	// Usage is set on the very last event of the whole request only.
	Usage *Usage
}

// TokenLogprob is the log-probability of one emitted token and its rivals.
type TokenLogprob struct {
	Token   int32
	Bytes   []byte
	Logprob float32 // natural logarithm
	Top     []TokenLogprob
}

// Usage counts the tokens of a request over all its choices.
type Usage struct {
	PromptTokens     int
	CompletionTokens int
	CachedTokens     int // of PromptTokens
	ReasoningTokens  int // of CompletionTokens

	QueueSeconds   float64
	PrefillSeconds float64 // slot given to first token
	DecodeSeconds  float64 // first to last token
}

// Kind sorts errors for the API edges, which turn them into status codes.
type Kind string

// Kinds of errors.
const (
	KindInvalid         Kind = "invalid"          // 400
	KindUnsupported     Kind = "unsupported"      // 400 unsupported_parameter: not by this model
	KindContextExceeded Kind = "context_exceeded" // 400 context_length_exceeded
	KindModelNotFound   Kind = "model_not_found"  // 404
	KindAmbiguousModel  Kind = "ambiguous_model"  // 409
	KindBusy            Kind = "busy"             // 429
	KindNoMemory        Kind = "no_memory"        // 507
	KindUnavailable     Kind = "unavailable"      // 503: starting, stopping, crash loop
	KindFailed          Kind = "failed"           // 500: the runner died or decode failed
	KindCancelled       Kind = "cancelled"        // 499: somebody else ended it
)

// Error is an error a client is told about. Message names the cause and the
// fix; Err, if any, is the cause for the log.
type Error struct {
	Kind    Kind
	Message string
	Param   string // request field at fault, if one is
	// RetryAfter in seconds; 0: none.
	RetryAfter int
	// PromptTokens and Context are set for KindContextExceeded.
	PromptTokens, Context int
	Err                   error
}

func (e *Error) Error() string { return e.Message }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }
