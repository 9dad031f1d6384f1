package sample

import (
	"math"
	"math/bits"
)

// Mass is the sum of exp(logit/temperature) over tokens, held so that the sums
// of parts add up to the sum of the whole to the last bit, in whatever order:
// every term is a power of two times an integer of 24 bits, and the terms of one
// power are added as integers.
//
// Sums[i] belongs to the power Exponent-i. Terms that are smaller than the
// largest one by massKept powers or more are left out. The zero value is the
// mass of nothing; no Sums and an Exponent of math.MaxInt32: it can't be told.
type Mass struct {
	Exponent int32
	Sums     []uint64 // massKept of them, or none
}

const untold = math.MaxInt32

// MassSums is the length of Mass.Sums.
const MassSums = massKept

const (
	// massUsed powers below the best token make the total; massKept are kept, so
	// that a penalty may lower the best tokens and the total is still known.
	massUsed = 48
	massKept = 80
	massUnit = 23 // bits of a term's fraction
)

// term splits 2^x: it is n * 2^(power-massUnit) with a relative error below
// 3e-7. It depends on x alone. The conversions forbid fused operations, which
// would round otherwise on other processors.
func term(x float64) (power int32, n uint64) {
	var f float32
	// Adding bias makes x positive, where cutting off is rounding down, and
	// leaves 32 bits of its fraction.
	const bias = 1 << 20
	if x > -bias && x < bias {
		y := x + bias
		k := int64(y)
		power, f = int32(k-bias), float32(y-float64(k))
	} else {
		k := math.Floor(x)
		power, f = int32(k), float32(x-k)
	}
	p := float32(1.8775767e-3)
	p = float32(p*f) + 8.9893397e-3
	p = float32(p*f) + 5.5826318e-2
	p = float32(p*f) + 2.4015361e-1
	p = float32(p*f) + 6.9315308e-1
	p = float32(p*f) + 9.9999994e-1
	return power, uint64(int64(p * (1 << massUnit)))
}

// scale is what logits are multiplied by to become powers of two.
func scale(temperature float32) float64 { return math.Log2E / float64(temperature) }

// counts tells that a logit has a share of the mass. Infinite ones are left
// out: a draw decides them before it comes to masses.
func counts(l float32) bool { return l-l == 0 }

// measurable tells that masses with this best logit can be told. No model has
// others; a bias may.
func measurable(top float32, by float64) bool { return math.Abs(float64(top)*by) < 1<<30 }

// massOf sums a row, or a part of one, in which no counting logit is above top.
func massOf(row []float32, top, temperature float32) Mass {
	by := scale(temperature)
	if !counts(top) {
		top = float32(math.Inf(-1))
		for _, l := range row {
			if counts(l) {
				top = max(top, l)
			}
		}
		if !counts(top) {
			return Mass{}
		}
	}
	high := math.Floor(float64(top) * by)
	if !measurable(top, by) {
		if high > 0 {
			return Mass{Exponent: untold}
		}
		return Mass{}
	}
	low := high - (massKept - 1)
	exponent := int32(high)
	var sums [massKept]uint64
	for _, l := range row {
		x := float64(l) * by
		if x >= low && x < high+1 { // NaN and infinities are out
			power, n := term(x)
			if at := exponent - power; uint(at) < massKept {
				sums[at] += n
			}
		}
	}
	return Mass{Exponent: exponent, Sums: append([]uint64(nil), sums[:]...)}
}

// add adds the mass of other tokens.
func (m *Mass) add(o Mass) {
	switch {
	case m.untold() || o.untold():
		*m = Mass{Exponent: untold}
		return
	case len(o.Sums) != massKept:
		return
	case len(m.Sums) != massKept:
		m.Exponent, m.Sums = o.Exponent, append([]uint64(nil), o.Sums...)
		return
	}
	m.raise(o.Exponent)
	for i, n := range o.Sums {
		if at := int64(m.Exponent) - int64(o.Exponent) + int64(i); at < massKept {
			m.Sums[at] += n
		}
	}
}

func (m *Mass) untold() bool { return m.Exponent == untold && len(m.Sums) == 0 }

// raise makes room for terms of a higher power.
func (m *Mass) raise(exponent int32) {
	up := int64(exponent) - int64(m.Exponent)
	if up <= 0 {
		return
	}
	up = min(up, massKept)
	copy(m.Sums[up:], m.Sums[:massKept-up])
	clear(m.Sums[:up])
	m.Exponent = exponent
}

// replace takes one logit out and puts another in.
func (m *Mass) replace(old, new, temperature float32) {
	by := scale(temperature)
	if m.untold() {
		return
	}
	if measurable(old, by) && len(m.Sums) == massKept {
		power, n := term(float64(old) * by)
		if at := int64(m.Exponent) - int64(power); at >= 0 && at < massKept {
			m.Sums[at] -= n
		}
	}
	if measurable(new, by) {
		power, n := term(float64(new) * by)
		if len(m.Sums) != massKept {
			m.Exponent, m.Sums = power, make([]uint64, massKept)
		}
		m.raise(power)
		if at := int64(m.Exponent) - int64(power); at < massKept {
			m.Sums[at] += n
		}
	}
}

// log gives the natural logarithm of the mass; false: it is not known, since
// too much of what was kept has been taken out, or there is none.
func (m *Mass) log() (float64, bool) {
	first := 0
	for first < len(m.Sums) && m.Sums[first] == 0 {
		first++
	}
	if first+massUsed > len(m.Sums) {
		return 0, false
	}
	// The sum as an integer of 128 bits, in units of the last power used: exact.
	var hi, lo uint64
	for _, n := range m.Sums[first : first+massUsed] {
		hi, lo = hi<<1|lo>>63, lo<<1
		var carry uint64
		lo, carry = bits.Add64(lo, n, 0)
		hi += carry
	}
	total := float64(hi)*(1<<64) + float64(lo)
	power := int(m.Exponent) - first - (massUsed - 1) - massUnit
	return math.Log(total) + float64(power)*math.Ln2, true
}
