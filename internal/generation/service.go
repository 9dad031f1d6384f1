package generation

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skein-run/skein/internal/runner/wire"
	"golang.org/x/sync/errgroup"
)

// Options configure a Service.
type Options struct {
	// Clock gives the time: templates may print the date, and snapshots carry
	// their start.
	Clock func() time.Time
	// Seed draws the seed of a request that brings none. It is called from
	// many goroutines at once.
	Seed func() uint64
	// CallID names a call that a model makes; nil: drawn at random. It is
	// called from many goroutines at once.
	CallID func() string
	// Warn is told what a person should know and a client need not: a model
	// without a template, for example. It may be nil.
	Warn func(message string, args ...any)
}

func (o *Options) validate() error {
	if o.Clock == nil {
		return errors.New("a clock is needed")
	}
	if o.Seed == nil {
		return errors.New("a source of seeds is needed")
	}
	if o.CallID == nil {
		// Templates of some models want exactly nine letters and digits.
		o.CallID = func() string { return rand.Text()[:9] }
	}
	if o.Warn == nil {
		o.Warn = func(string, ...any) {}
	}
	return nil
}

// Service runs requests. It is safe for concurrent use and has nothing to
// close: a request ends before its Generate returns.
type Service struct {
	options Options
	lastID  atomic.Uint64
	keeper  keeper
}

// New makes a Service.
func New(options Options) (*Service, error) {
	if err := options.validate(); err != nil {
		return nil, fmt.Errorf("make generation service: %w", err)
	}
	return &Service{options: options}, nil
}

// Generate runs req on m and calls emit with what it yields, in order for each
// choice and never twice at once, though from changing goroutines. p comes
// from Prepare with the same model.
//
// The choices run at the same time; choice i has the request's seed plus i.
// The prompt counts once in the usage, which comes with the event that ends
// the last choice. Usage.CachedTokens is what every choice found in the cache.
//
// The answer is the same whether its events are used one by one or joined.
// Stop strings are looked for in the answer and not in the reasoning; the text
// before one ends the choice with FinishStop. Logprobs are those of tokens
// with a part in the answer's text, and come with the end of that text.
//
// An error is an *Error, or the cause of ctx when the client went away, or
// what emit returned; each ends all choices, and their streams are closed when
// Generate returns. No event precedes a refusal (busy, context exceeded, ...).
func (s *Service) Generate(ctx context.Context, m Model, p *Prepared, req Request, emit func(Event) error) error {
	if err := validate(&req); err != nil {
		return err
	}
	input, err := s.prompt(ctx, m, p, req)
	if err != nil {
		return settle(ctx, err)
	}
	if !req.SeedSet {
		req.Sampling.Seed = s.options.Seed()
	}
	r := &run{service: s, model: m, prepared: p, req: req, input: input, emit: emit, left: req.Choices}
	if req.Choices == 1 {
		return settle(ctx, r.choice(ctx, 0))
	}
	group, groupCtx := errgroup.WithContext(ctx)
	for i := range req.Choices {
		group.Go(func() error { return r.choice(groupCtx, i) })
	}
	return settle(ctx, group.Wait())
}

// Open lists the open generations, oldest first, with what each has produced.
func (s *Service) Open() []Snapshot { return s.keeper.snapshots() }

// run is one request under way.
type run struct {
	service  *Service
	model    Model
	prepared *Prepared
	req      Request
	input    input
	emit     func(Event) error

	mu    sync.Mutex // guards all below and serializes emit
	left  int        // choices that have not ended
	usage Usage
	ended int // choices whose Done was seen
}

// send hands an event to the client.
func (r *run) send(e Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.emit(e)
}

// finish ends a choice and, with the last one, the request. done is nil when
// the runner went away after the choice was complete.
func (r *run) finish(choice int, reason string, tokens, reasoning int, done *wire.Done) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := &r.usage
	u.PromptTokens = len(r.input.tokens)
	u.CompletionTokens += tokens
	u.ReasoningTokens += reasoning
	if done != nil {
		if r.ended == 0 || done.CachedTokens < u.CachedTokens {
			u.CachedTokens = done.CachedTokens
		}
		u.QueueSeconds = max(u.QueueSeconds, done.QueueSeconds)
		u.PrefillSeconds = max(u.PrefillSeconds, done.PrefillSeconds)
		u.DecodeSeconds = max(u.DecodeSeconds, done.DecodeSeconds)
		r.ended++
	}
	r.left--
	e := Event{Choice: choice, FinishReason: reason}
	if r.left == 0 {
		e.Usage = u
	}
	return r.emit(e)
}

// validate refuses what no dialect should have let through, and fills in
// defaults.
func validate(req *Request) error {
	inputs := 0
	for _, given := range []bool{req.Messages != nil, req.Prompt != nil, req.Tokens != nil} {
		if given {
			inputs++
		}
	}
	invalid := func(param, format string, args ...any) error {
		return &Error{Kind: KindInvalid, Param: param, Message: fmt.Sprintf(format, args...)}
	}
	if req.Choices == 0 {
		req.Choices = 1
	}
	switch {
	case inputs != 1:
		return invalid("messages", "give exactly one of messages and prompt")
	case req.Messages != nil && len(req.Messages) == 0:
		return invalid("messages", "messages must have at least one entry")
	case req.Choices < 0:
		return invalid("n", "n must be at least 1, not %d", req.Choices)
	case req.MaxTokens < 0:
		return invalid("max_tokens", "max_tokens must not be negative, it is %d", req.MaxTokens)
	case req.TopLogprobs < 0:
		return invalid("top_logprobs", "top_logprobs must not be negative, it is %d", req.TopLogprobs)
	case slices.Contains(req.Stop, ""):
		return invalid("stop", "a stop string must not be empty")
	case req.Messages == nil && len(req.Tools) > 0:
		return invalid("tools", "tools are for conversations; a completion has none")
	case req.MustCall && len(req.Tools) == 0:
		return invalid("tool_choice", "a call is asked for and there are no tools")
	case req.Echo && req.Messages != nil:
		return invalid("echo", "echo is for text completions; a conversation has no prompt text of its own")
	case req.Echo && req.Logprobs:
		return invalid("echo", "echo cannot be combined with logprobs, as those of the prompt are not computed; leave one out")
	}
	return nil
}
