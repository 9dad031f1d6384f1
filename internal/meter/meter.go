// Package meter tells how much there was lately: bytes or tokens a second. It
// is a leaf and imports nothing of ours; time is an argument. A Rate belongs to
// one goroutine at a time.
package meter

import "time"

// buckets are the seconds that count as lately.
const buckets = 5

// Rate sums up what came within the last seconds. The zero value is ready.
type Rate struct {
	sums  [buckets]float64
	began time.Time // of the first Add after a pause
	last  time.Time // of the newest Add
}

// Add counts n at a moment; moments do not go back.
func (r *Rate) Add(n float64, now time.Time) {
	if r.last.IsZero() || now.Sub(r.last) >= buckets*time.Second {
		*r = Rate{began: now}
	}
	r.forget(now)
	r.last = now
	r.sums[index(now)] += n
}

// forget clears the seconds between the last moment and now.
func (r *Rate) forget(now time.Time) {
	if r.last.IsZero() {
		return
	}
	for s := r.last.Unix() + 1; s <= now.Unix(); s++ {
		r.sums[uint64(s)%buckets] = 0
	}
}

func index(t time.Time) int { return int(uint64(t.Unix()) % buckets) }

// PerSecond is the mean over the last seconds, or since it began to be counted.
func (r *Rate) PerSecond(now time.Time) float64 {
	if r.last.IsZero() || now.Sub(r.last) >= buckets*time.Second {
		return 0
	}
	c := *r
	c.forget(now)
	var sum float64
	for _, s := range c.sums {
		sum += s
	}
	window := min(now.Sub(r.began), (buckets-1)*time.Second+time.Duration(now.Nanosecond()))
	return sum / max(window.Seconds(), 0.1)
}
