package sample

import (
	"math"
	"slices"
)

// Need is what a draw has to know of a row of logits. A rank that computes a
// part of the vocabulary sends that much of its part (Extract), and no more.
type Need struct {
	// Full asks for the whole row; the other fields are zero then.
	Full bool
	// Top is how many of the best tokens are wanted: of each part, and of the
	// whole.
	Top int
	// Named are tokens whose logits are wanted in any case, in rising order.
	Named []int32
	// Mass asks for the mass at temperature 1, for nucleus and logprobs.
	Mass bool
	// Warm > 0 asks for the mass at that temperature, for a draw without filters.
	Warm float32
}

// Candidate is a token with its logit.
type Candidate struct {
	Token int32
	Logit float32
}

// Part is what is told of a part of a row, or of the whole.
type Part struct {
	Top   []Candidate // best first, ties by the lower token
	Named []Candidate // in rising order of token
	Mass  Mass        // with Need.Mass
	Warm  Mass        // with Need.Warm
}

// Row is a row of logits as a backend gives it: whole, or what was needed.
type Row struct {
	// Full is the row, one logit for each token of the vocabulary; nil: only
	// Part is known. It is not changed.
	Full []float32
	Part
}

// Extract takes what n asks for from a part of a row that begins with token
// first.
func Extract(n Need, first int32, part []float32) Part {
	var p Part
	at, best := int32(0), float32(math.NaN())
	if len(part) > 0 {
		at = Argmax(part)
		best = part[at]
	}
	switch {
	case n.Top == 1 && best > float32(math.Inf(-1)): // greedy
		p.Top = []Candidate{{Token: first + at, Logit: best}}
	case n.Top > 0:
		top := topK(make([]candidate, 0, min(n.Top, len(part))), part, n.Top)
		p.Top = make([]Candidate, len(top))
		for i, c := range top {
			p.Top[i] = Candidate{Token: first + c.token, Logit: c.logit}
		}
	}
	for _, t := range n.Named {
		if t >= first && int(t-first) < len(part) {
			p.Named = append(p.Named, Candidate{Token: t, Logit: part[t-first]})
		}
	}
	if n.Mass {
		p.Mass = massOf(part, best, 1)
	}
	if n.Warm > 0 {
		p.Warm = massOf(part, best, n.Warm)
	}
	return p
}

// Merge puts the parts of one row together, in order of their tokens. What it
// gives is what Extract gives of the whole row.
func Merge(n Need, parts []Part) Part {
	var p Part
	for i := range parts {
		p.Top = append(p.Top, parts[i].Top...)
		p.Named = append(p.Named, parts[i].Named...)
		p.Mass.add(parts[i].Mass)
		p.Warm.add(parts[i].Warm)
	}
	slices.SortFunc(p.Top, func(a, b Candidate) int { return rank(a.Logit, a.Token, b.Logit, b.Token) })
	p.Top = p.Top[:min(n.Top, len(p.Top))]
	return p
}
