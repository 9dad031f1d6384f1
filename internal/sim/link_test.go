package sim

import (
	"testing"
	"time"

	"github.com/skein-run/skein/internal/ids"
)

// TestLinkKeepsOrder: what one node sends to another arrives in order, and all
// of it, through cuts that are over before anybody noticed.
func TestLinkKeepsOrder(t *testing.T) {
	for seed := range uint64(200) {
		w := New(Options{Seed: seed, Nodes: []NodeOptions{{ID: "a"}, {ID: "b"}}})
		w.Start("a")
		w.Start("b")
		w.Run(2 * time.Second) // they have met
		sent, got := 0, 0
		for range 3 {
			for step, steps := range []int{20, 30, 20} { // before, while it is cut, after
				switch step {
				case 1:
					w.Cut([]ids.Node{"a"}, []ids.Node{"b"})
				case 2:
					w.Heal()
				}
				for range steps {
					sent++
					number := sent
					w.send("a", "b", func(*node) {
						if got++; got != number {
							w.broken("message %d arrives as number %d", number, got)
						}
					})
					w.Run(w.between(0, 10*time.Millisecond))
				}
			}
			w.Run(3 * time.Second) // who looks for a cut finds none
		}
		if got != sent {
			w.broken("%d messages arrived of %d", got, sent)
		}
		if wrong := w.Wrong(); len(wrong) > 0 {
			t.Fatalf("seed %d: %s", seed, wrong[0])
		}
	}
}
