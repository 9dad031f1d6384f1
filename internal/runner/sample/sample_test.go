package sample

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/skein-run/skein/internal/runner/wire"
	"pgregory.net/rapid"
)

func with(change func(*wire.Sampling)) wire.Sampling {
	p := wire.NeutralSampling()
	change(&p)
	return p
}

func TestGreedyTakesTheLargest(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, c := range []struct {
		logits []float32
		want   int32
	}{
		{[]float32{1, 3, 2}, 1},
		{[]float32{3, 3, 3}, 0},
		{[]float32{nan, 1, 2, nan, 5, 0, 0, 0, 0}, 4},
		{[]float32{0, 0, 0, 0, 0, 0, 0, 0, 7}, 8},
		{[]float32{-inf, -inf, -9}, 2},
		{[]float32{0, inf, 1}, 1},
		{[]float32{0, 1, 2, 3, 4, 5, 6, nan, 9, 0, 0, 0, 0, 0, 0, 10}, 15},
	} {
		if got := New(with(func(p *wire.Sampling) { p.Temperature = 0 }), nil, 0).Sample(c.logits); got != c.want {
			t.Errorf("%v: %d, want %d", c.logits, got, c.want)
		}
	}
}

func TestArgmaxEqualsTheObvious(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		x := rapid.SliceOfN(rapid.Float32Range(-5, 5), 1, 60).Draw(rt, "x")
		want := 0
		for i, v := range x {
			if v > x[want] {
				want = i
			}
		}
		if got := Argmax(x); int(got) != want {
			rt.Fatalf("%d, want %d", got, want)
		}
	})
}

func TestExp32(t *testing.T) {
	for x := float32(0); x > -86; x -= 0.0137 {
		want := math.Exp(float64(x))
		if got := float64(exp32(x)); math.Abs(got-want) > 3e-7*want {
			t.Fatalf("exp(%v) = %v, want %v", x, got, want)
		}
	}
	if exp32(-1000) != 0 || exp32(0) != 1 {
		t.Errorf("exp(-1000) = %v, exp(0) = %v", exp32(-1000), exp32(0))
	}
}

// frequencies draws n times and gives each token's share.
func frequencies(p wire.Sampling, logits []float32, n int) []float64 {
	s := New(p, nil, 0)
	out := make([]float64, len(logits))
	for range n {
		out[s.Sample(logits)] += 1 / float64(n)
	}
	return out
}

func probabilities(logits []float32, temperature float64) []float64 {
	out, sum := make([]float64, len(logits)), 0.0
	for i, l := range logits {
		out[i] = math.Exp(float64(l) / temperature)
		sum += out[i]
	}
	for i := range out {
		out[i] /= sum
	}
	return out
}

func TestDrawsFollowTheDistribution(t *testing.T) {
	logits := []float32{1, 2, 0, -1, 2.5}
	const n = 200_000
	for name, c := range map[string]struct {
		p    wire.Sampling
		want []float64
	}{
		"plain":        {with(func(p *wire.Sampling) {}), probabilities(logits, 1)},
		"temperature":  {with(func(p *wire.Sampling) { p.Temperature = 0.5 }), probabilities(logits, 0.5)},
		"all by top-k": {with(func(p *wire.Sampling) { p.TopK = 5; p.TopP = 0.9999999 }), probabilities(logits, 1)},
		"bias":         {with(func(p *wire.Sampling) { p.LogitBias = map[int32]float32{2: 2} }), probabilities([]float32{1, 2, 2, -1, 2.5}, 1)},
	} {
		got := frequencies(c.p, logits, n)
		for i := range got {
			// Four standard deviations of a share of n draws, with a fixed seed.
			if d := 4 * math.Sqrt(c.want[i]*(1-c.want[i])/n); math.Abs(got[i]-c.want[i]) > d {
				t.Errorf("%s: token %d drawn with %.4f, want %.4f +- %.4f", name, i, got[i], c.want[i], d)
			}
		}
	}
}

func allowed(p wire.Sampling, logits []float32) []int32 {
	s := New(p, nil, 0)
	seen := map[int32]bool{}
	for range 3000 {
		seen[s.Sample(logits)] = true
	}
	var out []int32
	for t := range seen {
		out = append(out, t)
	}
	slices.Sort(out)
	return out
}

