package meter

import (
	"math"
	"testing"
	"time"
)

func TestRate(t *testing.T) {
	start := time.Unix(1_700_000_000, 250e6)
	var r Rate
	if got := r.PerSecond(start); got != 0 {
		t.Errorf("before anything: %v", got)
	}
	at := start
	for range 200 { // 20 a second for 10 s
		at = at.Add(50 * time.Millisecond)
		r.Add(1, at)
	}
	if got := r.PerSecond(at); math.Abs(got-20) > 1 {
		t.Errorf("steady: %v, want 20", got)
	}
	if got := r.PerSecond(at.Add(2500 * time.Millisecond)); got < 5 || got > 15 {
		t.Errorf("after half of the time: %v, want about 10", got)
	}
	if got := r.PerSecond(at.Add(6 * time.Second)); got != 0 {
		t.Errorf("long after: %v", got)
	}
	at = at.Add(time.Minute)
	r.Add(10, at)
	if got := r.PerSecond(at.Add(time.Second)); math.Abs(got-10) > 0.1 {
		t.Errorf("a new beginning: %v, want 10", got)
	}
}
