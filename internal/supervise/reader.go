package supervise

import (
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/runner/wire"
)

// read shakes hands and then hands every frame to whom it is for. It never
// waits for a consumer, so one that is slow holds up nobody.
func (p *process) read(build string) {
	hello, err := p.conn.Handshake(build)
	if err != nil && hello.Version != 0 && hello.Version != wire.Version {
		// The pair of builds stays the same however often it is started.
		err = &Refused{Failure: wire.Failure{Code: wire.CodeEngine, Message: err.Error()}}
	}
	p.greeted <- err
	for err == nil {
		var f wire.Frame
		if f, err = p.conn.Read(); err == nil {
			p.lastFrame.Store(int64(time.Since(p.epoch)))
			err = p.dispatch(f)
		}
	}
	if errors.Is(err, wire.ErrFrame) {
		p.fail(err.Error())
		return
	}
	reason := "closed its output"
	if !errors.Is(err, io.EOF) {
		reason += " (" + err.Error() + ")"
	}
	p.expectExit(reason)
}

func (p *process) dispatch(f wire.Frame) error {
	switch f.Type {
	case wire.TypeStep:
		p.progressed()
		return p.step(f)
	case wire.TypeDone:
		p.progressed()
		done := new(wire.Done)
		if err := f.Decode(done); err != nil {
			return err
		}
		p.end(done.ID, done)
	case wire.TypePrompt:
		p.progressed()
		var at wire.Prompt
		if err := f.Decode(&at); err != nil {
			return err
		}
		p.mu.Lock()
		s := p.streams[f.Ref]
		p.mu.Unlock()
		if s != nil {
			s.note(generation.PromptProgress(at))
		}
	case wire.TypeBeat:
		var b wire.Beat
		if err := f.Decode(&b); err != nil {
			return err
		}
		if b.Steps != p.steps {
			p.steps = b.Steps
			p.progressed()
		}
	case wire.TypeProgress, wire.TypeLogits:
		p.progressed()
		p.mu.Lock()
		c := p.calls[f.Ref]
		p.mu.Unlock()
		if c != nil && c.before != nil {
			return c.before(f)
		}
	case wire.TypeBroken:
		var b wire.Broken
		if err := f.Decode(&b); err != nil {
			return err
		}
		if p.broken != nil {
			p.broken(b)
		}
	case wire.TypeResult, wire.TypeTokens, wire.TypeText, wire.TypeFailure:
		p.progressed()
		return p.answer(f)
	default:
		return fmt.Errorf("%w: type %d from a runner", wire.ErrFrame, f.Type)
	}
	return nil
}

// step hands the tokens of one step to their streams.
func (p *process) step(f wire.Frame) error {
	var over *stream
	p.mu.Lock()
	err := wire.DecodeTokens(f.Body, func(t wire.Token) {
		if s := p.streams[t.ID]; s != nil && !s.push(t) {
			over = s
		}
	})
	p.mu.Unlock()
	if err == nil && over != nil {
		err = fmt.Errorf("%w: more than the %d tokens that were asked for", wire.ErrFrame, over.limit)
	}
	return err
}

// end finishes a stream and forgets it.
func (p *process) end(id uint64, done *wire.Done) {
	p.mu.Lock()
	s := p.streams[id]
	delete(p.streams, id)
	p.mu.Unlock()
	if s != nil {
		s.finish(done, nil)
	}
}

// answer completes a call. A Failure may also be about a generation.
func (p *process) answer(f wire.Frame) error {
	p.mu.Lock()
	c := p.calls[f.Ref]
	delete(p.calls, f.Ref)
	s := p.streams[f.Ref]
	p.mu.Unlock()
	switch {
	case c != nil:
		c.reply <- f
	case s != nil && f.Type == wire.TypeFailure:
		var failure wire.Failure
		if err := f.Decode(&failure); err != nil {
			return err
		}
		p.end(f.Ref, &wire.Done{ID: f.Ref, Reason: wire.ReasonError, Code: failure.Code, Error: failure.Message})
	case s != nil:
		return fmt.Errorf("%w: answer of type %d to a generation", wire.ErrFrame, f.Type)
	}
	return nil
}

// progressed notes a sign of progress.
func (p *process) progressed() { p.lastStep.Store(int64(time.Since(p.epoch))) }

// touch starts the watchdog's clocks anew.
func (p *process) touch() {
	now := int64(time.Since(p.epoch))
	p.lastFrame.Store(now)
	p.lastStep.Store(now)
}

// watch changes what the watchdog demands: progress within limit, while there
// is work or always.
func (p *process) watch(limit time.Duration, always bool, what string) {
	p.mu.Lock()
	p.limit, p.always, p.what = limit, always, what
	p.touch()
	p.mu.Unlock()
	p.poke(p.rewatch)
}

// guard kills a process that hangs. It sleeps until the deadline as it was,
// then looks how far progress has moved it, so that progress itself costs one
// atomic store.
func (p *process) guard() {
	t := time.NewTimer(time.Hour)
	defer t.Stop()
	for {
		p.mu.Lock()
		watched := p.limit > 0 && (p.always || len(p.streams)+len(p.calls) > 0) && !p.closing
		limit, what, silence := p.limit, p.what, p.beat
		if p.always {
			silence = math.MaxInt64 // a runner that starts or loads owes no beats
		}
		p.mu.Unlock()
		var deadline <-chan time.Time
		if watched {
			now := time.Since(p.epoch)
			quiet, idle := now-time.Duration(p.lastFrame.Load()), now-time.Duration(p.lastStep.Load())
			switch {
			case quiet >= silence:
				p.fail(fmt.Sprintf("gave no sign of life for %v", silence))
				return
			case idle >= limit:
				p.fail(fmt.Sprintf("%s %v", what, limit))
				return
			}
			t.Reset(min(limit-idle, silence-quiet))
			deadline = t.C
		}
		select {
		case <-deadline:
		case <-p.rewatch:
		case <-p.gone:
			return
		}
	}
}

// unavailable tells a client to come back later.
func unavailable(retryAfter int, err error, format string, args ...any) error {
	return &generation.Error{Kind: generation.KindUnavailable, Message: fmt.Sprintf(format, args...), RetryAfter: retryAfter, Err: err}
}
