package runner

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skein-run/skein/internal/runner/llama"
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

	cacheLimit int64 // bytes of the largest snapshot worth taking

	gens   map[uint64]*gen
	bySlot []*gen // of the running step
	byJob  map[*schedule.Job]*gen
	pieces map[int32][]byte // text of tokens seen so far
	items  []llama.Item     // reused
	frame  []byte           // reused
	picked []int32          // reused
	rows   [][]float32      // reused

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
}

// message is what other goroutines tell the loop.
type message struct {
	start  *wire.GenerateRequest
	cancel uint64
	stop   bool
	at     time.Time
}

func newLoop(eng backend, vocab vocabulary, out sender, sched *schedule.Scheduler, now func() time.Time) *loop {
	cfg := sched.Config()
	return &loop{
		bySlot: make([]*gen, cfg.Slots), cacheLimit: cfg.CacheBytes,
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
		if err := l.readMail(); err != nil {
			l.failAll(err)
			return err
		}
		step := l.sched.Plan()
		if step.Empty() {
			l.busy.Store(false)
			l.stats.update(l.sched)
			<-l.wake
			continue
		}
		l.busy.Store(true)
		if err := l.step(step); err != nil {
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

// step carries out one step. An error means that the library's state is
// unknown.
func (l *loop) step(s *schedule.Step) error {
	begin := l.now()
	for _, j := range l.sched.Running() {
		g := l.byJob[j]
		l.bySlot[j.Slot()] = g
		if g.started.IsZero() {
			g.started = begin
		}
	}
	again := false
	for _, op := range s.Before {
		ok, err := l.apply(op)
		if err != nil {
			return err
		}
		again = again || !ok
	}
	if again {
		return nil // the plan counted on a state that is not there; the next one does not
	}
	if len(s.Decode) > 0 {
		if err := l.decode(s.Decode); err != nil {
			return err
		}
		l.emit(s.Decode)
		l.sched.Decoded(l.picked)
		l.stats.decoded.Add(uint64(len(s.Decode)))
		l.settle(s.Decode)
	}
	if len(s.Chunk) > 0 {
		if err := l.compute(s.Chunk); err != nil {
			return err
		}
		l.sched.Chunked()
		l.stats.prompt.Add(uint64(len(s.Chunk)))
	}
	for _, op := range s.After {
		if _, err := l.apply(op); err != nil {
			return err
		}
	}
	return nil
}

// compute runs one batch.
func (l *loop) compute(items []schedule.Item) error {
	l.items = l.items[:0]
	for _, it := range items {
		l.items = append(l.items, llama.Item{Token: it.Token, Sequence: it.Slot, Position: it.Position, Output: it.Output})
	}
	return l.eng.Decode(l.items)
}

// decode computes one token of each running stream and samples the next ones
// into l.picked.
func (l *loop) decode(items []schedule.Item) error {
	if err := l.compute(items); err != nil {
		return err
	}
	l.picked, l.rows = l.picked[:0], l.rows[:0]
	for i := range items {
		row, err := l.eng.Logits(i)
		if err != nil {
			return err
		}
		l.rows = append(l.rows, row)
		l.picked = append(l.picked, 0)
	}
	parallel(len(items), func(i int) {
		l.picked[i] = l.bySlot[items[i].Slot].sampler.Sample(l.rows[i])
	})
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
func (l *loop) emit(items []schedule.Item) {
	now := l.now()
	l.frame = l.frame[:0]
	for i, it := range items {
		g, t := l.bySlot[it.Slot], l.picked[i]
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
			l.logprobs(&tok, l.rows[i], g.req.TopLogprobs)
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
func (l *loop) settle(items []schedule.Item) {
	for i, it := range items {
		switch g := l.bySlot[it.Slot]; {
		case l.ends(g, l.picked[i]):
			l.finish(g, wire.Done{Reason: wire.ReasonStop})
		case l.sched.Full(g.job):
			l.finish(g, wire.Done{Reason: wire.ReasonLength})
		}
	}
}

// apply carries out one KV edit. A failed save costs only time later. A failed
// restore gives ok false: the prompt is computed instead. A failed removal
// would leave a wrong state, so it is an error that ends the runner.
func (l *loop) apply(op schedule.Op) (ok bool, err error) {
	switch op.Kind {
	case schedule.OpRemove:
		if !l.eng.Remove(op.Slot, op.From, -1) {
			return false, fmt.Errorf("the memory of slot %d could not go back to token %d", op.Slot, op.From)
		}
	case schedule.OpCopy:
		l.eng.Copy(op.Source, op.Slot)
	case schedule.OpSave:
		if l.eng.StateBytes(op.Slot) > l.cacheLimit {
			return true, nil
		}
		b, err := l.eng.State(op.Slot)
		if err != nil {
			logLine(logWarn, "prefix not kept: "+err.Error())
			return true, nil
		}
		op.Snapshot.Data = b
		l.sched.Saved(op.Snapshot)
	case schedule.OpRestore:
		if err := l.eng.SetState(op.Slot, op.Snapshot.Data); err != nil {
			logLine(logWarn, "prefix not restored, the prompt is computed again: "+err.Error())
			l.eng.Remove(op.Slot, 0, -1)
			l.sched.Lost(op.Slot, op.Snapshot)
			return false, nil
		}
	}
	return true, nil
}

func (l *loop) finish(g *gen, d wire.Done) {
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
