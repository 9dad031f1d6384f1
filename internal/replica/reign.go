package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/ids"
)

// masterTerm is this node's time as master.
type masterTerm[S any] struct {
	r       *Replica[S]
	session ids.Session
	queue   chan *pending
	done    chan struct{} // closed by close

	mu      sync.Mutex // guards what follows
	closed  bool
	next    S      // the state with everything pending applied
	last    uint64 // index of the last entry on this disk
	waiting []*pending
	streams map[ids.Node]*follower
}

// follower is one stream to a follower.
type follower struct {
	acked uint64
	wake  chan struct{} // capacity 1: entries or a commit are to be sent
}

// pending is a command on its way.
type pending struct {
	command Command
	index   uint64
	result  json.RawMessage
	answer  chan outcome // capacity 1
}

type outcome struct {
	answer Answer
	err    error
}

// reign is a master's term: gather, begin, order.
func (r *Replica[S]) reign(ctx context.Context, session ids.Session) {
	if err := r.gather(ctx, session); err != nil {
		if errors.Is(err, errDisk) {
			r.fail(err)
		}
		return
	}
	t := &masterTerm[S]{r: r, session: session, queue: make(chan *pending, 256), done: make(chan struct{}), streams: map[ids.Node]*follower{}}
	if err := r.commit(^uint64(0)); err != nil {
		r.fail(err)
		return
	}
	r.mu.Lock()
	t.next, t.last = r.state, r.log.last
	if ctx.Err() != nil {
		r.mu.Unlock()
		return
	}
	r.master = t
	r.note()
	r.mu.Unlock()
	defer func() {
		t.close()
		r.mu.Lock()
		r.master = nil
		r.mu.Unlock()
	}()
	begin := &pending{command: r.opts.Machine.Begin(session), answer: make(chan outcome, 1)}
	t.order([]*pending{begin})
	r.offers.Go(func() { r.offer(ctx) })
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-t.queue:
			batch := []*pending{p}
			for len(batch) < cap(t.queue) { // those that wait share one write
				select {
				case p := <-t.queue:
					batch = append(batch, p)
					continue
				default:
				}
				break
			}
			t.order(batch)
		}
	}
}

// gather takes the freshest log among the live nodes. One with entries of a
// newer session than this is of a term that the election did not know of: it
// gives way when its node follows, and its commands are offered.
func (r *Replica[S]) gather(ctx context.Context, session ids.Session) error {
	r.mu.Lock()
	own := Status{Index: r.log.last, Session: r.log.session()}
	peers := slices.Sorted(maps.Keys(r.members))
	r.mu.Unlock()
	ask, cancel := context.WithTimeout(ctx, r.opts.Gather)
	defer cancel()
	answers := make([]Status, len(peers))
	var wg sync.WaitGroup
	for i, p := range peers {
		wg.Go(func() {
			s, err := r.opts.Transport.Status(ask, p)
			if err != nil {
				r.opts.Logger.Debug("a node does not say how fresh its log is", "node", p, "error", err)
				return
			}
			answers[i] = s
		})
	}
	wg.Wait()
	// The freshest first; one that goes in the middle leaves the next.
	order := make([]int, len(peers))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case answers[a].fresher(answers[b]):
			return -1
		case answers[b].fresher(answers[a]):
			return 1
		}
		return 0
	})
	for _, i := range order {
		if answers[i].Session.Compare(session) > 0 {
			continue
		}
		if !answers[i].fresher(own) {
			break
		}
		err := r.copyFrom(ctx, peers[i], session, true)
		if errors.Is(err, errDisk) {
			return err
		}
		if errors.Is(err, io.EOF) {
			return ctx.Err()
		}
		r.opts.Logger.Warn("the freshest log could not be read; the next one is taken", "node", peers[i], "error", err)
	}
	return ctx.Err()
}

