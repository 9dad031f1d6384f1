package openai

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/httpapi"
	"github.com/skein-run/skein/internal/httpapi/openai/answer"
	"github.com/skein-run/skein/internal/httpapi/openai/request"
)

// job is a checked request, ready to run and to be answered.
type job struct {
	request.Common
	chat     bool
	requests []generation.Request // one a prompt; a chat has one
	head     answer.Header
}

// choices over all prompts.
func (j *job) choices() int { return len(j.requests) * j.Request.Choices }

func (j *job) shape() answer.Shape {
	return answer.Shape{
		Chat: j.chat, Choices: j.choices(), Usage: j.IncludeUsage,
		Logprobs: j.Request.Logprobs, Top: j.Request.TopLogprobs > 0,
	}
}

func (a *API) chat(w http.ResponseWriter, r *http.Request) {
	body, err := httpapi.ReadBody(w, r)
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	c, m, err := a.readChat(r.Context(), body)
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	a.serve(w, r, &job{
		Common: c.Common, chat: true, requests: []generation.Request{c.Request},
		head: a.header("chatcmpl-", m, c.ServiceTier),
	})
}

// readChat makes a request of a chat's body.
func (a *API) readChat(ctx context.Context, body []byte) (request.Chat, Model, error) {
	c, err := a.decoder.Chat(body)
	if err != nil {
		return c, Model{}, err
	}
	m, err := a.options.Engine.Model(ctx, c.Model)
	if err != nil {
		return c, m, err
	}
	if err := c.ApplyEffort(m.ID, m.TemplateVariables); err != nil {
		return c, m, err
	}
	c.Request.Model = m.ID
	return c, m, nil
}

// ReadChat makes a request of the body of POST /v1/chat/completions, for
// dialects that take the same and answer in another shape.
func (a *API) ReadChat(ctx context.Context, body []byte) (req generation.Request, stream bool, err error) {
	c, _, err := a.readChat(ctx, body)
	return c.Request, c.Stream, err
}

func (a *API) completions(w http.ResponseWriter, r *http.Request) {
	body, err := httpapi.ReadBody(w, r)
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	c, err := a.decoder.Completion(body)
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	m, err := a.options.Engine.Model(r.Context(), c.Model)
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	c.Request.Model = m.ID
	a.serve(w, r, &job{Common: c.Common, requests: c.Generations(), head: a.header("cmpl-", m, c.ServiceTier)})
}

func (a *API) header(prefix string, m Model, serviceTier bool) answer.Header {
	return answer.Header{
		ID: prefix + a.options.NewID(), Created: a.options.Now().Unix(), Model: m.ID,
		Fingerprint: a.options.Fingerprint, ServiceTier: serviceTier,
	}
}

func (a *API) serve(w http.ResponseWriter, r *http.Request, j *job) {
	for i := range j.requests {
		j.requests[i].ID = j.head.ID
		j.requests[i].Progress = j.Stream && j.chat && j.choices() == 1
	}
	if j.Stream {
		a.stream(w, r, j)
		return
	}
	whole := answer.NewWhole(j.head, j.shape())
	usage, err := a.run(r.Context(), j, whole.Add)
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	a.send(w, whole.Bytes(usage))
}

// stream answers by server-sent events. A failure before the first event is a
// plain error with its status; after it, an error event ends the stream.
func (a *API) stream(w http.ResponseWriter, r *http.Request, j *job) {
	events := httpapi.NewEventStream(w, a.options.KeepAlive)
	defer events.End()
	enc := answer.NewStream(j.head, j.shape(), a.options.Figures)
	usage, err := a.run(r.Context(), j, func(ev generation.Event) error {
		if chunks := enc.Event(&ev); len(chunks) > 0 {
			return events.Send(chunks)
		}
		return nil
	})
	begun := events.End()
	if err == nil {
		// A client that hung up at the very end has all but the end.
		_ = events.Send(enc.Finish(usage))
		return
	}
	e := a.outcome(r.Context(), err)
	switch {
	case e == nil: // nobody reads
	case begun:
		_ = events.Send(enc.Failure(e))
	default:
		httpapi.WriteError(w, e)
	}
}

// run runs the prompts of a job, a few at a time, and gives their usage
// together. Events have the choice's index over all prompts; emit is never
// called by two goroutines at once. The first failure ends the others.
func (a *API) run(ctx context.Context, j *job, emit func(generation.Event) error) (generation.Usage, error) {
	if len(j.requests) == 1 {
		return a.runOne(ctx, j.requests[0], 0, emit)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		mu    sync.Mutex
		total generation.Usage // guarded by mu
		tasks = make(chan int)
		group sync.WaitGroup
	)
	locked := func(ev generation.Event) error {
		mu.Lock()
		defer mu.Unlock()
		return emit(ev)
	}
	for range min(a.options.PromptsAtOnce, len(j.requests)) {
		group.Go(func() {
			for i := range tasks {
				usage, err := a.runOne(ctx, j.requests[i], i*j.Request.Choices, locked)
				if err != nil {
					cancel(err)
					return
				}
				mu.Lock()
				total = sum(total, usage)
				mu.Unlock()
			}
		})
	}
	func() {
		defer close(tasks)
		for i := range j.requests {
			select {
			case tasks <- i:
			case <-ctx.Done():
				return
			}
		}
	}()
	group.Wait()
	return total, context.Cause(ctx)
}

// runOne runs one prompt and holds the engine to its word: every choice ends,
// and there is a usage.
func (a *API) runOne(ctx context.Context, req generation.Request, first int, emit func(generation.Event) error) (generation.Usage, error) {
	var usage *generation.Usage
	finished := 0
	err := a.options.Engine.Generate(ctx, req, func(ev generation.Event) error {
		if ev.Choice < 0 || ev.Choice >= req.Choices {
			return fmt.Errorf("generate: the engine gave choice %d of %d", ev.Choice, req.Choices)
		}
		if ev.Usage != nil {
			usage = ev.Usage
		}
		if ev.FinishReason != "" {
			finished++
		}
		ev.Choice += first
		return emit(ev)
	})
	switch {
	case err != nil:
		return generation.Usage{}, inWordsOf(req, err)
	case finished != req.Choices:
		return generation.Usage{}, fmt.Errorf("generate: the engine ended %d of %d choices", finished, req.Choices)
	case usage == nil:
		return generation.Usage{}, errors.New("generate: the engine gave no usage")
	}
	return *usage, nil
}

// inWordsOf names the field as the client knows it: a completion has a prompt
// where the neutral request speaks of messages.
func inWordsOf(req generation.Request, err error) error {
	var g *generation.Error
	if req.Messages != nil || !errors.As(err, &g) || g.Param != "messages" {
		return err
	}
	named := *g
	named.Param = "prompt"
	return &named
}

func sum(a, b generation.Usage) generation.Usage {
	a.PromptTokens += b.PromptTokens
	a.CompletionTokens += b.CompletionTokens
	a.CachedTokens += b.CachedTokens
	a.ReasoningTokens += b.ReasoningTokens
	return a
}
