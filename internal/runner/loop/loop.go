// Package loop is the step loop of a runner: it has the scheduler plan batches, the
// model compute them, draws the tokens, and sends what came of it. What a model is
// (one whole in this process, or a group of shards) a Backend hides.
//
// One goroutine runs it, locked to its thread where the Backend wants that; Start,
// Cancel, Stop, Lose, Alone, Stats and Beat may be called from any. What do of Alone
// is given is for its time alone.
//
// It must not import the library's binding or links: tests run it on made-up models.
package loop

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skein-run/skein/internal/runner/sample"
	"github.com/skein-run/skein/internal/runner/schedule"
	"github.com/skein-run/skein/internal/runner/wire"
)

// Loop is the step loop. Run is its goroutine and owns everything that is not
// marked otherwise.
type Loop struct {
	eng   Backend
	vocab Vocabulary
	out   emitter
	sched *schedule.Scheduler
	now   func() time.Time
	code  func(error) string

	gens    map[uint64]*gen
	byJob   map[*schedule.Job]*gen
	flights []*flight        // started and not finished, in order
	spare   []*flight        // reused
	pieces  map[int32][]byte // text of tokens seen so far
	picked  []int32          // reused
	known   []bool           // reused: whose token could be drawn from what came

	mu    sync.Mutex // guards mail and closed
	mail  []message
	wake  chan struct{} // capacity 1
	steps atomic.Uint64
	busy  atomic.Bool
	stats statsMirror
}

// gen is one generation.
type gen struct {
	job     *schedule.Job
	req     wire.GenerateRequest
	sampler *sample.Sampler

	submitted, started, first, last time.Time
	ended                           bool // what is in flight of it is of no use
}

// flight is a batch between Start and Finish.
type flight struct {
	batch *schedule.Batch
	gens  []*gen // one for each item with Output
	needs []sample.Need

	// prompt is whose prompt this is a part of, if it asked for its progress,
	// and done how much of it is computed afterwards.
	prompt *gen
	done   int
}

// message is what other goroutines tell the loop.
type message struct {
	start  *wire.GenerateRequest
	cancel uint64
	stop   bool
	lost   error        // ends Run: a shard of the model is gone
	call   func() error // runs on the loop's goroutine; an error ends Run
	refuse func(error)  // instead of call, if Run ended before
	at     time.Time
}

// Options make a Loop.
type Options struct {
	Model     Backend
	Vocab     Vocabulary
	Out       Sender // of wire.TypeStep, TypeDone and TypePrompt
	Scheduler *schedule.Scheduler
	Now       func() time.Time
	Warn      func(string)           // for the log
	Code      func(err error) string // of generations that an error of Run ends
}

// New makes a Loop; Run runs it.
func New(o Options) *Loop {
	return &Loop{
		eng: o.Model, vocab: o.Vocab, out: emitter{out: o.Out, warn: o.Warn}, sched: o.Scheduler, now: o.Now, code: o.Code,
		gens: map[uint64]*gen{}, byJob: map[*schedule.Job]*gen{}, pieces: map[int32][]byte{},
		wake: make(chan struct{}, 1),
	}
}

// Start begins a generation. Its tokens and its end are sent, a refusal too.
func (l *Loop) Start(req wire.GenerateRequest) { l.post(message{start: &req}) }

// Cancel ends a generation; of none it does nothing.
func (l *Loop) Cancel(id uint64) { l.post(message{cancel: id}) }

// Stop ends Run with ErrStopped.
func (l *Loop) Stop() { l.post(message{stop: true}) }

// Lose ends Run with err: a part of the model is gone.
func (l *Loop) Lose(err error) { l.post(message{lost: err}) }

// ErrBusy refuses what needs the model for itself.
var ErrBusy = errors.New("generations run; try again when none does")

// Alone has do carried out on the loop's goroutine while nothing is generated, or
// refuses it. An error of do ends Run.
func (l *Loop) Alone(do func(*Loop) error, refuse func(code string, err error)) {
	l.post(message{
		call: func() error {
			if len(l.gens) > 0 || len(l.flights) > 0 {
				refuse(wire.CodeBusy, ErrBusy)
				return nil
			}
			return do(l)
		},
		refuse: func(err error) { refuse(l.code(err), err) },
	})
}

