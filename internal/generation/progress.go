package generation

import (
	"context"
	"sync"
)

// PromptProgress is how much of a prompt is computed, in tokens. What the
// cache had counts as computed.
type PromptProgress struct{ Done, Total int }

type progressKey struct{}

// WithProgress gives a context for Model.Generate of a request that asks for
// progress: note is told of it, by whoever reads the runner's frames, and so
// must not wait. A Meter has such a note.
func WithProgress(ctx context.Context, note func(PromptProgress)) context.Context {
	return context.WithValue(ctx, progressKey{}, note)
}

// NoteOf is the note that a context was given; it does nothing if there is none.
func NoteOf(ctx context.Context) func(PromptProgress) {
	if note, ok := ctx.Value(progressKey{}).(func(PromptProgress)); ok {
		return note
	}
	return func(PromptProgress) {}
}

// Meter hands progress on from who must not wait to who may: only the newest
// counts. It owns one goroutine from Start to Stop.
type Meter struct {
	newest chan PromptProgress // capacity 1
	quit   chan struct{}
	wg     sync.WaitGroup
	once   sync.Once
}

// NewMeter makes a Meter.
func NewMeter() *Meter {
	return &Meter{newest: make(chan PromptProgress, 1), quit: make(chan struct{})}
}

// Note takes progress, in place of what was not told yet. It has one caller at
// a time, and never waits.
func (m *Meter) Note(p PromptProgress) {
	select {
	case <-m.newest:
	default:
	}
	select {
	case m.newest <- p:
	default: // somebody else noted at the same time
	}
}

// Start has progress told, by a goroutine of its own, until Stop.
func (m *Meter) Start(tell func(PromptProgress)) {
	m.wg.Go(func() {
		for {
			select {
			case p := <-m.newest:
				tell(p)
			case <-m.quit:
				return
			}
		}
	})
}

// Stop ends that; nothing is told once it has returned. Idempotent.
func (m *Meter) Stop() {
	m.once.Do(func() { close(m.quit) })
	m.wg.Wait()
}
