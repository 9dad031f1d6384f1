package sample

import "math"

// Mass is the sum of exp(logit/temperature) over tokens, held so that sums of
// parts are equal to the sum of the whole to the last bit, in whatever order
// they are added: every term is a power of two times a 24-bit integer, and
// terms of one power are summed as integers.
//
// Sums[i] belongs to the power Exponent-i, so that the largest term of all is
// in Sums[0]. Terms smaller than the largest by more than massKept powers are
// left out. The zero value is the mass of nothing.
type Mass struct {
	Exponent int32
	Sums     []uint64 // massKept of them, or none
}

const (
	// massKept powers are kept, massUsed of them below the best token make the
	// total: what is between lets a draw lower the best tokens and still know
	// the total exactly.
	massKept = 80
	massUsed = 48
	massUnit = 23 // bits of a term's fraction
)

// term splits exp2(x) into a power and an integer: integer * 2^(power-massUnit).
func term(x float64) (power int32, integer uint64) {
	n := math.Floor(x)
	f := float32(x - n)
	// 2^f on [0, 1) with a relative error below 1e-7.
	p := float32(1.8775767e-3)
	p = float32(p*f) + 8.9893397e-3
	p = float32(p*f) + 5.5826318e-2
	p = float32(p*f) + 2.4015361e-1
	p = float32(p*f) + 6.9315308e-1
	p = float32(p*f) + 9.9999994e-1
	return int32(n), uint64(p * (1 << massUnit))
}
