package master

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/election"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/cluster/reconcile"
	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/replica"
)

// State is the replicated state; replica.Replica is one.
type State interface {
	State() (state cluster.State, applied uint64)
	// Changes is closed at the next change.
	Changes() <-chan struct{}
	Submit(ctx context.Context, c replica.Command) (replica.Answer, error)
}

// Vitals asks nodes what is not in the state.
type Vitals interface {
	// Vitals are those of the live nodes that answered, measured at since or
	// later. What is missing counts as a node without free memory. An error says
	// why nobody could be asked.
	Vitals(ctx context.Context, since time.Time) (map[ids.Node]cluster.Vitals, error)
	// Links are the lines between nodes that were measured so far.
	Links() []placement.Link
}

// retry is after what time something that went wrong is tried again.
const retry = time.Second

// KeeperOptions make a Keeper.
type KeeperOptions struct {
	Self   ids.Node
	State  State
	Vitals Vitals
	Logger *slog.Logger
}

// Keeper keeps the cluster's promises while this node is master: it notes which
// nodes are there, and places what is wanted. What it does, package reconcile
// decides; it asks for it by commands, as everybody does.
type Keeper struct {
	opts KeeperOptions
	news chan struct{} // capacity 1: members changed

	mu      sync.Mutex // guards members, causes
	members map[ids.Node]bool
	causes  map[ids.Node]string // why those who were members are none

	term   sync.Mutex // held while a term begins or ends; guards what follows
	leads  ids.Session
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// NewKeeper gives a Keeper that does nothing until Lead.
func NewKeeper(o KeeperOptions) (*Keeper, error) {
	if o.Self == "" || o.State == nil || o.Vitals == nil || o.Logger == nil {
		return nil, errors.New("keeper: an option is missing")
	}
	return &Keeper{opts: o, news: make(chan struct{}, 1), members: map[ids.Node]bool{o.Self: true}, causes: map[ids.Node]string{}}, nil
}

// Member tells that a peer is alive, or why it is no more. It is told at all
// times, also while another node is master.
func (k *Keeper) Member(peer ids.Node, alive bool, cause string) {
	k.mu.Lock()
	if alive {
		k.members[peer] = true
		delete(k.causes, peer)
	} else if peer != k.opts.Self {
		delete(k.members, peer)
		k.causes[peer] = cause
	}
	k.mu.Unlock()
	select {
	case k.news <- struct{}{}:
	default:
	}
}

// Lead tells the outcome of an election: it begins this node's term, or ends
// it. It returns when the term before has ended. It is told after the replica.
func (k *Keeper) Lead(l election.Leader) {
	k.term.Lock()
	defer k.term.Unlock()
	if l.Self && l.Live && k.leads == l.Session {
		return
	}
	k.end()
	if !l.Self || !l.Live {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	k.leads, k.cancel = l.Session, cancel
	t := &term{k: k, session: l.Session, told: make(chan vitals)}
	k.wg.Go(func() { t.run(ctx) })
}

// Stop ends the running term.
func (k *Keeper) Stop() {
	k.term.Lock()
	defer k.term.Unlock()
	k.end()
}

// end joins the running term's goroutines. The caller holds term.
func (k *Keeper) end() {
	if k.cancel != nil {
		k.cancel()
		k.wg.Wait()
	}
	k.cancel, k.leads = nil, ids.Session{}
}

// term is one mastership of this node. Its fields are its goroutine's.
type term struct {
	k       *Keeper
	session ids.Session
	memory  reconcile.Memory
	asking  bool        // a goroutine asks for vitals
	told    chan vitals // what it got
}

type vitals struct {
	since time.Time
	nodes map[ids.Node]cluster.Vitals
	err   error
}

func (t *term) run(ctx context.Context) {
	log := t.k.opts.Logger
	log.Debug("this node keeps the cluster's promises", "session", t.session.String())
	timer := time.NewTimer(0)
	defer timer.Stop()
	var told vitals
	for {
		changes := t.k.opts.State.Changes()
		wake := t.step(ctx, told)
		told = vitals{}
		if wake.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(max(0, time.Until(wake)))
		}
		select {
		case <-ctx.Done():
			return
		case <-changes:
		case <-t.k.news:
		case <-timer.C:
		case told = <-t.told:
			t.asking = false
			if told.err != nil {
				log.Warn("nothing can be placed, since the nodes can't be asked for their free memory; it is tried again", "error", told.err)
				told.nodes = map[ids.Node]cluster.Vitals{}
			}
		}
	}
}

// step decides once and carries it out. It says when to come again.
func (t *term) step(ctx context.Context, told vitals) time.Time {
	k, log := t.k, t.k.opts.Logger
	state, _ := k.opts.State.State()
	if state.Session != t.session {
		return time.Time{} // the term's first event is not applied: the state may be old
	}
	in := reconcile.Input{State: state, Session: t.session, Vitals: told.nodes, Asked: told.since, Links: k.opts.Vitals.Links(), Now: time.Now(), Memory: t.memory}
	k.mu.Lock()
	in.Members, in.Causes = maps.Clone(k.members), maps.Clone(k.causes)
	k.mu.Unlock()
	out := reconcile.Decide(in)
	t.memory = out.Memory
	wake := out.Wake
	soon := func() {
		if at := in.Now.Add(retry); wake.IsZero() || at.Before(wake) {
			wake = at
		}
	}
	for _, err := range out.Odd {
		log.Error("a change that should fit the cluster's state does not", "error", err)
		soon()
	}
	if out.Ask && !t.asking {
		t.asking = true
		k.wg.Go(func() { t.ask(ctx) })
	}
	if len(out.Changes) == 0 {
		return wake
	}
	for _, c := range out.Changes {
		log.Debug("the master asks for a change", "kind", cluster.KindOf(c), "change", c)
	}
	result, err := submit(ctx, k.opts.State, out.Changes)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		log.Warn("the master's own changes were not carried out; they are tried again", "error", err)
		soon()
	case len(result.Refused) > 0:
		log.Info("the cluster changed under the master's decision; it decides again", "refused", result.Refused)
		soon()
	}
	return wake
}

// ask hands the nodes' vitals to the term.
func (t *term) ask(ctx context.Context) {
	v := vitals{since: time.Now()}
	v.nodes, v.err = t.k.opts.Vitals.Vitals(ctx, v.since)
	if v.err == nil && v.nodes == nil {
		v.nodes = map[ids.Node]cluster.Vitals{}
	}
	select {
	case t.told <- v:
	case <-ctx.Done():
	}
}

// submit has several changes carried out by one command.
func submit(ctx context.Context, s State, changes []cluster.Change) (command.Result, error) {
	c, err := command.Batch("", changes)
	if err != nil {
		return command.Result{}, err
	}
	return answer(s.Submit(ctx, replica.Command(c)))
}

// answer reads the result of a command.
func answer(a replica.Answer, err error) (command.Result, error) {
	if err != nil {
		return command.Result{}, err
	}
	var r command.Result
	if err := json.Unmarshal(a.Result, &r); err != nil {
		return command.Result{}, fmt.Errorf("the result of a command can't be read: %w", err)
	}
	return r, nil
}
