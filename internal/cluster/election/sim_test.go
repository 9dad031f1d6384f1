package election

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/ids"
)

const testTimeout = 500 * time.Millisecond

// sim is a cluster of machines on a network with delays. Time jumps from one
// happening to the next.
type sim struct {
	t     testing.TB
	rng   *rand.Rand
	now   time.Time
	nodes map[ids.Node]*simNode
	cut   map[[2]ids.Node]bool // links that are down
	queue []delivery
	log   []string

	campaigns int // rounds that any node took part in
}

type simNode struct {
	cfg  Config
	m    *Machine // nil: not running
	disk Durable
	// leader is the last outcome handed out; unknown before the first.
	leader Leader
	known  bool
	clock  uint64
}

type delivery struct {
	at       time.Time
	from, to ids.Node
	status   Status
	member   int // 1: to learns that from is alive; -1: that it is gone
}

func newSim(t testing.TB, seed uint64) *sim {
	return &sim{t: t, rng: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(0, 0), nodes: map[ids.Node]*simNode{}, cut: map[[2]ids.Node]bool{}}
}

func (s *sim) note(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf("%6dms ", s.now.Sub(time.Unix(0, 0)).Milliseconds())+fmt.Sprintf(format, args...))
}

func (s *sim) fatal(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("%s\n%s", fmt.Sprintf(format, args...), strings.Join(s.log, "\n"))
}

// add starts a node for the first time.
func (s *sim) add(id ids.Node, change func(*Config)) {
	cfg := Config{ID: id, Candidate: true, Timeout: testTimeout}
	if change != nil {
		change(&cfg)
	}
	s.nodes[id] = &simNode{cfg: cfg}
	s.start(id)
}

