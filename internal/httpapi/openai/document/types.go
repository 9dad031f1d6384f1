package document

// OpenAIModel is a model that can be asked for.
type OpenAIModel struct {
	ID            string `json:"id" example:"org/Qwen3-30B-GGUF"`
	Object        string `json:"object" enum:"model"`
	Created       int64  `json:"created" doc:"Unix seconds" example:"1764000000"`
	OwnedBy       string `json:"owned_by" example:"skein"`
	Loaded        bool   `json:"loaded"`
	ContextLength *int   `json:"context_length" doc:"Tokens of one request; before the model is loaded, what it was trained for; null: not known" example:"8192"`
}

// ModelList is what can be asked for.
type ModelList struct {
	Object string        `json:"object" enum:"list"`
	Data   []OpenAIModel `json:"data" nullable:"false"`
}

// Common are the parameters of both ways to ask.
type Common struct {
	Model         string             `json:"model" minLength:"1" maxLength:"512" doc:"Full id or short name, without regard to case" example:"Qwen3-30B-GGUF"`
	Stream        bool               `json:"stream,omitempty" doc:"Answer piece by piece, with server-sent events"`
	StreamOptions *StreamOptions     `json:"stream_options,omitempty" doc:"With stream only"`
	N             int                `json:"n,omitempty" minimum:"1" maximum:"16" doc:"How many answers; left out: 1"`
	MaxTokens     int                `json:"max_tokens,omitempty" minimum:"1" maximum:"1073741824" doc:"Tokens of each answer at most" example:"256"`
	Stop          []string           `json:"stop,omitempty" maxItems:"16" nullable:"false" doc:"Texts that end an answer; one may be given as a string"`
	Temperature   *float64           `json:"temperature,omitempty" minimum:"0" maximum:"2" doc:"0: always the likeliest token; left out: 1" example:"0.7"`
	TopP          *float64           `json:"top_p,omitempty" minimum:"0" maximum:"1" doc:"Draw from the likeliest tokens that have this probability together; left out: 1" example:"0.95"`
	TopK          int                `json:"top_k,omitempty" minimum:"0" maximum:"1073741824" doc:"Draw from so many tokens; 0: from all"`
	MinP          float64            `json:"min_p,omitempty" minimum:"0" maximum:"1" doc:"Only tokens that have this part of the likeliest one's probability"`
	Frequency     float64            `json:"frequency_penalty,omitempty" minimum:"-2" maximum:"2"`
	Presence      float64            `json:"presence_penalty,omitempty" minimum:"-2" maximum:"2"`
	Seed          *int64             `json:"seed,omitempty" doc:"The same seed draws the same again" example:"42"`
	LogitBias     map[string]float64 `json:"logit_bias,omitempty" doc:"What is added to the logits of tokens, -100 to 100, by token id"`
	User          string             `json:"user,omitempty" maxLength:"1024" doc:"Taken, and not used"`
}

// StreamOptions go with stream.
type StreamOptions struct {
	IncludeUsage bool `json:"include_usage,omitempty" doc:"End with a chunk that has the usage"`
}

// ChatCompletionRequest is the body of POST /v1/chat/completions.
type ChatCompletionRequest struct {
	Common
	Messages            []ChatMessage `json:"messages" minItems:"1" maxItems:"16384" nullable:"false"`
	MaxCompletionTokens int           `json:"max_completion_tokens,omitempty" minimum:"1" maximum:"1073741824" doc:"The same as max_tokens, newer"`
	Logprobs            bool          `json:"logprobs,omitempty"`
	TopLogprobs         int           `json:"top_logprobs,omitempty" minimum:"0" maximum:"20" doc:"How many rivals of each token to tell, with logprobs"`
	ReasoningEffort     string        `json:"reasoning_effort,omitempty" enum:"none,minimal,low,medium,high,xhigh,max" doc:"For models whose template has such a setting; others take medium only" example:"medium"`
	Tools               []ChatTool    `json:"tools,omitempty" maxItems:"128" nullable:"false" doc:"Functions that the model may ask for; for models that were trained for it"`
	ParallelToolCalls   *bool         `json:"parallel_tool_calls,omitempty" doc:"With tools; false: the answer ends with its first call"`
}

// ChatTool is a function that a model may ask its client to call.
type ChatTool struct {
	Type     string       `json:"type" enum:"function"`
	Function ChatFunction `json:"function"`
}

