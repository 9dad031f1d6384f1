package shards

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/runner/sample"
	"github.com/skein-run/skein/internal/runner/wire"
)

// model computes logits from the tokens so far. off is added to one logit of
// every row, noise to those that were not computed one by one.
type model struct {
	off, noise float32
	zero, nan  bool
	swap       bool // the two best change places
	short      int  // rows that are missing
	err        error
	calls      []wire.EvalRequest
}

func (m *model) Eval(_ context.Context, req wire.EvalRequest, each func(int32, []float32)) error {
	m.calls = append(m.calls, req)
	if m.err != nil {
		return m.err
	}
	tokens := append([]int32(nil), req.Tokens...)
	for i := req.Prompt - 1; i < len(req.Tokens)+req.Greedy-m.short; i++ {
		row := make([]float32, 8)
		for j := range row {
			row[j] = float32(math.Sin(float64(tokens[i]) + float64(3*j+i)))
		}
		row[0] += m.off
		if req.Prompt > 1 {
			row[1] += m.noise
		}
		if m.swap {
			a := sample.Argmax(row)
			row[a], row[(a+1)%8] = row[(a+1)%8], row[a]
		}
		for j := range row {
			if m.zero {
				row[j] = 0
			}
			if m.nan {
				row[j] = float32(math.NaN())
			}
		}
		each(tokens[i], row)
		if i == len(tokens)-1 {
			tokens = append(tokens, sample.Argmax(row))
		}
	}
	return nil
}

func judge(t *testing.T, whole, sharded *model, ranks int, w Weights) Report {
	t.Helper()
	in, err := Input(nil, 128, 20, 256, rand.New(rand.NewPCG(1, 0)))
	if err != nil {
		t.Fatal(err)
	}
	r, err := Refer(t.Context(), whole, in)
	if err != nil {
		t.Fatal(err)
	}
	report := Report{Ranks: ranks, Stages: 2}
	if err := r.Judge(t.Context(), sharded, w, &report); err != nil {
		t.Fatal(err)
	}
	return report
}

func TestVerdicts(t *testing.T) {
	for name, c := range map[string]struct {
		whole, sharded model
		ranks          int
		weights        Weights
		want, reason   string
	}{
		"same":                          {model{}, model{}, 1, Float, Right, ""},
		"pipeline within 1e-8":          {model{}, model{off: 1e-4}, 1, Float, Right, ""},
		"pipeline beyond 1e-8":          {model{}, model{off: 1e-3}, 1, Float, Wrong, "NMSE"},
		"ranks within 1e-6":             {model{}, model{off: 1e-3}, 2, Float, Right, ""},
		"ranks beyond 1e-6":             {model{}, model{off: 1e-2}, 2, Float, Wrong, "f32 or f16"},
		"quantized within twice noise":  {model{noise: 1e-2}, model{noise: 1e-2, off: 1.2e-2}, 2, Quantized, Right, ""},
		"quantized beyond twice noise":  {model{noise: 1e-2}, model{noise: 1e-2, off: 1.6e-2}, 2, Quantized, Wrong, "own noise"},
		"quantized, no noise, the same": {model{}, model{}, 2, Quantized, Right, ""},
		"quantized, no noise, other":    {model{}, model{off: 1e-4}, 2, Quantized, Wrong, "own noise"},
		"another best token":            {model{}, model{swap: true}, 2, Float, Wrong, "NMSE"},
		"no numbers":                    {model{}, model{nan: true}, 1, Float, Wrong, "no numbers"},
		"zeros instead":                 {model{}, model{zero: true}, 1, Float, Wrong, "NMSE"},
		// Two that agree on nothing at all must not pass for right.
		"zeros on both sides": {model{zero: true}, model{zero: true}, 1, Float, Failed, "nothing can be compared"},
		"no numbers at all":   {model{nan: true}, model{nan: true}, 1, Float, Failed, "nothing can be compared"},
	} {
		t.Run(name, func(t *testing.T) {
			r := judge(t, &c.whole, &c.sharded, c.ranks, c.weights)
			if r.Verdict != c.want || !strings.Contains(r.Reason, c.reason) || (r.Verdict == Right) != (r.Reason == "") {
				t.Errorf("%+v (nmse %v, noise %v), want %s with %q", r, figureOf(r.NMSE), figureOf(r.Noise), c.want, c.reason)
			}
			if r.TokensCompared != 20 {
				t.Errorf("%d tokens compared, want 20", r.TokensCompared)
			}
		})
	}
}

func figureOf(v *float64) any {
	if v == nil {
		return nil
	}
	return *v
}

// A choice between two that lie within the noise may flip, and no other.
func TestFlips(t *testing.T) {
	want := [][]float32{{1, 0.999, 0}, {1, 0.5, 0}}
	got := [][]float32{{0.999, 1, 0}, {0.5, 1, 0}}
	for margin, flips := range map[float64]int{0: 2, 0.01: 1, 1: 0} {
		d, err := compare(want, got, margin)
		if err != nil || d.flips != flips {
			t.Errorf("margin %v: %d flips (%v), want %d", margin, d.flips, err, flips)
		}
	}
}

