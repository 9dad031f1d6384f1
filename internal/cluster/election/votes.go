package election

import (
	"cmp"
	"maps"
	"slices"

	"github.com/skein-run/skein/internal/ids"
)

// settle ends the round with the votes there are.
func (m *Machine) settle() {
	votes, promote := m.votes, m.promote
	m.votes, m.promote = nil, ""
	var best Status
	incumbents, candidates, senior := 0, 0, int64(0)
	voters := slices.Sorted(maps.Keys(votes))
	if owned := slices.DeleteFunc(slices.Clone(voters), func(id ids.Node) bool { return disowned(votes[id], votes) }); len(owned) > 0 {
		voters = owned
	}
	for _, id := range voters {
		v := votes[id]
		// Who ended the round before this node did told its outcome since, and
		// proposes another than itself: it was a candidate all the same.
		if v.Seniority >= 0 {
			candidates++
			senior = max(senior, v.Seniority)
		}
		if v.candidate() && v.Proposed.Clock < v.Clock {
			incumbents++
		}
		if best.From == "" || rank(v, best, promote) > 0 {
			best = v
		}
	}
	m.session, m.ended = best.Proposed, false
	if best.candidate() && incumbents > 1 {
		// Of two terms that ran side by side neither goes on: what the other
		// master still sends must be told from what the winner does.
		m.session.Clock = m.clock
	}
	led := m.master
	m.master = best.From == m.cfg.ID && best.candidate()
	if led && !m.master && m.fitness.unfit {
		// With what it had earned it would take the lead back with the first room on its disk.
		m.seniority = m.cfg.seniority()
	}
	if m.master {
		m.seniority = max(m.seniority, int64(candidates-1))
		if promote == m.cfg.ID {
			// Else the one it replaced would outrank it again at once.
			m.seniority = max(m.seniority, senior+1)
		}
	}
	if m.cfg.Candidate {
		m.tell(m.status()) // who counted other votes may think that this node leads, or does not
	}
}

// disowned tells that a vote is for a session whose master voted otherwise: it
// leads no more, and following it would be for ever.
func disowned(v Status, votes map[ids.Node]Status) bool {
	master, voted := votes[v.Proposed.Master]
	return voted && master.From != v.From && master.Proposed != v.Proposed
}

// rank orders votes: positive if a is better.
func rank(a, b Status, promote ids.Node) int {
	if c := order(a.candidate(), b.candidate()); c != 0 {
		return c
	}
	if !a.candidate() {
		return a.Proposed.Compare(b.Proposed)
	}
	if c := order(!a.Unfit, !b.Unfit); c != 0 {
		return c // who can't write can't lead, whoever wants it
	}
	if c := order(a.From == promote, b.From == promote); c != 0 {
		return c
	}
	if c := cmp.Compare(a.Seniority, b.Seniority); c != 0 {
		return c
	}
	if c := cmp.Compare(a.CommandsSeen, b.CommandsSeen); c != 0 {
		return c
	}
	return cmp.Compare(a.From, b.From)
}

func order(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
