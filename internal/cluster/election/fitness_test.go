package election

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/ids"
)

func quiet(c *Config) { c.Quiet = DefaultQuiet }

// TestFullMasterHandsOver: at once, in one campaign, and with room again it does
// not take the lead back.
func TestFullMasterHandsOver(t *testing.T) {
	s := three(t, func(ids.Node) func(*Config) { return quiet })
	before, rounds := s.leader(), s.campaigns
	s.writable(before.Master, false)
	s.run(200 * time.Millisecond)
	after := s.leader()
	if after.Master == before.Master || after.Clock != before.Clock+1 {
		s.fatal("after %v leads %v", before, after)
	}
	if s.campaigns != rounds+3 {
		s.fatal("%d rounds of 3 nodes", s.campaigns-rounds)
	}
	for _, id := range s.running() {
		want := []ids.Node{before.Master}
		if id == before.Master {
			want = nil
		}
		if got := s.nodes[id].m.unfit; !slices.Equal(got, want) {
			s.fatal("%s takes %v for unfit", id, got)
		}
	}
	// Not even an operator can make it master.
	for _, id := range s.running() {
		if err := s.nodes[id].m.Promote(before.Master, s.now); err == nil || !strings.Contains(err.Error(), "make room") {
			s.fatal("%s promotes it: %v", id, err)
		}
	}
	s.writable(before.Master, true)
	s.run(time.Minute)
	if got := s.leader(); got != after || s.campaigns != rounds+3 {
		s.fatal("after it has room %v leads instead of %v", got, after)
	}
	if err := s.nodes[after.Master].m.Promote(before.Master, s.now); err != nil {
		s.fatal("with room it is not promoted: %v", err)
	}
	s.drain(after.Master)
	s.run(time.Second)
	if got := s.leader(); got.Master != before.Master {
		s.fatal("%v leads", got)
	}
}

// TestAllAreFull: the master keeps its session, and the first that has room for
// the quiet time takes over.
func TestAllAreFull(t *testing.T) {
	s := three(t, func(ids.Node) func(*Config) { return quiet })
	before := s.leader()
	var others []ids.Node
	for _, id := range s.running() {
		if id != before.Master {
			others = append(others, id)
			s.writable(id, false)
			s.run(time.Second)
		}
	}
	if got := s.leader(); got != before {
		s.fatal("followers are full, and %v leads instead of %v", got, before)
	}
	s.writable(before.Master, false)
	s.run(time.Minute)
	if got := s.leader(); got != before {
		s.fatal("all are full, and %v leads instead of %v", got, before)
	}
	rounds := s.campaigns
	s.writable(others[0], true)
	s.run(DefaultQuiet / 2)
	if s.leader() != before {
		s.fatal("it led before its quiet time was over")
	}
	s.run(DefaultQuiet)
	if got := s.leader(); got.Master != others[0] || s.campaigns != rounds+3 {
		s.fatal("%v leads after %d rounds", got, s.campaigns-rounds)
	}
}

// TestFullAlone: who comes to a master that can't write leads.
func TestFullAlone(t *testing.T) {
	s := newSim(t, 5)
	s.add("z", quiet)
	s.run(time.Second)
	s.writable("z", false)
	s.run(time.Second)
	if l := s.leader(); l != (ids.Session{Master: "z", Clock: 1}) {
		s.fatal("%v leads", l)
	}
	s.add("w", func(c *Config) { c.Candidate = false })
	s.run(3 * time.Second)
	if l := s.leader(); l.Master != "z" {
		s.fatal("%v leads beside one that may not", l)
	}
	s.add("a", func(c *Config) { c.Grace = time.Second })
	s.run(3 * time.Second)
	if l := s.leader(); l.Master != "a" {
		s.fatal("%v leads", l)
	}
}

// TestForcedTakesOverWhenItHasRoom: what its operator wants holds again, but a
// disk that is full to the brim makes the lead change ever more seldom.
func TestForcedTakesOverWhenItHasRoom(t *testing.T) {
	s := three(t, func(id ids.Node) func(*Config) {
		return func(c *Config) { c.Quiet, c.Force = DefaultQuiet, id == "a" }
	})
	first := s.leader()
	for range 1000 { // every second it has room, and a second later it has not
		s.writable("a", false)
		s.run(time.Second)
		if l := s.leader(); l.Master == "a" {
			s.fatal("it leads and can't write")
		}
		s.writable("a", true)
		s.run(time.Second)
	}
	if l := s.leader(); l.Clock > first.Clock+1 {
		s.fatal("the lead changed until %v", l)
	}
	for range 100 { // it has room for five minutes, and not for a second
		s.run(5 * time.Minute)
		if l := s.leader(); l.Master != "a" {
			s.fatal("with room for five minutes it does not lead: %v", l)
		}
		s.writable("a", false)
		s.run(time.Second)
		s.writable("a", true)
	}
}

// TestFailsDuringItsCampaign: a vote stands for its round; who wins and can't
// write by then hands over in the next one.
func TestFailsDuringItsCampaign(t *testing.T) {
	s := three(t, func(ids.Node) func(*Config) { return quiet })
	before := s.leader()
	s.stop(before.Master)
	for s.nodes[s.running()[0]].m.votes == nil && s.nodes[s.running()[1]].m.votes == nil {
		s.step(s.now.Add(time.Second))
	}
	for _, id := range s.running() {
		s.writable(id, id < max(s.running()[0], s.running()[1])) // the greater id would win
	}
	s.run(2 * time.Second)
	if l := s.leader(); l.Master != min(s.running()[0], s.running()[1]) {
		s.fatal("%v leads", l)
	}
}
