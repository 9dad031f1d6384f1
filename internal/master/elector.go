package master

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/cluster/election"
	"github.com/skein-run/skein/internal/ids"
)

// Storage keeps small values; store.Log is one.
type Storage interface {
	Get(name string) ([]byte, error)
	Put(name string, value []byte) error
}

// durableName is under which the clock of elections is kept.
const durableName = "election"

// Options make an Elector.
type Options struct {
	ID        ids.Node
	Candidate bool
	Force     bool
	Storage   Storage
	// Send delivers a status to a peer. Those to one peer are sent one after
	// the other, so that they arrive in order.
	Send func(ctx context.Context, to ids.Node, s election.Status) error
	// Changed is told who leads. It is called from one goroutine, and the
	// election goes on while it runs: only the latest outcome is told.
	Changed func(election.Leader)
	// Unfit is told which live peers can't write their logs; nil: nobody is. It is
	// called as Changed is, before it.
	Unfit func([]ids.Node)
	// Timeout ends a campaign that somebody does not answer; 0: the default.
	Timeout time.Duration
	// Grace is how long a node that starts waits to hear of a master.
	Grace time.Duration
	// Quiet is how long a log must have been writable again before its node may
	// lead; 0: the default.
	Quiet  time.Duration
	Logger *slog.Logger
}

// Elector runs one node's election machine.
type Elector struct {
	opts Options
	m    *election.Machine // owned by run

	inbox chan func(now time.Time)
	stop  context.CancelFunc
	ctx   context.Context
	wg    sync.WaitGroup

	peers map[ids.Node]*outbox // owned by run
	// unsaved could not be written to disk; owned by run.
	unsaved *election.Durable

	mu     sync.Mutex // guards leader and unfit
	leader election.Leader
	unfit  *[]ids.Node   // not told yet; nil: all is told
	news   chan struct{} // capacity 1: one of them changed
}

// outbox sends to one peer, in order.
type outbox struct {
	queue chan election.Status
	stop  context.CancelFunc
}

// Start reads the clock from disk and takes part until Stop.
func Start(o Options) (*Elector, error) {
	if o.Storage == nil || o.Send == nil || o.Changed == nil || o.Logger == nil {
		return nil, errors.New("elector: an option is missing")
	}
	if o.Timeout == 0 {
		o.Timeout = election.DefaultTimeout
	}
	if o.Quiet == 0 {
		o.Quiet = election.DefaultQuiet
	}
	cfg := election.Config{ID: o.ID, Candidate: o.Candidate, Force: o.Force, Timeout: o.Timeout, Grace: o.Grace, Quiet: o.Quiet}
	b, err := o.Storage.Get(durableName)
	if err != nil {
		return nil, fmt.Errorf("read the clock of elections: %w", err)
	}
	if b != nil {
		if err := json.Unmarshal(b, &cfg.Durable); err != nil {
			return nil, fmt.Errorf("read the clock of elections: %w", err)
		}
	}
	m, err := election.New(cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	e := &Elector{opts: o, m: m, inbox: make(chan func(time.Time), 256), ctx: ctx, stop: cancel, peers: map[ids.Node]*outbox{}, news: make(chan struct{}, 1)}
	e.wg.Go(e.run)
	e.wg.Go(e.tell)
	return e, nil
}

// Stop ends the node's part. It says no good-bye: its peers' meshes do.
func (e *Elector) Stop() {
	e.stop()
	e.wg.Wait()
}

// Leader is the last outcome.
func (e *Elector) Leader() election.Leader {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.leader
}

// Member tells that a peer is alive, or is no more.
func (e *Elector) Member(peer ids.Node, alive bool) {
	e.do(func(now time.Time) {
		if alive {
			if e.peers[peer] == nil {
				e.open(peer)
			}
			e.m.Join(peer, now)
			return
		}
		e.m.Leave(peer, now)
		if o := e.peers[peer]; o != nil {
			o.stop()
			delete(e.peers, peer)
		}
	})
}

// Receive takes a status from a peer.
func (e *Elector) Receive(s election.Status) {
	e.do(func(now time.Time) { e.m.Step(s, now) })
}

// Seen tells the highest applied event.
func (e *Elector) Seen(event uint64) {
	e.do(func(time.Time) { e.m.Seen(event) })
}

// Writable tells whether this node's log can be written: a master whose log
// can't hands over.
func (e *Elector) Writable(ok bool) {
	e.do(func(now time.Time) { e.m.Writable(ok, now) })
}

// Promote begins the election that makes a node master, or says why it can't be.
func (e *Elector) Promote(ctx context.Context, target ids.Node) error {
	asked := make(chan error, 1)
	e.do(func(now time.Time) { asked <- e.m.Promote(target, now) })
	select {
	case err := <-asked:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-e.ctx.Done():
		return errors.New("promote: this node stops")
	}
}

func (e *Elector) do(f func(now time.Time)) {
	select {
	case e.inbox <- f:
	case <-e.ctx.Done():
	}
}

// run owns the machine.
func (e *Elector) run() {
	e.m.Start(time.Now())
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		e.drain()
		wait := time.Hour
		if at, ok := e.m.Deadline(); ok {
			wait = time.Until(at)
		}
		timer.Reset(max(0, wait))
		select {
		case <-e.ctx.Done():
			return
		case f := <-e.inbox:
			f(time.Now())
		case <-timer.C:
			e.m.Tick(time.Now())
		}
	}
}