// ChatFunction describes one.
type ChatFunction struct {
	Name        string         `json:"name" pattern:"^[A-Za-z0-9_-]{1,64}$" example:"get_weather"`
	Description string         `json:"description,omitempty" doc:"When to call it, for the model"`
	Parameters  map[string]any `json:"parameters,omitempty" doc:"JSON schema of its arguments"`
}

// ChatCall is a call that a model asks for.
type ChatCall struct {
	ID       string           `json:"id" doc:"What the message with the result says in tool_call_id"`
	Type     string           `json:"type" enum:"function"`
	Function ChatCallFunction `json:"function"`
}

// ChatCallFunction is what to call.
type ChatCallFunction struct {
	Name      string `json:"name" example:"get_weather"`
	Arguments string `json:"arguments" doc:"A JSON object" example:"{}"`
}

// ChatMessage is one turn of a conversation.
type ChatMessage struct {
	Role             string     `json:"role" enum:"system,developer,user,assistant,tool" example:"user"`
	Content          string     `json:"content" doc:"Its text; a list of parts {\"type\": \"text\", \"text\": ...} is taken too" example:"Hello"`
	Name             string     `json:"name,omitempty" maxLength:"1024"`
	ToolCallID       string     `json:"tool_call_id,omitempty" maxLength:"1024" doc:"Of the role tool, where it is needed: the call that it answers"`
	ReasoningContent string     `json:"reasoning_content,omitempty" doc:"Of the role assistant: what it thought"`
	ToolCalls        []ChatCall `json:"tool_calls,omitempty" maxItems:"128" nullable:"false" doc:"Of the role assistant: the calls that it asked for; content may then be null"`
}

// ChatCompletion is an answer of POST /v1/chat/completions.
type ChatCompletion struct {
	ID                string       `json:"id" example:"chatcmpl-1"`
	Object            string       `json:"object" enum:"chat.completion"`
	Created           int64        `json:"created" doc:"Unix seconds" example:"1764000000"`
	Model             string       `json:"model" doc:"Full id" example:"org/Qwen3-30B-GGUF"`
	SystemFingerprint *string      `json:"system_fingerprint" doc:"Versions of node and engine"`
	Choices           []ChatChoice `json:"choices" nullable:"false"`
	Usage             Usage        `json:"usage"`
}

// ChatChoice is one answer.
type ChatChoice struct {
	Index        int           `json:"index" example:"0"`
	Message      ChatAnswer    `json:"message"`
	Logprobs     *ChatLogprobs `json:"logprobs" doc:"Null unless they were asked for"`
	FinishReason string        `json:"finish_reason" enum:"stop,length,tool_calls" doc:"stop: it is whole; length: max_tokens or the context ended it; tool_calls: it is whole, with calls"`
}

// ChatAnswer is what the model says.
type ChatAnswer struct {
	Role             string     `json:"role" enum:"assistant"`
	Content          string     `json:"content" example:"Hello! How can I help you?"`
	Refusal          *string    `json:"refusal" doc:"Always null"`
	ReasoningContent string     `json:"reasoning_content,omitempty" doc:"What it thought before"`
	ToolCalls        []ChatCall `json:"tool_calls,omitempty" nullable:"false" doc:"Calls that it asks for"`
}

// ChatLogprobs are the probabilities of an answer's tokens.
type ChatLogprobs struct {
	Content []TokenLogprob `json:"content" nullable:"false"`
}

// TokenLogprob is a token with its rivals.
type TokenLogprob struct {
	Token       string       `json:"token" example:"Hello"`
	Logprob     float64      `json:"logprob" example:"-0.1"`
	Bytes       []int        `json:"bytes" nullable:"false" doc:"Of the token; its text may be part of a character"`
	TopLogprobs []RivalToken `json:"top_logprobs" nullable:"false"`
}

// RivalToken is a token that might have come instead.
type RivalToken struct {
	Token   string  `json:"token" example:"Hello"`
	Logprob float64 `json:"logprob" example:"-0.1"`
	Bytes   []int   `json:"bytes" nullable:"false"`
}

// ChatCompletionChunk is the data of an event of a chat that is streamed.
type ChatCompletionChunk struct {
	ID      string      `json:"id" example:"chatcmpl-1"`
	Object  string      `json:"object" enum:"chat.completion.chunk"`
	Created int64       `json:"created" doc:"Unix seconds" example:"1764000000"`
	Model   string      `json:"model" doc:"Full id" example:"org/Qwen3-30B-GGUF"`
	Choices []ChatPiece `json:"choices" nullable:"false" doc:"Empty in the chunk that has the usage"`
	Usage   *Usage      `json:"usage,omitempty" doc:"In the last chunk, with include_usage; null in the others"`
}

