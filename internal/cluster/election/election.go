// Package election decides which node is master: a bully election as a pure
// state machine. Messages, membership changes and ticks go in; Ready says what
// to persist, what to send, and who leads.
//
// It has no goroutine, no clock and no network: time is an argument, and one
// goroutine owns a Machine. It imports ids alone.
//
// # How it goes
//
// A campaign is a round with a number, the clock. Each member sends its Status
// as a vote; the round ends when every live member has voted, or at the
// timeout. The best vote wins: seniority, then commands seen, then node id.
// Outside campaigns a Status is a report of the session that its sender
// follows. A newcomer reports, is told the session, and follows: a mere join
// or leave starts no campaign. One starts when no master is known, when the
// master is gone, when two masters meet, when a candidate outranks the
// incumbent by seniority, and when an operator promotes a node.
//
// An incumbent that wins keeps its session, so nothing has to change for those
// who follow it. A node that may not be master votes for the last known
// session; when only such nodes are left, there is no master.
//
// A candidate whose log can't be written (fitness.go) leads only where no
// candidate has one that can.
package election

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/ids"
)

// Forced is the seniority of a candidate that was started with --force-master,
// Barred that of a node that is not a candidate.
const (
	Forced int64 = 1_000_000
	Barred int64 = -1
)

// DefaultTimeout is how long a campaign waits for members that do not vote.
const DefaultTimeout = 500 * time.Millisecond

// DefaultQuiet is how long a log must have been writable again before its node
// counts as fit.
const DefaultQuiet = 2 * time.Second

// Status is the one message of the election: a vote in a campaign, or else a
// report of the session that its sender follows.
type Status struct {
	From         ids.Node    `json:"from"`
	Clock        uint64      `json:"clock"`
	Seniority    int64       `json:"seniority"`
	CommandsSeen uint64      `json:"commands_seen"` // highest applied event
	Proposed     ids.Session `json:"proposed"`      // vote: what the sender stands for; report: what it follows
	Vote         bool        `json:"vote"`
	// Unfit tells that the sender's log can't be written now.
	Unfit bool `json:"unfit,omitempty"`
	// Promote is the node that an operator wants as master; set in votes of
	// such a campaign.
	Promote ids.Node `json:"promote,omitempty"`
}

// candidate tells whether the vote is for its sender.
func (s Status) candidate() bool { return s.Seniority >= 0 && s.Proposed.Master == s.From }

// Message is a Status on its way.
type Message struct {
	To     ids.Node
	Status Status
}

// Durable is what must be on disk before the messages of the same Ready leave:
// a node that forgot its clock would not be heard by its peers.
type Durable struct {
	Clock   uint64      `json:"clock"`
	Session ids.Session `json:"session"`
}

// Ready is what is to be done, in the order of its fields.
type Ready struct {
	Durable  *Durable // nil: unchanged
	Messages []Message
	Leader   *Leader // nil: unchanged
	// Unfit are the live peers whose logs can't be written, sorted; nil: unchanged.
	Unfit *[]ids.Node
}

// Leader is the outcome.
type Leader struct {
	Session ids.Session // the last known one, also when its master is gone
	// Live tells that the session's master is a live member, or this node.
	Live bool
	// Self tells that this node is the master.
	Self bool
}

// Config makes a Machine.
type Config struct {
	ID ids.Node
	// Candidate tells that this node may be master.
	Candidate bool
	// Force gives a candidate the seniority Forced.
	Force   bool
	Durable Durable // from disk; zero at the first start
	// Timeout ends a campaign in which a member does not vote.
	Timeout time.Duration
	// Grace is how long a node that just started waits to be told of a
	// session before it campaigns. Zero: not at all.
	Grace time.Duration
	// Quiet is how long the log must have been writable again before this node
	// takes part as fit, at first; what fails again soon waits longer.
	Quiet time.Duration
}

func (c Config) validate() error {
	if c.ID == "" {
		return fmt.Errorf("election: a node needs an id")
	}
	if c.Timeout <= 0 || c.Grace < 0 || c.Quiet < 0 {
		return fmt.Errorf("election: timeout %v, grace %v and quiet %v must be positive", c.Timeout, c.Grace, c.Quiet)
	}
	return nil
}

// Machine is one node's part in elections.
type Machine struct {
	cfg       Config
	seniority int64
	seen      uint64
	clock     uint64
	session   ids.Session
	members   map[ids.Node]bool   // live peers, without this node
	heard     map[ids.Node]Status // the last of each of them
	fitness   fitness

	master bool // this node is master of session
	ended  bool // the session's master is there and said that it leads no more

	votes    map[ids.Node]Status // of the running campaign; nil: none runs
	promote  ids.Node            // of the running campaign
	deadline time.Time           // of the running campaign, or of the grace
	grace    bool

	durable Durable // as last handed out
	leader  *Leader // as last handed out
	unfit   []ids.Node
	out     []Message
}

