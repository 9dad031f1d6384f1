package sample

import (
	"math"
	"slices"
)

// candidate is a token that may still be drawn.
type candidate struct {
	token int32
	logit float32
	p     float32
}

func byLogit(a, b candidate) int { return rank(a.logit, a.token, b.logit, b.token) }

// rank orders tokens by falling logit. Ties fall to the lower id: the order is
// the same everywhere.
func rank(la float32, ta int32, lb float32, tb int32) int {
	switch {
	case la > lb:
		return -1
	case la < lb:
		return 1
	}
	return int(ta) - int(tb)
}

// softmax gives sorted candidates their probabilities among themselves.
func softmax(c []candidate) {
	top, sum := c[0].logit, 0.0
	for i := range c {
		c[i].p = exp32(c[i].logit - top)
		sum += float64(c[i].p)
	}
	inv := float32(1 / sum)
	for i := range c {
		c[i].p *= inv
	}
}

// topK appends the k largest of logits to c, sorted by falling logit.
func topK(c []candidate, logits []float32, k int) []candidate {
	// A heap of k with its smallest on top; a token enters only above that,
	// so nearly all are rejected by one comparison.
	less := func(a, b candidate) bool { return byLogit(a, b) > 0 }
	down := func(h []candidate, i int) {
		for {
			m := i
			if l := 2*i + 1; l < len(h) && less(h[l], h[m]) {
				m = l
			}
			if r := 2*i + 2; r < len(h) && less(h[r], h[m]) {
				m = r
			}
			if m == i {
				return
			}
			h[i], h[m] = h[m], h[i]
			i = m
		}
	}
	take := func(i int) {
		l := logits[i]
		switch {
		case l != l:
		case len(c) < k:
			if c = append(c, candidate{token: int32(i), logit: l}); len(c) == k {
				for j := k/2 - 1; j >= 0; j-- {
					down(c, j)
				}
			}
		case l > c[0].logit:
			c[0] = candidate{token: int32(i), logit: l}
			down(c, 0)
		}
	}
	i := 0
	for ; i < len(logits) && len(c) < k; i++ {
		take(i)
	}
	// Blocks of eight, as in Argmax.
	for ; i+8 <= len(logits); i += 8 {
		b := logits[i : i+8 : i+8]
		m := max(max(max(b[0], b[1]), max(b[2], b[3])), max(max(b[4], b[5]), max(b[6], b[7])))
		if m > c[0].logit || m != m {
			for j := range b {
				take(i + j)
			}
		}
	}
	for ; i < len(logits); i++ {
		take(i)
	}
	slices.SortFunc(c, byLogit)
	return c
}

// Argmax gives the index of the largest value, the lowest one on a tie. NaN
// never wins.
func Argmax(x []float32) int32 {
	best, at := float32(math.Inf(-1)), 0
	// Blocks of eight: one comparison rejects most of the vocabulary.
	i := 0
	for ; i+8 <= len(x); i += 8 {
		b := x[i : i+8 : i+8]
		m := max(max(max(b[0], b[1]), max(b[2], b[3])), max(max(b[4], b[5]), max(b[6], b[7])))
		if m > best {
			for j, v := range b {
				if v > best {
					best, at = v, i+j
				}
			}
		} else if m != m { // a NaN in the block hides the others
			for j, v := range b {
				if v > best {
					best, at = v, i+j
				}
			}
		}
	}
	for ; i < len(x); i++ {
		if x[i] > best {
			best, at = x[i], i
		}
	}
	return int32(at)
}

// exp32 is exp for x <= 0 with a relative error below 2e-7, several times
// faster than math.Exp: 2^n by the exponent bits, the rest by a polynomial.
func exp32(x float32) float32 {
	if x < -87 {
		return 0
	}
	if x > 88 {
		return float32(math.Exp(float64(x)))
	}
	const log2e, ln2hi, ln2lo = 1.44269504, 0.693359375, -2.12194440e-4
	n := float32(int32(x*log2e - 0.5))
	r := x - n*ln2hi - n*ln2lo
	p := float32(1.9875691500e-4)
	p = p*r + 1.3981999507e-3
	p = p*r + 8.3334519073e-3
	p = p*r + 4.1665795894e-2
	p = p*r + 1.6666665459e-1
	p = p*r + 5.0000001201e-1
	p = p*r*r + r + 1
	return math.Float32frombits(math.Float32bits(p) + uint32(int32(n))<<23)
}

// within appends the tokens whose logits are at least floor, sorted.
func within(c []candidate, row []float32, floor float32) []candidate {
	for i, l := range row {
		if l >= floor && !math.IsInf(float64(l), -1) {
			c = append(c, candidate{token: int32(i), logit: l})
		}
	}
	slices.SortFunc(c, byLogit)
	return c
}
