package placement

import (
	"testing"
	"time"

	"github.com/skein-run/skein/internal/cluster/placement/cost"
	"pgregory.net/rapid"
)

// TestNeedsAreRemembered: what many seats share is what each would work out
// alone, whatever was asked before.
func TestNeedsAreRemembered(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const mb = 1 << 20
		m := Model{Name: "m", Embedding: 64, Vocabulary: 512, Units: 4, Every: mb / 4, First: mb / 2,
			Head: Part{Shared: mb, Cut: rapid.Int64Range(0, 8*mb).Draw(t, "head")}}
		for range rapid.IntRange(1, 9).Draw(t, "layers") {
			m.Layers = append(m.Layers, Layer{Weights: Part{Shared: 1, Cut: rapid.Int64Range(1, 6*mb).Draw(t, "layer")}, Cell: Part{Cut: 64}, Scratch: Part{Shared: 64}})
		}
		r, err := Request{Model: m, Context: 64, Slots: 1}.validate()
		if err != nil {
			t.Fatal(err)
		}
		tb, err := newTable(Cluster{Nodes: []Node{{ID: "n", Worker: true, Has: true, Devices: []Device{{Speed: Speed{Bandwidth: 1, Compute: 1}}}}}}, r, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		for range 6 {
			k := shape{free: rapid.Int64Range(0, 80*mb).Draw(t, "free"), units: rapid.IntRange(1, 4).Draw(t, "units"), all: 4}
			for first, end := range tb.endsOf(k) {
				want := first
				for want < len(m.Layers) && tb.fits(cost.Piece{First: first, End: want + 1, Units: k.units, All: k.all}, k.free) {
					want++
				}
				if end != want {
					t.Fatalf("from layer %d up to %d fit %+v, not up to %d", first, want, k, end)
				}
			}
		}
	})
}
