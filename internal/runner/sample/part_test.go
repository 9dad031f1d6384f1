package sample

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/skein-run/skein/internal/runner/wire"
	"pgregory.net/rapid"
)

// drawRow gives a row of logits: like a model's, flat, full of ties, or hostile.
func drawRow(rt *rapid.T) []float32 {
	n := rapid.IntRange(1, 700).Draw(rt, "vocabulary")
	rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "row"), 1))
	spread := rapid.SampledFrom([]float64{0, 0.3, 3, 12, 80}).Draw(rt, "spread")
	row := make([]float32, n)
	for i := range row {
		row[i] = float32(rng.NormFloat64() * spread)
	}
	if rapid.Bool().Draw(rt, "ties") {
		for i := range row {
			row[i] = float32(math.Round(float64(row[i])))
		}
	}
	special := []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1)), 1e30, -1e30}
	for range rapid.SampledFrom([]int{0, 0, 0, 1, 5, 600}).Draw(rt, "specials") {
		row[rng.IntN(n)] = special[rng.IntN(len(special))]
	}
	return row
}

func drawSampling(rt *rapid.T, vocabulary int) wire.Sampling {
	p := wire.NeutralSampling()
	p.Seed = rapid.Uint64().Draw(rt, "seed")
	p.Temperature = rapid.SampledFrom([]float32{0, 1e-6, 0.2, 0.7, 1, 1, 2}).Draw(rt, "temperature")
	p.TopK = rapid.SampledFrom([]int{0, 0, 1, 5, 40, 300, 1500}).Draw(rt, "k")
	p.TopP = rapid.SampledFrom([]float32{1, 1, 0, 0.3, 0.9, 0.95, 0.9999999}).Draw(rt, "p")
	p.MinP = rapid.SampledFrom([]float32{0, 0, 1e-4, 0.05, 1}).Draw(rt, "min p")
	p.TypicalP = rapid.SampledFrom([]float32{1, 1, 1, 0.5}).Draw(rt, "typical")
	if rapid.Bool().Draw(rt, "penalties") {
		p.RepeatPenalty = rapid.SampledFrom([]float32{1, 0.8, 1.1, 2}).Draw(rt, "repeat")
		p.RepeatLastN = rapid.SampledFrom([]int{-1, 0, 3, 64}).Draw(rt, "n")
		p.FrequencyPenalty = rapid.SampledFrom([]float32{0, 0.4, -0.7}).Draw(rt, "frequency")
		p.PresencePenalty = rapid.SampledFrom([]float32{0, 1, -2}).Draw(rt, "presence")
	}
	if n := rapid.SampledFrom([]int{0, 0, 1, 7}).Draw(rt, "biases"); n > 0 {
		p.LogitBias = map[int32]float32{}
		for range n {
			p.LogitBias[int32(rapid.IntRange(0, vocabulary-1).Draw(rt, "biased"))] = rapid.SampledFrom([]float32{-100, -1, 2, 100, float32(math.Inf(-1)), -1e30}).Draw(rt, "bias")
		}
	}
	return p
}

// parts cuts a row at random places, as ranks would have it, and puts what they
// tell together.
func parts(rt *rapid.T, n Need, row []float32) Part {
	var told []Part
	for first := 0; first < len(row); {
		end := rapid.IntRange(first+1, len(row)).Draw(rt, "cut")
		told = append(told, Extract(n, int32(first), row[first:end]))
		first = end
	}
	return Merge(n, told)
}

// What the parts tell gives the same tokens and log-probabilities as the whole
// rows, or says that it can't.
func TestPartsDrawTheSame(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		row := drawRow(rt)
		p := drawSampling(rt, len(row))
		rivals := rapid.IntRange(0, 20).Draw(rt, "rivals")
		logprobs := rapid.Bool().Draw(rt, "logprobs")
		prompt := []int32{0, int32(len(row) - 1), 0}
		whole, part := New(p, prompt, 0), New(p, prompt, 0)
		for step := range 6 {
			want := whole.Sample(row)
			n := part.Need(logprobs, rivals)
			got := int32(-1)
			if n.Full {
				got = part.Sample(row)
			} else {
				told := Row{Part: parts(rt, n, row)}
				if all := Extract(n, 0, row); !cmp.Equal(all, told.Part, bitwise) {
					rt.Fatalf("step %d: merged parts are not the whole:\n%s", step, cmp.Diff(all, told.Part, bitwise))
				}
				var ok bool
				if got, ok = part.Draw(&told); !ok {
					got = part.Sample(row)
				}
				if logprobs {
					wantOwn, wantTop, _ := Logprobs(&Row{Full: row}, want, rivals)
					own, top, ok := Logprobs(&told, want, rivals)
					if ok && !cmp.Equal([][]Logprob{wantTop, {wantOwn}}, [][]Logprob{top, {own}}, bitwise) {
						rt.Fatalf("step %d: log-probabilities %v %v, from the row %v %v", step, own, top, wantOwn, wantTop)
					}
				}
			}
			if got != want {
				rt.Fatalf("step %d: token %d from the parts, %d from the row", step, got, want)
			}
			whole.Accept(want)
			part.Accept(want)
		}
	})
}