// drain carries out what the machine wants, in its order.
func (e *Elector) drain() {
	r := e.m.Ready()
	if r.Durable != nil {
		e.unsaved = r.Durable
	}
	if e.unsaved != nil {
		b, err := json.Marshal(e.unsaved)
		if err == nil {
			err = e.opts.Storage.Put(durableName, b)
		}
		if err == nil {
			e.unsaved = nil
		} else if r.Durable != nil {
			// Going on is safe while this process lives, and it is tried again; after a
			// restart the node may be answered with a newer clock once more.
			e.opts.Logger.Error("the clock of elections could not be written", "error", err)
		}
	}
	for _, msg := range r.Messages {
		o := e.peers[msg.To]
		if o == nil {
			continue // it left meanwhile
		}
		select {
		case o.queue <- msg.Status:
		default:
			e.opts.Logger.Warn("a peer does not take election messages", "node", msg.To)
		}
	}
	if r.Leader != nil || r.Unfit != nil {
		e.mu.Lock()
		if r.Leader != nil {
			e.leader = *r.Leader
		}
		if r.Unfit != nil {
			e.unfit = r.Unfit
		}
		e.mu.Unlock()
		select {
		case e.news <- struct{}{}:
		default:
		}
	}
}

func (e *Elector) open(peer ids.Node) {
	ctx, cancel := context.WithCancel(e.ctx)
	o := &outbox{queue: make(chan election.Status, 64), stop: cancel}
	e.peers[peer] = o
	e.wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case s := <-o.queue:
				e.deliver(ctx, peer, s)
			}
		}
	})
}

// Pauses between two attempts to send a message.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = time.Second
)

// deliver sends until it has arrived or the peer has left: who joins reports
// once, and two masters that did not hear of each other would both lead for
// ever. What comes late is answered with what is true by then.
func (e *Elector) deliver(ctx context.Context, peer ids.Node, s election.Status) {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		call, cancel := context.WithTimeout(ctx, 2*e.opts.Timeout)
		err := e.opts.Send(call, peer, s)
		cancel()
		if err == nil || ctx.Err() != nil {
			return
		}
		e.opts.Logger.Debug("an election message did not arrive, sending it again", "node", peer, "error", err)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// tell hands outcomes to Changed, and who is unfit to Unfit.
func (e *Elector) tell() {
	var told election.Leader
	first := true
	for {
		select {
		case <-e.ctx.Done():
			return
		case <-e.news:
			e.mu.Lock()
			l, unfit := e.leader, e.unfit
			e.unfit = nil
			e.mu.Unlock()
			if unfit != nil && e.opts.Unfit != nil {
				e.opts.Unfit(*unfit)
			}
			if l == told && !first {
				continue
			}
			told, first = l, false
			e.opts.Logger.Info("election", "session", l.Session.String(), "master_alive", l.Live, "this_node", l.Self)
			e.opts.Changed(l)
		}
	}
}
