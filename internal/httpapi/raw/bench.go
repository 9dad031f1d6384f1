package raw

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/httpapi"
	"github.com/skein-run/skein/internal/httpapi/raw/power"
	"github.com/skein-run/skein/internal/httpapi/raw/shape"
	"github.com/skein-run/skein/internal/ids"
)

// The shapes of POST /bench/chat/completions. What exo writes as null is null.
type (
	benchAnswer struct {
		ID          string        `json:"id"`
		Object      string        `json:"object"`
		Created     int64         `json:"created"`
		Model       string        `json:"model"`
		Choices     []benchChoice `json:"choices"`
		Usage       *usage        `json:"usage"`
		ServiceTier *string       `json:"service_tier"`
		Stats       benchStats    `json:"generation_stats"`
		Power       power.Usage   `json:"power_usage"`
	}
	benchChoice struct {
		Index        int          `json:"index"`
		Message      benchMessage `json:"message"`
		Logprobs     *string      `json:"logprobs"`
		FinishReason string       `json:"finish_reason"`
	}
	benchMessage struct {
		Role         string  `json:"role"`
		Content      string  `json:"content"`
		Reasoning    *string `json:"reasoning_content"`
		Name         *string `json:"name"`
		ToolCalls    *string `json:"tool_calls"`
		ToolCallID   *string `json:"tool_call_id"`
		FunctionCall *string `json:"function_call"`
	}
	usage struct {
		Prompt     int           `json:"prompt_tokens"`
		Completion int           `json:"completion_tokens"`
		Total      int           `json:"total_tokens"`
		OfPrompt   promptDetails `json:"prompt_tokens_details"`
		OfAnswer   answerDetails `json:"completion_tokens_details"`
	}
	promptDetails struct {
		Cached int `json:"cached_tokens"`
		Audio  int `json:"audio_tokens"`
	}
	answerDetails struct {
		Reasoning int `json:"reasoning_tokens"`
		Audio     int `json:"audio_tokens"`
		Accepted  int `json:"accepted_prediction_tokens"`
		Rejected  int `json:"rejected_prediction_tokens"`
	}
	benchStats struct {
		PromptRate     float64 `json:"prompt_tps"`
		GenerationRate float64 `json:"generation_tps"`
		Prompt         int     `json:"prompt_tokens"`
		Generated      int     `json:"generation_tokens"`
		// Memory is what the instance's shards were promised; the peak itself is
		// not measured.
		Memory    shape.Memory `json:"peak_memory_usage"`
		PrefixHit string       `json:"prefix_cache_hit"` // none | partial | exact
	}
	benchChunk struct {
		ID      string       `json:"id"`
		Object  string       `json:"object"`
		Created int64        `json:"created"`
		Model   string       `json:"model"`
		Choices []deltaBench `json:"choices"`
		Usage   *usage       `json:"usage,omitempty"`
	}
	deltaBench struct {
		Index        int    `json:"index"`
		Delta        delta  `json:"delta"`
		FinishReason string `json:"finish_reason,omitempty"`
	}
	delta struct {
		Role      string `json:"role"`
		Content   string `json:"content"`
		Reasoning string `json:"reasoning_content,omitempty"`
	}
)

const benchObject = "chat.completion" // in chunks too, as exo writes it

// benchRun is one request being measured. Its events come from one goroutine
// at a time.
type benchRun struct {
	req             generation.Request
	created         int64
	text, reasoning strings.Builder
	finish          string
	usage           *generation.Usage
}

// take notes an event.
func (b *benchRun) take(e generation.Event) {
	b.text.WriteString(e.Text)
	b.reasoning.WriteString(e.Reasoning)
	if e.FinishReason != "" {
		b.finish = e.FinishReason
	}
	if e.Usage != nil {
		b.usage = e.Usage
	}
}

// readBench makes a request that is fit for measuring: exactly max_tokens
// tokens, whatever the model would end with, and no prompt from the cache.
func (d *Dialect) readBench(ctx context.Context, b []byte) (generation.Request, bool, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err == nil && fields != nil {
		cached := false
		if raw, ok := fields["use_prefix_cache"]; ok {
			delete(fields, "use_prefix_cache")
			if err := json.Unmarshal(raw, &cached); err != nil {
				return generation.Request{}, false, &shape.Error{Field: "use_prefix_cache", Message: "use_prefix_cache must be true or false"}
			}
			if b, err = json.Marshal(fields); err != nil {
				return generation.Request{}, false, err
			}
		}
		req, stream, err := d.o.Chat.ReadChat(ctx, b)
		if err != nil {
			return req, stream, err
		}
		if req.Choices > 1 {
			return req, stream, &shape.Error{Field: "n", Message: "n must be 1: one answer is measured at a time"}
		}
		if len(req.Tools) > 0 {
			return req, stream, &shape.Error{Field: "tools", Message: "tools are not for measuring: leave them out, or ask /v1/chat/completions"}
		}
		req.Choices, req.Stop, req.IgnoreEnd, req.NoCache = 1, nil, true, !cached
		req.Logprobs, req.TopLogprobs = false, 0 // they would be computed and not told
		return req, stream, nil
	}
	return d.o.Chat.ReadChat(ctx, b) // whose errors are about JSON
}