// submit queues a command and waits for its outcome.
func (t *masterTerm[S]) submit(ctx context.Context, c Command) (Answer, error) {
	p := &pending{command: c, answer: make(chan outcome, 1)}
	timer := time.NewTimer(t.r.opts.Confirm)
	defer timer.Stop()
	select {
	case t.queue <- p:
	case <-t.done:
		return Answer{}, fmt.Errorf("%w: this node is master no longer", ErrUnconfirmed)
	case <-ctx.Done():
		return Answer{}, ctx.Err()
	case <-timer.C:
		return Answer{}, fmt.Errorf("%w: too many commands wait", ErrUnconfirmed)
	}
	select {
	case o := <-p.answer:
		return o.answer, o.err
	case <-t.done:
		select {
		case o := <-p.answer: // both may have happened
			return o.answer, o.err
		default:
		}
		return Answer{}, fmt.Errorf("%w: this node is master no longer", ErrUnconfirmed)
	case <-ctx.Done():
		return Answer{}, ctx.Err()
	case <-timer.C:
		return Answer{}, fmt.Errorf("%w: no other node has it on disk yet", ErrUnconfirmed)
	}
}

// order decides commands in turn and writes their entries at once. It is
// called from the term's goroutine alone.
func (t *masterTerm[S]) order(batch []*pending) {
	m := t.r.opts.Machine
	t.mu.Lock()
	state, last := t.next, t.last
	t.mu.Unlock()
	var entries []Entry
	var ordered []*pending
	for _, p := range batch {
		data, result, err := m.Decide(state, p.command, t.session)
		if err != nil {
			var no *Refusal
			if errors.As(err, &no) {
				no.Index = last
			}
			p.answer <- outcome{err: err}
			continue
		}
		p.result, p.index = result, last
		for _, d := range data {
			last++
			e := Entry{Index: last, Session: t.session, Data: d}
			p.index = last
			state = m.Apply(state, e)
			entries = append(entries, e)
		}
		ordered = append(ordered, p)
	}
	if len(entries) > 0 {
		if err := t.r.append(entries); err != nil {
			// Nothing was written and nothing is promised. A full disk may have
			// room again at the next command.
			t.r.opts.Logger.Error("a command could not be written", "error", err)
			for _, p := range ordered {
				p.answer <- outcome{err: err}
			}
			return
		}
	}
	t.mu.Lock()
	t.next, t.last = state, last
	t.waiting = append(t.waiting, ordered...)
	t.wakeAll()
	t.mu.Unlock()
	t.settle()
}

