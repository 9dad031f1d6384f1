package election

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/ids"
)

func noMaster(c *Config) { c.Candidate = false }
func forced(c *Config)   { c.Force = true }

// three is a settled cluster of a, b and c.
func three(t *testing.T, change func(id ids.Node) func(*Config)) *sim {
	t.Helper()
	s := newSim(t, 7)
	for _, id := range []ids.Node{"a", "b", "c"} {
		var f func(*Config)
		if change != nil {
			f = change(id)
		}
		s.add(id, f)
		s.run(time.Second)
	}
	s.run(3 * time.Second)
	return s
}

func TestAloneLeadsAtOnce(t *testing.T) {
	s := newSim(t, 1)
	s.add("a", nil)
	if l := s.leader(); l != (ids.Session{Master: "a", Clock: 1}) {
		t.Fatal(l)
	}
}

func TestJoinAndLeaveStartNoCampaign(t *testing.T) {
	s := three(t, nil)
	before, rounds := s.leader(), s.campaigns
	var follower ids.Node = "a"
	if before.Master == "a" {
		follower = "b"
	}
	s.stop(follower)
	s.run(2 * time.Second)
	s.add("d", func(c *Config) { c.Grace = time.Second })
	s.run(3 * time.Second)
	if got := s.leader(); got != before || s.campaigns != rounds {
		s.fatal("leader %v then %v, campaigns %d then %d", before, got, rounds, s.campaigns)
	}
}

func TestMasterKilled(t *testing.T) {
	s := three(t, nil)
	before := s.leader()
	s.stop(before.Master)
	begin := s.now
	for s.step(begin.Add(testTimeout)) {
	}
	after := s.leader()
	if after.Master == before.Master || after.Clock <= before.Clock {
		t.Fatalf("after %v leads %v", before, after)
	}
	// It comes back as a follower: those who lead stay.
	s.start(before.Master)
	s.run(3 * time.Second)
	if got := s.leader(); got.Master != after.Master {
		t.Fatalf("%v leads instead of %v once the old master is back", got, after)
	}
}

func TestRestartKeepsTheClock(t *testing.T) {
	s := newSim(t, 3)
	s.add("a", nil)
	s.run(time.Second)
	for range 5 {
		s.stop("a")
		s.start("a")
		s.run(time.Second)
	}
	if l := s.leader(); l.Clock != 6 {
		t.Fatalf("clock %d after five restarts", l.Clock)
	}
}

// Who comes back to the master that it followed has no need to wait for another.
func TestRestartFindsTheOldMasterAtOnce(t *testing.T) {
	s := three(t, func(ids.Node) func(*Config) { return func(c *Config) { c.Grace = time.Second } })
	lead := s.leader()
	var follower ids.Node = "a"
	if lead.Master == "a" {
		follower = "b"
	}
	s.stop(follower)
	s.run(time.Second)
	s.start(follower)
	s.run(500 * time.Millisecond)
	if l := s.nodes[follower].leader; !l.Live || l.Session != lead {
		t.Errorf("half a grace after its start it follows %+v", l)
	}
}

func TestForcedJoinerTakesOver(t *testing.T) {
	s := three(t, nil)
	s.add("0", forced)
	s.run(3 * time.Second)
	if l := s.leader(); l.Master != "0" {
		s.fatal("%v leads", l)
	}
}

func TestRoles(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Config)
		leads  bool
	}{
		"none":                      {nil, true},
		"--no-master or --no-api":   {noMaster, false},
		"--force-master":            {forced, true},
		"barred and forced: barred": {func(c *Config) { c.Candidate, c.Force = false, true }, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, 1)
			s.add("z", tc.change)
			s.run(2 * time.Second)
			if got := s.nodes["z"].leader.Self; got != tc.leads {
				t.Errorf("alone: leads %v", got)
			}
			s.add("a", nil)
			s.run(3 * time.Second)
			if got := s.leader().Master == "z"; got != tc.leads && tc.change != nil {
				t.Errorf("beside a candidate: leads %v", got)
			}
		})
	}
}

func TestBarredNodesKeepTheLastSession(t *testing.T) {
	s := three(t, func(id ids.Node) func(*Config) {
		if id != "a" {
			return noMaster
		}
		return nil
	})
	last := s.leader()
	s.stop("a")
	s.run(5 * time.Second)
	for _, id := range []ids.Node{"b", "c"} {
		if l := s.nodes[id].leader; l.Live || l.Session != last {
			t.Errorf("%s: %+v, the last session was %v", id, l, last)
		}
	}
	if _, ok := s.nodes["b"].m.Deadline(); ok {
		t.Error("a cluster without a candidate goes on campaigning")
	}
	s.start("a")
	s.run(2 * time.Second)
	if l := s.leader(); l.Master != "a" || l.Clock <= last.Clock {
		t.Errorf("after its return: %v", l)
	}
}

