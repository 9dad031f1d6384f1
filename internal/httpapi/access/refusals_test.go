package access

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/cluster"
)

// Whatever is refused however often, little is kept, less is told, and nobody
// pushes out what others were refused.
func TestRefusalsAreBounded(t *testing.T) {
	now := time.Unix(1e9, 0).UTC()
	told := 0
	var last cluster.Refusal
	r := NewRefusals(func() time.Time { return now }, func(x cluster.Refusal) { told, last = told+1, x })
	r.Add(Caller{Name: "other"}, "POST /a", 403, "insufficient_role", "no")
	told = 0
	for range 1000 {
		r.Add(Caller{Name: "loop"}, "POST /a", 403, "insufficient_role", strings.Repeat("ä", 500))
	}
	if told != 10 || last.Count != 512 || len(last.Reason) > maxReason+3 { // at 1, 2, 4, ... 512
		t.Errorf("told %d times, at last of %d refusals", told, last.Count)
	}
	told = 0
	for i := range 10_000 {
		r.Add(Caller{Name: "loop"}, fmt.Sprintf("POST /%d", i), 404, "not_found", "no")
	}
	if told > 40 {
		t.Errorf("told %d times of different ones", told)
	}
	list := r.List()
	if n := len(list); n != 1+maxOfAKey+1 {
		t.Errorf("%d are kept", n)
	}
	sum := 0
	for _, x := range list {
		if x.Key == "loop" {
			sum += x.Count
		}
	}
	if sum != 11_000 {
		t.Errorf("%d are counted, there were 11000", sum)
	}
	if !slices.ContainsFunc(list, func(x cluster.Refusal) bool { return x.Key == "other" && x.Count == 1 }) {
		t.Errorf("what another key was refused is lost: %+v", list)
	}
	// After a quiet minute it is told anew.
	now = now.Add(2 * time.Minute)
	told = 0
	r.Add(Caller{Name: "loop"}, "POST /a", 403, "insufficient_role", "no")
	if told != 1 || last.Count != 1 || !last.First.Equal(now) {
		t.Errorf("told %d times: %+v", told, last)
	}
	for i := range 1000 {
		r.Add(Caller{Name: fmt.Sprint("key ", i)}, "POST /a", 403, "", "no")
	}
	if n := len(r.List()); n != maxRefused {
		t.Errorf("%d are kept, %d at most", n, maxRefused)
	}
}
