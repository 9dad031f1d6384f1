package supervise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise/child"
)

// Runner keeps one model served by a child process. It implements
// generation.Model.
type Runner struct {
	opts   Options
	cancel context.CancelFunc // ends run politely
	kill   chan struct{}      // closed: do not be polite
	once   sync.Once          // closes kill
	done   chan struct{}      // closed when run ended

	mu      sync.Mutex // guards all below
	state   State
	changed chan struct{} // closed and replaced with every state
	current *process      // not nil while Ready
	engine  wire.EngineInfo
	info    wire.ModelInfo
}

var _ generation.Model = (*Runner)(nil)

// Start begins to serve a model and returns at once; Watch and Wait tell how
// it goes. Stop must be called in the end.
func Start(opts Options) (*Runner, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Runner{
		opts: opts.withDefaults(), cancel: cancel,
		kill: make(chan struct{}), done: make(chan struct{}),
		state:   State{Phase: Starting, Since: time.Now()},
		changed: make(chan struct{}),
	}
	go r.run(ctx)
	return r, nil
}

// Stop ends the runner: it is asked to exit, killed after Options.StopGrace or
// when ctx ends, and reaped before Stop returns. Open streams end with an
// error. Idempotent.
func (r *Runner) Stop(ctx context.Context) {
	r.cancel()
	select {
	case <-r.done:
		return
	case <-ctx.Done():
		r.once.Do(func() { close(r.kill) })
	}
	<-r.done
}

// Done is closed when the Runner will never serve again and nothing of it is
// left, after a failure or Stop.
func (r *Runner) Done() <-chan struct{} { return r.done }

// Err tells why the Runner failed: *Refused or *CrashLoop. It is nil before,
// and after Stop.
func (r *Runner) Err() error {
	if s := r.State(); s.Phase == Failed {
		return s.Err
	}
	return nil
}

// State is the present state.
func (r *Runner) State() State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

// Watch gives the present state and a channel that is closed with the next
// change.
func (r *Runner) Watch() (State, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state, r.changed
}

func (r *Runner) set(s State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.setLocked(s)
}

func (r *Runner) setLocked(s State) {
	if s.Phase == r.state.Phase {
		s.Since = r.state.Since
	} else {
		s.Since = time.Now()
	}
	r.state = s
	close(r.changed)
	r.changed = make(chan struct{})
}

// Info describes the model as it was loaded last; zero before the first load.
func (r *Runner) Info() wire.ModelInfo {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.info
}

// Engine describes the library as it was loaded last; zero before.
func (r *Runner) Engine() wire.EngineInfo {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.engine
}

// run is the life of the Runner; it owns every process, one after the other.
func (r *Runner) run(ctx context.Context) {
	defer close(r.done)
	defer r.cancel()
	var (
		crashes  []time.Time
		attempt  int // since the runner was last stable
		unloaded int // crashes in a row that never got ready
	)
	for {
		served, err := r.serve(ctx, attempt)
		if ctx.Err() != nil {
			r.set(State{Phase: Stopped})
			return
		}
		if refused, ok := errors.AsType[*Refused](err); ok {
			r.opts.Logger.Error("the model cannot be loaded", "model", r.opts.Name, "code", refused.Failure.Code, "error", err)
			r.set(State{Phase: Failed, Attempt: attempt, Err: err})
			return
		}
		crash, ok := errors.AsType[*Crash](err)
		if !ok {
			crash = &Crash{Cause: err.Error()}
		}
		now := time.Now()
		if served >= r.opts.StableAfter {
			attempt = 0
		}
		if served > 0 {
			unloaded = 0
		} else {
			unloaded++
		}
		attempt++
		crashes = append(slices.DeleteFunc(crashes, func(t time.Time) bool { return now.Sub(t) > r.opts.CrashWindow }), now)
		if len(crashes) >= r.opts.CrashLimit || unloaded >= r.opts.LoadCrashes {
			loop := &CrashLoop{Crashes: max(unloaded, len(crashes)), Last: crash}
			r.opts.Logger.Error("the runner keeps dying, giving up", "model", r.opts.Name, "error", loop)
			r.set(State{Phase: Failed, Attempt: attempt, Err: loop})
			return
		}
		wait := min(r.opts.BackoffMax, time.Duration(min(float64(r.opts.BackoffMin)*math.Exp2(float64(attempt-1)), math.MaxInt64/2)))
		r.opts.Logger.Warn("the runner died, starting it again", "model", r.opts.Name, "cause", crash, "attempt", attempt, "wait", wait)
		r.set(State{Phase: Restarting, Attempt: attempt, NextTry: now.Add(wait), Err: crash})
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			r.set(State{Phase: Stopped})
			return
		}
	}
}

