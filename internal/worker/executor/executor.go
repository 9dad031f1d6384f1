// Package executor runs this node's shards of the cluster's instances: it sees
// in the replicated state what is placed here, asks package plan what comes
// next, and does it: has files brought, starts processes, joins them with those
// of other nodes, warms them up, and tells the cluster how far they are.
//
// One goroutine, the loop, compares and decides; it is woken by changes of the
// state and of processes, and never waits for an action. Each action runs in a
// goroutine of its own, one at a time for a shard, so a slow one delays nobody
// else's. Each process has a goroutine that mirrors its state, each report one
// that delivers it. Stop joins all. All exported methods may be called from any
// goroutine.
//
// A shard is a member.Member: the same code as in a group of shards of one node.
// A process that died is started again with back-off by it; the new one is a new
// incarnation, which the cluster is told, and all shards connect anew in the
// epoch that follows from it. Where links break and nobody died, the head's node
// lets its process count as a new incarnation, so that an epoch begins all the
// same; others do so when the head's does not.
//
// It must not import master, replica, mesh or another edge. With --no-worker it
// is not made at all.
package executor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/plan"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise"
)

// Cluster is the state that all nodes agree on, and the way to change it.
type Cluster interface {
	State() cluster.State
	// Changes is closed with the next change of State.
	Changes() <-chan struct{}
	// Submit returns when the command is done and safe, with the index that
	// State reaches by it. A *command.Refusal is the cluster's no; after any
	// other error the same command may be sent again.
	Submit(ctx context.Context, c command.Command) (index uint64, err error)
}

// Files brings models' bytes to this node.
type Files interface {
	// Bring gives the paths of files that hold what a shard needs, or with nil
	// the whole model. They stay until release.
	Bring(ctx context.Context, m cluster.Model, shard *slice.Spec, progress func(done, total int64)) (paths []string, release func(), err error)
}

// Options make an Executor. Zero durations and counts take the default named.
type Options struct {
	Self    ids.Node
	Cluster Cluster
	Files   Files
	Logger  *slog.Logger

	// Runner is what each process starts from: Executable, Env, Build, Engine.
	Runner supervise.Options
	// Load is what every load request has in common: Threads, GPULayers,
	// CacheBytes, PrefixReuse. CacheBytes is lowered to what memory allows.
	Load wire.LoadRequest
	// Queue is how many requests may wait for each model beside those that run;
	// negative: none; 64.
	Queue int
	// Available is the memory that could be allocated now, in bytes; nil: not
	// known, and prefixes are not spilled.
	Available func() (int64, error)

	// Unified tells that an accelerator works in the host's memory, so that what
	// is placed there may run on it; nil: there is none. It may block until that is
	// known.
	Unified func() bool

	// Listen is the host that links of shards listen on; 127.0.0.1.
	Listen string
	// Link gives the address by which other nodes reach a listening one; nil: as
	// it is.
	Link func(listening string) string
	// TLS is this node's identity on links; nil: links are plain.
	TLS *wire.LinkTLS

	StopLimit  time.Duration // for a process to end when it is asked to; 10 s
	DrainLimit time.Duration // for open generations of an instance that is released, unless the state says another; 30 s
	// Adopt is how long a loaded shard is kept that the state does not have any
	// more; 2 s.
	Adopt time.Duration
	// Settle is how long a broken connection may wait for the news of a death,
	// before the shards are connected anew without one; 1 s.
	Settle      time.Duration
	BackoffMin  time.Duration // before the second such connection, doubled each time; 200 ms
	StableAfter time.Duration // connected for so long, the record is clean; 1 min
	BreakLimit  int           // so many are the end of the shard; 5
	RetryMin    time.Duration // before a report is sent again, doubled each time; 100 ms
	RetryMax    time.Duration // 2 s
	SubmitLimit time.Duration // for one try to deliver a report; 10 s
}

func (o *Options) validate() error {
	var errs []error
	if o.Self == "" || o.Cluster == nil || o.Files == nil || o.Logger == nil {
		errs = append(errs, errors.New("self, cluster, files and logger are required"))
	}
	if o.Runner.Executable == "" && o.Runner.Launch == nil {
		errs = append(errs, errors.New("no executable"))
	}
	for _, d := range []time.Duration{o.StopLimit, o.DrainLimit, o.Adopt, o.Settle, o.BackoffMin, o.StableAfter, o.RetryMin, o.RetryMax, o.SubmitLimit} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("negative duration %v", d))
		}
	}
	if o.BreakLimit < 0 {
		errs = append(errs, fmt.Errorf("negative limit %d", o.BreakLimit))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("executor: %w", err)
	}
	return nil
}

