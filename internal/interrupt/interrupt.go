// Package interrupt shares the signals that end a program between its parts:
// normally the first one ends a context and a second one asks for haste, but a
// part that has a use of its own for Ctrl-C, such as stopping one answer of a
// chat, may take it over for a while.
//
// It imports nothing of ours. A Handler may be used from any goroutine.
package interrupt

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// ErrInterrupted is the cause of a context that a signal ended.
var ErrInterrupted = errors.New("interrupted")

// Handler receives the signals of a process until Close.
type Handler struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	force  chan struct{} // closed at the second signal
	notify chan os.Signal
	done   chan struct{} // closed when the receiving goroutine has ended
	stop   chan struct{} // closed by Close

	mu     sync.Mutex
	taken  chan struct{} // guarded by mu; nil unless somebody took Ctrl-C over
	closed bool          // guarded by mu
}

// Listen starts to receive SIGINT and SIGTERM.
func Listen(parent context.Context) *Handler {
	notify := make(chan os.Signal, 4)
	signal.Notify(notify, os.Interrupt, syscall.SIGTERM)
	return start(parent, notify)
}

// start serves the signals that arrive on notify.
func start(parent context.Context, notify chan os.Signal) *Handler {
	h := &Handler{
		force:  make(chan struct{}),
		notify: notify,
		done:   make(chan struct{}),
		stop:   make(chan struct{}),
	}
	h.ctx, h.cancel = context.WithCancelCause(parent)
	go h.receive()
	return h
}

// Context ends, with ErrInterrupted as its cause, at the first signal that
// nobody has taken over.
func (h *Handler) Context() context.Context { return h.ctx }

// Force is closed at the second one: whoever still tidies up should stop.
func (h *Handler) Force() <-chan struct{} { return h.force }

// Take hands Ctrl-C to the caller until release is called: each one is then a
// value on the channel, and at most one waits there. SIGTERM still ends the
// context. One part at a time may hold it; a second Take panics, since the two
// would steal each other's interrupts.
func (h *Handler) Take() (interrupts <-chan struct{}, release func()) {
	ch := make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.taken != nil {
		panic("interrupt: taken twice")
	}
	h.taken = ch
	return ch, sync.OnceFunc(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.taken = nil
	})
}

// Close stops receiving, joins the goroutine and ends the context. Idempotent.
func (h *Handler) Close() {
	h.mu.Lock()
	if !h.closed {
		h.closed = true
		signal.Stop(h.notify)
		close(h.stop)
	}
	h.mu.Unlock()
	<-h.done
	h.cancel(context.Canceled)
}

func (h *Handler) receive() {
	defer close(h.done)
	seen := 0
	for {
		select {
		case <-h.stop:
			return
		case s := <-h.notify:
			if s == os.Interrupt && h.deliver() {
				continue
			}
			seen++
			switch seen {
			case 1:
				h.cancel(ErrInterrupted)
			case 2:
				close(h.force)
			}
		}
	}
}

// deliver hands an interrupt to the part that took it; false when none did.
func (h *Handler) deliver() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.taken == nil {
		return false
	}
	select {
	case h.taken <- struct{}{}:
	default: // one waits already and says the same
	}
	return true
}
