// Package router gives requests a place in the cluster: it finds the instance
// that serves a model best, has the model loaded when nobody does, waits until
// it is ready, and reaches the node that holds the instance's head. Generations
// on a place that is lost go on at another (generation/keeper).
//
// It declares what it needs of the cluster as interfaces; package node joins
// them. All exported methods may be called from any goroutine; it has none of
// its own.
package router

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/route"
	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/generation/keeper"
	"github.com/skein-run/skein/internal/ids"
)

// Cluster is what all nodes agree on.
type Cluster interface {
	State() (state cluster.State, applied uint64)
	// Changes is closed at the next change of State.
	Changes() <-chan struct{}
}

// Options make a Router.
type Options struct {
	Self    ids.Node
	Cluster Cluster
	// Load has a model loaded, if it is not wanted already, and gives the index
	// that State reaches by it. Errors are *generation.Error.
	Load func(ctx context.Context, model string) (index uint64, err error)
	// Vitals are what is known of the nodes, possibly some time ago; it does
	// not wait.
	Vitals func() map[ids.Node]cluster.Vitals
	// Head gives the model of an instance whose head runs here; nil: none do.
	Head func(instance string) (generation.Model, bool)
	// Remote reaches an instance whose head is on another node.
	Remote func(ctx context.Context, node ids.Node, instance string) (generation.Model, error)

	Slots   int // of a model that is not loaded yet
	Queue   int // requests that may wait for each instance beside those that run
	Tries   int // after the loss of a place
	Timeout time.Duration
	Logger  *slog.Logger
}

// Router finds places.
type Router struct {
	opts Options
	// Generations that lost a place since the start of this node: a text may
	// differ from an undisturbed one only where one of them went on.
	goneOn, ended atomic.Int64

	mu     sync.Mutex // guards what follows
	models map[string]*keeper.Model
	remote map[string]generation.Model // by route.Key
	open   map[string]int              // places given, by instance
	users  map[string]int              // requests, by model
}

// New gives a Router.
func New(o Options) (*Router, error) {
	if o.Self == "" || o.Cluster == nil || o.Load == nil || o.Vitals == nil || o.Remote == nil || o.Logger == nil {
		return nil, errors.New("router: an option is missing")
	}
	if o.Head == nil {
		o.Head = func(string) (generation.Model, bool) { return nil, false }
	}
	return &Router{opts: o, models: map[string]*keeper.Model{}, remote: map[string]generation.Model{}, open: map[string]int{}, users: map[string]int{}}, nil
}

// Losses are how many generations of this node's clients have lost a place since
// its start: those that went on at another, and those that ended.
func (r *Router) Losses() (goneOn, ended int64) { return r.goneOn.Load(), r.ended.Load() }

// Model gives the model of a full name, ready to serve: it is loaded if it is
// not, and waited for as long as ctx lets.
func (r *Router) Model(ctx context.Context, name string) (generation.Model, error) {
	r.mu.Lock()
	m := r.models[name]
	r.mu.Unlock()
	if m == nil {
		var err error
		m, err = keeper.New(keeper.Options{
			Router: places{r, name}, Tries: r.opts.Tries, Timeout: r.opts.Timeout,
			Lost: func(place string, cause, end error) {
				if end == nil {
					r.opts.Logger.Warn("a generation lost its place and goes on at another", "model", name, "place", place, "cause", cause, "gone_on", r.goneOn.Add(1), "ended", r.ended.Load())
				} else {
					r.opts.Logger.Error("a generation lost its place and ended", "model", name, "place", place, "cause", cause, "error", end, "gone_on", r.goneOn.Load(), "ended", r.ended.Add(1))
				}
			},
		})
		if err != nil {
			return nil, err
		}
	}
	if err := m.Prepare(ctx); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if known := r.models[name]; known != nil {
		return known, nil // others hold on to that one
	}
	r.models[name] = m
	return m, nil
}

// Enter counts a request for a model in, until leave is called. It is refused
// with KindBusy when as many run and wait as all instances of it may have.
func (r *Router) Enter(model string) (leave func(), err error) {
	state, _ := r.opts.Cluster.State()
	slots, instances := 0, 0
	for _, i := range state.Instances {
		if i.Model == model && i.Releasing == "" {
			slots += i.Slots
			instances++
		}
	}
	if instances == 0 {
		slots, instances = r.opts.Slots, 1
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := r.users[model]; n >= slots+instances*r.opts.Queue {
		return nil, busy(model, n, slots)
	}
	r.users[model]++
	return sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.users[model]--; r.users[model] == 0 {
			delete(r.users, model)
		}
	}), nil
}

// places finds places for one model.
type places struct {
	r    *Router
	name string
}

// reach is how long a head that is said to serve may take to answer, before
// the state is looked at again.
const reach = 200 * time.Millisecond

// again is how long a place that was lost is passed over while the cluster says
// that it serves as before: if it does not by then, it was the way to it that
// broke, and not the place. It is doubled each time that the place was tried in
// vain, up to longest.
const (
	again   = 1500 * time.Millisecond
	longest = 6 * time.Second
)

// passing is how long a lost place is passed over.
func passing(w keeper.Want) time.Duration { return min(again<<min(w.Again, 10), longest) }

