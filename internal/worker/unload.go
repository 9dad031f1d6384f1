package worker

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"
)

// Models is a snapshot of what is loaded, loading or failed, by name.
func (w *Worker) Models() []ModelState {
	states, _ := w.Watch()
	return states
}

// Watch is Models with a channel that is closed with the next change.
func (w *Worker) Watch() ([]ModelState, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	states := make([]ModelState, 0, len(w.models))
	for _, m := range w.models {
		states = append(states, m.snapshot())
	}
	slices.SortFunc(states, func(a, b ModelState) int { return strings.Compare(a.Name, b.Name) })
	return states, w.changed
}

// Unload ends a model: nobody new gets in, requests that run may finish for
// drain, or until ctx ends; then the runner is stopped and what still runs ends with an
// error. A load is broken off. It returns the bytes that were freed, when they
// are. A model that is not loaded is a KindModelNotFound error.
func (w *Worker) Unload(ctx context.Context, name string, drain time.Duration) (freed int64, err error) {
	m, err := w.loaded(name)
	if err != nil {
		return 0, err
	}
	return w.unload(ctx, m, drain)
}

// unload ends a listed model.
func (w *Worker) unload(ctx context.Context, m *model, drain time.Duration) (freed int64, err error) {
	w.mu.Lock()
	freed = m.need
	if m.status == StatusFailed {
		if w.models[m.entry.Name] == m {
			delete(w.models, m.entry.Name)
			w.notify()
		}
		w.mu.Unlock()
		return freed, nil
	}
	if m.status == StatusUnloading {
		w.mu.Unlock()
		select { // somebody else's Unload does it
		case <-m.gone:
			return freed, nil
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
	m.status, m.since = StatusUnloading, time.Now()
	w.notify()
	loaded := m.loaded
	w.mu.Unlock()
	w.opts.Logger.Info("unloading model", "model", m.entry.Name)

	if loaded {
		drained, cancel := context.WithTimeout(ctx, max(drain, 0))
		w.idle(drained, m)
		cancel()
	}
	m.runner.Stop(ctx)
	<-m.gone
	w.opts.Logger.Info("model unloaded", "model", m.entry.Name, "freed", freed)
	return freed, nil
}

// idle waits until nobody uses the models, or ctx ends.
func (w *Worker) idle(ctx context.Context, models ...*model) {
	for {
		w.mu.Lock()
		busy, changed := false, w.changed
		for _, m := range models {
			busy = busy || m.users > 0
		}
		w.mu.Unlock()
		if !busy {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// Close refuses new requests, lets those that run finish until ctx ends, and
// stops every runner. Nothing of the Worker is left when it returns.
func (w *Worker) Close(ctx context.Context) {
	w.mu.Lock()
	w.closing = true
	models := make([]*model, 0, len(w.models))
	for _, m := range w.models {
		models = append(models, m)
	}
	w.notify()
	w.mu.Unlock()

	w.idle(ctx, models...)
	var stops sync.WaitGroup
	for _, m := range models {
		stops.Go(func() { m.runner.Stop(ctx) })
	}
	stops.Wait()
	w.wg.Wait()
}
