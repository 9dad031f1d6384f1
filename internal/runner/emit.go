package runner

import (
	"encoding/json"
	"sync"

	"github.com/skein-run/skein/internal/runner/wire"
)

// sender is the part of wire.Conn that the loop writes to.
type sender interface {
	Send(t wire.Type, ref uint64, body []byte) error
}

// emitter writes the loop's frames on a goroutine of its own, in order: the
// write call lets the system run the node and its client before it returns,
// and the next batch need not wait for that. Tokens of several steps become
// one frame only if the writer is behind.
//
// The loop's goroutine starts write, and calls tokens, done, flush and close.
type emitter struct {
	out sender

	mu      sync.Mutex // guards all below
	changed sync.Cond  // something was flushed, written, or closed
	queue   []frame    // to be written
	held    int        // the last frames of queue, not flushed yet
	bytes   int        // of queue
	spare   [][]byte   // bodies to be used again
	closed  bool

	ended chan struct{} // closed when the writer has returned
}

// frame is one frame to be written.
type frame struct {
	kind wire.Type
	ref  uint64
	body []byte
}

// emitLimit is how many bytes may wait for a node that does not read.
const emitLimit = 4 << 20

func newEmitter(out sender) *emitter {
	e := &emitter{out: out, ended: make(chan struct{})}
	e.changed.L = &e.mu
	return e
}

// tokens adds one token to the step's frame.
func (e *emitter) tokens(t *wire.Token) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := len(e.queue)
	if n == 0 || e.queue[n-1].kind != wire.TypeStep {
		e.add(frame{kind: wire.TypeStep, body: e.blank()})
		n++
	} else if e.held == 0 {
		e.held = 1 // the writer is behind: it takes both steps at once
	}
	f := &e.queue[n-1]
	before := len(f.body)
	f.body = wire.AppendToken(f.body, t)
	e.bytes += len(f.body) - before
}

// done adds the end of a generation.
func (e *emitter) done(d wire.Done) error {
	b, err := json.Marshal(d)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.add(frame{kind: wire.TypeDone, ref: d.ID, body: b})
	e.bytes += len(b)
	return nil
}

// add is called with mu held.
func (e *emitter) add(f frame) {
	e.queue = append(e.queue, f)
	e.held++
}

// blank is called with mu held.
func (e *emitter) blank() []byte {
	if n := len(e.spare); n > 0 {
		b := e.spare[n-1]
		e.spare = e.spare[:n-1]
		return b[:0]
	}
	return nil
}

// flush lets the writer take what was added. It waits only for a node that has
// not read for megabytes.
func (e *emitter) flush() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.held == 0 {
		return
	}
	e.held = 0
	e.changed.Broadcast()
	for e.bytes > emitLimit {
		e.changed.Wait()
	}
}

// close writes what is left and joins the writer.
func (e *emitter) close() {
	e.flush()
	e.mu.Lock()
	e.closed = true
	e.changed.Broadcast()
	e.mu.Unlock()
	<-e.ended
}

// write is the writer's goroutine. A broken pipe is noted, and nothing else is
// to be done: the reader of stdin sees the node's end and exits.
func (e *emitter) write() {
	defer close(e.ended)
	e.mu.Lock()
	defer e.mu.Unlock()
	for {
		if len(e.queue) == e.held {
			if e.closed {
				return
			}
			e.changed.Wait()
			continue
		}
		f := e.queue[0]
		e.queue = append(e.queue[:0], e.queue[1:]...)
		e.mu.Unlock()
		err := e.out.Send(f.kind, f.ref, f.body)
		e.mu.Lock()
		if err != nil {
			logLine(logWarn, err.Error())
		}
		if e.bytes -= len(f.body); f.kind == wire.TypeStep && cap(f.body) < 1<<16 {
			e.spare = append(e.spare, f.body)
		}
		if e.bytes <= emitLimit {
			e.changed.Broadcast()
		}
	}
}
