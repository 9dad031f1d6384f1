package replica

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/ids"
)

// Replica is one node's copy of the state.
type Replica[S any] struct {
	opts   Options[S]
	offers sync.WaitGroup // goroutines that offer lost commands
	// offering is held by the one that offers, so that they go in order.
	offering sync.Mutex

	life   context.Context // ends with Stop
	die    context.CancelFunc
	mender sync.WaitGroup // tries the disk again
	trying sync.Mutex     // held by the one that tries
	disk   sync.Mutex     // held while entries are written and noted; before mu

	term sync.Mutex // held while one term ends and the next begins

	mu      sync.Mutex // guards what follows
	state   S          // applied
	applied uint64     // index of the last applied entry
	log     logInfo    // of what is on disk
	rewound uint64     // how often entries of the log were replaced by others
	leader  ids.Session
	live    bool // leader has a live master
	self    bool // it is this node
	turning bool // one term ends and the next has not begun
	members map[ids.Node]bool
	unfit   map[ids.Node]bool // members whose logs can't be written
	master  *masterTerm[S]    // while this node is master and serves
	cancel  context.CancelFunc
	ended   chan struct{} // closed when the running term's goroutine is gone
	changed chan struct{} // closed and replaced with every change
	failed  error         // the disk failed; it is tried again
	doubt   bool          // what is on disk may not be what is noted in log
	vain    ids.Session   // in which nobody took over from a master that can't write
	lost    []Command     // of a half that lost, to be offered to the winner
}

// logInfo is what is known of the log without reading it.
type logInfo struct {
	first uint64 // index of the first entry that is not in the snapshot
	last  uint64
	runs  []Run // oldest first; the snapshot's session is the first
}

func (l *logInfo) session() ids.Session {
	if len(l.runs) == 0 {
		return ids.Session{}
	}
	return l.runs[len(l.runs)-1].Session
}

func (l *logInfo) add(e Entry) {
	l.last = e.Index
	if n := len(l.runs); n > 0 && l.runs[n-1].Session == e.Session {
		l.runs[n-1].Last = e.Index
		return
	}
	l.runs = append(l.runs, Run{Session: e.Session, Last: e.Index})
}

// match is the highest index up to which two logs are equal. Within a session
// one master alone writes, and followers copy it from its start: so logs that
// share an entry of a session share all before it.
func match(a, b []Run) uint64 {
	best := uint64(0)
	for _, x := range a {
		for _, y := range b {
			if x.Session == y.Session {
				best = max(best, min(x.Last, y.Last))
			}
		}
	}
	return best
}

// New reads the log and brings the state up to its end.
func New[S any](o Options[S]) (*Replica[S], error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	r := &Replica[S]{opts: o, members: map[ids.Node]bool{}, changed: make(chan struct{})}
	r.life, r.die = context.WithCancel(context.Background())
	if err := r.load(^uint64(0)); err != nil {
		return nil, err
	}
	return r, nil
}

// load makes the state from disk, applying entries up to limit. The caller
// holds mu, or is alone.
func (r *Replica[S]) load(limit uint64) error {
	snap, err := r.opts.Storage.Snapshot()
	if err != nil {
		return fmt.Errorf("read the state's snapshot: %w", err)
	}
	var state S
	r.log = logInfo{first: snap.Index + 1, last: snap.Index}
	if snap.Index > 0 {
		if state, err = r.opts.Machine.Decode(snap.Data); err != nil {
			return fmt.Errorf("read the state's snapshot: %w", err)
		}
		r.log.runs = []Run{{Session: snap.Session, Last: snap.Index}}
	}
	r.applied = snap.Index
	for from := snap.Index + 1; ; {
		entries, _, err := r.opts.Storage.Entries(from, 1000)
		if err != nil {
			return fmt.Errorf("read the state's log: %w", err)
		}
		if len(entries) == 0 {
			break
		}
		for _, e := range entries {
			r.log.add(e)
			if e.Index <= limit {
				state, r.applied = r.opts.Machine.Apply(state, e), e.Index
			}
		}
		from = entries[len(entries)-1].Index + 1
	}
	r.state = state
	return nil
}