// serve is one process, from its start until it is reaped. It returns how
// long the process was ready and why it ended.
func (r *Runner) serve(ctx context.Context, attempt int) (time.Duration, error) {
	r.set(State{Phase: Starting, Attempt: attempt})
	r.opts.Launching()
	kid, err := r.opts.Launch(ctx, child.Command{Path: r.opts.Executable, Args: r.opts.Args, Env: r.opts.Env, Computes: true})
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", r.opts.Executable, err)
	}
	p := newProcess(&r.opts, kid)
	r.set(State{Phase: Starting, Attempt: attempt, PID: kid.PID})
	if err := r.open(ctx, p, attempt); err != nil {
		refused, ok := errors.AsType[*Refused](err)
		if !ok && ctx.Err() == nil {
			// Whatever went wrong, the process is of no use any more.
			p.fail(err.Error())
		}
		p.close(r.kill)
		if ok {
			refused.Stderr = p.tail.lines
			return 0, refused
		}
		return 0, p.cause
	}
	began := time.Now()
	select {
	case <-p.exited:
	case <-ctx.Done():
	}
	r.mu.Lock()
	r.current = nil
	r.mu.Unlock()
	p.close(r.kill)
	return max(time.Since(began), 1), p.cause
}

// open brings a new process to the point where it takes requests.
func (r *Runner) open(ctx context.Context, p *process, attempt int) error {
	select {
	case err := <-p.greeted:
		if err != nil {
			return r.settle(p, err)
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	var engine wire.EngineInfo
	if err := r.ask(ctx, p, wire.TypeEngine, r.opts.Engine, &engine, nil); err != nil {
		return err
	}
	state := State{Phase: Loading, Attempt: attempt, PID: p.kid.PID}
	r.set(state)
	p.watch(r.opts.LoadLimit, true, "made no progress in loading for")
	progress := func(done float64) {
		// A change of less than a percent is not worth waking anyone for.
		if done = min(max(done, 0), 1); done-state.Progress >= 0.01 || done == 1 && state.Progress != 1 {
			state.Progress = done
			r.set(state)
		}
	}
	var info wire.ModelInfo
	if err := r.ask(ctx, p, wire.TypeLoad, r.opts.Load, &info, progress); err != nil {
		return err
	}
	p.watch(r.opts.stepLimit(info), false, "made no step while busy for")
	r.mu.Lock()
	r.engine, r.info, r.current = engine, info, p
	r.setLocked(State{Phase: Ready, Attempt: attempt, PID: p.kid.PID})
	r.mu.Unlock()
	r.opts.Logger.Info("model ready", "model", r.opts.Name, "pid", p.kid.PID, "seconds", info.LoadSeconds, "context", info.Context, "slots", info.Slots, "gpu_layers", info.GPULayers)
	return nil
}

// ask is a call with JSON bodies during open. What the runner refuses for
// good comes back as *Refused.
func (r *Runner) ask(ctx context.Context, p *process, t wire.Type, req, answer any, progress func(float64)) error {
	body, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	f, err := p.call(ctx, t, body, func(f wire.Frame) error {
		var pr wire.Progress
		if err := f.Decode(&pr); err != nil {
			return err
		}
		if progress != nil {
			progress(pr.Done)
		}
		return nil
	})
	if failure, ok := errors.AsType[*wire.Failure](err); ok {
		switch failure.Code {
		case wire.CodeModel, wire.CodeEngine, wire.CodeMemory, wire.CodeInvalid:
			return &Refused{Failure: *failure}
		}
		return err
	}
	if errors.Is(err, errGone) {
		return r.settle(p, err)
	}
	if err != nil {
		return err
	}
	return f.Decode(answer)
}

// settle prefers the reason why the process ended to what a broken pipe looks
// like from here.
func (r *Runner) settle(p *process, err error) error {
	if _, ok := errors.AsType[*Refused](err); ok {
		return err
	}
	t := time.NewTimer(2 * p.grace) // the process's own goroutines kill it earlier
	defer t.Stop()
	select {
	case <-p.exited:
		return p.cause
	case <-t.C:
		return err
	}
}

// longestWait is how long a request waits for a runner that is to be started
// again; beyond, the client is told when to come back.
const longestWait = 5 * time.Second

// await gives the process that serves, waiting for one that is on its way.
func (r *Runner) await(ctx context.Context) (*process, wire.ModelInfo, error) {
	for {
		r.mu.Lock()
		p, info, s, changed := r.current, r.info, r.state, r.changed
		r.mu.Unlock()
		switch {
		case p != nil && !p.isGone():
			return p, info, nil
		case s.Phase == Failed:
			return nil, info, unavailable(0, s.Err, "%s is not available: %v", r.opts.Name, s.Err)
		case s.Phase == Stopped:
			return nil, info, unavailable(1, nil, "%s is unloaded", r.opts.Name)
		case s.Phase == Restarting && time.Until(s.NextTry) > longestWait:
			wait := int(math.Ceil(time.Until(s.NextTry).Seconds()))
			return nil, info, unavailable(wait, s.Err, "the runner of %s died (%v) and is started again in %d s", r.opts.Name, s.Err, wait)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, info, fmt.Errorf("wait for %s: %w", r.opts.Name, context.Cause(ctx))
		}
	}
}

// Wait returns when the model is ready, or will never be.
func (r *Runner) Wait(ctx context.Context) error {
	_, _, err := r.await(ctx)
	return err
}

// Generate implements generation.Model. It waits for a runner that is loading
// or will be back soon. The ID in req is chosen here. Errors are
// *generation.Error, or ctx's.
func (r *Runner) Generate(ctx context.Context, req wire.GenerateRequest) (generation.Stream, error) {
	for {
		p, info, err := r.await(ctx)
		if err != nil {
			return nil, err
		}
		limit := info.Context
		if req.MaxTokens > 0 && (limit == 0 || req.MaxTokens < limit) {
			limit = req.MaxTokens
		}
		if limit > 0 {
			limit++ // an end-of-generation token may come on top
		}
		s, err := p.generate(ctx, req, limit)
		if err == nil {
			return s, nil
		}
		if !errors.Is(err, errGone) {
			return nil, &generation.Error{Kind: generation.KindInvalid, Message: err.Error(), Err: err}
		}
		// It died between await and here: await knows by now.
	}
}

// Tokenize implements generation.Model.
func (r *Runner) Tokenize(ctx context.Context, text string, addSpecial, parseSpecial bool) ([]int32, error) {
	body := wire.AppendTokenize(nil, wire.TokenizeRequest{Text: text, AddSpecial: addSpecial, ParseSpecial: parseSpecial})
	f, err := r.request(ctx, wire.TypeTokenize, body)
	if err != nil {
		return nil, fmt.Errorf("tokenize: %w", err)
	}
	ids, err := wire.DecodeIDs(f.Body)
	if err != nil {
		return nil, fmt.Errorf("tokenize: %w", err)
	}
	return ids, nil
}

// Detokenize implements generation.Model.
func (r *Runner) Detokenize(ctx context.Context, ids []int32) (string, error) {
	f, err := r.request(ctx, wire.TypeText, wire.AppendIDs(nil, ids))
	if err != nil {
		return "", fmt.Errorf("detokenize: %w", err)
	}
	return string(f.Body), nil
}

// Stats asks the runner's scheduler.
func (r *Runner) Stats(ctx context.Context) (wire.Stats, error) {
	var stats wire.Stats
	f, err := r.request(ctx, wire.TypeStats, nil)
	if err == nil {
		err = f.Decode(&stats)
	}
	if err != nil {
		return wire.Stats{}, fmt.Errorf("runner statistics: %w", err)
	}
	return stats, nil
}

// request is a call to whichever process serves. One that the runner died of
// is not asked again: it may have been the cause.
func (r *Runner) request(ctx context.Context, t wire.Type, body []byte) (wire.Frame, error) {
	for {
		p, _, err := r.await(ctx)
		if err != nil {
			return wire.Frame{}, err
		}
		f, err := p.call(ctx, t, body, nil)
		if errors.Is(err, errGone) {
			continue // it died between await and here: await knows by now
		}
		if failure, ok := errors.AsType[*wire.Failure](err); ok {
			return f, &generation.Error{Kind: generation.KindOfCode(failure.Code), Message: failure.Message, Err: failure}
		}
		if crash, ok := errors.AsType[*Crash](err); ok {
			return f, p.died(crash)
		}
		if errors.Is(err, errStopping) {
			return f, unavailable(1, err, "%s is being unloaded", r.opts.Name)
		}
		return f, err
	}
}