func TestPromote(t *testing.T) {
	s := three(t, func(id ids.Node) func(*Config) {
		if id == "a" {
			return forced
		}
		return nil
	})
	if l := s.leader(); l.Master != "a" {
		t.Fatal(l)
	}
	if err := s.nodes["a"].m.Promote("b", s.now); err != nil {
		t.Fatal(err)
	}
	s.drain("a")
	s.run(3 * time.Second)
	if l := s.leader(); l.Master != "b" {
		s.fatal("promoted b, %v leads", l)
	}
	for who, want := range map[ids.Node]string{"x": "not a live node"} {
		if err := s.nodes["a"].m.Promote(who, s.now); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("promote %s: %v", who, err)
		}
	}
}

func TestPromoteBarredChangesNothing(t *testing.T) {
	s := three(t, func(id ids.Node) func(*Config) {
		if id == "c" {
			return noMaster
		}
		return nil
	})
	before := s.leader()
	if err := s.nodes["a"].m.Promote("c", s.now); err != nil {
		t.Fatal(err)
	}
	s.drain("a")
	if err := s.nodes["c"].m.Promote("c", s.now); err == nil || !strings.Contains(err.Error(), "--no-master") {
		t.Errorf("promoting itself: %v", err)
	}
	s.run(3 * time.Second)
	if l := s.leader(); l != before {
		s.fatal("%v leads instead of %v", l, before)
	}
}

func TestPartitionHealsToOneNewSession(t *testing.T) {
	s := newSim(t, 5)
	for _, id := range []ids.Node{"a", "b", "c", "d"} {
		s.add(id, nil)
	}
	s.run(3 * time.Second)
	sides := [2][]ids.Node{{"a", "b"}, {"c", "d"}}
	each := func(down bool) {
		for _, x := range sides[0] {
			for _, y := range sides[1] {
				s.setCut(x, y, down)
			}
		}
	}
	each(true)
	s.run(3 * time.Second)
	s.settled()
	left, right := s.nodes["a"].leader.Session, s.nodes["c"].leader.Session
	if left == right {
		t.Fatal("both sides follow one master over a cut link")
	}
	each(false)
	s.run(3 * time.Second)
	l := s.leader()
	if l == left || l == right {
		t.Errorf("session %v goes on after a split: a stale master's events could not be told from it", l)
	}
}

func TestOlderClockIsAnswered(t *testing.T) {
	m, err := New(Config{ID: "a", Candidate: true, Timeout: testTimeout, Durable: Durable{Clock: 9}})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(0, 0)
	m.Start(now)
	m.Join("b", now)
	m.Ready()
	m.Step(Status{From: "b", Clock: 2, Proposed: ids.Session{Master: "b", Clock: 2}, Vote: true}, now)
	r := m.Ready()
	if len(r.Messages) != 1 || r.Messages[0].To != "b" || r.Messages[0].Status.Clock != 10 || r.Messages[0].Status.Proposed.Master != "a" {
		t.Fatalf("answer: %+v", r.Messages)
	}
}

func TestUnknownSendersAreNotHeard(t *testing.T) {
	m, err := New(Config{ID: "a", Candidate: true, Timeout: testTimeout})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(0, 0)
	m.Start(now)
	m.Ready()
	m.Step(Status{From: "b", Clock: 99, Vote: true}, now)
	if r := m.Ready(); r.Durable != nil || len(r.Messages) > 0 {
		t.Fatalf("%+v", r)
	}
}