// State is the applied state, and the index of the last entry in it.
func (r *Replica[S]) State() (S, uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state, r.applied
}

// Changes is closed at the next change of the applied state.
func (r *Replica[S]) Changes() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// Status is this node's answer to Transport.Status.
func (r *Replica[S]) Status() (Status, error) {
	r.mu.Lock()
	s := Status{Index: r.log.last, Session: r.log.session(), Applied: r.applied}
	state := r.state
	r.mu.Unlock()
	b, err := r.opts.Machine.Encode(state)
	if err != nil {
		return Status{}, fmt.Errorf("encode the state: %w", err)
	}
	sum := sha256.Sum256(b)
	s.Hash = hex.EncodeToString(sum[:8])
	return s, nil
}

// SetMembers tells which peers are alive.
func (r *Replica[S]) SetMembers(peers []ids.Node) { r.retell(&r.members, peers) }

// retell replaces one of the sets of peers. A command may have waited for one that
// is in it now, or no more.
func (r *Replica[S]) retell(set *map[ids.Node]bool, peers []ids.Node) {
	next := map[ids.Node]bool{}
	for _, p := range peers {
		next[p] = true
	}
	r.mu.Lock()
	*set = next
	master := r.master
	r.mu.Unlock()
	if master != nil {
		master.settle()
	}
}

