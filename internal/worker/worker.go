// Package worker owns the models of one node: it loads them when they are
// asked for, keeps their memory within what the machine has, lets no more
// requests in than may wait, and unloads them without cutting answers off.
//
// A model is loaded once however many requests ask for it. A load goes on to
// its end even when every client that waited for it has left: who gave up on a
// slow load asks again, and would otherwise never find it done. Unload and
// Close end it. Loads of different models run side by side; only the decision
// whether there is memory is taken by one at a time.
//
// A model that failed stays listed with its reason. For FailureWindow every
// request for it is answered with that reason at once; the first request
// after that tries again. Load tries again at any time.
//
// The package knows runners as an interface and the files behind a name as a
// Library; package node joins them. It must not import another edge, the
// network or the runner's side. All exported methods may be called from any
// goroutine. Each loaded model has one goroutine that follows its runner;
// Close joins them.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise"
)

// Runner serves one model; *supervise.Runner is one. It never serves again
// after a final state and needs no Stop then.
type Runner interface {
	generation.Model
	Watch() (supervise.State, <-chan struct{})
	Stats(ctx context.Context) (wire.Stats, error)
	// Stop ends the runner, politely until ctx ends, and returns when nothing
	// of it is left.
	Stop(ctx context.Context)
}

// Warner is a Runner that does not serve its model as it was asked to.
type Warner interface {
	Warning() string // for a person
}

// Entry is a model that can be loaded.
type Entry struct {
	Name           string   // canonical
	Paths          []string // one file, or all parts of a split one in order
	SizeBytes      int64
	TrainedContext int // tokens; 0: unknown
	// Estimate gives the bytes that the model takes with this context for
	// each slot.
	Estimate func(context, slots int) (int64, error)
}

// Library finds models by the names that people write.
type Library interface {
	// Resolve's error is a *generation.Error that says what there is.
	Resolve(name string) (Entry, error)
}

// Memory is what the machine has, in bytes.
type Memory struct {
	Total     int64 // 0: unknown
	Available int64 // could be allocated now without swapping
}

// Options configure a Worker. Zero values take the default named.
type Options struct {
	Library Library                                       // required
	Start   func(Entry, wire.LoadRequest) (Runner, error) // required; returns without waiting for the load
	Memory  func() (Memory, error)                        // required
	Logger  *slog.Logger                                  // required

	// Load is what every load request has in common; Paths, Slots, Context
	// and PendingLimit are filled in, CacheBytes is lowered to what is left.
	Load          wire.LoadRequest
	Slots         int           // generations at once; 4
	Context       int           // tokens for each slot; 0: the model's own, at most 8,192
	Queue         int           // requests that may wait for each model beside those that run; negative: none; 64
	FailureWindow time.Duration // how long a failure is the answer; 30 s
}

