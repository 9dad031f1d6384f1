package sim

import (
	"errors"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/ids"
)

// The order of commands, by the rules of package replica: a command is
// acknowledged when it is on the master's disk and on another one if there is
// one; a new master takes the freshest log; a log that lost gives way, and what
// was in it is offered.

var (
	errNoMaster    = errors.New("no master")
	errUnconfirmed = errors.New("not confirmed in time")
	errFull        = errors.New("no space left on device")
)

// confirm is how long a command may take.
const confirm = 5 * time.Second

// run is a stretch of a log that one session wrote.
type run struct {
	session ids.Session
	last    uint64
}

func (n *node) runs() []run {
	var out []run
	for _, e := range n.entries {
		if k := len(out); k > 0 && out[k-1].session == e.Session {
			out[k-1].last = e.Index
			continue
		}
		out = append(out, run{e.Session, e.Index})
	}
	return out
}

// match is the highest index up to which two logs are equal.
func match(a, b []run) uint64 {
	best := uint64(0)
	for _, x := range a {
		for _, y := range b {
			if x.session == y.session {
				best = max(best, min(x.last, y.last))
			}
		}
	}
	return best
}

// fresher tells whether one log knows more than another.
func fresher(a, b []run) bool {
	last := func(runs []run) run {
		if len(runs) == 0 {
			return run{}
		}
		return runs[len(runs)-1]
	}
	x, y := last(a), last(b)
	if c := x.session.Compare(y.session); c != 0 {
		return c > 0
	}
	return x.last > y.last
}

// newer tells whether a log has entries of a later session.
func newer(runs []run, session ids.Session) bool {
	return len(runs) > 0 && runs[len(runs)-1].session.Compare(session) > 0
}

// term is a node's time as master.
type term struct {
	session ids.Session
	serving bool
	begun   bool // its first entry is written
	waiting []*pending
	streams map[ids.Node]*follower
}

// follower is a stream to a follower.
type follower struct {
	id          int
	sent, acked uint64
	commit      uint64
}

// stream is a follower's end.
type stream struct {
	id     int
	from   ids.Node
	open   bool // the master has answered
	broken bool
}

// answer is what became of a command.
type answer struct {
	command.Result
	index uint64 // of the log that has all of it
}

// pending is a command on its way.
type pending struct {
	index  uint64
	result command.Result
	reply  func(answer, error)
}

// reign begins a term: the freshest log is taken, then commands are.
func (n *node) reign() {
	t := &term{session: n.leader.Session, streams: map[ids.Node]*follower{}}
	n.term = t
	answers := map[ids.Node][]run{}
	asked := n.peers()
	done := false
	next := func() {
		if !done && n.term == t {
			done = true
			n.freshest(t, answers)
		}
	}
	for _, peer := range asked {
		n.w.send(n.opts.ID, peer, func(p *node) {
			runs := p.runs()
			n.w.send(peer, n.opts.ID, func(*node) {
				answers[peer] = runs
				if len(answers) == len(asked) {
					next()
				}
			})
		})
	}
	if len(asked) == 0 {
		next()
		return
	}
	n.after(300*time.Millisecond, next)
}

// freshest copies the best log there is, or the next best if its node goes.
func (n *node) freshest(t *term, answers map[ids.Node][]run) {
	best := n.opts.ID
	mine := n.runs()
	for _, peer := range n.w.names {
		runs, ok := answers[peer]
		// A log of a newer term is of one that this election did not know: it
		// gives way, and what is in it is offered.
		if ok && !newer(runs, t.session) && fresher(runs, mine) && (best == n.opts.ID || fresher(runs, answers[best])) {
			best = peer
		}
	}
	if best == n.opts.ID {
		n.serve(t)
		return
	}
	done := false
	next := func() {
		if !done && n.term == t {
			done = true
			delete(answers, best)
			n.freshest(t, answers)
		}
	}
	n.w.send(n.opts.ID, best, func(p *node) {
		if newer(p.runs(), t.session) { // since it answered
			n.w.send(best, n.opts.ID, func(*node) { next() })
			return
		}
		at := match(p.runs(), mine)
		rest := slices.Clone(p.entries[at:])
		n.w.send(best, n.opts.ID, func(*node) {
			if done || n.term != t {
				return
			}
			done = true
			if len(rest) > 0 && !n.room() {
				return // when there is room the term is begun anew
			}
			n.rewind(at)
			n.append(rest)
			n.serve(t)
		})
	})
	n.after(500*time.Millisecond, next)
}

