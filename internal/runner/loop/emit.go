package loop

import (
	"encoding/json"
	"fmt"

	"github.com/skein-run/skein/internal/runner/wire"
)

// Sender is the part of wire.Conn that the loop writes to.
type Sender interface {
	Send(t wire.Type, ref uint64, body []byte) error
}

// emitter collects the frames that a batch gives and writes them when the next
// batch is on its way, so that other shards compute meanwhile. It belongs to
// the loop's goroutine.
//
// It writes on that goroutine too. A writer of its own beside the next batch was
// measured, and is no gain on two cores that both compute (docs/benchmarks.md):
// the threads that it wakes push a compute thread aside, for which the other
// one then waits.
type emitter struct {
	out   Sender
	warn  func(string)
	queue []frame
	used  int // of queue; the rest keeps its memory for later
}

// frame is one frame to be written.
type frame struct {
	kind wire.Type
	ref  uint64
	body []byte
}

// token adds one token: those of a batch become one frame.
func (e *emitter) token(t *wire.Token) {
	if e.used == 0 || e.queue[e.used-1].kind != wire.TypeStep {
		e.next(wire.TypeStep, 0)
	}
	f := &e.queue[e.used-1]
	f.body = wire.AppendToken(f.body, t)
}

// done adds the end of a generation.
func (e *emitter) done(d wire.Done) {
	b, err := json.Marshal(d)
	if err != nil {
		e.warn(fmt.Sprintf("tell the end of generation %d: %v", d.ID, err))
		return
	}
	f := e.next(wire.TypeDone, d.ID)
	f.body = append(f.body, b...)
}

// prompt adds how far a prompt is.
func (e *emitter) prompt(id uint64, p wire.Prompt) {
	b, err := json.Marshal(p)
	if err != nil {
		e.warn(fmt.Sprintf("tell the progress of generation %d: %v", id, err))
		return
	}
	f := e.next(wire.TypePrompt, id)
	f.body = append(f.body, b...)
}

func (e *emitter) next(kind wire.Type, ref uint64) *frame {
	if e.used == len(e.queue) {
		e.queue = append(e.queue, frame{})
	}
	f := &e.queue[e.used]
	e.used++
	f.kind, f.ref, f.body = kind, ref, f.body[:0]
	return f
}

// flush writes what was added. A broken pipe is noted, and nothing else is to
// be done: the reader of stdin sees the node's end and exits.
func (e *emitter) flush() {
	for i := range e.queue[:e.used] {
		f := &e.queue[i]
		if err := e.out.Send(f.kind, f.ref, f.body); err != nil {
			e.warn(err.Error())
		}
	}
	e.used = 0
}
