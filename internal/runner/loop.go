package runner

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

// sender is the part of wire.Conn that the loop writes to.
type sender interface {
	Send(t wire.Type, ref uint64, body []byte) error
	SendJSON(t wire.Type, ref uint64, v any) error
}

// loop is the step loop. run is its goroutine and owns everything that is not
// marked otherwise; submit, cancel and stats may be called from any goroutine.
type loop struct {
	eng   backend
	vocab vocabulary
	out   sender
	sched *schedule.Scheduler
	now   func() time.Time

	gens    map[uint64]*gen
	byJob   map[*schedule.Job]*gen
	flights []*flight        // started and not finished, in order
	spare   []*flight        // reused
	pieces  map[int32][]byte // text of tokens seen so far
	frame   []byte           // reused
	picked  []int32          // reused

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
}

// message is what other goroutines tell the loop.
type message struct {
	start  *wire.GenerateRequest
	cancel uint64
	stop   bool
	at     time.Time
}

func newLoop(eng backend, vocab vocabulary, out sender, sched *schedule.Scheduler, now func() time.Time) *loop {
	return &loop{
		eng: eng, vocab: vocab, out: out, sched: sched, now: now,
		gens: map[uint64]*gen{}, byJob: map[*schedule.Job]*gen{}, pieces: map[int32][]byte{},
		wake: make(chan struct{}, 1),
	}
}

func (l *loop) post(m message) {
	m.at = l.now()
	l.mu.Lock()
	l.mail = append(l.mail, m)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// errStopped ends run after a stop message.
var errStopped = errors.New("stopped")

// run steps until a stop message or a fault that leaves the library's state
// unknown. It must be called on a goroutine locked to its thread.
func (l *loop) run() error {
	for {
		err := l.readMail()
		if err == nil {
			err = l.fill()
		}
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

func (l *loop) readMail() error {
	l.mu.Lock()
	mail := l.mail
	l.mail = nil
	l.mu.Unlock()
	for _, m := range mail {
		switch {
		case m.stop:
			return errStopped
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

func (l *loop) start(req wire.GenerateRequest, at time.Time) {
	refuse := func(code string, err error) {
		l.done(wire.Done{ID: req.ID, Reason: wire.ReasonError, Code: code, Error: err.Error(), PromptTokens: len(req.Prompt)})
	}
	if err := validate(req, l.vocab.Vocabulary()); err != nil {
		refuse(wire.CodeInvalid, err)
		return
	}
	g := &gen{req: req, submitted: at, job: &schedule.Job{ID: req.ID, Prompt: req.Prompt, Max: req.MaxTokens}}
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
func (l *loop) fill() error {
	for b := l.sched.Next(); b != nil; b = l.sched.Next() {
		f := &flight{}
		if n := len(l.spare); n > 0 {
			f, l.spare = l.spare[n-1], l.spare[:n-1]
		}
		f.batch, f.gens, f.needs = b, f.gens[:0], f.needs[:0]
		l.busy.Store(true)
		if err := l.describe(f); err != nil {
			return err
		}
		if err := l.eng.Start(b, f.needs); err != nil {
			return err
		}
		l.flights = append(l.flights, f)
	}
	return nil
}

// describe notes whose items f has, and what their draws need.
func (l *loop) describe(f *flight) error {
	for _, j := range l.sched.Running() {
		if g := l.byJob[j]; g.started.IsZero() {
			g.started = l.now()
		}
	}
	for _, it := range f.batch.Items {
		if it.Output {
			f.gens = append(f.gens, l.byJob[l.sched.Holder(it.Slot)])
			f.needs = append(f.needs, sample.Need{Full: true})
		}
	}
	return nil
}

// land finishes the oldest batch. An error means that the state is unknown.
func (l *loop) land() error {
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
	l.picked = slices.Grow(l.picked[:0], len(rows))[:len(rows)]
	parallel(len(rows), func(i int) {
		if g := f.gens[i]; !g.ended {
			l.picked[i] = g.sampler.Sample(rows[i].Full)
		}
	})
	l.sched.Finished(out, l.picked)
	if len(f.gens) > 0 {
		l.emit(f.gens, rows)
		l.stats.decoded.Add(uint64(len(f.gens)))
		l.settle(f.gens)
	} else {
		l.stats.prompt.Add(uint64(len(f.batch.Items)))
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

// emit sends the sampled tokens in one frame.
func (l *loop) emit(gens []*gen, rows []sample.Row) {
	now := l.now()
	l.frame = l.frame[:0]
	for i, g := range gens {
		if g.ended {
			continue
		}
		t := l.picked[i]
		if g.first.IsZero() {
			g.first = now
		}
		g.last = now
		if l.ends(g, t) {
			continue // settle says so
		}
		g.sampler.Accept(t)
		tok := wire.Token{ID: g.req.ID, Token: t, Piece: l.piece(t)}
		if g.req.Logprobs {
			l.logprobs(&tok, rows[i].Full, g.req.TopLogprobs)
		}
		l.frame = wire.AppendToken(l.frame, &tok)
	}
	if len(l.frame) > 0 {
		l.send(l.out.Send(wire.TypeStep, 0, l.frame))
	}
}

func (l *loop) ends(g *gen, token int32) bool { return l.vocab.IsEnd(token) && !g.req.IgnoreEnd }

func (l *loop) logprobs(tok *wire.Token, row []float32, n int) {
	own, top := sample.Logprobs(row, tok.Token, n)
	tok.HasLogprob, tok.Logprob = true, own.Logprob
	for _, c := range top {
		tok.Top = append(tok.Top, wire.TokenLogprob{Token: c.Token, Piece: l.piece(c.Token), Logprob: c.Logprob})
	}
}

func (l *loop) piece(t int32) []byte {
	p, ok := l.pieces[t]
	if !ok {
		p = l.vocab.Piece(t, false)
		l.pieces[t] = p
	}
	return p
}

// settle ends the generations that the step completed.
func (l *loop) settle(gens []*gen) {
	for i, g := range gens {
		switch {
		case g.ended:
		case l.ends(g, l.picked[i]):
			l.finish(g, wire.Done{Reason: wire.ReasonStop})
		case l.sched.Full(g.job):
			l.finish(g, wire.Done{Reason: wire.ReasonLength})
		}
	}
}

func (l *loop) finish(g *gen, d wire.Done) {
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

func (l *loop) done(d wire.Done) { l.send(l.out.SendJSON(wire.TypeDone, d.ID, d)) }

// send notes a broken pipe. Nothing else is to be done: the reader of stdin
// sees the node's end and exits.
func (l *loop) send(err error) {
	if err != nil {
		logLine(logWarn, err.Error())
	}
}

func (l *loop) failAll(err error) {
	for _, g := range l.gens {
		l.finish(g, wire.Done{Reason: wire.ReasonError, Code: wire.CodeInternal, Error: err.Error()})
	}
}