func TestConfig(t *testing.T) {
	for want, cfg := range map[string]Config{
		"needs an id":      {Timeout: 1},
		"must be positive": {ID: "a"},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

// TestRandomFaults runs clusters through random crashes, restarts, cuts,
// heals and promotions. Whatever happened, once it is quiet every component
// agrees on one master, and the sim's checks hold on the way.
func TestRandomFaults(t *testing.T) {
	seeds := uint64(5000)
	if testing.Short() {
		seeds = 200
	}
	for seed := range seeds {
		runFaults(t, seed)
		if t.Failed() {
			return
		}
	}
}

func runFaults(t *testing.T, seed uint64) {
	s := newSim(t, seed)
	s.note("seed %d", seed)
	n := 2 + s.rng.IntN(5)
	var all []ids.Node
	for i := range n {
		id := ids.Node(fmt.Sprintf("n%d", i))
		all = append(all, id)
		s.add(id, func(c *Config) {
			c.Candidate = s.rng.IntN(4) > 0
			c.Force = s.rng.IntN(5) == 0
			c.Grace = time.Duration(s.rng.IntN(2)) * 300 * time.Millisecond
			c.Quiet = 200 * time.Millisecond
		})
		s.run(s.delay(400))
	}
	for range 12 {
		id := all[s.rng.IntN(n)]
		switch s.rng.IntN(6) {
		case 0:
			if s.nodes[id].m != nil {
				s.stop(id)
			} else {
				s.start(id)
			}
		case 1, 2:
			// Whole sides are cut: a network that is not transitive has no
			// component that could agree.
			side := map[ids.Node]bool{}
			for _, x := range all {
				side[x] = s.rng.IntN(2) == 0
			}
			for i, x := range all {
				for _, y := range all[i+1:] {
					s.setCut(x, y, side[x] != side[y])
				}
			}
		case 3:
			if m := s.nodes[id].m; m != nil {
				target := all[s.rng.IntN(n)]
				s.note("%s promotes %s", id, target)
				if m.Promote(target, s.now) == nil {
					s.drain(id)
				}
			}
		case 4:
			if m := s.nodes[id].m; m != nil {
				m.Seen(s.rng.Uint64N(100))
			}
		case 5:
			if s.nodes[id].m != nil {
				s.writable(id, s.rng.IntN(2) == 0)
			}
		}
		s.run(s.delay(1500))
	}
	s.run(10 * time.Second)
	s.settled()
}

// TestRestartMakesNoOlderSession: what others campaign for while a node comes
// back must be newer than the session that it knows of.
func TestRestartMakesNoOlderSession(t *testing.T) {
	m, err := New(Config{ID: "c", Candidate: true, Timeout: testTimeout, Grace: time.Second, Durable: Durable{Clock: 3, Session: ids.Session{Master: "c", Clock: 3}}})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(0, 0)
	m.Start(now)
	m.Join("a", now)
	if r := m.Ready(); len(r.Messages) != 1 || r.Messages[0].Status.Clock != 4 || !r.Messages[0].Status.Proposed.Zero() || r.Durable == nil {
		t.Fatalf("it tells %+v", r.Messages)
	}
}

// TestEndedTermIsCorrected: who believes that a node leads, which came back and
// does not, is told.
func TestEndedTermIsCorrected(t *testing.T) {
	last := ids.Session{Master: "b", Clock: 3}
	m, err := New(Config{ID: "b", Candidate: true, Timeout: testTimeout, Grace: time.Second, Durable: Durable{Clock: 4, Session: last}})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(0, 0)
	m.Start(now)
	m.Join("d", now)
	m.Ready()
	m.Step(Status{From: "d", Clock: 4, Seniority: Barred, Proposed: last}, now)
	if r := m.Ready(); len(r.Messages) != 1 || !r.Messages[0].Status.Proposed.Zero() {
		t.Fatalf("answer: %+v", r.Messages)
	}
}

// TestDisownedSessionIsNotFollowed: a session whose master votes otherwise has
// none, whoever remembers it.
func TestDisownedSessionIsNotFollowed(t *testing.T) {
	m, err := New(Config{ID: "f", Timeout: testTimeout, Durable: Durable{Clock: 15, Session: ids.Session{Master: "d", Clock: 15}}})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(0, 0)
	leads := ids.Session{Master: "e", Clock: 5} // whom f does not see yet
	m.Start(now)
	m.Join("a", now)
	m.Join("d", now)
	for _, id := range []ids.Node{"a", "d"} {
		m.Step(Status{From: id, Clock: m.clock, Proposed: leads}, now)
	}
	if m.votes != nil || m.session != leads {
		t.Errorf("it follows %v", m.session)
	}
	m.Join("e", now)
	if l := m.Ready().Leader; l == nil || l.Session != leads || !l.Live {
		t.Errorf("%+v", l)
	}
}

// TestGraceOutlastsAnEndedTerm: while all nodes come back, one that led before
// and does not now starts no campaign before the grace is over, and one then.
func TestGraceOutlastsAnEndedTerm(t *testing.T) {
	m, err := New(Config{ID: "a", Candidate: true, Timeout: testTimeout, Grace: time.Second, Durable: Durable{Clock: 1, Session: ids.Session{Master: "c", Clock: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(0, 0)
	m.Start(now)
	m.Join("c", now)
	m.Ready()
	m.Step(Status{From: "c", Clock: 2}, now)
	if r := m.Ready(); len(r.Messages) > 0 {
		t.Fatalf("in the grace it sends %+v", r.Messages)
	}
	m.Tick(now.Add(time.Second))
	if r := m.Ready(); len(r.Messages) != 1 || !r.Messages[0].Status.Vote {
		t.Fatalf("after the grace it sends %+v", r.Messages)
	}
}

// TestOneVoteForAll: who meets a candidate in the course of a round is told the
// vote that the others were told, whatever was applied meanwhile. Else b and d,
// who both wait for c, rank each other differently, and each follows the other.
func TestOneVoteForAll(t *testing.T) {
	now := time.Unix(0, 0)
	machines := map[ids.Node]*Machine{}
	for _, id := range []ids.Node{"b", "d"} {
		m, err := New(Config{ID: id, Candidate: true, Timeout: testTimeout, Grace: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		machines[id] = m
		m.Start(now)
		m.Join("a", now)
		m.Join("c", now)
		if id == "b" {
			m.Seen(4)
		}
		m.Step(Status{From: "a", Clock: 2, Proposed: ids.Session{Master: "a", Clock: 1}, Vote: true}, now)
		m.Seen(4)
		m.Ready()
	}
	machines["b"].Join("d", now)
	machines["d"].Join("b", now)
	for _, msg := range append(machines["b"].Ready().Messages, machines["d"].Ready().Messages...) {
		machines[msg.To].Step(msg.Status, now)
	}
	for _, id := range []ids.Node{"b", "d"} {
		m := machines[id]
		m.Tick(now.Add(testTimeout))
		if want := (ids.Session{Master: "b", Clock: 2}); m.session != want || m.master != (id == "b") {
			t.Errorf("%s follows %v, and leads: %v", id, m.session, m.master)
		}
	}
}

// TestWhoFollowEachOther: two nodes of which each takes the other for the
// master find out that neither is.
func TestWhoFollowEachOther(t *testing.T) {
	now := time.Unix(0, 0)
	machines := map[ids.Node]*Machine{}
	for id, peer := range map[ids.Node]ids.Node{"b": "d", "d": "b"} {
		m, err := New(Config{ID: id, Candidate: true, Timeout: testTimeout, Grace: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		machines[id] = m
		m.Start(now)
		m.Join(peer, now)
		m.Step(Status{From: peer, Clock: 2, Proposed: ids.Session{Master: peer, Clock: 2}}, now)
		if m.session.Master != peer {
			t.Fatalf("%s follows %v", id, m.session)
		}
		m.Ready()
	}
	wire := []Message{{"d", machines["b"].status()}, {"b", machines["d"].status()}}
	for sent := 0; len(wire) > 0; sent++ {
		if sent == 20 {
			t.Fatalf("they go on telling each other the same: %+v", wire)
		}
		m := machines[wire[0].To]
		m.Step(wire[0].Status, now)
		wire = append(wire[1:], m.Ready().Messages...)
	}
	b, d := machines["b"], machines["d"]
	if b.session != d.session || b.master == d.master || !b.live() || !d.live() {
		t.Errorf("b follows %v and leads: %v; d follows %v and leads: %v", b.session, b.master, d.session, d.master)
	}
}

// TestMasterOnceFollowed: what a master said before it was elected is no
// resignation. It is answered.
func TestMasterOnceFollowed(t *testing.T) {
	m, err := New(Config{ID: "b", Candidate: true, Timeout: testTimeout, Grace: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(0, 0)
	leads := ids.Session{Master: "d", Clock: 3}
	m.Start(now)
	m.Join("a", now)
	m.Join("d", now)
	m.Step(Status{From: "a", Clock: 3, Proposed: leads}, now) // is quicker
	m.Ready()
	m.Step(Status{From: "d", Clock: 2, Proposed: ids.Session{Master: "b", Clock: 2}}, now)
	if r := m.Ready(); m.session != leads || len(r.Messages) != 1 || r.Messages[0].Status.Vote || r.Messages[0].Status.Proposed != leads {
		t.Errorf("it follows %v and answers %+v", m.session, r.Messages)
	}
}