// serve takes commands from now on, if the first one can be written.
func (n *node) serve(t *term) {
	n.commit(uint64(len(n.entries)))
	t.serving = true
	c, err := command.Of("", cluster.SessionBegan{})
	if err != nil {
		n.w.broken("%v", err)
		return
	}
	if !n.room() {
		return // followers copy what there is; it is tried again
	}
	t.begun = true
	n.order(c, func(answer, error) {})
	early := n.early
	n.early = nil
	for _, do := range early {
		do()
	}
	n.offer()
}

// append writes entries to disk.
func (n *node) append(entries []cluster.Event) {
	for _, e := range entries {
		if e.Index != uint64(len(n.entries))+1 {
			n.w.broken("%s: entry %d is written after %d", n.opts.ID, e.Index, len(n.entries))
			return
		}
		s := n.states[len(n.states)-1]
		if err := s.Admit(e); err != nil {
			n.w.broken("%s: event %d does not fit: %v", n.opts.ID, e.Index, err)
			return
		}
		n.entries = append(n.entries, e)
		n.states = append(n.states, s.Apply(e))
	}
}

// rewind forgets what follows an index, and keeps its commands.
func (n *node) rewind(at uint64) {
	if at >= uint64(len(n.entries)) {
		return
	}
	lost := slices.Clone(n.entries[at:])
	n.entries, n.states = n.entries[:at:at], n.states[:at+1:at+1]
	n.applied = at // a log gives what it has, as after a start
	n.w.note("%s forgets %d events after %d", n.opts.ID, len(lost), at)
	for _, c := range command.Offers(lost) {
		if !slices.ContainsFunc(n.lost, func(x command.Command) bool { return x.ID == c.ID }) {
			n.lost = append(n.lost, c)
		}
	}
	n.changed()
}

// commit applies the entries up to an index.
func (n *node) commit(index uint64) {
	index = min(index, uint64(len(n.entries)))
	if index > n.applied {
		n.applied = index
		n.changed()
	}
}

// submit has a command carried out, here or by the master.
func (n *node) submit(c command.Command, reply func(answer, error)) {
	answered := false
	once := func(r answer, err error) {
		if !answered {
			answered = true
			reply(r, err)
		}
	}
	switch {
	case !n.leader.Live:
		once(answer{}, errNoMaster)
		return
	case n.leader.Self:
		n.take(c, once)
	default:
		from := n.opts.ID
		n.w.send(from, n.leader.Session.Master, func(m *node) {
			back := func(r answer, err error) {
				n.w.send(m.opts.ID, from, func(*node) { once(r, err) })
			}
			if !m.leader.Self {
				back(answer{}, errNoMaster)
				return
			}
			m.take(c, back)
		})
	}
	n.after(confirm, func() { once(answer{}, errUnconfirmed) })
}

// take is a command that reaches the master.
func (n *node) take(c command.Command, reply func(answer, error)) {
	switch {
	case n.term == nil:
		reply(answer{}, errNoMaster)
	case n.failed && !n.recover(): // the answer is of this moment
		reply(answer{}, errFull)
	case n.term == nil || !n.term.serving:
		if n.term == nil {
			reply(answer{}, errNoMaster)
			return
		}
		n.early = append(n.early, func() { n.take(c, reply) })
	default:
		n.order(c, reply)
	}
}

// order decides a command and writes its events.
func (n *node) order(c command.Command, reply func(answer, error)) {
	events, result, err := command.Decide(n.states[len(n.states)-1], c, n.term.session, n.clock())
	if err != nil {
		reply(answer{}, err)
		return
	}
	if len(events) > 0 && !n.room() {
		reply(answer{}, errFull)
		return
	}
	for i, e := range events {
		if n.w.opts.Bytes {
			b, err := e.Encode()
			if err == nil {
				events[i], err = cluster.DecodeEvent(b)
			}
			if err != nil {
				n.w.broken("%v", err)
				return
			}
		}
		n.w.note("%s: %s", n.opts.ID, describe(e))
	}
	n.append(events)
	if len(events) > 0 {
		n.w.made[c.ID] = true
		n.w.check(n)
	}
	n.term.waiting = append(n.term.waiting, &pending{uint64(len(n.entries)), result, reply})
	n.spread()
	n.settle()
}