func (l *Loop) post(m message) {
	m.at = l.now()
	l.mu.Lock()
	l.mail = append(l.mail, m)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// ErrStopped ends Run after Stop.
var ErrStopped = errors.New("stopped")

// Run steps until Stop or a fault that leaves the library's state
// unknown. It must be called on a goroutine locked to its thread.
func (l *Loop) Run() error {
	defer l.out.flush()
	for {
		err := l.readMail()
		if err == nil {
			err = l.fill()
		}
		// What the last batch gave goes out when the next one is on its way.
		l.out.flush()
		if err == nil && len(l.flights) == 0 {
			l.busy.Store(false)
			l.stats.update(l.sched)
			<-l.wake
			continue
		}
		if err == nil {
			err = l.land()
		}
		if err != nil {
			l.failAll(err)
			return err
		}
		l.steps.Add(1)
		l.stats.update(l.sched)
	}
}

// takeMail gives what was posted, in order.
func (l *Loop) takeMail() []message {
	l.mu.Lock()
	defer l.mu.Unlock()
	posted := l.mail
	l.mail = nil
	return posted
}

func (l *Loop) readMail() error {
	for _, m := range l.takeMail() {
		switch {
		case m.stop:
			return ErrStopped
		case m.lost != nil:
			return m.lost
		case m.call != nil:
			if err := m.call(); err != nil {
				return err
			}
		case m.start != nil:
			if l.gens[m.start.ID] != nil {
				return fmt.Errorf("the node started generation %d twice", m.start.ID)
			}
			l.start(*m.start, m.at)
		default:
			if g := l.gens[m.cancel]; g != nil {
				l.finish(g, wire.Done{Reason: wire.ReasonCancelled})
			}
		}
	}
	return nil
}

func (l *Loop) start(req wire.GenerateRequest, at time.Time) {
	refuse := func(code string, err error) {
		l.done(wire.Done{ID: req.ID, Reason: wire.ReasonError, Code: code, Error: err.Error(), PromptTokens: len(req.Prompt)})
	}
	if err := validate(req, l.vocab.Vocabulary()); err != nil {
		refuse(wire.CodeInvalid, err)
		return
	}
	g := &gen{req: req, submitted: at, job: &schedule.Job{ID: req.ID, Prompt: req.Prompt, Max: req.MaxTokens, Fresh: req.NoCache}}
	if err := l.sched.Add(g.job); err != nil {
		var ce *schedule.ContextError
		switch {
		case errors.Is(err, schedule.ErrBusy):
			refuse(wire.CodeBusy, err)
		case errors.As(err, &ce):
			refuse(wire.CodeContextExceeded, err)
		default:
			refuse(wire.CodeInvalid, err)
		}
		return
	}
	g.sampler = sample.New(req.Sampling, req.Prompt, req.Drawn)
	l.gens[req.ID] = g
	l.byJob[g.job] = g
}

func validate(req wire.GenerateRequest, vocabulary int) error {
	for i, t := range req.Prompt {
		if t < 0 || int(t) >= vocabulary {
			return fmt.Errorf("prompt token %d is %d, the vocabulary has %d tokens", i, t, vocabulary)
		}
	}
	for t := range req.Sampling.LogitBias {
		if t < 0 || int(t) >= vocabulary {
			return fmt.Errorf("logit_bias names token %d, the vocabulary has %d tokens", t, vocabulary)
		}
	}
	return nil
}

// fill starts batches while there is something to start.
func (l *Loop) fill() error {
	for {
		b := l.sched.Next()
		for _, j := range l.sched.Admitted() {
			l.byJob[j].started = l.now()
		}
		if b == nil {
			return nil
		}
		f := l.describe(b)
		l.busy.Store(true)
		if err := l.eng.Start(b, f.needs); err != nil {
			return err
		}
		l.flights = append(l.flights, f)
	}
}

// describe notes whose items b has, and what their draws need.
func (l *Loop) describe(b *schedule.Batch) *flight {
	f := &flight{}
	if n := len(l.spare); n > 0 {
		f, l.spare = l.spare[n-1], l.spare[:n-1]
	}
	f.batch, f.gens, f.needs, f.prompt = b, f.gens[:0], f.needs[:0], nil
	if n := len(b.Items); n > 0 && !b.Items[n-1].Output {
		last := b.Items[n-1]
		if g := l.byJob[l.sched.Holder(last.Slot)]; g != nil && g.req.Progress {
			f.prompt, f.done = g, last.Position+1
		}
	}
	for _, it := range b.Items {
		if it.Output {
			g := l.byJob[l.sched.Holder(it.Slot)]
			f.gens = append(f.gens, g)
			f.needs = append(f.needs, g.sampler.Need(g.req.Logprobs, g.req.TopLogprobs))
		}
	}
	return f
}

// land finishes the oldest batch. An error means that the state is unknown.
func (l *Loop) land() error {
	f := l.flights[0]
	l.flights = slices.Delete(l.flights, 0, 1)
	l.spare = append(l.spare, f)
	out, rows, err := l.eng.Finish()
	if err != nil {
		return err
	}
	if len(rows) != len(f.gens) {
		return fmt.Errorf("a batch with %d outputs gave %d rows", len(f.gens), len(rows))
	}
	if err := l.draw(f.gens, rows); err != nil {
		return err
	}
	// The last token of a prompt is computed for itself: before it nothing new
	// is to be told.
	if g := f.prompt; g != nil && !g.ended && f.done < len(g.req.Prompt)-1 {
		l.out.prompt(g.req.ID, wire.Prompt{Done: f.done, Total: len(g.req.Prompt)})
	}
	prompt := len(f.batch.Items) - f.batch.Fill - len(f.gens)
	l.sched.Finished(out, l.picked)
	l.stats.decoded.Add(uint64(len(f.gens)))
	l.stats.prompt.Add(uint64(prompt))
	return l.settle(f.gens, rows)
}

// draw samples the next tokens into l.picked.
func (l *Loop) draw(gens []*gen, rows []sample.Row) error {
	l.picked = slices.Grow(l.picked[:0], len(rows))[:len(rows)]
	l.known = slices.Grow(l.known[:0], len(rows))[:len(rows)]
	parallel(len(rows), func(i int) {
		l.known[i] = true
		if g := gens[i]; !g.ended {
			l.picked[i], l.known[i] = g.sampler.Draw(&rows[i])
		}
	})
	for i, ok := range l.known {
		if !ok {
			row, err := l.eng.Row(i)
			if err != nil {
				return err
			}
			l.picked[i] = gens[i].sampler.Sample(row)
		}
	}
	return nil
}

// parallel calls f(0..n-1), on all processors when there is enough to do:
// between two batches the library's threads are idle.
func parallel(n int, f func(int)) {
	workers := min(runtime.GOMAXPROCS(0), n)
	if n < 4 || workers < 2 {
		for i := range n {
			f(i)
		}
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	work := func() {
		for {
			i := int(next.Add(1)) - 1
			if i >= n {
				return
			}
			f(i)
		}
	}
	for range workers - 1 {
		wg.Go(work)
	}
	work()
	wg.Wait()
}

// settle hands out the sampled tokens and ends the generations that they
// complete.
func (l *Loop) settle(gens []*gen, rows []sample.Row) error {
	now := l.now()
	for i, g := range gens {
		if g.ended {
			continue
		}
		if g.first.IsZero() {
			g.first = now
		}
		g.last = now
		t := l.picked[i]
		if l.vocab.IsEnd(t) && !g.req.IgnoreEnd {
			l.finish(g, wire.Done{Reason: wire.ReasonStop})
			continue
		}
		tok := wire.Token{ID: g.req.ID, Token: t, Piece: l.piece(t)}
		if g.req.Logprobs {
			if err := l.logprobs(&tok, &rows[i], i, g.req.TopLogprobs); err != nil {
				return err
			}
		}
		l.out.token(&tok)
		if l.sched.Full(g.job) {
			l.finish(g, wire.Done{Reason: wire.ReasonLength})
			continue
		}
		g.sampler.Accept(t)
	}
	return nil
}

// logprobs adds the log-probabilities of output i.
func (l *Loop) logprobs(tok *wire.Token, row *sample.Row, i, n int) error {
	own, top, ok := sample.Logprobs(row, tok.Token, n)
	if !ok {
		full, err := l.eng.Row(i)
		if err != nil {
			return err
		}
		own, top, _ = sample.Logprobs(&sample.Row{Full: full}, tok.Token, n)
	}
	tok.HasLogprob, tok.Logprob = true, own.Logprob
	for _, c := range top {
		tok.Top = append(tok.Top, wire.TokenLogprob{Token: c.Token, Piece: l.piece(c.Token), Logprob: c.Logprob})
	}
	return nil
}

func (l *Loop) piece(t int32) []byte {
	p, ok := l.pieces[t]
	if !ok {
		p = l.vocab.Piece(t, false)
		l.pieces[t] = p
	}
	return p
}

func (l *Loop) finish(g *gen, d wire.Done) {
	g.ended = true
	l.sched.Remove(g.job)
	delete(l.gens, g.req.ID)
	delete(l.byJob, g.job)
	d.ID, d.PromptTokens = g.req.ID, len(g.req.Prompt)
	d.Generated, d.CachedTokens = g.job.Produced(), g.job.Cached
	if d.Reason == wire.ReasonStop {
		d.Generated-- // the end token is no text
	}
	l.stats.cached.Add(uint64(g.job.Cached))
	if !g.started.IsZero() {
		d.QueueSeconds = g.started.Sub(g.submitted).Seconds()
	}
	if !g.first.IsZero() {
		d.PrefillSeconds = g.first.Sub(g.submitted).Seconds() - d.QueueSeconds
		d.DecodeSeconds = g.last.Sub(g.first).Seconds()
	}
	l.done(d)
}

func (l *Loop) done(d wire.Done) { l.out.done(d) }

func (l *Loop) failAll(err error) {
	for _, g := range l.gens {
		l.finish(g, wire.Done{Reason: wire.ReasonError, Code: l.code(err), Error: err.Error()})
	}
}

// Drain refuses what was posted after Run ended, on its goroutine. Nothing may
// be posted any more.
func (l *Loop) Drain(err error) {
	for _, m := range l.takeMail() {
		switch {
		case m.start != nil:
			l.done(wire.Done{ID: m.start.ID, Reason: wire.ReasonError, Code: l.code(err), Error: err.Error(), PromptTokens: len(m.start.Prompt)})
		case m.refuse != nil:
			m.refuse(err)
		}
	}
	l.out.flush()
}
