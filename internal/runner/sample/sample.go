// Package sample draws the next token from a row of logits.
//
// It is pure: its randomness is seeded by the request, it imports nothing of
// the product but the wire types, and one Sampler belongs to one generation
// and one goroutine at a time. The order of the filters is llama.cpp's own:
// logit bias, penalties, top-k, typical, top-p, min-p, temperature.
package sample

import (
	"math"
	"math/rand/v2"
	"slices"

	"github.com/skein-run/skein/internal/runner/wire"
)

// Sampler holds one generation's settings, its history and its randomness.
type Sampler struct {
	p         wire.Sampling
	rng       *rand.Rand
	history   []int32       // prompt and produced tokens, for the repeat penalty
	produced  map[int32]int // how often each token was produced, for the OpenAI penalties
	work      []candidate   // reused between draws
	probs     []float32     // reused between draws
	penalized bool
}

// candidate is a token that may still be drawn.
type candidate struct {
	token int32
	logit float32
	p     float32
}

// New returns a sampler for a generation that starts with prompt. drawn is
// the number of random draws that an earlier part of the same generation has
// made: the sequence goes on after them.
func New(p wire.Sampling, prompt []int32, drawn int) *Sampler {
	s := &Sampler{p: p}
	s.penalized = (p.RepeatPenalty != 1 && p.RepeatPenalty != 0) || p.FrequencyPenalty != 0 || p.PresencePenalty != 0
	if s.penalized {
		s.history = append(s.history, prompt...)
		s.produced = map[int32]int{}
	}
	// The second word only keeps this stream apart from other uses of the seed.
	s.rng = rand.New(rand.NewPCG(p.Seed, 0x736b65696e))
	for range drawn {
		s.rng.Float64()
	}
	return s
}

// Accept records a produced token. Sample does not.
func (s *Sampler) Accept(token int32) {
	if s.penalized {
		s.history = append(s.history, token)
		s.produced[token]++
	}
}

// Sample draws a token. logits is one row of the vocabulary and is not
// changed.
func (s *Sampler) Sample(logits []float32) int32 {
	if s.p.Temperature <= 0 && !s.penalized && len(s.p.LogitBias) == 0 {
		return argmax(logits)
	}
	if s.p.Temperature <= 0 {
		return s.adjusted(logits, func(adj []float32) int32 { return argmax(adj) })
	}
	if s.penalized || len(s.p.LogitBias) > 0 {
		return s.adjusted(logits, s.draw)
	}
	return s.draw(logits)
}

// adjusted calls pick with a copy of logits that has bias and penalties
// applied.
func (s *Sampler) adjusted(logits []float32, pick func([]float32) int32) int32 {
	if cap(s.probs) < len(logits) {
		s.probs = make([]float32, len(logits))
	}
	adj := s.probs[:len(logits)]
	copy(adj, logits)
	for t, b := range s.p.LogitBias {
		if t >= 0 && int(t) < len(adj) {
			adj[t] += b
		}
	}
	if r := s.p.RepeatPenalty; r != 1 && r != 0 {
		recent := s.history
		if n := s.p.RepeatLastN; n >= 0 && len(recent) > n {
			recent = recent[len(recent)-n:]
		}
		seen := make(map[int32]struct{}, len(recent))
		for _, t := range recent {
			if _, dup := seen[t]; dup || t < 0 || int(t) >= len(adj) {
				continue
			}
			seen[t] = struct{}{}
			// Dividing a negative logit would raise it.
			if adj[t] > 0 {
				adj[t] /= r
			} else {
				adj[t] *= r
			}
		}
	}
	if s.p.FrequencyPenalty != 0 || s.p.PresencePenalty != 0 {
		for t, n := range s.produced {
			if t >= 0 && int(t) < len(adj) {
				adj[t] -= s.p.FrequencyPenalty*float32(n) + s.p.PresencePenalty
			}
		}
	}
	return pick(adj)
}

// draw filters and draws with temperature.
func (s *Sampler) draw(logits []float32) int32 {
	best := argmax(logits)
	if math.IsInf(float64(logits[best]), 0) || logits[best] != logits[best] {
		return best // nothing to normalize: all -inf, or a +inf bias that decides alone
	}
	if s.p.TopK <= 0 && s.p.TopP >= 1 && s.p.MinP <= 0 && (s.p.TypicalP >= 1 || s.p.TypicalP <= 0) {
		return s.drawAll(logits, logits[best])
	}
	c := s.candidates(logits, logits[best])
	c = s.filter(c)
	return s.pickFrom(c)
}

// drawAll draws from the whole vocabulary without sorting it.
func (s *Sampler) drawAll(logits []float32, top float32) int32 {
	inv := 1 / s.p.Temperature
	if cap(s.probs) < len(logits) {
		s.probs = make([]float32, len(logits))
	}
	// adj may alias logits here: each entry is read before it is written.
	p := s.probs[:len(logits)]
	sum := 0.0
	for i, l := range logits {
		e := exp32((l - top) * inv)
		p[i] = e
		sum += float64(e)
	}
	u := s.rng.Float64() * sum
	for i, e := range p {
		u -= float64(e)
		if u < 0 {
			return int32(i)
		}
	}
	return argmax(p) // rounding left a crumb
}