// With a prompt the whole model chooses the tokens, and the shards are given
// its choices: one that differs does not change all that follow.
func TestPromptIsForced(t *testing.T) {
	in, err := Input([]int32{5, 6, 7}, 128, 10, 256, nil)
	if err != nil {
		t.Fatal(err)
	}
	whole, sharded := &model{}, &model{swap: true}
	r, err := Refer(t.Context(), whole, in)
	if err != nil {
		t.Fatal(err)
	}
	var report Report
	if err := r.Judge(t.Context(), sharded, Float, &report); err != nil {
		t.Fatal(err)
	}
	asked := sharded.calls[0]
	if asked.Greedy != 0 || len(asked.Tokens) != 12 || asked.Prompt != 3 || report.TokensCompared != 10 {
		t.Errorf("the shards were asked %+v, and %d tokens compared", asked, report.TokensCompared)
	}
}

func TestInputFitsContext(t *testing.T) {
	for _, c := range []struct{ positions, context, prompt int }{{40, 256, 40}, {200, 256, 56}, {200, 8192, 64}, {300, 256, 1}, {1, 0, 1}} {
		in, err := Input(nil, 128, c.positions, c.context, rand.New(rand.NewPCG(1, 0)))
		if err != nil || in.Prompt != c.prompt || len(in.Tokens)-in.Prompt+1 != c.positions {
			t.Errorf("%+v: prompt %d of %d tokens, %v", c, in.Prompt, len(in.Tokens), err)
		}
		for _, id := range in.Tokens {
			if id < 0 || id >= 128 {
				t.Fatalf("token %d outside the vocabulary", id)
			}
		}
	}
	if _, err := Input(nil, 0, 4, 0, rand.New(rand.NewPCG(1, 0))); err == nil {
		t.Error("a vocabulary of nothing is no error")
	}
}

func TestCheckFailures(t *testing.T) {
	in := wire.EvalRequest{Tokens: []int32{1, 2, 3}, Prompt: 2}
	if _, err := Refer(t.Context(), &model{err: errors.New("no memory")}, in); err == nil || !strings.Contains(err.Error(), "whole model: no memory") {
		t.Errorf("error %v", err)
	}
	r, err := Refer(t.Context(), &model{}, in)
	if err != nil {
		t.Fatal(err)
	}
	var report Report
	if err := r.Judge(t.Context(), &model{err: errors.New("shard lost")}, Float, &report); err == nil || !strings.Contains(err.Error(), "shards: shard lost") {
		t.Errorf("error %v", err)
	}
	if err := r.Judge(t.Context(), &model{short: 1}, Float, &report); err == nil || report.Verdict == Right {
		t.Errorf("missing rows: %v, %+v", err, report)
	}
}

// TestAgain: the noise is the larger of the two measures, and an error of the
// other kernels is no verdict.
func TestAgain(t *testing.T) {
	in, err := Input(nil, 128, 20, 256, rand.New(rand.NewPCG(1, 0)))
	if err != nil {
		t.Fatal(err)
	}
	sharded := func() *model { return &model{off: 0.01} }
	for name, c := range map[string]struct {
		other *model
		want  string
	}{
		"as exact":   {&model{}, Wrong},
		"as distant": {&model{off: 0.02}, Right},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Refer(t.Context(), &model{}, in)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Again(t.Context(), c.other); err != nil {
				t.Fatal(err)
			}
			report := Report{Ranks: 2, Stages: 1}
			if err := r.Judge(t.Context(), sharded(), Quantized, &report); err != nil {
				t.Fatal(err)
			}
			if report.Verdict != c.want {
				t.Errorf("%+v, want %s", report, c.want)
			}
		})
	}
	r, err := Refer(t.Context(), &model{noise: 0.5}, in)
	if err != nil {
		t.Fatal(err)
	}
	before := r.noise.nmse()
	if err := r.Again(t.Context(), &model{}); err != nil || r.noise.nmse() != before {
		t.Errorf("the larger measure %g became %g, %v", before, r.noise.nmse(), err)
	}
	if err := r.Again(t.Context(), &model{err: errors.New("no such kernel")}); err == nil || !strings.Contains(err.Error(), "no such kernel") {
		t.Errorf("%v", err)
	}
}

// Shards on one device are held to what a pipeline is held to; on several, to what
// the whole model differs from itself on them.
func TestSeveralDevices(t *testing.T) {
	in, err := Input(nil, 16, 8, 0, rand.New(rand.NewPCG(1, 1)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		devices []string
		other   float32
		want    string
	}{{nil, 0.02, Wrong}, {[]string{"CUDA0", "CUDA0"}, 0.02, Wrong}, {[]string{"CUDA0", "CPU"}, 0.02, Right}, {[]string{"CUDA0", "CPU"}, 0, Wrong}} {
		r, err := Refer(t.Context(), &model{}, in)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Again(t.Context(), &model{off: c.other}); err != nil {
			t.Fatal(err)
		}
		report := Report{Stages: 2, Ranks: 1, Devices: c.devices}
		if err := r.Judge(t.Context(), &model{off: 0.01}, Quantized, &report); err != nil || report.Verdict != c.want {
			t.Errorf("on %v, which differ by %g: %+v, %v", c.devices, c.other, report, err)
		}
	}
}