func (o Options) withDefaults() Options {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&o.StopLimit, 10*time.Second)
	set(&o.DrainLimit, 30*time.Second)
	set(&o.Adopt, 2*time.Second)
	set(&o.Settle, time.Second)
	set(&o.BackoffMin, 200*time.Millisecond)
	set(&o.StableAfter, time.Minute)
	set(&o.RetryMin, 100*time.Millisecond)
	set(&o.RetryMax, 2*time.Second)
	set(&o.SubmitLimit, 10*time.Second)
	if o.BreakLimit == 0 {
		o.BreakLimit = 5
	}
	switch {
	case o.Queue == 0:
		o.Queue = 64
	case o.Queue < 0:
		o.Queue = 0
	}
	if o.Unified == nil {
		o.Unified = func() bool { return false }
	}
	if o.Listen == "" {
		o.Listen = "127.0.0.1"
	}
	if o.Link == nil {
		o.Link = func(listening string) string { return listening }
	}
	return o
}

// Executor runs this node's shards.
type Executor struct {
	opts Options
	wake chan struct{} // capacity 1: something local changed
	wg   sync.WaitGroup

	life   context.Context // ends when Stop is called
	cancel context.CancelFunc
	force  context.Context // ends when Stop's time is up
	now    context.CancelFunc

	mu     sync.Mutex // guards all below, and every shard
	state  cluster.State
	shards map[plan.Key]*shard
}

// Start begins to run what is placed on this node. Stop must be called in the
// end.
func Start(o Options) (*Executor, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	e := &Executor{opts: o.withDefaults(), wake: make(chan struct{}, 1), shards: map[plan.Key]*shard{}}
	e.life, e.cancel = context.WithCancel(context.Background())
	e.force, e.now = context.WithCancel(context.Background())
	e.wg.Go(e.run)
	return e, nil
}

// Stop ends all processes: they are asked to exit, killed when ctx ends, and
// reaped before Stop returns. The cluster is told nothing: other nodes notice
// that this one leaves. Idempotent.
func (e *Executor) Stop(ctx context.Context) {
	e.cancel()
	stop := context.AfterFunc(ctx, e.now)
	defer stop()
	var ending sync.WaitGroup
	e.mu.Lock()
	for _, s := range e.shards {
		for _, t := range []*time.Timer{s.timer, s.spare} {
			if t != nil {
				t.Stop()
			}
		}
		if m := s.member; m != nil {
			ending.Go(func() { m.Stop(ctx) })
		}
	}
	e.mu.Unlock()
	ending.Wait()
	e.wg.Wait()
	e.now()
}

// poke wakes the loop.
func (e *Executor) poke() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// run is the loop.
func (e *Executor) run() {
	for e.life.Err() == nil {
		changes := e.opts.Cluster.Changes()
		e.step(e.opts.Cluster.State())
		select {
		case <-changes:
		case <-e.wake:
		case <-e.life.Done():
		}
	}
}

// rounds bounds how often one step asks for more to do. Each round moves some
// shard on, so a plan that goes on for ever would be a fault.
const rounds = 100

// step does all that there is to do now.
func (e *Executor) step(st cluster.State) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.life.Err() != nil {
		return // nothing is begun any more
	}
	if st.Session != e.state.Session {
		// What the last master was told may not be in the log that stands.
		for _, s := range e.shards {
			if s.clearAt != 0 {
				s.local.Told, s.clearAt = cluster.ShardReported{}, 0
			}
		}
	}
	e.state = st
	for range rounds {
		v := plan.View{Self: e.opts.Self, State: st, Local: map[plan.Key]plan.Local{}}
		for k, s := range e.shards {
			s.refresh()
			if !s.spared() {
				v.Local[k] = s.local
			}
		}
		began := false
		for _, a := range plan.Next(v) {
			began = e.do(a) || began
		}
		if !began {
			return
		}
	}
	e.opts.Logger.Error("the plan for this node's shards does not come to rest; it goes on with the next change", "node", e.opts.Self)
}

// do begins an action; false if it has to wait for something that will wake the
// loop. e.mu is held.
func (e *Executor) do(a plan.Action) bool {
	s := e.shards[a.Key]
	if s == nil {
		s = &shard{e: e, key: a.Key, log: e.opts.Logger.With("instance", a.Key.Instance, "shard", a.Key.Shard)}
		s.breaks.StableAfter, s.breaks.BackoffMin, s.breaks.Limit = e.opts.StableAfter, e.opts.BackoffMin, e.opts.BreakLimit
		e.shards[a.Key] = s
	}
	switch a.Do {
	case plan.Report:
		s.report(a.Report)
	case plan.Fetch:
		s.fetch()
	case plan.Start:
		s.start(a.Incarnation)
	case plan.Load:
		s.local.Doing = plan.Load // the process is at it already
	case plan.Connect:
		if a.Epoch <= s.parted {
			return false // it broke; another epoch will come
		}
		s.connect(a.Epoch, a.Addresses)
	case plan.Serve:
		if !s.whole() && s.local.Epoch <= s.parted {
			return false
		}
		s.serve()
	case plan.Stop:
		s.stop()
	case plan.Forget:
		s.forget()
		delete(e.shards, a.Key)
	}
	return true
}