// Route implements keeper.Router.
func (p places) Route(ctx context.Context, w keeper.Want) (keeper.Place, error) {
	r := p.r
	asked := uint64(0) // index of our load; 0: none
	begun := time.Now()
	for {
		var missing error // why there is no place for it
		changes := r.opts.Cluster.Changes()
		state, applied := r.opts.Cluster.State()
		r.mu.Lock()
		request := route.Request{Model: p.name, Prompt: w.Prompt, Lost: w.Lost}
		choice, ok := route.Choose(state, r.opts.Vitals(), r.open, request)
		passed := false // only the lost place would do
		if !ok && w.Lost != "" {
			request.Lost = ""
			choice, passed = route.Choose(state, r.opts.Vitals(), r.open, request)
			ok = passed && time.Since(begun) >= passing(w)
		}
		if ok {
			r.open[choice.Instance]++
		}
		r.mu.Unlock()
		wait := time.Duration(0) // until something changes
		if ok && passed {
			r.opts.Logger.Debug("a lost place is tried again", "model", p.name, "place", choice.Key, "again", w.Again)
		}
		if ok {
			m, err := r.at(ctx, choice)
			if err == nil {
				return keeper.Place{ID: choice.Key, Model: m, Release: sync.OnceFunc(func() { r.leave(choice.Instance) })}, nil
			}
			r.leave(choice.Instance)
			if ctx.Err() != nil {
				return keeper.Place{}, fmt.Errorf("wait for %s: %w", p.name, context.Cause(ctx))
			}
			r.opts.Logger.Debug("an instance does not answer", "model", p.name, "instance", choice.Key, "error", err)
			wait = reach
		} else if passed {
			wait = max(passing(w)-time.Since(begun), time.Millisecond)
		} else {
			wanted, problem := wants(state, p.name)
			switch {
			case problem != "" && w.Lost != "" && w.Prompt != nil:
				// A node may come back, or memory: who waits for an answer that has
				// begun says how long.
				missing = errors.New("it is not running: " + problem)
			case problem != "":
				return keeper.Place{}, &generation.Error{Kind: generation.KindUnavailable, Message: fmt.Sprintf("%s is not running: %s", p.name, problem), RetryAfter: 5}
			case !wanted && w.Lost != "" && w.Prompt != nil:
				// A generation that outlived its drain is no request to load anew.
				return keeper.Place{}, &generation.Error{Kind: generation.KindUnavailable, Message: p.name + " was unloaded", RetryAfter: 1}
			case !wanted && asked == 0:
				if swap, ok := state.Swapping(p.name); ok {
					return keeper.Place{}, swapped(swap)
				}
				index, err := r.opts.Load(ctx, p.name)
				if err != nil {
					return keeper.Place{}, err
				}
				asked = max(index, 1)
				continue
			case !wanted && applied >= asked:
				return keeper.Place{}, &generation.Error{Kind: generation.KindUnavailable, Message: p.name + " was unloaded while it was waited for; ask again to load it anew", RetryAfter: 1}
			}
		}
		if err := pause(ctx, changes, wait); err != nil {
			return keeper.Place{}, fmt.Errorf("wait for %s: %w", p.name, cmp.Or(missing, err))
		}
	}
}

// swapped refuses a request for the model that a swap ends: it is not loaded
// for it, which would undo what somebody has decided.
func swapped(w cluster.Swap) error {
	return &generation.Error{Kind: generation.KindUnavailable, RetryAfter: 5,
		Message: fmt.Sprintf("%s is being swapped for %s and takes no new requests; ask for %s, or for %s again when the swap is over", w.Model(), w.New.Model, w.New.Model, w.Model())}
}

// pause waits for a change, or for a while if there is a limit.
func pause(ctx context.Context, changes <-chan struct{}, limit time.Duration) error {
	var timer <-chan time.Time
	if limit > 0 {
		t := time.NewTimer(limit)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-changes:
	case <-timer:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// wants tells whether a model is to run, and why it does not. One of several
// replicas that has no problem is enough.
func wants(s cluster.State, model string) (wanted bool, problem string) {
	for _, w := range s.Wanted {
		if w.Model != model {
			continue
		}
		if !wanted || w.Problem == "" {
			problem = w.Problem
		}
		wanted = true
		if problem == "" {
			return true, ""
		}
	}
	return wanted, problem
}

func (r *Router) leave(instance string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open[instance]--; r.open[instance] <= 0 {
		delete(r.open, instance)
	}
}

// at reaches the head of a choice.
func (r *Router) at(ctx context.Context, c route.Choice) (generation.Model, error) {
	if c.Head == r.opts.Self {
		m, ok := r.opts.Head(c.Instance)
		if !ok {
			return nil, errors.New("its head is about to serve, or has just ended")
		}
		return m, nil
	}
	r.mu.Lock()
	m := r.remote[c.Key]
	r.mu.Unlock()
	if m != nil {
		return m, nil
	}
	m, err := r.opts.Remote(ctx, c.Head, c.Instance)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.remote) > 256 {
		clear(r.remote) // of instances that are long gone
	}
	r.remote[c.Key] = m
	return m, nil
}

func busy(model string, n, slots int) error {
	return &generation.Error{
		Kind: generation.KindBusy, RetryAfter: 1,
		Message: fmt.Sprintf("%s is busy: %d requests run and %d wait; try again later, load a replica, or start the node with a larger --queue", model, min(n, slots), max(0, n-slots)),
	}
}

// Open counts the requests under way at each instance.
func (r *Router) Open() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]int{}
	for id, n := range r.open {
		out[id] = n
	}
	return out
}
