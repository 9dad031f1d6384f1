package shards

import (
	"slices"
	"testing"

	"github.com/skein-run/skein/internal/bench/shards"
	"github.com/skein-run/skein/internal/library"
)

func TestBoundaries(t *testing.T) {
	for _, w := range []struct {
		work   []int64
		stages int
		want   []int
	}{
		{[]int64{1, 1, 1, 1}, 2, []int{2, 4}},
		{[]int64{1, 1, 1, 1, 1}, 2, []int{2, 5}},
		{[]int64{1, 1, 1, 1, 1}, 5, []int{1, 2, 3, 4, 5}},
		{[]int64{1, 1, 1, 1, 1, 1, 1, 1, 1, 5}, 2, []int{7, 10}},     // the head counts
		{[]int64{1, 1, 1, 1, 1, 1, 1, 1, 1, 50}, 3, []int{4, 9, 10}}, // more than all others together
		{[]int64{50, 1, 1, 1}, 3, []int{1, 2, 4}},
		{[]int64{7}, 1, []int{1}},
	} {
		if got := boundaries(w.work, w.stages); !slices.Equal(got, w.want) {
			t.Errorf("%v in %d stages end at %v, want %v", w.work, w.stages, got, w.want)
		}
	}
}

// Of the demo model's four layers and its head, a decoded token reads more in
// the last layers than in the first ones.
func TestBalance(t *testing.T) {
	m, err := library.OpenModel(demo(t)...)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	work := make([]int64, 4)
	decodeWork(m.Model, work)
	if work[0] <= 0 || work[1] != work[0] || work[3] <= work[2] {
		t.Errorf("work of layers %v: equal layers, and the head with the last one", work)
	}
	for balance, want := range map[shards.Balance]int{"": 2, shards.BalanceEven: 2, shards.BalanceDecode: boundaries(work, 2)[0]} {
		specs, err := Split(m.Model, 2, 1, balance)
		if err != nil || len(specs) != 2 || specs[0].End != want || specs[1].End != 4 {
			t.Errorf("balance %q: %+v, %v, want the boundary at %d", balance, specs, err, want)
		}
	}
	if _, err := Split(m.Model, 2, 1, "prompt"); err == nil {
		t.Error("a balance that nobody knows was taken")
	}
}
