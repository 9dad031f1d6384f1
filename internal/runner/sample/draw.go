package sample

import (
	"math"
	"slices"
)

// draw filters and draws with temperature.
func (s *Sampler) draw(row []float32, best int32) int32 {
	top := row[best]
	if k := s.p.TopK; k > 0 && (k <= mostTop || k < len(row)) {
		s.work = topK(s.work[:0], row, k)
		return s.pickFrom(s.filterTop(s.work))
	}
	if s.typical() {
		c, ok := s.everything(row, top)
		if !ok {
			return best
		}
		c = typical(c, s.p.TypicalP)
		softmax(c)
		c, _ = s.cut(c, true)
		return s.pickFrom(c)
	}
	s.work = topK(s.work[:0], row, drawTop+len(s.touched))
	c, all := s.work, len(s.work) < drawTop+len(s.touched)
	if s.plain() {
		m := massOf(row, top, s.p.Temperature)
		z, ok := m.log()
		if !ok {
			return best
		}
		c, all = limit(c, all)
		t, rest, ok := s.drawFrom(c, z, all)
		if !ok {
			t = s.drawRest(row, c[len(c)-1], z, rest)
		}
		return t
	}
	z := 0.0
	if s.p.TopP < 1 {
		m := massOf(row, top, 1)
		var ok bool
		if z, ok = m.log(); !ok {
			return best
		}
	}
	s.weigh(c, z)
	kept, ok := s.cut(c, all)
	if !ok {
		s.work = within(s.work[:0], row, top-s.depth(row, top))
		s.weigh(s.work, z)
		kept, _ = s.cut(s.work, true)
	}
	return s.pickFrom(kept)
}

func (s *Sampler) typical() bool { return s.p.TypicalP > 0 && s.p.TypicalP < 1 }

// plain tells that there is no filter.
func (s *Sampler) plain() bool {
	return s.p.TopK <= 0 && s.p.TopP >= 1 && s.p.MinP <= 0 && !s.typical()
}

// weigh gives sorted candidates their probabilities in the whole vocabulary,
// whose mass has the logarithm z. Without a nucleus, which needs that, they are
// relative to the best one.
func (s *Sampler) weigh(c []candidate, z float64) {
	if s.p.TopP >= 1 && len(c) > 0 {
		z = float64(c[0].logit)
	}
	for i := range c {
		c[i].p = exp32(float32(float64(c[i].logit) - z))
	}
}

// cut applies top-p and min-p to sorted candidates with probabilities; at least
// one stays. false: where to cut lies beyond them, and they are not all.
func (s *Sampler) cut(c []candidate, all bool) ([]candidate, bool) {
	known := all
	if p := s.p.TopP; p < 1 {
		sum := float32(0)
		for i := range c {
			sum += c[i].p
			if sum >= p {
				c, known = c[:i+1], true
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
		known = known || n < len(c)
		c = c[:n]
	}
	return c, known
}

// filterTop applies all filters to the sorted candidates that top-k left.
func (s *Sampler) filterTop(c []candidate) []candidate {
	softmax(c)
	if s.typical() {
		c = typical(c, s.p.TypicalP)
		softmax(c)
	}
	c, _ = s.cut(c, true)
	return c
}

// depth is how far below the best logit a filter may keep tokens.
func (s *Sampler) depth(row []float32, top float32) float32 {
	if s.p.TopP >= 1 {
		return -float32(math.Log(float64(s.p.MinP))) + 1e-3
	}
	// Mass by distance from the best logit tells how deep the nucleus goes.
	const perUnit, buckets = 8, 512
	var mass [buckets]float64
	total := 0.0
	for _, l := range row {
		if l == l {
			e := float64(exp32(l - top))
			mass[int(min((top-l)*perUnit, buckets-1))] += e
			total += e
		}
	}
	sum := 0.0
	for b, m := range mass[:buckets-1] {
		// A little more than p, since the nucleus is counted in float32.
		if sum += m; sum >= total*(float64(s.p.TopP)+1e-4) {
			return float32(b+1) / perUnit
		}
	}
	return float32(math.Inf(1))
}

// everything lists all tokens that have a probability, sorted.
func (s *Sampler) everything(row []float32, top float32) ([]candidate, bool) {
	m := massOf(row, top, 1)
	z, ok := m.log()
	s.work = within(s.work[:0], row, float32(math.Inf(-1)))
	for i := range s.work {
		s.work[i].p = exp32(float32(float64(s.work[i].logit) - z))
	}
	return s.work, ok
}

// random gives the number of this draw: the same until it is used.
func (s *Sampler) random() float64 {
	if !s.drawn {
		s.u, s.drawn = s.rng.Float64(), true
	}
	return s.u
}

// limit keeps as many of the best as every draw without a filter looks at
// first: the order in which tokens take their share is always the same.
func limit(c []candidate, all bool) ([]candidate, bool) {
	if len(c) <= drawTop {
		return c, all
	}
	return c[:drawTop], false
}

// drawFrom draws without a filter from the best tokens, whose row has a mass
// with the logarithm z. false: the draw falls beyond them, by rest.
func (s *Sampler) drawFrom(c []candidate, z float64, all bool) (t int32, rest float64, ok bool) {
	u := s.random()
	for i := range c {
		u -= float64(s.share(c[i].logit, z))
		if u < 0 {
			s.drawn = false
			return c[i].token, 0, true
		}
	}
	if all {
		s.drawn = false
		return c[0].token, 0, true // rounding left a crumb
	}
	return 0, u, false
}

// share is a token's probability with temperature.
func (s *Sampler) share(logit float32, z float64) float32 {
	return exp32(float32(float64(logit)/float64(s.p.Temperature) - z))
}

// drawRest goes on where drawFrom ended, with the other tokens in their order;
// last is the last of the best.
func (s *Sampler) drawRest(row []float32, last candidate, z, u float64) int32 {
	s.drawn = false
	by := 1 / float64(s.p.Temperature)
	for i, l := range row {
		if l > last.logit || l == last.logit && int32(i) <= last.token || l != l {
			continue
		}
		u -= float64(exp32(float32(float64(l)*by - z)))
		if u < 0 {
			return int32(i)
		}
	}
	return Argmax(row)
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
	u := s.random() * sum
	s.drawn = false
	for i := range c {
		u -= float64(c[i].p)
		if u < 0 {
			return c[i].token
		}
	}
	return c[0].token
}
