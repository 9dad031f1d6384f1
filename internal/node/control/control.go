// Package control joins the parts by which a node takes part in a cluster:
// membership, election, the replicated state, this node's models and shards,
// and the way of a request to whoever serves it. It is a part of the
// composition root, and only package node imports it.
//
// New reads the state, Start joins, Stop leaves; once each. A node without
// peers is a cluster of one by the same code. Methods may be called from any
// goroutine.
package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/election"
	"github.com/skein-run/skein/internal/config"
	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/httpapi/access"
	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/library"
	"github.com/skein-run/skein/internal/master"
	"github.com/skein-run/skein/internal/mesh"
	"github.com/skein-run/skein/internal/node/control/errands"
	"github.com/skein-run/skein/internal/remote"
	"github.com/skein-run/skein/internal/replica"
	"github.com/skein-run/skein/internal/replica/peerhttp"
	"github.com/skein-run/skein/internal/router"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/slicestore"
	"github.com/skein-run/skein/internal/store"
	"github.com/skein-run/skein/internal/supervise"
	"github.com/skein-run/skein/internal/worker/executor"
	"github.com/skein-run/skein/internal/worker/files"
)

// Options make a Control.
type Options struct {
	ID      ids.Node
	Name    string // of the machine
	Config  config.Serve
	Dir     string // where the state and fetched models are kept; "": for this run only
	Version string
	Library *library.Library
	Runner  supervise.Options // what each process starts from
	Load    wire.LoadRequest  // what all loads have in common
	Context int               // tokens of each slot where a load does not say
	Slots   int
	Queue   int // as in executor.Options
	// Devices asks the engine what devices it has; nil: none beside the processor.
	// System is "linux/amd64", as Go names it.
	Devices func(context.Context) (wire.EngineInfo, error)
	System  string
	// Alone keeps the node from looking for others and being found.
	Alone bool
	// Refusals lists what this node's API refused lately.
	Refusals func() []cluster.Refusal
	Logger   *slog.Logger
}

// Control is a node's part of its cluster.
type Control struct {
	opts Options
	log  *slog.Logger
	temp string // folder to remove at the end

	store    *store.Log
	replica  *replica.Replica[cluster.State]
	elector  *master.Elector
	keeper   *master.Keeper
	planner  *master.Planner
	executor *executor.Executor // nil with --no-worker
	files    *files.Files
	router   *router.Router
	vitals   *gauges
	mesh     *mesh.Mesh   // nil when Alone
	http     *http.Client // calls peers; hosts are node ids
	joined   chan struct{}
	came     chan struct{} // capacity 1: a peer joined
	tasks    *errands.Tasks
	errands  *errands.Errands
	comings  comings             // the mesh's one goroutine that tells of members
	engine   func() accelerators // asks once, and waits

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	stops  []func(context.Context) error // last in, first out

	mu      sync.Mutex // guards members
	members map[ids.Node]bool
}

