package election

import (
	"maps"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/ids"
)

// fitness is whether this node's log can be written. A master whose log can't
// hands over at once; a log that can be written again counts only after a quiet
// time, which grows with each failure that comes soon after: a disk that is
// full to the brim must not make the lead go to and fro.
type fitness struct {
	unfit bool          // as peers are told
	yield time.Time     // when a master is to hand over; zero: it need not
	well  time.Time     // when an unfit node becomes fit; zero: its log can't be written
	quiet time.Duration // that the next recovery takes
	since time.Time     // of the last recovery
}

// A failure so long after a recovery is a new one, and the quiet time has an end.
const (
	forgiven  = 10 * time.Minute
	mostQuiet = 2 * time.Minute
)

// next is when Tick has something to do about it.
func (f fitness) next() (time.Time, bool) {
	if !f.yield.IsZero() {
		return f.yield, true
	}
	return f.well, !f.well.IsZero()
}

// Writable tells whether this node's log can be written. Telling the same again
// changes nothing.
func (m *Machine) Writable(ok bool, now time.Time) {
	f := &m.fitness
	switch {
	case ok && f.unfit && f.well.IsZero():
		f.well = now.Add(f.quiet)
	case !ok && f.unfit:
		if !f.well.IsZero() { // it failed within its quiet time
			f.well, f.quiet = time.Time{}, min(2*f.quiet, mostQuiet)
		}
	case !ok:
		if f.since.IsZero() || now.Sub(f.since) > forgiven {
			f.quiet = m.cfg.Quiet
		} else {
			f.quiet = min(2*f.quiet, mostQuiet)
		}
		f.unfit, f.yield = true, now
		if m.votes == nil && !m.grace {
			m.turn(now)
		}
	}
}

// turn acts on a change of fitness, outside campaigns: a vote stands for its
// round, and with it what it said of this node's log.
func (m *Machine) turn(now time.Time) {
	f := &m.fitness
	if !f.yield.IsZero() && !now.Before(f.yield) {
		f.yield = time.Time{}
		if m.master && f.unfit && len(m.members) > 0 {
			m.campaign(m.clock+1, "", now)
			return
		}
		m.tell(m.status())
	}
	if f.well.IsZero() || now.Before(f.well) {
		return
	}
	f.unfit, f.well, f.since = false, time.Time{}, now
	m.tell(m.status())
	if master, ok := m.heard[m.session.Master]; ok && m.live() && !m.master && m.better(master) {
		m.campaign(m.clock+1, "", now)
	}
}

// better tells whether this node should lead in place of a master whose status
// is s.
func (m *Machine) better(s Status) bool {
	switch {
	case !m.cfg.Candidate || m.fitness.unfit:
		return false
	case s.Unfit:
		return true
	}
	return m.seniority > s.Seniority
}

// ill are the live peers whose logs can't be written.
func (m *Machine) ill() []ids.Node {
	var out []ids.Node
	for _, id := range slices.Sorted(maps.Keys(m.heard)) {
		if m.heard[id].Unfit {
			out = append(out, id)
		}
	}
	return out
}