// candidates lists the tokens worth filtering, sorted by falling logit, with
// their probabilities: with top-k those of k tokens among themselves, else
// those in the whole vocabulary, of which only the part is listed that the
// filters can keep. Sorting all of it would cost more than a step of a small
// model.
func (s *Sampler) candidates(logits []float32, top float32) []candidate {
	if k := s.p.TopK; k > 0 && k < len(logits) {
		s.work = topK(s.work[:0], logits, k)
		softmax(s.work, top)
		return s.work
	}
	// Mass by distance from the best logit tells how deep to look.
	const perUnit, buckets = 8, 512
	var mass [buckets]float64
	total := 0.0
	for _, l := range logits {
		if l == l {
			e := float64(exp32(l - top))
			mass[int(min((top-l)*perUnit, buckets-1))] += e
			total += e
		}
	}
	depth := float32(math.Inf(1))
	switch typical := s.p.TypicalP > 0 && s.p.TypicalP < 1; {
	case typical: // it may keep any token
	case s.p.TopP < 1:
		sum := 0.0
		for b, m := range mass[:buckets-1] {
			if sum += m; sum >= total*float64(s.p.TopP) {
				depth = float32(b+1) / perUnit
				break
			}
		}
	default: // min-p alone keeps what is within a fixed distance of the best
		depth = -float32(math.Log(float64(s.p.MinP))) + 1e-3
	}
	s.work = s.work[:0]
	for i, l := range logits {
		if l >= top-depth && !math.IsInf(float64(l), -1) {
			s.work = append(s.work, candidate{token: int32(i), logit: l, p: exp32(l - top)})
		}
	}
	slices.SortFunc(s.work, byLogit)
	inv := float32(1 / total)
	for i := range s.work {
		s.work[i].p *= inv
	}
	return s.work
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

func softmax(c []candidate, top float32) {
	sum := 0.0
	for i := range c {
		c[i].p = exp32(c[i].logit - top)
		sum += float64(c[i].p)
	}
	inv := float32(1 / sum)
	for i := range c {
		c[i].p *= inv
	}
}

// filter applies typical, top-p and min-p to sorted, normalized candidates;
// at least one stays.
func (s *Sampler) filter(c []candidate) []candidate {
	if t := s.p.TypicalP; t > 0 && t < 1 {
		c = typical(c, t)
		softmax(c, c[0].logit)
	}
	if p := s.p.TopP; p < 1 {
		sum := float32(0)
		for i := range c {
			sum += c[i].p
			if sum >= p {
				c = c[:i+1]
				break
			}
		}
	}
	if m := s.p.MinP; m > 0 {
		floor := c[0].p * m
		n := 1
		for n < len(c) && c[n].p >= floor {
			n++
		}
		c = c[:n]
	}
	return c
}

// typical keeps the tokens whose surprise is nearest to the distribution's
// entropy until their mass reaches p (Meister et al. 2022, "Locally Typical
// Sampling", arXiv:2202.00666). The result is sorted by falling logit again.
func typical(c []candidate, p float32) []candidate {
	entropy := 0.0
	for i := range c {
		if c[i].p > 0 {
			entropy -= float64(c[i].p) * math.Log(float64(c[i].p))
		}
	}
	slices.SortStableFunc(c, func(a, b candidate) int {
		da, db := math.Abs(-math.Log(float64(a.p))-entropy), math.Abs(-math.Log(float64(b.p))-entropy)
		switch {
		case da < db:
			return -1
		case da > db:
			return 1
		}
		return 0
	})
	sum := float32(0)
	for i := range c {
		sum += c[i].p
		if sum >= p {
			c = c[:i+1]
			break
		}
	}
	slices.SortFunc(c, byLogit)
	return c
}

// pickFrom draws from filtered candidates with temperature.
func (s *Sampler) pickFrom(c []candidate) int32 {
	inv := 1 / s.p.Temperature
	sum := 0.0
	for i := range c {
		c[i].p = exp32((c[i].logit - c[0].logit) * inv)
		sum += float64(c[i].p)
	}
	u := s.rng.Float64() * sum
	for i := range c {
		u -= float64(c[i].p)
		if u < 0 {
			return c[i].token
		}
	}
	return c[0].token
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
	for i, l := range logits {
		if l != l {
			continue
		}
		if len(c) < k {
			c = append(c, candidate{token: int32(i), logit: l})
			if len(c) == k {
				for j := k/2 - 1; j >= 0; j-- {
					down(c, j)
				}
			}
			continue
		}
		if l > c[0].logit {
			c[0] = candidate{token: int32(i), logit: l}
			down(c, 0)
		}
	}
	slices.SortFunc(c, byLogit)
	return c
}

// argmax gives the index of the largest value, the lowest one on a tie. NaN
// never wins.
func argmax(x []float32) int32 {
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
