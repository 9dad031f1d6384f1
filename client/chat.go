package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/skein-run/skein/api"
)

// maxEvent bounds one server-sent event; a node's are far below.
const maxEvent = 16 << 20

// ErrCutOff means that a stream ended before the node said it was complete.
var ErrCutOff = errors.New("the answer broke off: the node closed the connection before the end")

// Message is one turn of a chat.
type Message struct {
	Role             string `json:"role"` // system | user | assistant
	Content          string `json:"content"`
	ReasoningContent string `json:"reasoning_content,omitempty"`
}

// ChatRequest is what Chat sends to /v1/chat/completions. Nil pointers leave a
// value to the node.
type ChatRequest struct {
	Model    string    `json:"model"`
	Messages []Message `json:"messages"`

	Temperature      *float64 `json:"temperature,omitempty"` // 0..2
	TopP             *float64 `json:"top_p,omitempty"`       // 0..1
	TopK             *int     `json:"top_k,omitempty"`       // 0: all
	MinP             *float64 `json:"min_p,omitempty"`       // 0..1
	TypicalP         *float64 `json:"typical_p,omitempty"`   // 0..1
	RepeatPenalty    *float64 `json:"repeat_penalty,omitempty"`
	PresencePenalty  *float64 `json:"presence_penalty,omitempty"`  // -2..2
	FrequencyPenalty *float64 `json:"frequency_penalty,omitempty"` // -2..2
	Seed             *int64   `json:"seed,omitempty"`
	MaxTokens        *int     `json:"max_completion_tokens,omitempty"`
	Stop             []string `json:"stop,omitempty"`

	// TemplateArgs are variables of the model's chat template, such as
	// enable_thinking.
	TemplateArgs map[string]any `json:"chat_template_kwargs,omitempty"`
}

// ChatChunk is a piece of a streamed answer.
type ChatChunk struct {
	Model     string
	Content   string
	Reasoning string // what a reasoning model thinks before it answers
	// FinishReason is "stop" or "length" on the last piece of text.
	FinishReason string
	// Usage comes once, after the text.
	Usage *Usage
}

// Usage counts the tokens of one request.
type Usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	PromptDetails    struct {
		CachedTokens int `json:"cached_tokens"` // of PromptTokens: taken from the prefix cache
	} `json:"prompt_tokens_details"`
	CompletionDetails struct {
		ReasoningTokens int `json:"reasoning_tokens"` // of CompletionTokens
	} `json:"completion_tokens_details"`
}

// Chat sends a request and hands each piece of the answer to emit, in order and
// from the calling goroutine. It returns nil only when the node said that the
// answer is complete; an error of emit ends the stream and is returned as it
// is. Ending ctx cancels the generation on the node.
func (c *Client) Chat(ctx context.Context, req ChatRequest, emit func(ChatChunk) error) error {
	body := struct {
		ChatRequest
		Stream        bool            `json:"stream"`
		StreamOptions map[string]bool `json:"stream_options"`
	}{req, true, map[string]bool{"include_usage": true}}
	res, err := c.send(ctx, http.MethodPost, "/v1/chat/completions", nil, body, "text/event-stream")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if kind := res.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/event-stream") {
		return fmt.Errorf("%s answered with %q instead of a stream; is it a skein node?", c.base, kind)
	}
	done := false
	err = readEvents(res.Body, func(data []byte) error {
		if string(data) == "[DONE]" {
			done = true
			return io.EOF
		}
		return decodeChunk(data, emit)
	})
	if done {
		return nil
	}
	if err == nil {
		err = ErrCutOff
	}
	return contextOr(ctx, err)
}

// decodeChunk hands one event to emit.
func decodeChunk(data []byte, emit func(ChatChunk) error) error {
	var event struct {
		Model   string `json:"model"`
		Choices []struct {
			Delta struct {
				Content   string `json:"content"`
				Reasoning string `json:"reasoning_content"`
			} `json:"delta"`
			FinishReason string `json:"finish_reason"`
		} `json:"choices"`
		Usage *Usage     `json:"usage"`
		Error *api.Error `json:"error"`
	}
	if err := json.Unmarshal(data, &event); err != nil {
		return fmt.Errorf("read an event of the answer: %w", err)
	}
	if event.Error != nil {
		return event.Error
	}
	chunk := ChatChunk{Model: event.Model, Usage: event.Usage}
	for _, choice := range event.Choices {
		chunk.Content += choice.Delta.Content
		chunk.Reasoning += choice.Delta.Reasoning
		if choice.FinishReason != "" {
			chunk.FinishReason = choice.FinishReason
		}
	}
	return emit(chunk)
}

// readEvents calls handle with the data of each server-sent event until it
// returns an error, which is handed back, or the stream ends. Comments, which
// keep a connection alive, are skipped. A connection that breaks, also in the
// middle of an event, gives an ErrCutOff.
func readEvents(r io.Reader, handle func(data []byte) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4096), maxEvent)
	var data []byte
	open := false
	for lines.Scan() {
		line := lines.Bytes()
		if len(line) == 0 {
			if open {
				if err := handle(data); err != nil {
					return err
				}
			}
			data, open = data[:0], false
			continue
		}
		field, value, _ := strings.Cut(string(line), ":")
		if field != "data" {
			continue
		}
		if open {
			data = append(data, '\n')
		}
		data = append(data, strings.TrimPrefix(value, " ")...)
		open = true
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%w (%v)", ErrCutOff, err)
	}
	if open {
		return ErrCutOff
	}
	return nil
}
