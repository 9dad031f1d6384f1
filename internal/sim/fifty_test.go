package sim

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/figures"
	"github.com/skein-run/skein/internal/ids"
)

// TestFifty has 50 nodes start together, and then ten of them die at once, the
// master first. The times are those of the simulated network: messages take up
// to 8 ms, a death is noticed within 150 ms.
func TestFifty(t *testing.T) {
	o := Options{Seed: 1}
	for i := range 50 {
		x := NodeOptions{ID: ids.Node(fmt.Sprintf("n%02d", i)), Memory: 8 << 30}
		if i%10 == 0 {
			x.Models = []Model{{Name: fmt.Sprint("m", i/10), Layers: 6, Bytes: 500 << 20}}
		}
		o.Nodes = append(o.Nodes, x)
	}
	w := New(o)
	// settled waits until all is as it must be, and gives the simulated time and
	// the real one that it took.
	settled := func(what string) {
		t.Helper()
		begin, real := w.now, time.Now()
		var wrong []string
		for w.now.Sub(begin) < limit {
			w.Run(50 * time.Millisecond)
			if len(w.Wrong()) > 0 {
				t.Fatal(w.Wrong())
			}
			if wrong = w.Settled(); len(wrong) == 0 {
				err := figures.Append(*figuresFile, figures.Figure{Name: "50 simulated nodes, all as it must be after " + what, Unit: "s",
					Values: []float64{w.now.Sub(begin).Seconds()}, Note: fmt.Sprintf("simulated time; %.1f s of computing", time.Since(real).Seconds())})
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("after %s: %v of simulated time, %v of computing", what, w.now.Sub(begin), time.Since(real).Round(time.Millisecond))
				return
			}
		}
		t.Fatalf("after %s: %v", what, wrong)
	}
	for _, id := range w.names {
		w.Start(id)
	}
	settled("start")
	lead := slices.IndexFunc(w.names, func(id ids.Node) bool { return w.nodes[id].leader.Self })
	for i := range 10 {
		w.Crash(w.names[(lead+i)%len(w.names)])
	}
	settled("the loss of 10")
}
