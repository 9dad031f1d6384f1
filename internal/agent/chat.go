package agent

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/skein-run/skein/client"
)

// Defaults and pace of chats.
const (
	defaultTokens = 1024
	chatReports   = time.Second // at most one notification in this time
)

type chatInput struct {
	ModelInput
	Messages    []chatMessage `json:"messages" minItems:"1" maxItems:"1000" nullable:"false" doc:"The conversation, oldest first; the last one is usually of the user"`
	MaxTokens   *int          `json:"max_tokens,omitempty" minimum:"1" maximum:"1048576" default:"1024" doc:"Tokens of the answer at most, thinking included. An answer that reached it has finish_reason length"`
	Temperature *float64      `json:"temperature,omitempty" minimum:"0" maximum:"2" doc:"0: always the likeliest token, so the same answer again; higher: more varied. Left out: the model's own default"`
	Seed        *int64        `json:"seed,omitempty" doc:"Repeats the random choices of an answer with a temperature above 0"`
}

type chatMessage struct {
	Role    string `json:"role" enum:"system,user,assistant"`
	Content string `json:"content" doc:"Text"`
}

type answer struct {
	Text         string `json:"text" doc:"The answer"`
	Reasoning    string `json:"reasoning" doc:"What a reasoning model thought before it answered; empty for others"`
	FinishReason string `json:"finish_reason" doc:"stop: the answer is whole; length: max_tokens or the context was reached"`
	ModelID      string `json:"model_id" doc:"Full id of the model that answered"`
	Usage        usage  `json:"usage"`
}

type usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CachedTokens     int `json:"cached_tokens" doc:"Of prompt_tokens: not computed again"`
	CompletionTokens int `json:"completion_tokens"`
	ReasoningTokens  int `json:"reasoning_tokens" doc:"Of completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
}

// plain is the answer for clients that show text.
func (a answer) plain() string {
	if a.FinishReason == "length" {
		return a.Text + "\n[cut off: max_tokens or the model's context was reached]"
	}
	return a.Text
}

func (s *server) addChat() {
	add(s, tool{"chat", "Chat with a model", acts,
		"Ask a model of the cluster and get its answer as text. A model of the library that is not loaded is loaded first, which may take minutes: load_model does that with progress. " +
			"Nothing is remembered between calls: give the whole conversation in messages."}, s.chat)
}

func (s *server) chat(ctx context.Context, c call, in chatInput) (answer, error) {
	tokens := defaultTokens
	if in.MaxTokens != nil {
		tokens = *in.MaxTokens
	}
	req := client.ChatRequest{Model: in.ModelID, MaxTokens: &tokens, Temperature: in.Temperature, Seed: in.Seed}
	for _, m := range in.Messages {
		req.Messages = append(req.Messages, client.Message{Role: m.Role, Content: m.Content})
	}
	out := answer{ModelID: in.ModelID}
	var text, reasoning strings.Builder
	tell := report(c.req, 0)
	var told time.Time
	err := c.Chat(ctx, req, func(p client.ChatChunk) error {
		text.WriteString(p.Content)
		reasoning.WriteString(p.Reasoning)
		if p.Model != "" {
			out.ModelID = p.Model
		}
		if p.FinishReason != "" {
			out.FinishReason = p.FinishReason
		}
		if u := p.Usage; u != nil {
			out.Usage = usage{u.PromptTokens, u.PromptDetails.CachedTokens, u.CompletionTokens, u.CompletionDetails.ReasoningTokens, u.PromptTokens + u.CompletionTokens}
		}
		if written := text.Len() + reasoning.Len(); written > 0 && time.Since(told) >= chatReports {
			told = time.Now()
			return tell.tell(ctx, float64(written), fmt.Sprintf("%d characters so far", written))
		}
		return nil
	})
	out.Text, out.Reasoning = text.String(), reasoning.String()
	return out, err
}
