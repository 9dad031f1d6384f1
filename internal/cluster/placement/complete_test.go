package placement

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/cluster/placement/cost"
	"pgregory.net/rapid"
)

// TestNoMeansNo tries every order of up to three machines and every split
// between them: where one of them fits, Place finds a plan.
func TestNoMeansNo(t *testing.T) {
	answers := map[bool]int{}
	rapid.Check(t, func(t *rapid.T) {
		const mb = 1 << 20
		m := Model{Name: "m", Embedding: 64, Vocabulary: 512, NoTensor: "not here", Every: mb / 4,
			Head: Part{Shared: rapid.Int64Range(0, 8*mb).Draw(t, "head")}, Whole: 1 << 40}
		var size int64
		for range rapid.IntRange(2, 7).Draw(t, "layers") {
			l := Layer{Weights: Part{Shared: rapid.Int64Range(1, 6*mb).Draw(t, "layer")}, Cell: Part{Shared: 64}, Scratch: Part{Shared: 64}}
			size += l.Weights.Sum()
			m.Layers = append(m.Layers, l)
		}
		var c Cluster
		n := rapid.IntRange(2, 3).Draw(t, "nodes")
		for i := range n {
			free := int64(rapid.Float64Range(0.1, 3).Draw(t, "free") * float64(size+m.Head.Sum()) / float64(n))
			c.Nodes = append(c.Nodes, Node{ID: fmt.Sprint(i), Worker: true, Has: true,
				Devices: []Device{{Total: free, Available: free, Speed: Speed{Bandwidth: 1e9, Compute: 1e9}}}})
		}
		r := Request{Model: m, Context: 64, Slots: 1, Batch: 1}
		_, err := Place(c, r, time.Time{})

		r, errValid := r.validate()
		if errValid != nil {
			t.Fatal(errValid)
		}
		tb, errTable := newTable(c, r, time.Time{})
		if errTable != nil {
			t.Fatal(errTable)
		}
		can := false
		var try func(first int, left []spot, used int)
		try = func(first int, left []spot, used int) {
			if first == len(m.Layers) {
				can = can || used > 1
				return
			}
			for i, s := range left {
				for end := first + 1; end <= len(m.Layers); end++ {
					if tb.fits(cost.Piece{First: first, End: end, Units: 1, All: 1}, s.seats[0].free) {
						try(end, slices.Delete(slices.Clone(left), i, i+1), used+1)
					}
				}
			}
		}
		try(0, tb.spots(false), 0)
		answers[can]++
		if can != (err == nil) {
			t.Errorf("every order tried says %v, Place says %v", can, err)
		}
	})
	if answers[true] == 0 || answers[false] == 0 {
		t.Errorf("the draws had one answer only: %v", answers)
	}
}
