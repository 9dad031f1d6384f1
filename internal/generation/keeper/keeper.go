// Package keeper lets generations go on when what computes them is lost. It
// keeps the prompt and the produced tokens of each open generation; when the
// stream of one breaks, it asks for another place and continues there. The
// reader sees a pause, and every token once.
//
// It is pure: places come from a Router and are generation.Models. A Model may
// be used from any goroutine, a stream has one reader. What is continued is
// computed as a prompt, in other batches than before: under greedy decoding
// the text is the same on f32 weights, and elsewhere as far as the library
// rounds alike.
package keeper

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/runner/wire"
)

// Place is where a model runs.
type Place struct {
	ID      string // of the instance
	Model   generation.Model
	Release func() // gives the place in its queue back; idempotent; may be nil
}

// Want says what a place is for.
type Want struct {
	// Prompt is what will be computed; nil: only the vocabulary is asked.
	Prompt []int32
	// Lost is the place that a generation has just lost, "" for a first one. A
	// Router may give it again if it is known to serve anew.
	Lost string
	// Again is how often the lost place was given again since, in vain: a Router
	// waits longer each time, so that a link has time to come back.
	Again int
}

// Router finds places for one model. It waits for one as long as ctx lets, after
// a loss also where there is none for the moment, and its errors are
// *generation.Error.
type Router interface {
	Route(ctx context.Context, w Want) (Place, error)
}

// Limits of going on.
const (
	DefaultTries   = 3
	DefaultTimeout = 60 * time.Second
)

// Options make a Model.
type Options struct {
	Router Router
	// Tries is how many other places are tried after each loss; 0: a loss is an
	// error. A lost place that is given again is no other one: it is the way to
	// it that is broken, and Timeout ends the wait for that.
	Tries   int
	Timeout time.Duration
	// Lost is told of each loss, and of how it ended (nil: it goes on). May be
	// nil.
	Lost func(place string, cause, end error)
}

// Model is a logical model: it serves as long as there is a place for it.
type Model struct {
	opts Options

	mu   sync.Mutex // guards info
	info *wire.ModelInfo
}

var _ generation.Model = (*Model)(nil)

// New gives a Model; places are asked for when they are needed.
func New(o Options) (*Model, error) {
	if o.Router == nil || o.Tries < 0 || o.Timeout < 0 {
		return nil, errors.New("keeper: a router, tries and a timeout that are not negative are needed")
	}
	if o.Lost == nil {
		o.Lost = func(string, error, error) {}
	}
	return &Model{opts: o}, nil
}

// Prepare waits for a place, so that Info is known.
func (m *Model) Prepare(ctx context.Context) error {
	return m.ask(ctx, func(generation.Model) error { return nil })
}

// Info implements generation.Model. It is zero before the first place.
func (m *Model) Info() wire.ModelInfo {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.info == nil {
		return wire.ModelInfo{}
	}
	return *m.info
}

func (m *Model) learn(info wire.ModelInfo) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.info = &info
}

// ask runs a question that changes nothing, on the next place when one is lost.
func (m *Model) ask(ctx context.Context, question func(generation.Model) error) error {
	lost := ""
	for try := 0; ; try++ {
		p, err := m.opts.Router.Route(ctx, Want{Lost: lost})
		if err != nil {
			return err
		}
		m.learn(p.Model.Info())
		err = question(p.Model)
		release(p)
		if !isLoss(err) || ctx.Err() != nil || try >= m.opts.Tries {
			return err
		}
		lost = p.ID
	}
}

func release(p Place) {
	if p.Release != nil {
		p.Release()
	}
}

// Tokenize implements generation.Model.
func (m *Model) Tokenize(ctx context.Context, text string, addSpecial, parseSpecial bool) (tokens []int32, err error) {
	err = m.ask(ctx, func(p generation.Model) error {
		tokens, err = p.Tokenize(ctx, text, addSpecial, parseSpecial)
		return err
	})
	return tokens, err
}

// Detokenize implements generation.Model.
func (m *Model) Detokenize(ctx context.Context, tokens []int32) (text string, err error) {
	err = m.ask(ctx, func(p generation.Model) error {
		text, err = p.Detokenize(ctx, tokens)
		return err
	})
	return text, err
}

// isLoss tells an error that another place may not have: the place is gone or
// broke. What is wrong with the request is wrong everywhere.
func isLoss(err error) bool {
	if err == nil {
		return false
	}
	var known *generation.Error
	if errors.As(err, &known) {
		return known.Kind == generation.KindFailed || known.Kind == generation.KindUnavailable
	}
	return !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}

// isLostDone tells an end that is the place's fault.
func isLostDone(d *wire.Done) bool {
	return d.Reason == wire.ReasonError && (d.Code == wire.CodeShard || d.Code == wire.CodeInternal)
}