// start runs a node from what its disk holds.
func (s *sim) start(id ids.Node) {
	n := s.nodes[id]
	n.cfg.Durable = n.disk
	m, err := New(n.cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	n.m, n.known, n.leader = m, false, Leader{}
	s.note("%s starts at clock %d", id, n.disk.Clock)
	m.Start(s.now)
	s.drain(id)
	for _, peer := range s.running() {
		if peer != id {
			s.meet(id, peer)
		}
	}
}

func (s *sim) stop(id ids.Node) {
	s.note("%s dies", id)
	s.nodes[id].m = nil
	for _, peer := range s.running() {
		s.tell(peer, id, -1, s.delay(50))
	}
}

// writable tells a node whether its log can be written.
func (s *sim) writable(id ids.Node, ok bool) {
	s.note("%s can write: %v", id, ok)
	s.nodes[id].m.Writable(ok, s.now)
	s.drain(id)
}

func (s *sim) running() []ids.Node {
	var out []ids.Node
	for _, id := range slices.Sorted(maps.Keys(s.nodes)) {
		if s.nodes[id].m != nil {
			out = append(out, id)
		}
	}
	return out
}

func pair(a, b ids.Node) [2]ids.Node { return [2]ids.Node{min(a, b), max(a, b)} }

// meet lets two nodes see each other, at different times.
func (s *sim) meet(a, b ids.Node) {
	if s.cut[pair(a, b)] {
		return
	}
	s.tell(a, b, 1, s.delay(100))
	s.tell(b, a, 1, s.delay(100))
}

func (s *sim) setCut(a, b ids.Node, down bool) {
	if s.cut[pair(a, b)] == down {
		return
	}
	s.cut[pair(a, b)] = down
	s.note("link %s-%s down=%v", a, b, down)
	if s.nodes[a].m == nil || s.nodes[b].m == nil {
		return
	}
	if !down {
		s.meet(a, b)
		return
	}
	s.tell(a, b, -1, s.delay(100))
	s.tell(b, a, -1, s.delay(100))
}

func (s *sim) delay(ms int) time.Duration {
	return time.Duration(1+s.rng.IntN(ms*1000)) * time.Microsecond
}

// tell queues news of membership, after all earlier news on the same link.
func (s *sim) tell(to, about ids.Node, kind int, d time.Duration) {
	s.push(delivery{at: s.now.Add(d), from: about, to: to, member: kind})
}

// push keeps what travels from one node to another in order.
func (s *sim) push(d delivery) {
	for _, q := range s.queue {
		if q.from == d.from && q.to == d.to && q.at.After(d.at) {
			d.at = q.at
		}
	}
	i := len(s.queue)
	for i > 0 && s.queue[i-1].at.After(d.at) {
		i--
	}
	s.queue = slices.Insert(s.queue, i, d)
}

// drain carries out what a machine wants done.
func (s *sim) drain(id ids.Node) {
	n := s.nodes[id]
	r := n.m.Ready()
	if r.Durable != nil {
		if r.Durable.Clock < n.disk.Clock {
			s.fatal("%s: the clock went back from %d to %d", id, n.disk.Clock, r.Durable.Clock)
		}
		n.disk = *r.Durable
	}
	if n.m.votes != nil && n.m.clock > n.clock || len(r.Messages) > 0 && r.Messages[0].Status.Vote && n.m.clock > n.clock {
		n.clock = n.m.clock
		s.campaigns++
	}
	for _, msg := range r.Messages {
		s.push(delivery{at: s.now.Add(s.delay(20)), from: id, to: msg.To, status: msg.Status})
	}
	if l := r.Leader; l != nil {
		s.note("%s: leader %v live=%v self=%v", id, l.Session, l.Live, l.Self)
		if l.Self && !n.cfg.Candidate {
			s.fatal("%s leads and is not a candidate", id)
		}
		if l.Self != (l.Live && l.Session.Master == id) {
			s.fatal("%s: contradictory outcome %+v", id, *l)
		}
		if l.Self && n.known && !n.leader.Self && l.Session.Compare(n.leader.Session) <= 0 {
			s.fatal("%s: leads again in the old session %v after %v", id, l.Session, n.leader.Session)
		}
		n.leader, n.known = *l, true
	}
}

// step goes to the next happening; false if there is none before the limit.
func (s *sim) step(limit time.Time) bool {
	next, who := limit, ids.Node("")
	for _, id := range s.running() {
		if at, ok := s.nodes[id].m.Deadline(); ok && at.Before(next) {
			next, who = at, id
		}
	}
	if len(s.queue) > 0 && !s.queue[0].at.After(next) {
		d := s.queue[0]
		s.queue = s.queue[1:]
		s.now = latest(s.now, d.at)
		n := s.nodes[d.to]
		if n.m == nil {
			return true
		}
		switch {
		case d.member > 0:
			if s.nodes[d.from].m != nil && !s.cut[pair(d.from, d.to)] {
				n.m.Join(d.from, s.now)
			}
		case d.member < 0:
			n.m.Leave(d.from, s.now)
			if s.nodes[d.from].m != nil && !s.cut[pair(d.from, d.to)] {
				n.m.Join(d.from, s.now) // it died and is back
			}
		case s.cut[pair(d.from, d.to)]:
		default:
			n.m.Step(d.status, s.now)
		}
		s.drain(d.to)
		return true
	}
	if who == "" {
		s.now = limit
		return false
	}
	s.now = latest(s.now, next)
	s.nodes[who].m.Tick(s.now)
	s.drain(who)
	return true
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (s *sim) run(d time.Duration) {
	limit := s.now.Add(d)
	for s.step(limit) {
	}
}

// components are the groups of running nodes that reach each other.
func (s *sim) components() [][]ids.Node {
	var out [][]ids.Node
	seen := map[ids.Node]bool{}
	for _, id := range s.running() {
		if seen[id] {
			continue
		}
		group := []ids.Node{id}
		seen[id] = true
		for i := 0; i < len(group); i++ {
			for _, peer := range s.running() {
				if !seen[peer] && !s.cut[pair(group[i], peer)] {
					seen[peer] = true
					group = append(group, peer)
				}
			}
		}
		out = append(out, group)
	}
	return out
}

// settled checks what must hold once nothing moves any more: each component
// has one master that all of it follow, or none where no candidate is.
func (s *sim) settled() {
	s.t.Helper()
	for _, group := range s.components() {
		candidate, fit := false, ids.Node("")
		for _, id := range group {
			n := s.nodes[id]
			candidate = candidate || n.cfg.Candidate
			if n.cfg.Candidate && !n.m.fitness.unfit {
				fit = id
			}
		}
		first := s.nodes[group[0]]
		for _, id := range group {
			n := s.nodes[id]
			if !n.known {
				s.fatal("%s knows no outcome", id)
			}
			if n.leader.Live != candidate {
				s.fatal("%s: live master %v, candidates in its component %v", id, n.leader.Live, candidate)
			}
			if candidate && n.leader.Session != first.leader.Session {
				s.fatal("%s follows %v, %s follows %v", id, n.leader.Session, group[0], first.leader.Session)
			}
			if candidate && !slices.Contains(group, n.leader.Session.Master) {
				s.fatal("%s follows %v, which is not in its component", id, n.leader.Session)
			}
			if n.leader.Self && n.m.fitness.unfit && fit != "" {
				s.fatal("%s leads and can't write, and %s could", id, fit)
			}
		}
	}
}

// leader is the one session that all running nodes follow.
func (s *sim) leader() ids.Session {
	s.t.Helper()
	s.settled()
	if g := s.components(); len(g) != 1 {
		s.fatal("%d components", len(g))
	}
	return s.nodes[s.running()[0]].leader.Session
}