// wakeAll tells every stream that there is something to send. The caller
// holds mu.
func (t *masterTerm[S]) wakeAll() {
	for _, f := range t.streams {
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

// settle answers the commands whose entries are on enough disks: one more, if
// there is another live node.
func (t *masterTerm[S]) settle() {
	t.r.mu.Lock()
	members := maps.Clone(t.r.members)
	t.r.mu.Unlock()
	t.mu.Lock()
	safe := uint64(0) // the highest index on another disk
	for node, f := range t.streams {
		if members[node] {
			safe = max(safe, f.acked)
		}
	}
	if len(members) == 0 {
		safe = t.last
	}
	n := 0
	for n < len(t.waiting) && t.waiting[n].index <= safe {
		n++
	}
	ready := t.waiting[:n:n]
	t.waiting = t.waiting[n:]
	copies := func(index uint64) int {
		c := 1
		for _, f := range t.streams {
			if f.acked >= index {
				c++
			}
		}
		return c
	}
	outcomes := make([]outcome, n)
	for i, p := range ready {
		outcomes[i] = outcome{answer: Answer{Result: p.result, Index: p.index, Copies: copies(p.index)}}
	}
	last := t.last
	t.mu.Unlock()
	if err := t.r.commit(min(safe, last)); err != nil {
		t.r.fail(err)
		for i := range outcomes {
			outcomes[i] = outcome{err: err}
		}
	}
	for i, p := range ready {
		p.answer <- outcomes[i]
	}
	t.mu.Lock()
	t.wakeAll() // followers may apply
	t.mu.Unlock()
}

// close ends the term; commands that wait are unconfirmed.
func (t *masterTerm[S]) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	t.closed = true
	close(t.done)
}

// Follow serves a follower's stream, or one who fetches the log, until it ends.
func (r *Replica[S]) Follow(ctx context.Context, req FollowRequest, stream io.ReadWriter) error {
	out := json.NewEncoder(stream)
	r.mu.Lock()
	t, leader, runs, first, last := r.master, r.leader, append([]Run(nil), r.log.runs...), r.log.first, r.log.last
	newest, rewound := r.log.session(), r.rewound
	r.mu.Unlock()
	if req.Fetch && !req.Session.Zero() && newest.Compare(req.Session) > 0 {
		// It was older when this node told its Status. In a log that ends with a
		// later session the one who asks could order nothing.
		return out.Encode(frame{Refused: fmt.Sprintf("this node's log has entries of session %v by now, which is later than %v", newest, req.Session)})
	}
	if !req.Fetch && (t == nil || t.session != req.Session) {
		// The events of a session that this node does not lead are not its to
		// send: an old master is fenced here.
		return out.Encode(frame{Refused: fmt.Sprintf("this node is not master in session %v; it knows %v", req.Session, leader)})
	}
	at := match(runs, req.Runs)
	begin := frame{Match: &at}
	if at+1 < first || at == 0 && first > 1 {
		snap, err := r.opts.Storage.Snapshot()
		if err != nil {
			return errors.Join(err, out.Encode(frame{Refused: "the snapshot can't be read"}))
		}
		begin.Snapshot = &snap
		at = snap.Index
	}
	if err := out.Encode(begin); err != nil {
		return err
	}
	if req.Fetch {
		return r.send(out, at, last, rewound, nil)
	}
	f := &follower{wake: make(chan struct{}, 1)}
	t.mu.Lock()
	t.streams[req.From] = f
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		if t.streams[req.From] == f {
			delete(t.streams, req.From)
		}
		t.mu.Unlock()
	}()
	broken := make(chan error, 1)
	go func() { broken <- t.readAcks(stream, f) }()
	commit := uint64(0)
	for {
		r.mu.Lock()
		end, applied, other := r.log.last, r.applied, r.rewound != rewound
		r.mu.Unlock()
		if other {
			return errRewound
		}
		if at < end || applied > commit {
			var c *uint64
			if applied > commit {
				commit = applied
				c = &commit
			}
			if err := r.send(out, at, end, rewound, c); err != nil {
				return err
			}
			at = max(at, end)
			continue
		}
		select {
		case <-f.wake:
		case err := <-broken:
			return err
		case <-t.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// errRewound ends a stream: what comes next in the log does not follow what
// was sent, and the two together would be a log that nobody wrote.
var errRewound = errors.New("this node's log gave way to another while it was read; the follower comes again")

// send writes the entries after at, up to end, and what may be applied. The
// log was rewound so often when the stream began.
func (r *Replica[S]) send(out *json.Encoder, at, end, rewound uint64, commit *uint64) error {
	for at < end {
		entries, ok, err := r.opts.Storage.Entries(at+1, int(min(end-at, 256)))
		if err != nil {
			return err
		}
		if !ok || len(entries) == 0 {
			return errors.New("the log moved on while it was read; the follower comes again")
		}
		r.mu.Lock()
		other := r.rewound != rewound
		r.mu.Unlock()
		if other {
			return errRewound
		}
		if err := out.Encode(frame{Entries: entries}); err != nil {
			return err
		}
		at = entries[len(entries)-1].Index
	}
	if commit != nil {
		return out.Encode(frame{Commit: *commit})
	}
	return nil
}

func (t *masterTerm[S]) readAcks(stream io.Reader, f *follower) error {
	in := newFrames(stream, maxAck)
	for {
		var a ack
		if err := in.decode(&a); err != nil {
			return err
		}
		t.mu.Lock()
		f.acked = max(f.acked, min(a.Index, t.last))
		t.mu.Unlock()
		t.settle()
	}
}