// spread sends followers what they lack.
func (n *node) spread() {
	t := n.term
	for _, peer := range n.w.names {
		f := t.streams[peer]
		if f == nil || f.sent == uint64(len(n.entries)) && f.commit == n.applied {
			continue
		}
		rest, commit, id := slices.Clone(n.entries[f.sent:]), n.applied, f.id
		f.sent, f.commit = uint64(len(n.entries)), n.applied
		n.w.send(n.opts.ID, peer, func(p *node) {
			if p.copying == nil || p.copying.id != id || p.copying.broken {
				return
			}
			if len(rest) > 0 && !p.room() {
				p.copying.broken = true
				delete(t.streams, p.opts.ID) // it closes its stream
				n.settled(t)
				return
			}
			p.append(rest)
			p.confirm(t, id)
			p.commit(commit)
		})
	}
}

// confirm tells the master how far this node's disk is.
func (n *node) confirm(t *term, id int) {
	last, from := uint64(len(n.entries)), n.opts.ID
	n.w.send(from, n.copying.from, func(m *node) {
		if f := t.streams[from]; m.term == t && f != nil && f.id == id {
			f.acked = max(f.acked, last)
			m.settle()
		}
	})
}

// settle answers what is on enough disks.
func (n *node) settle() {
	t := n.term
	if !t.serving {
		return
	}
	safe := uint64(0)
	for peer, f := range t.streams {
		if _, ok := n.members[peer]; ok {
			safe = max(safe, f.acked)
		}
	}
	able := false // there is another disk that a command can wait for
	for peer := range n.members {
		able = able || !n.unfit[peer] || t.streams[peer] != nil
	}
	if !able {
		safe = uint64(len(n.entries))
	}
	n.commit(safe)
	n.spread()
	for len(t.waiting) > 0 && t.waiting[0].index <= safe && n.term == t {
		p := t.waiting[0]
		t.waiting = t.waiting[1:]
		p.reply(answer{p.result, p.index}, nil)
	}
}

// follow copies the master's log, and comes again when the stream breaks.
func (n *node) follow() {
	if n.failed {
		return // it follows when it can write
	}
	n.w.count++
	s := &stream{id: n.w.count, from: n.leader.Session.Master}
	n.copying = s
	from, session, runs := n.opts.ID, n.leader.Session, n.runs()
	n.w.send(from, s.from, func(m *node) {
		t := m.term
		if t == nil || !t.serving || t.session != session {
			return // the follower comes again
		}
		at := match(m.runs(), runs)
		t.streams[from] = &follower{id: s.id, sent: at}
		n.w.send(m.opts.ID, from, func(*node) {
			if n.copying != s || s.broken {
				return
			}
			if at < uint64(len(n.entries)) && !n.room() {
				s.broken = true
				return
			}
			s.open = true
			n.rewind(at)
			n.confirm(t, s.id)
			n.offer()
		})
		m.spread()
	})
	var watch func()
	watch = func() {
		n.after(n.w.between(100*time.Millisecond, time.Second), func() {
			switch m := n.w.nodes[s.from]; {
			case n.copying != s:
			case !s.open || s.broken || !n.w.reach(from, s.from) || m.term == nil || m.term.streams[from] == nil || m.term.streams[from].id != s.id:
				n.follow() // as one who sees that the connection broke
			default:
				watch()
			}
		})
	}
	watch()
}

// offer hands the commands of a log that lost to the master, in order.
func (n *node) offer() {
	if n.offered != 0 || len(n.lost) == 0 {
		return
	}
	n.w.count++
	number := n.w.count
	n.offered = number
	c := n.lost[0]
	n.submit(c, func(_ answer, err error) {
		if n.offered != number {
			return
		}
		n.offered = 0
		var no *command.Refusal
		if err != nil && !errors.As(err, &no) {
			return // the next stream tries again
		}
		if no != nil {
			n.w.broken("what %s offers is refused: %s %s: %v", n.opts.ID, c.Kind, c.Body, err)
		}
		n.lost = n.lost[1:]
		n.offer()
	})
}
