package openai

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/httpapi"
)

// job is a checked request, ready to run and to be answered.
type job struct {
	common
	chat     bool
	requests []generation.Request // one a prompt; a chat has one
	head     header
}

// choices over all prompts.
func (j *job) choices() int { return len(j.requests) * j.request.Choices }

// timed tells whether the usage's times are those of one generation.
func (j *job) timed() bool { return j.choices() == 1 }

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
		common: c.common, chat: true, requests: []generation.Request{c.request},
		head: a.header("chatcmpl-", m, c.serviceTier),
	})
}

// readChat makes a request of a chat's body.
func (a *API) readChat(ctx context.Context, body []byte) (chatRequest, Model, error) {
	c, err := a.parseChat(body)
	if err != nil {
		return c, Model{}, err
	}
	m, err := a.options.Engine.Model(ctx, c.model)
	if err != nil {
		return c, m, err
	}
	if err := c.applyEffort(m); err != nil {
		return c, m, err
	}
	c.request.Model = m.ID
	return c, m, nil
}

// ReadChat makes a request of the body of POST /v1/chat/completions, for
// dialects that take the same and answer in another shape.
func (a *API) ReadChat(ctx context.Context, body []byte) (req generation.Request, stream bool, err error) {
	c, _, err := a.readChat(ctx, body)
	return c.request, c.stream, err
}

func (a *API) completions(w http.ResponseWriter, r *http.Request) {
	body, err := httpapi.ReadBody(w, r)
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	c, err := a.parseCompletion(body)
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	m, err := a.options.Engine.Model(r.Context(), c.model)
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	c.request.Model = m.ID
	j := &job{common: c.common, head: a.header("cmpl-", m, c.serviceTier)}
	for _, p := range c.prompts {
		j.requests = append(j.requests, c.generation(p))
	}
	a.serve(w, r, j)
}

func (a *API) header(prefix string, m Model, serviceTier bool) header {
	return header{
		id: prefix + a.options.NewID(), created: a.options.Now().Unix(), model: m.ID,
		fingerprint: a.options.Fingerprint, serviceTier: serviceTier,
	}
}

func (a *API) serve(w http.ResponseWriter, r *http.Request, j *job) {
	for i := range j.requests {
		j.requests[i].ID = j.head.id
		j.requests[i].Progress = j.stream && j.chat && j.choices() == 1
	}
	if j.stream {
		a.stream(w, r, j)
		return
	}
	c := newCollector(j)
	usage, err := a.run(r.Context(), j, c.add)
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	a.send(w, c.response(usage))
}

// stream answers by server-sent events. A failure before the first event is a
// plain error with its status; after it, an error event ends the stream.
func (a *API) stream(w http.ResponseWriter, r *http.Request, j *job) {
	events := httpapi.NewEventStream(w, a.options.KeepAlive)
	defer events.End()
	enc := newEncoder(j.head, j.chat, j.choices(), j.includeUsage, j.request.TopLogprobs > 0)
	enc.figures = a.options.Figures
	usage, err := a.run(r.Context(), j, func(ev generation.Event) error {
		if chunks := enc.event(&ev); len(chunks) > 0 {
			return events.Send(chunks)
		}
		return nil
	})
	begun := events.End()
	if err == nil {
		// A client that hung up at the very end has all but the end.
		_ = events.Send(enc.finish(usage, j.timed()))
		return
	}
	e := a.outcome(r.Context(), err)
	switch {
	case e == nil: // nobody reads
	case begun:
		_ = events.Send(enc.failure(e))
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
				usage, err := a.runOne(ctx, j.requests[i], i*j.request.Choices, locked)
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

// collector puts the events of a request that is not streamed together.
type collector struct {
	job     *job
	choices []collected
}

type collected struct {
	text, reasoning strings.Builder
	logprobs        []generation.TokenLogprob
	finish          string
}

func newCollector(j *job) *collector {
	return &collector{job: j, choices: make([]collected, j.choices())}
}

func (c *collector) add(ev generation.Event) error {
	choice := &c.choices[ev.Choice]
	if !c.job.chat {
		choice.text.WriteString(ev.Reasoning) // as textChunks
	}
	choice.text.WriteString(ev.Text)
	choice.reasoning.WriteString(ev.Reasoning)
	choice.logprobs = append(choice.logprobs, ev.Logprobs...)
	if ev.FinishReason != "" {
		choice.finish = ev.FinishReason
	}
	return nil
}

// response is the whole answer in JSON.
func (c *collector) response(u generation.Usage) []byte {
	object := "text_completion"
	if c.job.chat {
		object = "chat.completion"
	}
	b := c.job.head.append(nil, object)
	for i := range c.choices {
		choice := &c.choices[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"index":`...)
		b = appendInt(b, i)
		if c.job.chat {
			b = choice.appendMessage(b)
		} else {
			b = append(b, `,"text":`...)
			b = appendString(b, choice.text.String())
		}
		b = append(b, `,"logprobs":`...)
		switch {
		case !c.job.request.Logprobs:
			b = append(b, `null`...)
		case c.job.chat:
			b = appendChatLogprobs(b, choice.logprobs)
		default:
			b, _ = appendLegacyLogprobs(b, choice.logprobs, 0, c.job.request.TopLogprobs > 0)
		}
		b = append(b, `,"finish_reason":`...)
		b = append(appendString(b, choice.finish), '}')
	}
	b = append(b, `],"usage":`...)
	b = appendUsage(b, u)
	if c.job.timed() {
		b = append(b, `,"timings":`...)
		b = appendTimings(b, u)
	}
	return append(b, '}')
}

func (c *collected) appendMessage(b []byte) []byte {
	b = append(b, `,"message":{"role":"assistant","content":`...)
	b = appendString(b, c.text.String())
	b = append(b, `,"refusal":null,"annotations":[]`...)
	if c.reasoning.Len() > 0 {
		b = append(b, `,"reasoning_content":`...)
		b = appendString(b, c.reasoning.String())
	}
	return append(b, '}')
}
