// Package sample draws the next token from a row of logits.
//
// It is pure: its randomness is seeded by the request, it imports nothing of
// the product but the wire types, and one Sampler belongs to one generation
// and one goroutine at a time. The order of the filters is llama.cpp's own:
// logit bias, penalties, top-k, typical, top-p, min-p, temperature.
package sample

import (
	"math/rand/v2"
	"slices"

	"github.com/skein-run/skein/internal/runner/wire"
)

// Sampler holds one generation's settings, its history and its randomness.
type Sampler struct {
	p        wire.Sampling
	rng      *rand.Rand
	history  []int32       // prompt and produced tokens, for the repeat penalty; nil: no penalties
	produced map[int32]int // how often each token was produced, for the OpenAI penalties
	biased   []int32       // keys of the bias

	penalized bool
	touched   []int32 // tokens that bias or penalties change, in rising order
	current   bool    // touched is that of the history
	need      Need    // as Need gave it last
	u         float64 // random number of the next draw
	drawn     bool    // u is drawn and not used

	work []candidate // reused between draws
	row  []float32   // reused between draws
}

// New returns a sampler for a generation that starts with prompt. The last
// drawn tokens of it were produced by an earlier part of the same generation:
// the sequence of random numbers goes on after theirs, and penalties count them.
func New(p wire.Sampling, prompt []int32, drawn int) *Sampler {
	s := &Sampler{p: p}
	s.penalized = s.repeats() || p.FrequencyPenalty != 0 || p.PresencePenalty != 0
	if s.penalized {
		s.history = append(s.history, prompt...)
		s.produced = map[int32]int{}
		for _, t := range prompt[len(prompt)-min(max(drawn, 0), len(prompt)):] {
			s.produced[t]++
		}
	}
	for t := range p.LogitBias {
		s.biased = append(s.biased, t)
	}
	// The second word only keeps this stream apart from other uses of the seed.
	s.rng = rand.New(rand.NewPCG(p.Seed, 0x736b65696e))
	for range drawn {
		s.rng.Float64()
	}
	return s
}

func (s *Sampler) repeats() bool { return s.p.RepeatPenalty != 1 && s.p.RepeatPenalty != 0 }

// Accept records a produced token. Sample and Draw do not.
func (s *Sampler) Accept(token int32) {
	if s.penalized {
		s.history = append(s.history, token)
		s.produced[token]++
		s.current = false
	}
}

// recent is the part of the history that the repeat penalty looks at.
func (s *Sampler) recent() []int32 {
	if n := s.p.RepeatLastN; n >= 0 && len(s.history) > n {
		return s.history[len(s.history)-n:]
	}
	return s.history
}

// changed gives the tokens whose logits bias or penalties change, in rising
// order, each once.
func (s *Sampler) changed() []int32 {
	if s.current || len(s.biased) == 0 && !s.penalized {
		return s.touched
	}
	s.touched = append(s.touched[:0], s.biased...)
	if s.repeats() {
		s.touched = append(s.touched, s.recent()...)
	}
	if s.p.FrequencyPenalty != 0 || s.p.PresencePenalty != 0 {
		for t := range s.produced {
			s.touched = append(s.touched, t)
		}
	}
	slices.Sort(s.touched)
	s.touched = slices.Compact(s.touched)
	s.current = true
	return s.touched
}

// adjust calls f with the changed tokens of a row and their new logits: bias
// first, then penalties.
func (s *Sampler) adjust(logit func(i int, t int32) float32, f func(t int32, old, new float32)) {
	var seen map[int32]struct{}
	if s.repeats() && len(s.changed()) > 0 {
		seen = make(map[int32]struct{}, len(s.touched))
		for _, t := range s.recent() {
			seen[t] = struct{}{}
		}
	}
	for i, t := range s.changed() {
		old := logit(i, t)
		l := old + s.p.LogitBias[t]
		if _, ok := seen[t]; ok {
			// Dividing a negative logit would raise it.
			if l > 0 {
				l /= s.p.RepeatPenalty
			} else {
				l *= s.p.RepeatPenalty
			}
		}
		if n := s.produced[t]; n > 0 {
			l -= float32(s.p.FrequencyPenalty*float32(n)) + s.p.PresencePenalty
		}
		f(t, old, l)
	}
}

// Sample draws a token. logits is one row of the vocabulary and is not
// changed.
func (s *Sampler) Sample(logits []float32) int32 {
	row := logits
	if changed := s.changed(); len(changed) > 0 {
		s.row = append(s.row[:0], logits...)
		row = s.row
		// Tokens outside of the vocabulary, if a prompt has them, change nothing.
		at := func(_ int, t int32) float32 {
			if t < 0 || int(t) >= len(row) {
				return 0
			}
			return row[t]
		}
		s.adjust(at, func(t int32, _, l float32) {
			if t >= 0 && int(t) < len(row) {
				row[t] = l
			}
		})
	}
	best := Argmax(row)
	if s.p.Temperature <= 0 || !counts(row[best]) {
		return best // greedy, or nothing to normalize: all -inf, or a +inf bias that decides alone
	}
	return s.draw(row, best)
}