// ChatPiece is what an answer goes on with.
type ChatPiece struct {
	Index        int       `json:"index" example:"0"`
	Delta        ChatDelta `json:"delta"`
	FinishReason *string   `json:"finish_reason" doc:"Null before the end; then stop, length or tool_calls"`
}

// ChatDelta is a piece of an answer.
type ChatDelta struct {
	Role             string          `json:"role,omitempty" doc:"In the first piece" enum:"assistant"`
	Content          string          `json:"content,omitempty" example:"Hello"`
	ReasoningContent string          `json:"reasoning_content,omitempty"`
	ToolCalls        []ChatCallPiece `json:"tool_calls,omitempty" nullable:"false" doc:"Whole calls"`
}

// ChatCallPiece is a call in a stream.
type ChatCallPiece struct {
	Index    int              `json:"index" doc:"Of the call in its answer" example:"0"`
	ID       string           `json:"id"`
	Type     string           `json:"type" enum:"function"`
	Function ChatCallFunction `json:"function"`
}

// Usage counts tokens.
type Usage struct {
	PromptTokens     int `json:"prompt_tokens" example:"12"`
	CompletionTokens int `json:"completion_tokens" example:"8"`
	TotalTokens      int `json:"total_tokens" example:"20"`
}

// CompletionRequest is the body of POST /v1/completions.
type CompletionRequest struct {
	Common
	Prompt   string `json:"prompt" doc:"The text to go on with; a list of texts, token ids, or lists of those are taken too" example:"Once upon a time"`
	Echo     bool   `json:"echo,omitempty" doc:"Begin the answer with the prompt"`
	Logprobs *int   `json:"logprobs,omitempty" minimum:"0" maximum:"5" doc:"How many rivals of each token to tell; not together with echo"`
}

// Completion is an answer of POST /v1/completions.
type Completion struct {
	ID                string             `json:"id" example:"cmpl-1"`
	Object            string             `json:"object" enum:"text_completion"`
	Created           int64              `json:"created" doc:"Unix seconds" example:"1764000000"`
	Model             string             `json:"model" doc:"Full id" example:"org/Qwen3-30B-GGUF"`
	SystemFingerprint *string            `json:"system_fingerprint" doc:"Versions of node and engine"`
	Choices           []CompletionChoice `json:"choices" nullable:"false"`
	Usage             Usage              `json:"usage"`
}

// CompletionChoice is one answer.
type CompletionChoice struct {
	Index        int                 `json:"index" example:"0"`
	Text         string              `json:"text" example:", there was a small node."`
	Logprobs     *CompletionLogprobs `json:"logprobs" doc:"Null unless they were asked for"`
	FinishReason string              `json:"finish_reason" enum:"stop,length" doc:"stop: it is whole; length: max_tokens or the context ended it"`
}

// CompletionChunk is the data of an event of a completion that is streamed.
type CompletionChunk struct {
	ID      string            `json:"id" example:"cmpl-1"`
	Object  string            `json:"object" enum:"text_completion"`
	Created int64             `json:"created" doc:"Unix seconds" example:"1764000000"`
	Model   string            `json:"model" doc:"Full id" example:"org/Qwen3-30B-GGUF"`
	Choices []CompletionPiece `json:"choices" nullable:"false" doc:"Empty in the chunk that has the usage"`
	Usage   *Usage            `json:"usage,omitempty" doc:"In the last chunk, with include_usage; null in the others"`
}

// CompletionPiece is what an answer goes on with.
type CompletionPiece struct {
	Index        int     `json:"index" example:"0"`
	Text         string  `json:"text" example:", there was"`
	FinishReason *string `json:"finish_reason" doc:"Null before the end; then stop, length or tool_calls"`
}

// CompletionLogprobs are the probabilities of an answer's tokens.
type CompletionLogprobs struct {
	Tokens        []string             `json:"tokens" nullable:"false"`
	TokenLogprobs []float64            `json:"token_logprobs" nullable:"false"`
	TopLogprobs   []map[string]float64 `json:"top_logprobs" nullable:"true"`
	TextOffset    []int                `json:"text_offset" nullable:"false"`
}
