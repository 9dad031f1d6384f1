package supervise

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise/child"
)

// process is one life of a runner: from launch until exited is closed.
type process struct {
	name   string
	log    *slog.Logger
	grace  time.Duration
	kid    *child.Child
	conn   *wire.Conn
	beat   time.Duration     // Options.BeatLimit
	broken func(wire.Broken) // Options.Broken

	greeted chan error    // capacity 1: outcome of the handshake
	kick    chan struct{} // capacity 1: out has something
	rewatch chan struct{} // capacity 1: the watchdog's deadline changed
	gone    chan struct{} // closed when the program is reaped
	exited  chan struct{} // closed when all goroutines are joined and cause is set

	epoch     time.Time
	lastFrame atomic.Int64 // nanoseconds after epoch
	lastStep  atomic.Int64 // likewise: the last sign of progress
	steps     uint64       // of the last Beat; owned by the reader

	mu      sync.Mutex // guards all below
	out     []wire.Frame
	streams map[uint64]*stream
	calls   map[uint64]*call
	lastRef uint64
	closing bool          // no more requests; stdin is closed once out is empty
	limit   time.Duration // without progress; 0: unlimited
	always  bool          // limit holds without open work too (start, load)
	what    string        // what limit is about
	fault   string        // why it was killed by us; "": it was not
	cause   error         // set before exited is closed: *Crash, or errStopping

	tail tail // stderr reader's, then read by whoever saw exited
}

// call is a request with one answer.
type call struct {
	reply chan wire.Frame // capacity 1
	// before gets the frames that come before the answer, in the reader; an
	// error of it is a fault of the runner. nil: there are none.
	before func(wire.Frame) error
}

var errStopping = errors.New("the runner was stopped")

// newProcess takes a started child over and starts its goroutines.
func newProcess(o *Options, kid *child.Child) *process {
	p := &process{
		name: o.Name, log: o.Logger, grace: o.StopGrace, beat: o.BeatLimit, broken: o.Broken, kid: kid,
		conn:    wire.NewConn(kid.Stdout, kid.Stdin),
		greeted: make(chan error, 1),
		kick:    make(chan struct{}, 1),
		rewatch: make(chan struct{}, 1),
		gone:    make(chan struct{}),
		exited:  make(chan struct{}),
		epoch:   time.Now(),
		streams: make(map[uint64]*stream),
		calls:   make(map[uint64]*call),
		limit:   o.StartLimit, always: true, what: "did not start within",
	}
	var readers, others sync.WaitGroup
	readers.Go(func() { p.read(o.Build) })
	readers.Go(p.readStderr)
	others.Go(p.write)
	others.Go(p.guard)
	go p.reap(&readers, &others)
	return p
}

// reap is the only waiter of the program; it joins everything else.
func (p *process) reap(readers, others *sync.WaitGroup) {
	status := p.kid.Wait()
	close(p.gone)
	// Whoever inherited the pipes from the program must not hold us up.
	force := time.AfterFunc(p.grace, p.closeOutputs)
	readers.Wait()
	force.Stop()
	p.closeOutputs()
	_ = p.kid.Stdin.Close() // the program is gone: nothing can be lost
	others.Wait()

	p.mu.Lock()
	crash := &Crash{Cause: status, Headline: p.tail.summary(), Stderr: p.tail.lines}
	switch {
	case p.fault != "":
		crash.Cause = p.fault
	case status == "signal: killed":
		crash.Cause += " (by somebody, or by the system for want of memory)"
	}
	p.cause = crash
	err := p.died(crash)
	if p.closing && p.fault == "" {
		p.cause = errStopping
		err = unavailable(1, errStopping, "%s is being unloaded", p.name)
	}
	streams := p.streams
	p.streams, p.calls = nil, nil
	p.mu.Unlock()

	for _, s := range streams {
		s.finish(nil, err)
	}
	close(p.exited)
}

// died is what the clients of a dead process are told.
func (p *process) died(crash *Crash) error {
	return &generation.Error{
		Kind:    generation.KindFailed,
		Message: fmt.Sprintf("the runner of %s died (%v); send the request again", p.name, crash),
		Err:     crash,
	}
}

func (p *process) closeOutputs() {
	// Closing what was only read from cannot lose anything.
	_ = p.kid.Stdout.Close()
	_ = p.kid.Stderr.Close()
}

// fail kills the program and keeps the first reason.
func (p *process) fail(reason string) {
	p.mu.Lock()
	if p.fault == "" {
		p.fault = reason
	}
	p.mu.Unlock()
	p.kill()
}

func (p *process) kill() {
	if err := p.kid.Kill(); err != nil {
		p.log.Error("the runner cannot be killed", "model", p.name, "error", err)
	}
}

// expectExit gives a program whose pipes broke the time to die by itself, so
// that its exit status is reported, and not our reading of it.
func (p *process) expectExit(reason string) {
	t := time.NewTimer(p.grace)
	defer t.Stop()
	select {
	case <-t.C:
		p.fail(reason)
	case <-p.gone:
	}
}

