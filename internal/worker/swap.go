package worker

import (
	"context"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/generation"
)

// Swap is a decision that is taken and not yet carried out: one model takes the
// place of another. Until Do returns or Drop is called nobody else is given
// memory. One goroutine uses it, and calls one of the two.
type Swap struct {
	w     *Worker
	old   *model
	entry Entry
	spec  Spec
	drain time.Duration
	Next  ModelState // what comes, as it is planned
	Freed int64      // bytes, by the old model
	// Both: there is room for the one that comes beside the old one, which
	// serves until the other is ready.
	Both bool
}

// Swap decides: the old model must be loaded and the other not, and the other
// must fit into what there is when the old one has ended. Otherwise nothing has
// changed. Errors are those of Load, and KindModelNotFound for an old model that
// is not loaded.
func (w *Worker) Swap(ctx context.Context, old, name string, spec Spec, drain time.Duration) (*Swap, error) {
	entry, err := w.opts.Library.Resolve(name)
	if err != nil {
		return nil, err
	}
	select {
	case w.gate <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	s := &Swap{w: w, entry: entry, spec: spec, drain: drain}
	if err := s.decide(old); err != nil {
		s.Drop()
		return nil, err
	}
	return s, nil
}

func (s *Swap) decide(old string) (err error) {
	w := s.w
	if s.old, err = w.loaded(old); err != nil {
		return err
	}
	there, err := w.find(s.entry.Name, false)
	if err != nil {
		return err
	}
	if there != nil {
		return &generation.Error{Kind: generation.KindInvalid, Message: fmt.Sprintf("%s is loaded already; unload %s alone", s.entry.Name, s.old.entry.Name)}
	}
	w.mu.Lock()
	status, freed := s.old.status, s.old.need
	w.mu.Unlock()
	if status == StatusUnloading {
		return s.old.unloading()
	}
	next, err := w.place(s.entry, s.spec, 0)
	if s.Both = err == nil && next.warning == ""; !s.Both {
		if next, err = w.place(s.entry, s.spec, freed); err != nil {
			return err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s.Next, s.Freed = next.snapshot(), freed
	return nil
}

// Drop gives the decision up.
func (s *Swap) Drop() { <-s.w.gate }

// Do carries it out and returns when the new model is ready, or has failed: then
// the old one is loaded again, or still runs, and the failed one is listed with
// its reason.
func (s *Swap) Do(ctx context.Context) error {
	w := s.w
	if s.Both {
		m, err := w.begin(ctx, s.entry, s.spec, false)
		s.Drop() // all that is given away is given away
		if err == nil {
			err = w.wait(ctx, m)
		}
		if err != nil {
			return fmt.Errorf("swap %s for %s: %w", s.old.entry.Name, s.entry.Name, err)
		}
		_, err = w.unload(ctx, s.old, s.drain)
		return err
	}
	defer s.Drop()
	if _, err := w.unload(ctx, s.old, s.drain); err != nil {
		return fmt.Errorf("swap %s for %s: %w", s.old.entry.Name, s.entry.Name, err)
	}
	m, err := w.begin(ctx, s.entry, s.spec, false)
	if err == nil {
		err = w.wait(ctx, m)
	}
	if err == nil {
		return nil
	}
	err = fmt.Errorf("swap %s for %s: %w", s.old.entry.Name, s.entry.Name, err)
	again := Spec{Context: s.old.load.Context, Slots: s.old.load.Slots}
	if _, backErr := w.begin(ctx, s.old.entry, again, false); backErr != nil {
		return fmt.Errorf("%w; nor does %s come back: %w", err, s.old.entry.Name, backErr)
	}
	return fmt.Errorf("%w; %s is loaded again", err, s.old.entry.Name)
}