// Lead tells the outcome of an election: whom to follow, or to be master. It
// returns when the term before has ended.
func (r *Replica[S]) Lead(session ids.Session, live, self bool) {
	r.term.Lock()
	defer r.term.Unlock()
	r.mu.Lock()
	if r.leader == session && r.live == live && r.self == self {
		r.mu.Unlock()
		return
	}
	r.turning = true
	r.mu.Unlock()
	r.end()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leader, r.live, r.self, r.turning = session, live, self, false
	r.note()
	if !live {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.ended = cancel, make(chan struct{})
	run := r.follow
	if self {
		run = r.reign
	}
	go func(done chan<- struct{}) {
		defer close(done)
		run(ctx, session)
	}(r.ended)
}

// end stops the running term and waits until it is gone. The caller holds term.
func (r *Replica[S]) end() {
	r.mu.Lock()
	cancel, ended := r.cancel, r.ended
	r.cancel, r.ended, r.live, r.self = nil, nil, false, false
	r.note() // who waits for this node to be ready as master must not wait for ever
	r.mu.Unlock()
	if cancel == nil {
		return
	}
	cancel()
	<-ended
	r.offers.Wait()
}

// Stop ends the running term. The storage stays open; it is its owner's.
func (r *Replica[S]) Stop() {
	r.mu.Lock()
	r.die() // under mu: nobody begins to mend any more
	r.mu.Unlock()
	r.mender.Wait()
	r.term.Lock()
	defer r.term.Unlock()
	r.end()
}

// Submit has a command carried out, here or by the master. One that can't write
// it is given moments to hand over.
func (r *Replica[S]) Submit(ctx context.Context, c Command) (Answer, error) {
	for {
		a, session, err := r.submit(ctx, c)
		var full *UnwritableError
		if !errors.As(err, &full) || !r.elsewhere(ctx, session) {
			return a, err
		}
	}
}

// submit is Submit with the master of this moment, whose session it tells.
func (r *Replica[S]) submit(ctx context.Context, c Command) (Answer, ids.Session, error) {
	begin := time.Now()
	for {
		r.mu.Lock()
		master, leader, live, self, turning, changed, failed := r.master, r.leader, r.live, r.self, r.turning, r.changed, r.failed
		r.mu.Unlock()
		switch {
		case turning: // a moment
		case !live:
			return Answer{}, leader, &NoMasterError{Last: leader}
		case master != nil:
			a, err := master.submit(ctx, c)
			return a, leader, err
		case !self:
			a, err := r.opts.Transport.Submit(ctx, leader.Master, c)
			var none *NoMasterError
			if !errors.As(err, &none) || !r.soon(ctx, begin, changed) {
				return a, leader, err
			}
			continue // it was elected and may not know it yet, or this node is late
		case failed != nil:
			if err := r.try(); err != nil {
				return Answer{}, leader, &UnwritableError{Node: r.opts.Self, Err: err}
			}
		}
		// This node was elected and still gathers the others' logs, or it is
		// between two terms.
		select {
		case <-changed:
		case <-ctx.Done():
			return Answer{}, leader, fmt.Errorf("%w: the new master is not ready", ErrUnconfirmed)
		}
	}
}

// turnover is how long a command is handed to a master again that says it is
// none: nodes learn the outcome of an election one after the other.
const turnover = time.Second

// soon waits a moment for this node or another to learn who leads; false: there
// was time enough.
func (r *Replica[S]) soon(ctx context.Context, begin time.Time, changed <-chan struct{}) bool {
	if time.Since(begin) > turnover {
		return false
	}
	t := time.NewTimer(20 * time.Millisecond)
	defer t.Stop()
	select {
	case <-changed:
	case <-t.C:
	case <-ctx.Done():
		return false
	}
	return true
}

// Serve is Submit for a command that another node hands to this one as the
// master; it is not handed on.
func (r *Replica[S]) Serve(ctx context.Context, c Command) (Answer, error) {
	r.mu.Lock()
	self, leader := r.self || r.turning, r.leader
	r.mu.Unlock()
	if !self {
		return Answer{}, &NoMasterError{Last: leader}
	}
	a, _, err := r.submit(ctx, c)
	return a, err
}

// append writes entries to disk and notes them. What it could not write it must
// not confirm.
func (r *Replica[S]) append(entries []Entry) error {
	r.disk.Lock()
	defer r.disk.Unlock()
	if err := r.opts.Storage.Append(entries...); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range entries {
		r.log.add(e)
	}
	return nil
}

// commit applies the entries up to index.
func (r *Replica[S]) commit(index uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	index = min(index, r.log.last)
	if index <= r.applied {
		return nil
	}
	entries, ok, err := r.opts.Storage.Entries(r.applied+1, int(index-r.applied))
	if err != nil {
		return err
	}
	if !ok || len(entries) != int(index-r.applied) {
		return fmt.Errorf("entries %d to %d are not in the log", r.applied+1, index)
	}
	for _, e := range entries {
		r.state, r.applied = r.opts.Machine.Apply(r.state, e), e.Index
	}
	r.note()
	if r.failed == nil {
		if err := r.compact(); err != nil {
			r.broke(err, false) // the entries are on disk all the same
		}
	}
	return nil
}

// note wakes those who wait for a change. The caller holds mu.
func (r *Replica[S]) note() {
	close(r.changed)
	r.changed = make(chan struct{})
	r.opts.Changed()
}

// compact takes a snapshot when the log grew by Every entries. The caller
// holds mu.
func (r *Replica[S]) compact() error {
	keep := r.opts.Keep
	if r.applied < r.log.first+r.opts.Every+keep {
		return nil
	}
	// The snapshot is of the applied state; the entries kept behind it are
	// for followers that are a little late, and for offers after a split. Since a
	// snapshot stands for all entries up to its index, the state of an earlier
	// index is made again.
	index := r.applied - keep
	snap, err := r.opts.Storage.Snapshot()
	if err != nil {
		return err
	}
	var state S
	if snap.Index > 0 {
		if state, err = r.opts.Machine.Decode(snap.Data); err != nil {
			return err
		}
	}
	entries, ok, err := r.opts.Storage.Entries(snap.Index+1, int(index-snap.Index))
	if err != nil {
		return err
	}
	if !ok || len(entries) == 0 {
		return errors.New("the log has a gap behind its snapshot")
	}
	for _, e := range entries {
		state = r.opts.Machine.Apply(state, e)
	}
	last := entries[len(entries)-1]
	data, err := r.opts.Machine.Encode(state)
	if err != nil {
		return err
	}
	if err := r.opts.Storage.Compact(Snapshot{Index: last.Index, Session: last.Session, Data: data}); err != nil {
		return err
	}
	r.log.first = last.Index + 1
	i := slices.IndexFunc(r.log.runs, func(x Run) bool { return x.Last >= last.Index })
	r.log.runs = slices.Clone(r.log.runs[i:])
	return nil
}
