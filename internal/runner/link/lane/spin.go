package lane

import "time"

// Spinner decides how long to poll before sleeping.
//
// Polling is free while this thread has a core that nobody else wants, which is
// how shards should be placed. Where threads outnumber cores it would take the
// core from the very shard that is waited for. So now and then the spinner
// yields: a yield that takes long means that somebody else had work for this
// core, and then the next waits sleep at once, more of them each time.
type Spinner struct {
	limit time.Duration // 0 or less: never poll
	yield func()        // nil: the system has none

	polls   int
	since   time.Time
	skip    int // waits that are not to poll
	penalty int // waits that the next long yield costs
}

// NewSpinner polls for limit; 0 or less: never.
func NewSpinner(limit time.Duration) Spinner { return Spinner{limit: limit, yield: yield} }

const (
	yieldEach   = 16 // polls; a clock and a yield are as long as one poll
	longYield   = 100 * time.Microsecond
	penaltyLow  = 16
	penaltyHigh = 1024
)

// Begin begins a wait, or one anew after progress.
func (s *Spinner) Begin() { s.polls = 0 }

// Again says whether to poll once more. The clock is read once in a few polls.
func (s *Spinner) Again() bool {
	if s.limit <= 0 {
		return false
	}
	s.polls++
	if s.polls == 1 {
		if s.skip > 0 {
			s.skip--
			s.polls = 0
			return false
		}
		s.since = time.Now()
		return true
	}
	if s.polls%yieldEach != 0 {
		return true
	}
	before := time.Now()
	if before.Sub(s.since) >= s.limit {
		s.polls = 0
		return false
	}
	if s.yield == nil {
		return true
	}
	s.yield()
	if time.Since(before) < longYield {
		s.penalty = max(s.penalty-1, penaltyLow)
		return true
	}
	s.skip, s.penalty = s.penalty, min(2*max(s.penalty, penaltyLow), penaltyHigh)
	return true
}
