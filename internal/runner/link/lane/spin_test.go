package lane

import (
	"testing"
	"testing/synctest"
	"time"
)

// A spinner polls for its limit; a yield that took long, because somebody else
// wants the core, makes the next waits sleep at once, more each time.
func TestSpinner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 10 * longYield
		took := time.Microsecond
		s := Spinner{limit: limit, yield: func() { time.Sleep(took) }}
		wait := func() (polled time.Duration) {
			start := time.Now()
			for s.Begin(); s.Again(); {
			}
			return time.Since(start)
		}
		if polled := wait(); polled != limit {
			t.Errorf("alone on its core it polls for %v, not %v", polled, limit)
		}
		took = limit
		for _, want := range []int{penaltyLow, 2 * penaltyLow, 4 * penaltyLow} {
			wait()
			skipped := 0
			for ; s.skip > 0; skipped++ {
				if polled := wait(); polled != 0 {
					t.Fatalf("it polls for %v on a core that others want", polled)
				}
			}
			if skipped != want {
				t.Errorf("%d waits slept at once, want %d", skipped, want)
			}
		}
	})
	never := NewSpinner(-1)
	if never.Begin(); never.Again() {
		t.Error("it polls where it must not")
	}
}