// Generate implements generation.Model.
func (m *Model) Generate(ctx context.Context, req wire.GenerateRequest) (generation.Stream, error) {
	s := &stream{m: m, ctx: ctx, req: req}
	if err := s.begin(ctx, "", 0); err != nil {
		if s.place.ID == "" || !isLoss(err) {
			return nil, err
		}
		if err := s.resume(ctx, err); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// stream is one generation over all its places. It belongs to its reader.
type stream struct {
	m   *Model
	ctx context.Context // of the whole generation
	req wire.GenerateRequest

	place    Place
	part     generation.Stream // nil: lost, or ended
	produced []int32
	first    *wire.Done // sums of the parts that ended early
	closed   bool
}

// begin starts the generation, or what is left of it, at a place.
func (s *stream) begin(ctx context.Context, lost string, again int) error {
	req := s.req
	if n := len(s.produced); n > 0 {
		req.Prompt = slices.Concat(s.req.Prompt, s.produced)
		req.Drawn = s.req.Drawn + n
		if s.req.MaxTokens > 0 {
			req.MaxTokens = s.req.MaxTokens - n
		}
	}
	p, err := s.m.opts.Router.Route(ctx, Want{Prompt: req.Prompt, Lost: lost, Again: again})
	if err != nil {
		return err
	}
	s.m.learn(p.Model.Info())
	s.place = p
	part, err := p.Model.Generate(s.ctx, req)
	if err != nil {
		release(p)
		return err
	}
	s.part = part
	return nil
}

// resume looks for another place after a loss.
func (s *stream) resume(ctx context.Context, cause error) error {
	lost := s.place.ID
	ctx, cancel := context.WithTimeout(ctx, s.m.opts.Timeout)
	defer cancel()
	var err error
	for tried, same := 0, 0; tried < s.m.opts.Tries; {
		s.place = Place{}
		if err = s.begin(ctx, lost, same); err == nil {
			break
		}
		if s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
		if !again(err) || ctx.Err() != nil {
			break
		}
		if s.place.ID == lost {
			same++
			continue
		}
		tried, same = tried+1, 0
		if s.place.ID != "" {
			lost = s.place.ID
		}
	}
	if err == nil && s.part == nil {
		err = errors.New("it is not to be continued elsewhere")
	}
	s.m.opts.Lost(lost, cause, err)
	if err == nil {
		return nil
	}
	if s.m.opts.Tries == 0 {
		return cause
	}
	within := ""
	if ctx.Err() != nil {
		within = fmt.Sprintf(" within %v", s.m.opts.Timeout)
	}
	return &generation.Error{
		Kind: generation.KindFailed, Err: errors.Join(cause, err),
		Message: fmt.Sprintf("the answer broke off after %d tokens (%v) and could not go on elsewhere%s: %v", len(s.produced), cause, within, err),
	}
}

// again tells whether a place that does not take the rest of a generation may
// be followed by one that does.
func again(err error) bool {
	var known *generation.Error
	return isLoss(err) || errors.As(err, &known) && known.Kind == generation.KindBusy
}

// Next implements generation.Stream.
func (s *stream) Next(ctx context.Context) ([]wire.Token, *wire.Done, error) {
	for {
		if s.closed || s.part == nil {
			return nil, nil, &generation.Error{Kind: generation.KindFailed, Message: "the generation was closed"}
		}
		tokens, done, err := s.part.Next(ctx)
		for i := range tokens {
			s.produced = append(s.produced, tokens[i].Token)
			tokens[i].ID = s.req.ID
		}
		switch {
		case ctx.Err() != nil || s.ctx.Err() != nil:
			return tokens, done, err
		case err != nil && !isLoss(err):
			return tokens, nil, err
		case err == nil && (done == nil || !isLostDone(done)):
			if done != nil {
				s.end(done)
			}
			return tokens, done, nil
		}
		cause := err
		if done != nil {
			cause = errors.New(done.Error)
			s.add(done)
		}
		s.part.Close()
		s.part = nil
		release(s.place)
		if s.req.MaxTokens > 0 && len(s.produced) >= s.req.MaxTokens {
			d := &wire.Done{Reason: wire.ReasonLength}
			s.end(d)
			return tokens, d, nil
		}
		if len(tokens) > 0 {
			// They are handed out before the search: it may take a while.
			s.part = &broken{cause}
			return tokens, nil, nil
		}
		if err := s.resume(ctx, cause); err != nil {
			return nil, nil, err
		}
	}
}

// add keeps what an ended part cost.
func (s *stream) add(d *wire.Done) {
	if s.first == nil {
		s.first = d
		return
	}
	s.first.PrefillSeconds += d.PrefillSeconds
	s.first.DecodeSeconds += d.DecodeSeconds
	s.first.QueueSeconds += d.QueueSeconds
}

// end makes the last part's Done that of the whole generation: the client is
// charged for its prompt and for each token once.
func (s *stream) end(d *wire.Done) {
	if len(s.produced) > 0 || s.first != nil {
		d.PromptTokens, d.Generated = len(s.req.Prompt), len(s.produced)
	}
	d.ID = s.req.ID
	if f := s.first; f != nil {
		d.CachedTokens = f.CachedTokens
		d.QueueSeconds += f.QueueSeconds
		d.PrefillSeconds += f.PrefillSeconds
		d.DecodeSeconds += f.DecodeSeconds
	}
	d.CachedTokens = min(d.CachedTokens, len(s.req.Prompt))
	release(s.place)
}

// Close implements generation.Stream.
func (s *stream) Close() {
	if s.closed {
		return
	}
	s.closed = true
	if s.part != nil {
		s.part.Close()
		release(s.place)
	}
}

// broken is a part whose loss is still to be dealt with.
type broken struct{ cause error }

func (b *broken) Next(context.Context) ([]wire.Token, *wire.Done, error) { return nil, nil, b.cause }
func (b *broken) Close()                                                 {}