// New returns a machine that waits for Start.
func New(cfg Config) (*Machine, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	m := &Machine{cfg: cfg, clock: cfg.Durable.Clock, session: cfg.Durable.Session, durable: cfg.Durable, members: map[ids.Node]bool{}, heard: map[ids.Node]Status{}}
	m.seniority = cfg.seniority()
	return m, nil
}

// seniority is what a node begins with.
func (c Config) seniority() int64 {
	switch {
	case !c.Candidate:
		return Barred
	case c.Force:
		return Forced
	}
	return 0
}

// Start begins: with a grace, or at once with a campaign.
func (m *Machine) Start(now time.Time) {
	if m.cfg.Grace > 0 {
		if !m.session.Zero() {
			// Those who campaign meanwhile must not come to a session that is
			// no newer than the one which this node knows of.
			m.clock = max(m.clock, m.session.Clock+1)
		}
		m.grace, m.deadline = true, now.Add(m.cfg.Grace)
		return
	}
	m.campaign(m.clock+1, "", now)
}

// Seen tells the highest applied event.
func (m *Machine) Seen(event uint64) { m.seen = max(m.seen, event) }

// Deadline is when Tick has something to do; false: never, without an input.
func (m *Machine) Deadline() (time.Time, bool) {
	if m.grace || m.votes != nil {
		return m.deadline, true
	}
	return m.fitness.next()
}

// Tick tells the time.
func (m *Machine) Tick(now time.Time) {
	if at, ok := m.Deadline(); !ok || now.Before(at) {
		return
	}
	if m.votes != nil {
		m.settle()
		return
	}
	if !m.grace {
		m.turn(now)
		return
	}
	m.grace = false
	m.seek(now)
}

// Join tells that a peer is alive. Both sides report to each other.
func (m *Machine) Join(peer ids.Node, now time.Time) {
	if peer == m.cfg.ID || m.members[peer] {
		return
	}
	m.members[peer] = true
	m.send(peer, m.status())
	if m.votes == nil && !m.grace {
		m.seek(now)
	}
}

// Leave tells that a peer is gone.
func (m *Machine) Leave(peer ids.Node, now time.Time) {
	if !m.members[peer] {
		return
	}
	delete(m.members, peer)
	delete(m.heard, peer)
	switch {
	case m.votes != nil:
		delete(m.votes, peer)
		m.count()
	case m.session.Master == peer && !m.grace:
		m.campaign(m.clock+1, "", now)
	}
}

// Promote asks for an election that target wins if it is a live candidate.
func (m *Machine) Promote(target ids.Node, now time.Time) error {
	if target != m.cfg.ID && !m.members[target] {
		return fmt.Errorf("promote %s: it is not a live node of this cluster", target)
	}
	if target == m.cfg.ID && !m.cfg.Candidate {
		return fmt.Errorf("promote %s: it runs with --no-master or --no-api and can't be master", target)
	}
	if target == m.session.Master && m.votes == nil && m.live() {
		return nil
	}
	if target == m.cfg.ID && m.fitness.unfit || m.heard[target].Unfit {
		return fmt.Errorf("promote %s: its log can't be written now, as its health says; make room on its disk, and promote it some seconds later", target)
	}
	m.campaign(m.clock+1, target, now)
	return nil
}

// Step takes a message in.
func (m *Machine) Step(s Status, now time.Time) {
	if s.From == m.cfg.ID || !m.members[s.From] {
		return // membership says who is heard; it reports again when it joins
	}
	m.heard[s.From] = s
	if s.Vote {
		m.vote(s, now)
	} else {
		m.report(s, now)
	}
}

func (m *Machine) vote(s Status, now time.Time) {
	switch {
	case s.Clock < m.clock:
		// Dropping it would leave the sender alone in its round for ever.
		m.send(s.From, m.status())
		return
	case m.votes != nil && s.Clock == m.clock:
		// Our round.
	case s.Clock > m.clock:
		m.campaign(s.Clock, s.Promote, now)
	case m.live():
		// The round ended without the sender's vote: it follows the outcome.
		m.send(s.From, m.status())
		return
	default:
		// The same, but its outcome is gone. A session of this clock may be
		// known, so the next round has a clock of its own.
		m.campaign(m.clock+1, s.Promote, now)
		return
	}
	if s.Promote > m.promote { // two promotions in one round: all must prefer the same
		m.promote = s.Promote
		m.broadcast()
	}
	m.votes[s.From] = s
	m.count()
}