func TestFilters(t *testing.T) {
	// Probabilities 0.4, 0.3, 0.2, 0.1 in the order 2, 0, 3, 1.
	logits := []float32{float32(math.Log(0.3)), float32(math.Log(0.1)), float32(math.Log(0.4)), float32(math.Log(0.2))}
	for name, c := range map[string]struct {
		p    wire.Sampling
		want []int32
	}{
		"top-k 2":        {with(func(p *wire.Sampling) { p.TopK = 2 }), []int32{0, 2}},
		"top-k 1":        {with(func(p *wire.Sampling) { p.TopK = 1 }), []int32{2}},
		"top-p 0.6":      {with(func(p *wire.Sampling) { p.TopP = 0.6 }), []int32{0, 2}},
		"top-p tiny":     {with(func(p *wire.Sampling) { p.TopP = 0.0001 }), []int32{2}},
		"top-p 0":        {with(func(p *wire.Sampling) { p.TopP = 0 }), []int32{2}},
		"min-p 0.45":     {with(func(p *wire.Sampling) { p.MinP = 0.45 }), []int32{0, 2, 3}},
		"min-p 1":        {with(func(p *wire.Sampling) { p.MinP = 1 }), []int32{2}},
		"k then p":       {with(func(p *wire.Sampling) { p.TopK = 3; p.TopP = 0.5 }), []int32{0, 2}},
		"min-p after k":  {with(func(p *wire.Sampling) { p.TopK = 2; p.MinP = 0.9 }), []int32{2}},
		"forbidden":      {with(func(p *wire.Sampling) { p.LogitBias = map[int32]float32{2: -100, 0: -100} }), []int32{1, 3}},
		"forced":         {with(func(p *wire.Sampling) { p.LogitBias = map[int32]float32{1: 100} }), []int32{1}},
		"unknown biased": {with(func(p *wire.Sampling) { p.TopK = 1; p.LogitBias = map[int32]float32{99: 100} }), []int32{2}},
		// Entropy 1.28: surprises are 0.92, 1.20, 1.61, 2.30; nearest are 0, then 3, then 2.
		"typical 0.2": {with(func(p *wire.Sampling) { p.TypicalP = 0.2 }), []int32{0}},
		"typical 0.4": {with(func(p *wire.Sampling) { p.TypicalP = 0.4 }), []int32{0, 3}},
	} {
		if got := allowed(c.p, logits); !slices.Equal(got, c.want) {
			t.Errorf("%s: drew %v, want %v", name, got, c.want)
		}
	}
}

func TestPenalties(t *testing.T) {
	logits := []float32{2, 1.9, -1, 0}
	greedy := func(change func(*wire.Sampling)) wire.Sampling {
		return with(func(p *wire.Sampling) { p.Temperature = 0; change(p) })
	}
	s := New(greedy(func(p *wire.Sampling) { p.RepeatPenalty = 1.5 }), []int32{0}, 0)
	if got := s.Sample(logits); got != 1 {
		t.Errorf("a repeated prompt token was drawn again: %d", got)
	}
	s = New(greedy(func(p *wire.Sampling) { p.RepeatPenalty = 1.5; p.RepeatLastN = 1 }), []int32{0, 3}, 0)
	if got := s.Sample(logits); got != 0 {
		t.Errorf("a token out of the window was penalized: drew %d", got)
	}
	// OpenAI's penalties count what was produced, not the prompt.
	s = New(greedy(func(p *wire.Sampling) { p.PresencePenalty = 1 }), []int32{0}, 0)
	if got := s.Sample(logits); got != 0 {
		t.Errorf("presence penalty counted the prompt: drew %d", got)
	}
	s.Accept(0)
	if got := s.Sample(logits); got != 1 {
		t.Errorf("presence penalty did not count the produced token: drew %d", got)
	}
	s = New(greedy(func(p *wire.Sampling) { p.FrequencyPenalty = 0.06 }), nil, 0)
	s.Accept(0)
	if got := s.Sample(logits); got != 0 {
		t.Errorf("once is not enough for 0.06: drew %d", got)
	}
	s.Accept(0)
	if got := s.Sample(logits); got != 1 {
		t.Errorf("twice is enough for 0.06: drew %d", got)
	}
	if logits[0] != 2 {
		t.Error("the caller's logits were changed")
	}
}

func TestSeedsAndResumption(t *testing.T) {
	logits := make([]float32, 500)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range logits {
		logits[i] = rng.Float32() * 4
	}
	draw := func(s *Sampler, n int) []int32 {
		var out []int32
		for range n {
			out = append(out, s.Sample(logits))
		}
		return out
	}
	for name, p := range map[string]wire.Sampling{
		"whole": with(func(p *wire.Sampling) { p.Seed = 7 }),
		"top-k": with(func(p *wire.Sampling) { p.Seed = 7; p.TopK = 40; p.TopP = 0.95 }),
	} {
		all := draw(New(p, nil, 0), 50)
		if again := draw(New(p, nil, 0), 50); !slices.Equal(all, again) {
			t.Errorf("%s: the same seed drew other tokens", name)
		}
		if rest := draw(New(p, nil, 20), 30); !slices.Equal(all[20:], rest) {
			t.Errorf("%s: going on after 20 draws gives other tokens", name)
		}
		p.Seed = 8
		if other := draw(New(p, nil, 0), 50); slices.Equal(all, other) {
			t.Errorf("%s: another seed drew the same tokens", name)
		}
	}
}

