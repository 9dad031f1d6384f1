package apportion

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// What is shared out is all of it; nobody has more than their most while there is
// room elsewhere, and the faster has no less than the slower where both have room.
func TestFill(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 6).Draw(t, "n")
		speeds := rapid.SliceOfN(rapid.Float64Range(0.1, 100), n, n).Draw(t, "speeds")
		most := rapid.SliceOfN(rapid.Float64Range(0, 100), n, n).Draw(t, "most")
		amount := rapid.Float64Range(0, 300).Draw(t, "amount")
		room, sum := 0.0, 0.0
		out := Fill(amount, speeds, most)
		for i, v := range out {
			room, sum = room+most[i], sum+v
		}
		if math.Abs(sum-amount) > 1e-6 {
			t.Fatalf("%v is %g of %g", out, sum, amount)
		}
		if amount > room {
			return // more than there is room for goes by speed
		}
		for i := range out {
			if out[i] > most[i]+1e-6 {
				t.Fatalf("number %d has %g of at most %g: %v", i, out[i], most[i], out)
			}
			for j := range out {
				if speeds[i] > speeds[j] && out[i] < out[j]-1e-6 && out[i] < most[i]-1e-6 {
					t.Fatalf("the faster has less and room for more: %v of %v, speeds %v", out, most, speeds)
				}
			}
		}
	})
}

// Whole units are all shared out, from 1 to the most, where that is possible.
func TestWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 6).Draw(t, "n")
		units := rapid.IntRange(1, 40).Draw(t, "units")
		shares := rapid.SliceOfN(rapid.Float64Range(0, 40), n, n).Draw(t, "shares")
		most := rapid.SliceOfN(rapid.IntRange(0, 20), n, n).Draw(t, "most")
		room := 0
		for _, m := range most {
			room += m
		}
		out, ok := Whole(units, shares, most)
		if want := units >= n && room >= units && slices.Min(most) >= 1; ok != want {
			t.Fatalf("%d units over %v: %v, want %v", units, most, ok, want)
		}
		if !ok {
			return
		}
		sum := 0
		for i, v := range out {
			sum += v
			if v < 1 || v > most[i] {
				t.Fatalf("number %d has %d of 1 to %d", i, v, most[i])
			}
		}
		if sum != units {
			t.Fatalf("%v is %d of %d", out, sum, units)
		}
	})
}

func TestReduced(t *testing.T) {
	for _, c := range [][2][]int{{{4, 2, 6}, {2, 1, 3}}, {{3}, {1}}, {{5, 7}, {5, 7}}, {{8, 8}, {1, 1}}} {
		if got := Reduced(c[0]); !slices.Equal(got, c[1]) {
			t.Errorf("%v is in proportion %v, want %v", c[0], got, c[1])
		}
	}
}