// report compares what the sender follows with what this node does.
func (m *Machine) report(s Status, now time.Time) {
	theirs := s.Proposed.Master
	visible := theirs != m.cfg.ID && m.members[theirs]
	claim := visible && theirs == s.From
	if m.votes != nil {
		switch {
		case s.Clock < m.clock:
			m.send(s.From, m.status()) // asks for its vote
		case claim:
			m.follow(s.Proposed)
			m.outrank(s, now)
		case s.Clock > m.clock && !visible:
			// At this clock nobody listens. Were its master to be seen, it would
			// say so itself.
			m.campaign(s.Clock+1, m.promote, now)
		case s.Clock == m.clock:
			m.votes[s.From] = s // it ended the round already: its vote for itself is void
			m.count()
		}
		return
	}
	m.clock = max(m.clock, s.Clock)
	older := s.Proposed.Compare(m.session) < 0
	switch {
	case s.Proposed == m.session && (m.master || theirs != m.cfg.ID) && !(m.grace && claim):
	case theirs == m.cfg.ID && (s.From != m.session.Master || s.Clock < m.session.Clock):
		m.send(s.From, m.status()) // not what this node knows of itself; or a term that a restart ended
	case s.From == m.session.Master && !visible: // it leads no more, and follows who is not to be seen, or this node
		if m.ended = true; !m.grace { // else who leads may still be found
			m.campaign(m.clock+1, "", now)
		} else if theirs == m.cfg.ID {
			m.send(s.From, m.status())
		}
	case visible && (s.From == m.session.Master || !m.live()):
		m.follow(s.Proposed)
		if !claim {
			m.send(theirs, m.status()) // hearsay: the master corrects it if it is not so
		}
	case !m.live():
	case m.master && claim:
		m.campaign(m.clock+1, "", now) // two masters meet
	case older:
		m.send(s.From, m.status())
	case claim:
		m.follow(s.Proposed)
	}
	m.outrank(s, now)
}

// outrank campaigns if s is the report of the master that this node follows,
// and this node outranks it.
func (m *Machine) outrank(s Status, now time.Time) {
	if m.votes == nil && s.Proposed.Master == s.From && s.Proposed == m.session && m.better(s) {
		m.campaign(m.clock+1, "", now)
	}
}

// follow adopts a session without a campaign.
func (m *Machine) follow(s ids.Session) {
	voted := m.votes != nil
	m.session, m.master, m.ended, m.votes, m.grace = s, false, false, nil, false
	m.clock = max(m.clock, s.Clock)
	if voted {
		m.tell(m.status()) // others may have counted the vote, and think that this node leads
	}
}

// seek campaigns if there is no master that this node could follow.
func (m *Machine) seek(now time.Time) {
	if !m.live() {
		m.campaign(m.clock+1, "", now)
	}
}

// live tells whether the session has a master that is there.
func (m *Machine) live() bool { return m.master || m.members[m.session.Master] && !m.ended }

// campaign begins round clock, or joins it.
func (m *Machine) campaign(clock uint64, promote ids.Node, now time.Time) {
	m.clock, m.promote, m.grace = clock, promote, false
	m.votes = map[ids.Node]Status{}
	m.deadline = now.Add(m.cfg.Timeout)
	m.broadcast()
	m.count()
}

func (m *Machine) broadcast() {
	own := m.status()
	m.votes[m.cfg.ID] = own
	m.tell(own)
}

// tell sends to every member.
func (m *Machine) tell(s Status) {
	for _, peer := range slices.Sorted(maps.Keys(m.members)) {
		m.send(peer, s)
	}
}

// count ends the round when every live member has voted.
func (m *Machine) count() {
	for peer := range m.members {
		if _, ok := m.votes[peer]; !ok {
			return
		}
	}
	m.settle()
}

func (m *Machine) status() Status {
	s := Status{From: m.cfg.ID, Clock: m.clock, Seniority: m.seniority, CommandsSeen: m.seen, Proposed: m.session, Unfit: m.fitness.unfit}
	if m.session.Master == m.cfg.ID && !m.master {
		s.Proposed = ids.Session{} // a term that ended with a restart is no claim
	}
	if m.votes != nil {
		s.Vote, s.Promote = true, m.promote
		if own, ok := m.votes[m.cfg.ID]; ok {
			s.CommandsSeen, s.Unfit = own.CommandsSeen, own.Unfit // one round, one vote: else who joins in its course ranks it otherwise
		}
		if m.cfg.Candidate && !m.master {
			s.Proposed = ids.Session{Master: m.cfg.ID, Clock: m.clock}
		}
	}
	return s
}

func (m *Machine) send(to ids.Node, s Status) { m.out = append(m.out, Message{To: to, Status: s}) }

// Ready hands out what is to be done since the last call.
func (m *Machine) Ready() Ready {
	var r Ready
	if d := (Durable{Clock: m.clock, Session: m.session}); d != m.durable {
		m.durable, r.Durable = d, &d
	}
	r.Messages, m.out = m.out, nil
	if now := m.ill(); !slices.Equal(now, m.unfit) {
		m.unfit, r.Unfit = now, &now
	}
	if m.votes == nil && !m.grace {
		if l := (Leader{Session: m.session, Live: m.live(), Self: m.master}); m.leader == nil || *m.leader != l {
			m.leader, r.Leader = &l, &l
		}
	}
	return r
}