// bitwise takes NaN for equal to itself, and nothing of nothing for nothing.
var bitwise = cmp.Options{
	cmp.Comparer(func(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) || a == b }),
	cmp.Transformer("nil", func(c []Candidate) []Candidate { return append([]Candidate{}, c...) }),
}

// A model's rows are rarely needed whole: that is what the parts are for.
func TestPartsSuffice(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for name, p := range map[string]wire.Sampling{
		"greedy":    with(func(p *wire.Sampling) { p.Temperature = 0 }),
		"penalties": with(func(p *wire.Sampling) { p.Temperature = 0; p.RepeatPenalty = 1.1; p.FrequencyPenalty = 0.5 }),
		"plain":     with(func(p *wire.Sampling) {}),
		"warm":      with(func(p *wire.Sampling) { p.Temperature = 0.8; p.PresencePenalty = 0.5 }),
		"nucleus":   with(func(p *wire.Sampling) { p.TopP = 0.95 }),
		"min-p":     with(func(p *wire.Sampling) { p.MinP = 0.02 }),
		"bias":      with(func(p *wire.Sampling) { p.LogitBias = map[int32]float32{7: 30, 8: -100} }),
		"top-k":     with(func(p *wire.Sampling) { p.TopK = 40; p.TypicalP = 0.9; p.RepeatPenalty = 1.2 }),
	} {
		s := New(p, []int32{1, 2, 3}, 0)
		row := make([]float32, 20_000)
		asked := 0
		for range 60 {
			for i := range row {
				row[i] = float32(rng.NormFloat64() * 2)
			}
			for range 5 { // as a model that has some good ideas
				row[rng.IntN(len(row))] = 12 + 3*rng.Float32()
			}
			n := s.Need(true, 5)
			told := Row{Part: Extract(n, 0, row)}
			token, ok := s.Draw(&told)
			if !ok {
				asked++
				token = s.Sample(row)
			}
			s.Accept(token)
		}
		if asked > 6 {
			t.Errorf("%s: %d of 60 draws asked for the whole row", name, asked)
		}
	}
}

func TestNeedAsksForTheRow(t *testing.T) {
	many := slices.Repeat([]int32{1}, 2*mostNamed)
	for i := range many {
		many[i] = int32(i)
	}
	for name, p := range map[string]wire.Sampling{
		"typical":     with(func(p *wire.Sampling) { p.TypicalP = 0.9 }),
		"huge top-k":  with(func(p *wire.Sampling) { p.TopK = mostTop + 1 }),
		"all history": with(func(p *wire.Sampling) { p.RepeatPenalty = 1.1; p.RepeatLastN = -1 }),
	} {
		if n := New(p, many, 0).Need(false, 0); !n.Full || n.Top != 0 || n.Named != nil {
			t.Errorf("%s: %+v, want the whole row", name, n)
		}
	}
}

func TestMassIsExact(t *testing.T) {
	row := []float32{3, -2, 11.5, 0.25, -40, 11.4}
	sum := 0.0
	for _, l := range row {
		sum += math.Exp(float64(l) / 0.7)
	}
	m := massOf(row, 11.5, 0.7)
	z, ok := m.log()
	if !ok || math.Abs(z-math.Log(sum)) > 1e-6 {
		t.Errorf("log of the mass %v, want %v", z, math.Log(sum))
	}
	// Lowering the best tokens far leaves a total that is not known.
	m.replace(11.5, -60, 0.7)
	m.replace(11.4, -60, 0.7)
	if z, ok := m.log(); ok {
		want := massOf([]float32{3, -2, 0.25, -40, -60, -60}, 3, 0.7)
		if w, _ := want.log(); w != z {
			t.Errorf("log %v after replacing, want %v", z, w)
		}
	}
	for _, l := range row {
		m.replace(l, -1e30, 0.7)
	}
	if _, ok := (&Mass{}).log(); ok {
		t.Error("nothing has a logarithm")
	}
}

func TestTermIsAPower(t *testing.T) {
	for x := -50.0; x < 50; x += 0.00713 {
		power, n := term(x)
		got, want := math.Ldexp(float64(n), int(power)-massUnit), math.Exp2(x)
		if math.Abs(got-want) > 3e-7*want {
			t.Fatalf("2^%v = %v, want %v", x, got, want)
		}
	}
}
