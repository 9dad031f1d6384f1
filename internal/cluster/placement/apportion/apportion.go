// Package apportion shares things out: an amount by speed and room, a number of
// units as whole ones, and proportions as small numbers. It knows nothing of what
// is shared out, and is pure.
package apportion

import (
	"cmp"
	"math"
	"slices"
)

// Fill shares an amount out in proportion to speeds, nobody getting more than
// their most; what is left over when all are full goes by speed again.
func Fill(amount float64, speeds, most []float64) []float64 {
	order := make([]int, len(speeds))
	speed := 0.0
	for i := range order {
		order[i] = i
		speed += speeds[i]
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(most[a]*speeds[b], most[b]*speeds[a]), cmp.Compare(a, b))
	})
	out := make([]float64, len(speeds))
	left, fast := amount, speed
	for _, i := range order {
		share := left * speeds[i] / max(fast, math.SmallestNonzeroFloat64)
		out[i] = min(share, most[i])
		left, fast = left-out[i], fast-speeds[i]
	}
	if left > 0 {
		for i := range out {
			out[i] += left * speeds[i] / speed
		}
	}
	return out
}

// Whole turns shares of a number of units into whole units, each at least 1
// and at most its most. It reports false when they can't be shared out.
func Whole(units int, shares []float64, most []int) ([]int, bool) {
	out := make([]int, len(shares))
	left := units
	for i, share := range shares {
		if most[i] < 1 {
			return nil, false
		}
		out[i] = min(max(int(share), 1), most[i])
		left -= out[i]
	}
	for left != 0 {
		// The one that is furthest from its share gives or takes one.
		best := -1
		for i := range out {
			if left > 0 && out[i] >= most[i] || left < 0 && out[i] <= 1 {
				continue
			}
			if best < 0 || left > 0 && shares[i]-float64(out[i]) > shares[best]-float64(out[best]) ||
				left < 0 && shares[i]-float64(out[i]) < shares[best]-float64(out[best]) {
				best = i
			}
		}
		if best < 0 {
			return nil, false
		}
		if left > 0 {
			out[best]++
			left--
		} else {
			out[best]--
			left++
		}
	}
	return out, true
}

// Reduced gives the smallest whole numbers of the same proportion.
func Reduced(units []int) []int {
	common := 0
	for _, n := range units {
		for a := n; a != 0; {
			common, a = a, common%a
		}
	}
	out := make([]int, len(units))
	for i, n := range units {
		out[i] = n / common
	}
	return out
}