// New opens the state and makes the parts; nothing is heard of others yet.
func New(o Options) (_ *Control, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	c := &Control{opts: o, log: o.Logger, ctx: ctx, cancel: cancel, joined: make(chan struct{}), came: make(chan struct{}, 1), members: map[ids.Node]bool{}, comings: comings{log: o.Logger}, tasks: errands.NewTasks()}
	c.http = &http.Client{Transport: peersOf{c}}
	c.engine = sync.OnceValue(c.askEngine)
	c.errands, err = errands.New(errands.Options{
		Self: o.ID, HTTP: c.http, Peers: c.peers, Tasks: c.tasks, Library: o.Library, Files: func() errands.Files { return c.files }, Rescan: c.Rescan, Log: o.Logger,
	})
	if err != nil {
		cancel()
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop(context.Background()))
		}
	}()
	if o.Dir == "" {
		if c.temp, err = os.MkdirTemp("", "skein-state-"); err != nil {
			return nil, fmt.Errorf("keep the node's state: %w", err)
		}
		c.onStop(func(context.Context) error { return os.RemoveAll(c.temp) })
	}
	if c.store, err = store.Open(filepath.Join(c.place(), "cluster.db")); err != nil {
		return nil, err
	}
	c.onStop(func(context.Context) error { return c.store.Close() })
	if d := c.store.Damage(); d != "" {
		c.log.Error("the cluster's state on this disk was damaged; what is missing is fetched from other nodes", "damage", d)
	}
	c.replica, err = replica.New(replica.Options[cluster.State]{
		Self: o.ID, Machine: master.Machine(time.Now, o.Logger), Storage: c.store, Transport: peerhttp.Client{HTTP: c.http}, Logger: o.Logger,
		Gather: 400 * time.Millisecond, Confirm: 5 * time.Second, Keep: 1000, Every: 2000,
	})
	if err != nil {
		return nil, err
	}
	c.onStop(func(context.Context) error { c.replica.Stop(); return nil })
	c.vitals = newGauges(c)
	if c.keeper, err = master.NewKeeper(master.KeeperOptions{Self: o.ID, State: c.replica, Vitals: c.vitals, Logger: o.Logger}); err != nil {
		return nil, err
	}
	c.onStop(func(context.Context) error { c.keeper.Stop(); return nil })
	if c.planner, err = master.NewPlanner(master.PlannerOptions{State: c.Cluster(), Vitals: c.vitals, Context: o.Context, Slots: o.Slots}); err != nil {
		return nil, err
	}
	c.router, err = router.New(router.Options{
		Self: o.ID, Cluster: c.replica, Load: c.loadOnDemand, Vitals: c.vitals.Known, Head: c.head, Remote: c.remote,
		Slots: o.Slots, Queue: o.Config.Queue, Tries: o.Config.Cluster.ResumeTries, Timeout: o.Config.Cluster.ResumeTimeout, Logger: o.Logger,
	})
	return c, err
}

func (c *Control) onStop(f func(context.Context) error) { c.stops = append(c.stops, f) }

// Start joins the cluster and begins to work for it.
func (c *Control) Start() error {
	o := c.opts
	var err error
	c.files, err = files.Start(files.Options{
		Self: o.ID, Cluster: adapter{c.replica}, Library: o.Library, Store: &slicestore.Store{Dir: filepath.Join(c.place(), "fetched"), Free: diskFree},
		Hashes: filepath.Join(c.place(), "hashes.json"), Logger: o.Logger, Client: c.http, Caller: mesh.Caller,
		NoDownloads: o.Config.Cluster.NoDownloads || o.Alone,
	})
	if err != nil {
		return err
	}
	c.onStop(func(context.Context) error { c.files.Stop(); return nil })
	if !o.Alone {
		if err := c.join(); err != nil {
			return err
		}
	}
	if !o.Config.Cluster.NoWorker {
		if err := c.work(); err != nil {
			return err
		}
	}
	grace := time.Duration(0)
	if c.mesh != nil && (len(o.Config.Cluster.Join) > 0 || len(c.remembered()) > 0) {
		grace = 1500 * time.Millisecond // others are likely to have a master
	}
	c.elector, err = master.Start(master.Options{
		ID: o.ID, Candidate: o.Config.Cluster.Candidate(), Force: o.Config.Cluster.Forced(), Storage: c.store,
		Send: c.sendStatus, Changed: c.lead, Unfit: c.unfit, Grace: grace, Logger: o.Logger,
	})
	if err != nil {
		return err
	}
	c.onStop(func(context.Context) error { c.elector.Stop(); return nil })
	close(c.joined) // what came from peers meanwhile is let in
	c.wg.Go(c.watch)
	c.wg.Go(c.announce)
	if c.mesh != nil {
		c.wg.Go(c.measureLinks)
	}
	return nil
}