func (o *Options) validate() error {
	var errs []error
	if o.Library == nil || o.Start == nil || o.Memory == nil || o.Logger == nil {
		errs = append(errs, errors.New("library, start, memory and logger are required"))
	}
	if o.Slots < 0 || o.Slots > 1024 {
		errs = append(errs, fmt.Errorf("slots must be between 1 and 1024, not %d", o.Slots))
	}
	if o.Context < 0 {
		errs = append(errs, fmt.Errorf("context must be positive, not %d", o.Context))
	}
	if o.FailureWindow < 0 {
		errs = append(errs, fmt.Errorf("failure window must be positive, not %v", o.FailureWindow))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	return nil
}

// Worker holds the node's models.
type Worker struct {
	opts Options
	gate chan struct{} // capacity 1: held while memory is measured and given away
	wg   sync.WaitGroup

	mu      sync.Mutex        // guards all below, and the fields of every model
	models  map[string]*model // by Entry.Name
	closing bool
	changed chan struct{} // closed and replaced with every change
}

// New makes a Worker with nothing loaded. Close must be called in the end.
func New(o Options) (*Worker, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if o.Slots == 0 {
		o.Slots = 4
	}
	switch {
	case o.Queue == 0:
		o.Queue = 64
	case o.Queue < 0:
		o.Queue = 0
	}
	if o.FailureWindow == 0 {
		o.FailureWindow = 30 * time.Second
	}
	return &Worker{opts: o, gate: make(chan struct{}, 1), models: make(map[string]*model), changed: make(chan struct{})}, nil
}

// Spec overrides the Worker's defaults for one load; zero fields do not.
type Spec struct {
	Context int // tokens for each slot
	Slots   int
}

// Handle is the right to use a loaded model. Release must be called.
type Handle struct {
	w     *Worker
	m     *model
	began time.Time
	once  sync.Once
}

// Model is valid until Release.
func (h *Handle) Model() generation.Model { return h.m.runner }

// Name is the model's canonical name.
func (h *Handle) Name() string { return h.m.entry.Name }

// Release gives the place in the queue back. Idempotent.
func (h *Handle) Release() {
	h.once.Do(func() { h.w.leave(h.m, time.Since(h.began)) })
}

// Acquire gives access to a model and loads it first if need be; it waits for
// the load, not for a free slot. Errors are *generation.Error: the Library's,
// KindBusy with a full queue, KindNoMemory, KindUnavailable; or ctx's cause.
func (w *Worker) Acquire(ctx context.Context, name string) (*Handle, error) {
	entry, err := w.opts.Library.Resolve(name)
	if err != nil {
		return nil, err
	}
	m, _, err := w.enter(ctx, entry, Spec{}, true)
	if err != nil {
		return nil, err
	}
	if err := w.wait(ctx, m); err != nil {
		w.leave(m, 0)
		return nil, err
	}
	return &Handle{w: w, m: m, began: time.Now()}, nil
}

// wanted finds the model that a load is about.
func (w *Worker) wanted(name string, spec Spec) (Entry, error) {
	if spec.Context < 0 || spec.Slots < 0 || spec.Slots > 1024 {
		return Entry{}, &generation.Error{Kind: generation.KindInvalid, Message: "context must be positive and slots between 1 and 1024"}
	}
	return w.opts.Library.Resolve(name)
}

// Load begins to load a model and returns as soon as it is decided that it
// fits. started is false when it was loaded or loading already; its present
// settings stay.
func (w *Worker) Load(ctx context.Context, name string, spec Spec) (state ModelState, started bool, err error) {
	entry, err := w.wanted(name, spec)
	if err != nil {
		return ModelState{}, false, err
	}
	m, started, err := w.enter(ctx, entry, spec, false)
	if err != nil {
		return ModelState{}, false, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return m.snapshot(), started, nil
}

// Plan says how Load would load a model, as it is now: the memory it takes and
// the context it gets. What is loaded already is told as it is, with false.
func (w *Worker) Plan(ctx context.Context, name string, spec Spec) (state ModelState, would bool, err error) {
	entry, err := w.wanted(name, spec)
	if err != nil {
		return ModelState{}, false, err
	}
	select {
	case w.gate <- struct{}{}:
		defer func() { <-w.gate }()
	case <-ctx.Done():
		return ModelState{}, false, context.Cause(ctx)
	}
	m, err := w.find(entry.Name, false)
	if err != nil {
		return ModelState{}, false, err
	}
	if would = m == nil; would {
		if m, err = w.place(entry, spec, 0); err != nil {
			return ModelState{}, false, err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return m.snapshot(), would, nil
}

// Wait returns when a model that was asked for is ready, or why it is not.
func (w *Worker) Wait(ctx context.Context, name string) error {
	m, err := w.loaded(name)
	if err != nil {
		return err
	}
	return w.wait(ctx, m)
}

// Stats asks the scheduler of a loaded model's runner.
func (w *Worker) Stats(ctx context.Context, name string) (wire.Stats, error) {
	m, err := w.loaded(name)
	if err != nil {
		return wire.Stats{}, err
	}
	return m.runner.Stats(ctx)
}

// enter finds a model or begins to load it. With use the caller is counted as
// a user and must leave; without, a past failure does not matter.
func (w *Worker) enter(ctx context.Context, entry Entry, spec Spec, use bool) (m *model, started bool, err error) {
	if m, err = w.find(entry.Name, use); m != nil || err != nil {
		return m, false, err
	}
	select {
	case w.gate <- struct{}{}:
		defer func() { <-w.gate }()
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	}
	// Somebody else may have begun meanwhile.
	if m, err = w.find(entry.Name, use); m != nil || err != nil {
		return m, false, err
	}
	m, err = w.begin(ctx, entry, spec, use)
	return m, err == nil, err
}

// begin places a model and starts it. The gate is held.
func (w *Worker) begin(ctx context.Context, entry Entry, spec Spec, use bool) (m *model, err error) {
	m, err = w.place(entry, spec, 0)
	if err != nil {
		return nil, err
	}
	m.runner, err = w.opts.Start(entry, m.load)
	if err != nil {
		return nil, &generation.Error{Kind: generation.KindUnavailable, Message: fmt.Sprintf("%s cannot be started: %v", entry.Name, err), Err: err}
	}
	if r, ok := m.runner.(Warner); ok {
		m.warning = join(m.warning, r.Warning())
	}
	w.mu.Lock()
	if w.closing {
		w.mu.Unlock()
		ctx, cancel := context.WithCancel(ctx)
		cancel() // nothing is lost with a load that has just begun
		m.runner.Stop(ctx)
		return nil, errClosing()
	}
	if use {
		m.users++
	}
	w.models[entry.Name] = m
	w.wg.Go(func() { w.follow(m) })
	w.notify()
	w.mu.Unlock()
	w.opts.Logger.Info("loading model", "model", entry.Name, "context", m.load.Context, "slots", m.load.Slots, "memory", m.need)
	if m.warning != "" {
		w.opts.Logger.Warn(m.warning, "model", entry.Name)
	}
	return m, nil
}

// find gives a model that is loaded or loading, nil when it is neither, and
// an error when it cannot be used now.
func (w *Worker) find(name string, use bool) (*model, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closing {
		return nil, errClosing()
	}
	m := w.models[name]
	switch {
	case m == nil:
		return nil, nil
	case m.status == StatusUnloading:
		return nil, m.unloading()
	case m.status == StatusFailed:
		if left := w.opts.FailureWindow - time.Since(m.since); use && left > 0 {
			return nil, m.failure(left)
		}
		return nil, nil // place takes its place
	case use && m.users >= m.load.Slots+w.opts.Queue:
		return nil, m.busy()
	}
	if use {
		m.users++
		w.settle(m)
	}
	return m, nil
}

// leave ends a use that lasted held; 0: it came to nothing.
func (w *Worker) leave(m *model, held time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m.users--
	switch {
	case held > 0 && m.held == 0:
		m.held = held
	case held > 0:
		m.held += (held - m.held) / 4
	}
	w.settle(m)
	if m.users == 0 {
		w.notify() // whoever drains waits for this
	}
}

// wait returns when m has been loaded.
func (w *Worker) wait(ctx context.Context, m *model) error {
	for {
		w.mu.Lock()
		ready, err, changed := m.loaded, error(nil), w.changed
		switch {
		case m.status == StatusFailed:
			err = m.failure(w.opts.FailureWindow - time.Since(m.since))
		case w.closing:
			err = errClosing()
		case m.status == StatusUnloading:
			err = m.unloading()
		}
		w.mu.Unlock()
		if ready || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", m.entry.Name, context.Cause(ctx))
		}
	}
}

// notify tells watchers of a change; w.mu is held.
func (w *Worker) notify() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// loaded finds a listed model by any name that people write.
func (w *Worker) loaded(name string) (*model, error) {
	// A listed name wins: its file may be gone from the library by now.
	entry, resolveErr := w.opts.Library.Resolve(name)
	w.mu.Lock()
	defer w.mu.Unlock()
	var names []string
	for n, m := range w.models {
		if strings.EqualFold(n, name) || resolveErr == nil && n == entry.Name {
			return m, nil
		}
		names = append(names, n)
	}
	if resolveErr != nil {
		return nil, resolveErr
	}
	return nil, &generation.Error{Kind: generation.KindModelNotFound, Message: fmt.Sprintf("%s is not loaded; %s", entry.Name, listNames(names))}
}

func errClosing() error {
	return &generation.Error{Kind: generation.KindUnavailable, Message: "the node is stopping", RetryAfter: 5}
}