// close asks the program to end, kills it after the grace or with kill, and
// returns when it is reaped.
func (p *process) close(kill <-chan struct{}) {
	p.mu.Lock()
	if !p.closing {
		p.out = append(p.out, wire.Frame{Type: wire.TypeClose})
		p.closing = true
	}
	p.mu.Unlock()
	p.poke(p.kick)
	t := time.NewTimer(p.grace)
	defer t.Stop()
	select {
	case <-p.exited:
		return
	case <-kill:
	case <-t.C:
		p.log.Warn("the runner does not end, killing it", "model", p.name, "after", p.grace)
	}
	p.kill()
	<-p.exited
}

func (p *process) isGone() bool {
	select {
	case <-p.gone:
		return true
	default:
		return false
	}
}

func (p *process) poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// write sends what is queued; only it touches stdin while the program lives.
// Requests are queued instead of written by their callers, so that a runner
// that does not read its input cannot block anyone.
func (p *process) write() {
	for {
		select {
		case <-p.kick:
		case <-p.gone:
			return
		}
		for {
			p.mu.Lock()
			batch, closing := p.out, p.closing
			p.out = nil
			p.mu.Unlock()
			if len(batch) == 0 {
				if closing {
					_ = p.kid.Stdin.Close() // an end-of-file is all that is meant
					return
				}
				break
			}
			for _, f := range batch {
				if err := p.conn.Send(f.Type, f.Ref, f.Body); err != nil {
					p.expectExit("stopped reading requests (" + err.Error() + ")")
					return
				}
			}
		}
	}
}

// errGone tells that a request came too late for this process: it is reaped,
// or no longer the one that serves.
var errGone = errors.New("the runner is gone")

func (p *process) send(t wire.Type, ref uint64, body []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sendLocked(t, ref, body)
}

// sendLocked queues a frame; p.mu is held.
func (p *process) sendLocked(t wire.Type, ref uint64, body []byte) error {
	if p.streams == nil || p.closing {
		return errGone
	}
	if len(body) > wire.MaxFrame {
		return fmt.Errorf("request of %d bytes; the runner takes at most %d", len(body), wire.MaxFrame)
	}
	p.out = append(p.out, wire.Frame{Type: t, Ref: ref, Body: body})
	p.poke(p.kick)
	return nil
}

// begin is called with p.mu held, before work is added.
func (p *process) begin() {
	if len(p.streams)+len(p.calls) == 0 {
		p.touch()
		p.poke(p.rewatch)
	}
}

// call sends a request and waits for its answer. before, if not nil, runs in
// the reader for what comes earlier and must not block.
func (p *process) call(ctx context.Context, t wire.Type, body []byte, before func(wire.Frame) error) (wire.Frame, error) {
	c := &call{reply: make(chan wire.Frame, 1), before: before}
	p.mu.Lock()
	p.lastRef++
	ref := p.lastRef
	err := p.sendLocked(t, ref, body)
	if err == nil {
		p.begin()
		p.calls[ref] = c
	}
	p.mu.Unlock()
	if err != nil {
		return wire.Frame{}, err
	}
	select {
	case f := <-c.reply:
		if f.Type != wire.TypeFailure {
			return f, nil
		}
		failure := new(wire.Failure)
		if err := f.Decode(failure); err != nil {
			return wire.Frame{}, err
		}
		return wire.Frame{}, failure
	case <-ctx.Done():
		// The answer still comes; the reader drops it then.
		return wire.Frame{}, context.Cause(ctx)
	case <-p.exited:
		return wire.Frame{}, p.cause
	}
}

// generate queues a generation.
func (p *process) generate(ctx context.Context, req wire.GenerateRequest, limit int) (*stream, error) {
	p.mu.Lock()
	p.lastRef++
	req.ID = p.lastRef
	p.mu.Unlock()
	body, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	s := &stream{id: req.ID, p: p, limit: limit, wake: make(chan struct{}, 1), note: generation.NoteOf(ctx)}
	p.mu.Lock()
	if err = p.sendLocked(wire.TypeGenerate, s.id, body); err == nil {
		p.begin()
		p.streams[s.id] = s
	}
	p.mu.Unlock()
	if err != nil {
		return nil, err
	}
	// After the request is queued: a Cancel must not overtake it.
	s.hold(ctx)
	return s, nil
}

// readStderr logs and keeps the program's last words.
func (p *process) readStderr() {
	r := bufio.NewReaderSize(p.kid.Stderr, lineBytes)
	for {
		b, err := r.ReadSlice('\n') // a line too long comes in pieces
		if line := p.tail.add(string(b)); line != "" {
			level := slog.LevelDebug
			if isWarning(line) {
				level = slog.LevelWarn
			}
			p.log.Log(context.Background(), level, "runner", "model", p.name, "pid", p.kid.PID, "line", line)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}
