package sample

import "slices"

// Bounds of what is asked of a row's parts. A draw that needs more asks for the
// whole row.
const (
	// drawTop candidates hold nearly every draw of a model that is sure of what
	// it says; where a draw falls beyond, the row is asked for.
	drawTop   = 128
	mostTop   = 1024
	mostNamed = 512
)

// Need tells what the next draw has to know, and with logprobs also what
// Logprobs has to know for top rivals. Its Named is valid until Accept.
//
// Named are all tokens that bias or penalties change, and Top leaves room for
// them: whatever they become, the best of the others are known.
func (s *Sampler) Need(logprobs bool, top int) Need {
	n := Need{Named: s.changed(), Mass: logprobs}
	switch {
	case s.p.Temperature <= 0:
		n.Top = 1
	case s.p.TopK > 0:
		n.Top = s.p.TopK
	case s.typical():
		n.Full = true // it keeps tokens by their surprise: any may be among them
	case s.plain() && s.p.Temperature != 1:
		n.Top, n.Warm = drawTop, s.p.Temperature
	default:
		n.Top = drawTop
		n.Mass = n.Mass || s.plain() || s.p.TopP < 1
	}
	if logprobs {
		n.Top = max(n.Top, top)
	}
	if n.Full || n.Top > mostTop || len(n.Named) > mostNamed {
		n = Need{Full: true}
	} else {
		n.Top += len(n.Named)
	}
	s.need = n
	return n
}

// Draw draws from what Need asked for, and gives the token that Sample would
// give of the whole row. false: that can't be told from it; nothing is drawn,
// and Sample is to be called with the whole row.
func (s *Sampler) Draw(row *Row) (int32, bool) {
	if row.Full != nil {
		return s.Sample(row.Full), true
	}
	if len(row.Top) == 0 {
		return 0, false
	}
	best := row.Top[0].Logit
	c, all := s.view(&row.Part)
	if len(c) == 0 || !counts(c[0].logit) && c[0].logit < 0 {
		return 0, false
	}
	if s.p.Temperature <= 0 || !counts(c[0].logit) {
		return c[0].token, true
	}
	for _, top := range [2]float32{best, c[0].logit} {
		if !measurable(top, scale(min(1, s.p.Temperature))) {
			return 0, false
		}
	}
	if k := s.p.TopK; k > 0 {
		if len(c) < k && !all {
			return 0, false
		}
		return s.pickFrom(s.filterTop(c[:min(k, len(c))])), true
	}
	if s.plain() {
		m, t := row.Warm, s.p.Temperature
		if t == 1 {
			m = row.Mass
		}
		z, ok := s.logMass(m, t, &row.Part)
		if !ok {
			return 0, false
		}
		c, all = limit(c, all)
		token, _, ok := s.drawFrom(c, z, all)
		return token, ok
	}
	z := 0.0
	if s.p.TopP < 1 {
		var ok bool
		if z, ok = s.logMass(row.Mass, 1, &row.Part); !ok {
			return 0, false
		}
	}
	s.weigh(c, z)
	c, ok := s.cut(c, all)
	if !ok {
		return 0, false
	}
	return s.pickFrom(c), true
}

// view lists the best tokens of the row as bias and penalties leave it, as far
// down as no other can lie between them; all tells that these are all.
func (s *Sampler) view(p *Part) (c []candidate, all bool) {
	all = len(p.Top) < s.need.Top
	s.work = s.work[:0]
	named := s.changed()
	for _, t := range p.Top {
		if _, is := slices.BinarySearch(named, t.Token); !is {
			s.work = append(s.work, candidate{token: t.Token, logit: t.Logit})
		}
	}
	if len(named) == 0 {
		return s.work, all
	}
	s.adjustNamed(p, func(t int32, _, l float32) {
		if l == l {
			s.work = append(s.work, candidate{token: t, logit: l})
		}
	})
	slices.SortFunc(s.work, byLogit)
	if !all {
		last := p.Top[len(p.Top)-1]
		end := 0
		for end < len(s.work) && rank(s.work[end].logit, s.work[end].token, last.Logit, last.Token) <= 0 {
			end++
		}
		s.work = s.work[:end]
	}
	return s.work, all
}

// adjustNamed is adjust of the named tokens that the row has.
func (s *Sampler) adjustNamed(p *Part, f func(t int32, old, new float32)) {
	at, have := 0, false
	s.adjust(func(_ int, t int32) float32 {
		for at < len(p.Named) && p.Named[at].Token < t {
			at++
		}
		if have = at < len(p.Named) && p.Named[at].Token == t; have {
			return p.Named[at].Logit
		}
		return 0
	}, func(t int32, old, new float32) {
		if have {
			f(t, old, new)
		}
	})
}

// logMass gives the logarithm of the row's mass as bias and penalties leave it.
func (s *Sampler) logMass(m Mass, temperature float32, p *Part) (float64, bool) {
	if len(s.changed()) > 0 {
		m.Sums = slices.Clone(m.Sums)
		s.adjustNamed(p, func(_ int32, old, new float32) { m.replace(old, new, temperature) })
	}
	return m.log()
}