func TestLogprobs(t *testing.T) {
	logits := []float32{1, 2, 0, -1, 2.5}
	p := probabilities(logits, 1)
	own, top, _ := Logprobs(&Row{Full: logits}, 2, 3)
	if math.Abs(float64(own.Logprob)-math.Log(p[2])) > 1e-5 {
		t.Errorf("logprob %v, want %v", own.Logprob, math.Log(p[2]))
	}
	for i, want := range []int32{4, 1, 0} {
		if top[i].Token != want || math.Abs(float64(top[i].Logprob)-math.Log(p[want])) > 1e-5 {
			t.Errorf("rank %d: %+v, want token %d with %v", i, top[i], want, math.Log(p[want]))
		}
	}
	if _, top, _ := Logprobs(&Row{Full: logits}, 0, 0); top != nil {
		t.Errorf("no rivals were asked for: %v", top)
	}
	if _, top, _ := Logprobs(&Row{Full: logits}, 0, 20); len(top) != 5 {
		t.Errorf("%d rivals of 5 tokens", len(top))
	}
}

// No setting may panic or leave the vocabulary, whatever the logits.
func TestAnySettingDrawsAToken(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		special := rapid.SampledFrom([]float32{0, float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1)), 1e30, -1e30})
		logits := rapid.SliceOfN(rapid.OneOf(rapid.Float32Range(-20, 20), special), 1, 40).Draw(rt, "logits")
		p := wire.Sampling{
			Temperature: rapid.SampledFrom([]float32{0, 1e-6, 0.5, 1, 2}).Draw(rt, "temperature"),
			TopK:        rapid.IntRange(0, 50).Draw(rt, "k"), TopP: rapid.Float32Range(0, 1).Draw(rt, "p"),
			MinP: rapid.Float32Range(0, 1).Draw(rt, "min p"), TypicalP: rapid.Float32Range(0, 1).Draw(rt, "typical"),
			RepeatPenalty: rapid.Float32Range(0, 2).Draw(rt, "repeat"), RepeatLastN: rapid.IntRange(-1, 5).Draw(rt, "n"),
			FrequencyPenalty: rapid.Float32Range(-2, 2).Draw(rt, "frequency"), PresencePenalty: rapid.Float32Range(-2, 2).Draw(rt, "presence"),
		}
		s := New(p, []int32{0, int32(len(logits) - 1)}, 0)
		for range 5 {
			got := s.Sample(logits)
			if got < 0 || int(got) >= len(logits) {
				rt.Fatalf("token %d of %d", got, len(logits))
			}
			s.Accept(got)
		}
	})
}

func BenchmarkSample(b *testing.B) {
	logits := make([]float32, 49152)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range logits {
		logits[i] = float32(rng.NormFloat64() * 3)
	}
	for name, p := range map[string]wire.Sampling{
		"greedy": with(func(p *wire.Sampling) { p.Temperature = 0 }),
		"plain":  with(func(p *wire.Sampling) {}),
		"top-k":  with(func(p *wire.Sampling) { p.TopK = 40; p.TopP = 0.95; p.MinP = 0.05 }),
		"top-p":  with(func(p *wire.Sampling) { p.TopP = 0.95 }),
	} {
		b.Run(name, func(b *testing.B) {
			s := New(p, nil, 0)
			for b.Loop() {
				s.Sample(logits)
			}
		})
	}
}

// TestPartsOfOneGeneration: a sampler that takes over in the middle draws what
// the first one would have drawn, penalties included.
func TestPartsOfOneGeneration(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := wire.Sampling{
			Temperature: 0.9, TopP: 1, TypicalP: 1, Seed: rapid.Uint64().Draw(rt, "seed"), RepeatLastN: -1,
			RepeatPenalty:    rapid.SampledFrom([]float32{1, 1.3}).Draw(rt, "repeat"),
			FrequencyPenalty: rapid.SampledFrom([]float32{0, 0.7}).Draw(rt, "frequency"),
			PresencePenalty:  rapid.SampledFrom([]float32{0, 0.5}).Draw(rt, "presence"),
		}
		row := make([]float32, 12)
		for i := range row {
			row[i] = rapid.Float32Range(-2, 2).Draw(rt, "logit")
		}
		draw := func(s *Sampler, n int) (out []int32) {
			for range n {
				t := s.Sample(slices.Clone(row))
				s.Accept(t)
				out = append(out, t)
			}
			return out
		}
		prompt := []int32{1, 2, 3}
		whole := draw(New(p, prompt, 0), 20)
		cut := rapid.IntRange(0, 20).Draw(rt, "cut")
		rest := draw(New(p, slices.Concat(prompt, whole[:cut]), cut), 20-cut)
		if got := slices.Concat(whole[:cut], rest); !slices.Equal(got, whole) {
			rt.Fatalf("in two parts %v, in one %v", got, whole)
		}
	})
}