// work starts the executor.
func (c *Control) work() error {
	o := c.opts
	opts := executor.Options{
		Self: o.ID, Cluster: adapter{c.replica}, Files: c.files, Logger: o.Logger, Runner: o.Runner, Load: o.Load, Queue: o.Queue,
		Available: available, Unified: func() bool { return c.engine().unified },
	}
	if c.mesh != nil {
		opts.Listen = o.Config.Cluster.PeerHost
		if opts.Listen == "" {
			opts.Listen = "0.0.0.0"
		}
		opts.Link = func(listening string) string {
			_, port, err := net.SplitHostPort(listening)
			if err != nil {
				return listening
			}
			return net.JoinHostPort(c.mesh.Host(), port)
		}
		if c.secret() {
			certificate, key, authority := c.mesh.PEM()
			opts.TLS = &wire.LinkTLS{Certificate: certificate, Key: key, CA: authority}
		}
	}
	e, err := executor.Start(opts)
	if err != nil {
		return err
	}
	c.executor = e
	c.onStop(func(ctx context.Context) error { e.Stop(ctx); return nil })
	return nil
}

// Stop leaves the cluster and ends everything, in the reverse order.
func (c *Control) Stop(ctx context.Context) error {
	c.cancel()
	c.wg.Wait()
	if c.vitals != nil { // New may have failed before
		c.vitals.meter.Close()
	}
	var errs []error
	for _, f := range slices.Backward(c.stops) {
		errs = append(errs, f(ctx))
	}
	c.stops = nil
	return errors.Join(errs...)
}

// lead tells the parts who leads, in their order.
func (c *Control) lead(l election.Leader) {
	c.replica.Lead(l.Session, l.Live, l.Self)
	c.keeper.Lead(l)
}

// unfit passes on which peers can't write their logs.
func (c *Control) unfit(peers []ids.Node) {
	if len(peers) > 0 {
		c.log.Warn("logs of other nodes can't be written: they lead nobody and hold no copies of commands; make room on their disks", "nodes", peers)
	} else {
		c.log.Info("the logs of all other nodes can be written again")
	}
	c.replica.SetUnfit(peers)
}

// watch tells the election how much of the log is applied, and whether it can be
// written.
func (c *Control) watch() {
	writable := true
	for {
		changes := c.replica.Changes()
		_, applied := c.replica.State()
		c.elector.Seen(applied)
		if now := c.replica.Failed() == nil; now != writable {
			writable = now
			c.elector.Writable(now)
		}
		select {
		case <-changes:
		case <-c.ctx.Done():
			return
		}
	}
}

// Cluster is the replicated state.
func (c *Control) Cluster() Signed { return Signed{c.replica, c.opts.ID} }

// Signed is the replicated state for who acts for a client: its commands are
// signed with the name of the key that the client's request came with.
type Signed struct {
	*replica.Replica[cluster.State]
	self ids.Node
}

// Submit is that of the replica.
func (s Signed) Submit(ctx context.Context, c replica.Command) (replica.Answer, error) {
	if caller, ok := access.Of(ctx); ok {
		c.By, c.Via = caller.Name, s.self
	}
	return s.Replica.Submit(ctx, c)
}

// Leader is who leads.
func (c *Control) Leader() election.Leader { return c.elector.Leader() }

// Promote hands the lead over, and returns when the other node has it.
func (c *Control) Promote(ctx context.Context, node ids.Node) error {
	if err := c.elector.Promote(ctx, node); err != nil {
		return err
	}
	for {
		changes := c.replica.Changes()
		if l := c.elector.Leader(); l.Live && l.Session.Master == node {
			return nil
		}
		select {
		case <-changes:
		case <-ctx.Done():
			return fmt.Errorf("node %s was asked to lead and does not yet: %w", node, context.Cause(ctx))
		}
	}
}

// Peers lists the other nodes that are alive.
func (c *Control) Peers() []ids.Node { return c.peers() }

// Planner plans and gives loads.
func (c *Control) Planner() *master.Planner { return c.planner }

// Router finds places for requests.
func (c *Control) Router() *router.Router { return c.router }

// Tasks are the requests of this node's clients.
func (c *Control) Tasks() *errands.Tasks { return c.tasks }

// Errands are what this node has others do, and does for them.
func (c *Control) Errands() *errands.Errands { return c.errands }

// Vitals asks all live nodes how they are.
func (c *Control) Vitals(ctx context.Context) (map[ids.Node]cluster.Vitals, error) {
	return c.vitals.Vitals(ctx, time.Time{})
}

// Rescan has the model library read again.
func (c *Control) Rescan() { c.files.Rescan() }