func (d *Dialect) bench(w http.ResponseWriter, r *http.Request) error {
	b, err := httpapi.ReadBody(w, r)
	if err != nil {
		return err
	}
	req, stream, err := d.readBench(r.Context(), b)
	if err != nil {
		return err
	}
	req.ID = d.o.Name()
	run := &benchRun{req: req, created: d.o.Now().Unix()}
	if stream {
		return d.streamBench(w, r, run)
	}
	meter := power.Begin(r.Context(), d.o.Now, d.watts)
	err = d.o.Chat.Generate(r.Context(), req, func(e generation.Event) error {
		if e.Text != "" || e.Reasoning != "" {
			meter.Answer()
		}
		run.take(e)
		return nil
	})
	told := meter.Stop()
	if err == nil && run.usage == nil {
		err = errors.New("measure a generation: the engine gave no usage")
	}
	if err != nil {
		return err
	}
	message := benchMessage{Role: "assistant", Content: run.text.String()}
	if run.reasoning.Len() > 0 {
		text := run.reasoning.String()
		message.Reasoning = &text
	}
	u := usageOf(*run.usage)
	return answer(w, benchAnswer{
		ID: req.ID, Object: benchObject, Created: run.created, Model: req.Model,
		Choices: []benchChoice{{Message: message, FinishReason: run.finish}}, Usage: &u, Stats: d.stats(r.Context(), run), Power: told,
	})
}

// watts are what the nodes take that measure it.
func (d *Dialect) watts(ctx context.Context) (map[ids.Node]float64, error) {
	in, err := d.o.Cluster.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	out := map[ids.Node]float64{}
	for id, v := range in.Vitals {
		if in.Live[id] && v.Power != nil && *v.Power >= 0 {
			out[id] = *v.Power
		}
	}
	return out, nil
}

// streamBench answers by events, the figures in a comment before the end.
func (d *Dialect) streamBench(w http.ResponseWriter, r *http.Request, run *benchRun) error {
	events := httpapi.NewEventStream(w, d.o.KeepAlive)
	defer events.End()
	chunk := func(e generation.Event) error {
		c := benchChunk{ID: run.req.ID, Object: benchObject, Created: run.created, Model: run.req.Model,
			Choices: []deltaBench{{Delta: delta{"assistant", e.Text, e.Reasoning}, FinishReason: e.FinishReason}}}
		if e.Usage != nil {
			u := usageOf(*e.Usage)
			c.Usage = &u
		}
		return send(events, "data: ", c)
	}
	run.req.Progress = true
	err := d.o.Chat.Generate(r.Context(), run.req, func(e generation.Event) error {
		run.take(e)
		if e.Prompt != nil {
			if err := events.Send(httpapi.AppendPrompt(nil, run.req.Model, *e.Prompt)); err != nil {
				return err
			}
		}
		if e.Text == "" && e.Reasoning == "" && e.FinishReason == "" {
			return nil
		}
		return chunk(e)
	})
	begun := events.End()
	if err == nil && run.usage == nil {
		err = errors.New("measure a generation: the engine gave no usage")
	}
	if err != nil {
		if !begun {
			return err
		}
		if r.Context().Err() != nil || errors.Is(err, httpapi.ErrClientGone) {
			return nil
		}
		return send(events, "data: ", d.explain(err))
	}
	return events.Send(append(figures(d.stats(r.Context(), run)), "data: [DONE]\n\n"...))
}

func send(events *httpapi.EventStream, lead string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return events.Send(fmt.Appendf(nil, "%s%s\n\n", lead, b))
}

func usageOf(u generation.Usage) usage {
	return usage{
		Prompt: u.PromptTokens, Completion: u.CompletionTokens, Total: u.PromptTokens + u.CompletionTokens,
		OfPrompt: promptDetails{Cached: u.CachedTokens}, OfAnswer: answerDetails{Reasoning: u.ReasoningTokens},
	}
}

// stats are the figures of a generation. The first token belongs to the
// prompt's time, so n tokens have n-1 steps.
func (d *Dialect) stats(ctx context.Context, b *benchRun) benchStats {
	in, err := d.o.Cluster.Snapshot(ctx)
	if err != nil {
		in.State = cluster.State{} // its memory is not known
	}
	return statsOf(in.State, b.req.Model, *b.usage)
}

func statsOf(state cluster.State, model string, u generation.Usage) benchStats {
	s := benchStats{Prompt: u.PromptTokens, Generated: u.CompletionTokens, PrefixHit: "none"}
	if u.PrefillSeconds > 0 {
		s.PromptRate = float64(u.PromptTokens-u.CachedTokens) / u.PrefillSeconds
	}
	if u.DecodeSeconds > 0 {
		s.GenerationRate = float64(max(u.CompletionTokens-1, 0)) / u.DecodeSeconds
	}
	switch {
	case u.CachedTokens >= u.PromptTokens-1 && u.CachedTokens > 0:
		s.PrefixHit = "exact" // the last token is computed always
	case u.CachedTokens > 0:
		s.PrefixHit = "partial"
	}
	for _, i := range shape.Instances(state) {
		if i.Model == model {
			s.Memory.InBytes = max(s.Memory.InBytes, i.Memory())
		}
	}
	return s
}

// Figures is the comment about a generation that exo's clients read at the end
// of a stream.
func Figures(s cluster.State, model string, u generation.Usage) []byte {
	return figures(statsOf(s, model, u))
}

func figures(s benchStats) []byte {
	b, err := shape.SnakeCase(s)
	if err != nil {
		return nil // the answer is whole; only its figures can't be written
	}
	return fmt.Appendf(nil, ": generation_stats %s\n\n", b)
}
