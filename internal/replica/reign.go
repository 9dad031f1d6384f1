package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
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
	begun   bool          // its first entry is written; owned by rule

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

// reign is a master's term: gather, begin, order; and all of it again when the
// log could not be written and nobody else took the lead meanwhile.
func (r *Replica[S]) reign(ctx context.Context, session ids.Session) {
	for r.writable(ctx) && r.rule(ctx, session) {
	}
}

// rule goes on until the term ends; true: until the log could not be written.
func (r *Replica[S]) rule(ctx context.Context, session ids.Session) bool {
	if err := r.gather(ctx, session); err != nil {
		if errors.Is(err, errDisk) {
			r.fail(err)
			return true
		}
		return false
	}
	t := &masterTerm[S]{r: r, session: session, queue: make(chan *pending, 256), done: make(chan struct{}), streams: map[ids.Node]*follower{}}
	if err := r.commit(^uint64(0)); err != nil {
		r.fail(err)
		return true
	}
	r.mu.Lock()
	t.next, t.last = r.state, r.log.last
	if ctx.Err() != nil {
		r.mu.Unlock()
		return false
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
	broken := t.write(ctx, nil)
	for {
		var mended <-chan struct{}
		if broken != nil {
			r.mu.Lock()
			failed, changed := r.failed, r.changed
			r.mu.Unlock()
			if failed == nil {
				if broken = t.resume(); broken == nil {
					broken = t.write(ctx, nil)
				}
				continue
			}
			mended = changed
		}
		select {
		case <-ctx.Done():
			return false
		case <-mended:
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
			if broken != nil { // the answer must be of this moment
				err := r.try()
				if err == nil {
					err = t.resume()
				}
				if err != nil {
					t.refuse(batch, err)
					continue
				}
			}
			broken = t.write(ctx, batch)
		}
	}
}

// write orders commands, after the one that begins the term. An error is of the
// disk and noted; followers' streams go on with what there is.
func (t *masterTerm[S]) write(ctx context.Context, batch []*pending) error {
	if !t.begun {
		begin := &pending{command: t.r.opts.Machine.Begin(t.session), answer: make(chan outcome, 1)}
		if err := t.order([]*pending{begin}); err != nil {
			t.refuse(batch, err)
			t.r.fail(err)
			return err
		}
		t.begun = true
		t.r.offers.Go(func() { t.r.offer(ctx) })
	}
	if len(batch) == 0 {
		return nil
	}
	err := t.order(batch)
	if err != nil {
		t.r.fail(err)
	}
	return err
}

// resume has the term go on from the log as it is on disk: what failed to be
// written may be there all the same.
func (t *masterTerm[S]) resume() error {
	r := t.r
	r.mu.Lock()
	state, last := r.state, r.log.last
	entries, ok, err := r.opts.Storage.Entries(r.applied+1, int(last-r.applied))
	if err == nil && (!ok || len(entries) != int(last-r.applied)) {
		err = fmt.Errorf("entries %d to %d are not in the log", r.applied+1, last)
	}
	if err != nil {
		r.broke(err, true)
		r.mu.Unlock()
		return err
	}
	r.mu.Unlock()
	for _, e := range entries {
		state = r.opts.Machine.Apply(state, e)
	}
	t.mu.Lock()
	t.next, t.last = state, last
	t.wakeAll()
	t.mu.Unlock()
	t.settle()
	return nil
}

// refuse answers commands that can't be written.
func (t *masterTerm[S]) refuse(batch []*pending, err error) {
	for _, p := range batch {
		p.answer <- outcome{err: &UnwritableError{Node: t.r.opts.Self, Err: err}}
	}
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

// order decides commands in turn and writes their entries at once. An error is
// of the disk. It is called from the term's goroutine alone.
func (t *masterTerm[S]) order(batch []*pending) error {
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
			t.refuse(ordered, err) // nothing is promised
			return err
		}
	}
	t.mu.Lock()
	t.next, t.last = state, last
	t.waiting = append(t.waiting, ordered...)
	t.wakeAll()
	t.mu.Unlock()
	t.settle()
	return nil
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
// there is another live node that can write.
func (t *masterTerm[S]) settle() {
	t.r.mu.Lock()
	members, unfit := maps.Clone(t.r.members), maps.Clone(t.r.unfit)
	t.r.mu.Unlock()
	t.mu.Lock()
	safe := uint64(0) // the highest index on another disk
	for node, f := range t.streams {
		if members[node] {
			safe = max(safe, f.acked)
		}
	}
	maps.DeleteFunc(members, func(node ids.Node, _ bool) bool {
		return unfit[node] && t.streams[node] == nil // with a stream it writes again, and is not told of as fit yet
	})
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
	if err := t.r.commit(min(safe, last)); err != nil { // it could not be read
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
		t.settle() // it may be one that can't write any more
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