func (c *Control) head(instance string) (generation.Model, bool) {
	if c.executor == nil {
		return nil, false
	}
	return c.executor.Head(instance)
}

func (c *Control) remote(ctx context.Context, node ids.Node, instance string) (generation.Model, error) {
	return remote.Client{HTTP: c.http, Node: string(node)}.Model(ctx, instance)
}

// loadOnDemand loads a model that a request needs.
func (c *Control) loadOnDemand(ctx context.Context, name string) (uint64, error) {
	id := "ondemand-" + strings.ToLower(name) + "-" + newID()
	load := func() (master.Planned, error) {
		// Without a master nobody keeps the state true: what it says of memory
		// may be about nodes that are back for long.
		if l := c.elector.Leader(); !l.Live {
			return master.Planned{}, &replica.NoMasterError{Last: l.Session}
		}
		return c.planner.Load(ctx, id, command.Load{Model: name})
	}
	p, err := load()
	// A request must not fail since the lead changes hands at this moment.
	for begin := time.Now(); brief(err) && time.Since(begin) < turnover; {
		if !c.moment(ctx) {
			return 0, context.Cause(ctx)
		}
		p, err = load()
	}
	var no *replica.Refusal
	if errors.As(err, &no) && no.Code == command.AlreadyLoaded {
		return no.Index, nil // somebody else was first, which this node may not see yet
	}
	return p.Index, generationError(err)
}

// Certainly gives a command, and again under its id until a master has it: the
// lead may change hands at this moment. A refusal ends it, and the context.
func (c *Control) Certainly(ctx context.Context, cmd replica.Command) error {
	for {
		_, err := c.Cluster().Submit(ctx, cmd)
		if !brief(err) || !c.moment(ctx) {
			return err
		}
	}
}

// moment waits until another try may go better; false: ctx ended before.
func (c *Control) moment(ctx context.Context) bool {
	select {
	case <-c.replica.Changes():
	case <-time.After(100 * time.Millisecond):
	case <-ctx.Done():
		return false
	}
	return true
}

// turnover is how long an election may take before a request is told that
// there is no master.
const turnover = 3 * time.Second

// brief tells an error that a new master may not have.
func brief(err error) bool {
	var none *replica.NoMasterError
	return errors.As(err, &none) || errors.Is(err, replica.ErrUnconfirmed)
}

// generationError puts a command's error in the words of the API.
func generationError(err error) error {
	if err == nil {
		return nil
	}
	e := &generation.Error{Kind: generation.KindFailed, Message: err.Error(), Err: err}
	var no *replica.Refusal
	var none *replica.NoMasterError
	var full *replica.UnwritableError
	switch {
	case errors.As(err, &none), errors.As(err, &full):
		e.Kind, e.RetryAfter = generation.KindUnavailable, 5
	case errors.Is(err, replica.ErrUnconfirmed):
		e.Kind, e.RetryAfter = generation.KindUnavailable, 1
	case errors.As(err, &no):
		switch no.Code {
		case command.UnknownModel:
			e.Kind, e.Param = generation.KindModelNotFound, "model"
		case command.Ambiguous:
			e.Kind, e.Param = generation.KindAmbiguousModel, "model"
		case command.NoMemory:
			e.Kind = generation.KindNoMemory
		case command.Invalid:
			e.Kind = generation.KindInvalid
		default:
			e.Kind, e.RetryAfter = generation.KindUnavailable, 5
		}
	default:
		var known *generation.Error
		if errors.As(err, &known) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
	return e
}

// adapter is the replica as the worker's packages want it.
type adapter struct {
	*replica.Replica[cluster.State]
}

// State is the applied state.
func (a adapter) State() cluster.State {
	s, _ := a.Replica.State()
	return s
}

// Submit gives a command; a refusal is a *command.Refusal.
func (a adapter) Submit(ctx context.Context, c command.Command) (uint64, error) {
	answer, err := a.Replica.Submit(ctx, replica.Command(c))
	var no *replica.Refusal
	if errors.As(err, &no) {
		err = &command.Refusal{Code: no.Code, Message: no.Message}
	}
	return answer.Index, err
}
