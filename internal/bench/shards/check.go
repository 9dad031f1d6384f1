package shards

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/skein-run/skein/internal/runner/sample"
	"github.com/skein-run/skein/internal/runner/wire"
)

// Verdicts of a check.
const (
	Right   = "right"   // sharded is what whole is
	Wrong   = "wrong"   // it is not
	Refused = "refused" // the model must not be cut this way
	Failed  = "error"   // it could not be measured
)

// CheckOptions say what to compare.
type CheckOptions struct {
	Model     string   // name, for the report
	Paths     []string // of the file or all parts
	Layout    Layout
	Tokens    int    // positions compared, at least 1
	Prompt    string // "": random token ids
	Seed      uint64 // of the random ids
	EngineDir string // "": the search order
}

// Report is the outcome of a check.
type Report struct {
	Model          string   `json:"model"`
	Architecture   string   `json:"architecture"`
	Stages         int      `json:"stages"`
	Ranks          int      `json:"ranks"`
	Devices        []string `json:"devices,omitempty"` // of the shards in turn
	NMSE           *float64 `json:"nmse"`              // of all logits; null: not measured
	Noise          *float64 `json:"noise"`             // the library's own, likewise
	TokensCompared int      `json:"tokens_compared"`
	TokensDiffer   int      `json:"tokens_differ"` // greedy choices that differ outside the noise
	Verdict        string   `json:"verdict"`
	Reason         string   `json:"reason"` // "" when right
}

// mixed tells whether the shards are computed by different kernels.
func (r *Report) mixed() bool {
	return slices.ContainsFunc(r.Devices, func(d string) bool { return d != r.Devices[0] })
}

// Weights tells how exact a split can be expected to be.
type Weights int

// Kinds of weights.
const (
	Float     Weights = iota // f32 and f16: sums in another order, nothing else
	Quantized                // activations are rounded, so a last bit flips roundings
)

// Limits of NMSE.
const (
	pipelineLimit = 1e-8
	tensorLimit   = 1e-6
	noiseFactor   = 2 // times the library's own noise
)

// Reference is the whole model's answer to an input, and how far the library is
// from itself on it.
type Reference struct {
	request wire.EvalRequest
	rows    [][]float32
	noise   difference
}

// Input chooses the tokens: ids is a tokenized prompt, or nil for random ones
// out of vocabulary. Of the tokens, the first prompt ones are computed at once;
// then positions rows of logits follow, that of the prompt's last token being
// the first. context bounds the length; 0: none.
func Input(ids []int32, vocabulary, positions, context int, random *rand.Rand) (wire.EvalRequest, error) {
	if len(ids) > 0 {
		return wire.EvalRequest{Tokens: ids, Prompt: len(ids), Greedy: positions - 1}, nil
	}
	if vocabulary < 1 {
		return wire.EvalRequest{}, fmt.Errorf("the model says it has %d tokens", vocabulary)
	}
	prompt := min(positions, 64)
	if context > 0 {
		prompt = max(1, min(prompt, context-positions))
	}
	r := wire.EvalRequest{Tokens: make([]int32, prompt+positions-1), Prompt: prompt}
	for i := range r.Tokens {
		r.Tokens[i] = int32(random.IntN(vocabulary))
	}
	return r, nil
}

// Refer has the whole model compute an input twice: its prompt at once, and
// token by token, which is one measure of the library's own noise.
func Refer(ctx context.Context, whole Evaluator, in wire.EvalRequest) (*Reference, error) {
	r := &Reference{}
	tokens := slices.Clone(in.Tokens[:in.Prompt-1])
	err := whole.Eval(ctx, in, func(token int32, logits []float32) {
		tokens = append(tokens, token)
		r.rows = append(r.rows, logits)
	})
	if err != nil {
		return nil, fmt.Errorf("the whole model: %w", err)
	}
	if len(r.rows) == 0 {
		return nil, errors.New("the whole model gave no logits")
	}
	// From here on the tokens are given, so that one choice does not change
	// all that follow.
	r.request = wire.EvalRequest{Tokens: tokens, Prompt: in.Prompt}
	again, err := collect(ctx, whole, wire.EvalRequest{Tokens: tokens, Prompt: 1})
	if err != nil {
		return nil, fmt.Errorf("the whole model, token by token: %w", err)
	}
	if len(again) < len(r.rows) {
		return nil, fmt.Errorf("the whole model gave %d rows of logits token by token, and %d before", len(again), len(r.rows))
	}
	r.noise, err = compare(r.rows, again[len(again)-len(r.rows):], 0)
	return r, err
}

// Again has the whole model compute the input with other kernels of the same
// library. The noise is the larger of this measure and the one of Refer: on
// some processors the kernels for one token and for many round alike, and a
// model may hardly feel one of them.
func (r *Reference) Again(ctx context.Context, other Evaluator) error {
	rows, err := collect(ctx, other, r.request)
	if err != nil {
		return fmt.Errorf("the whole model, by other kernels: %w", err)
	}
	d, err := compare(r.rows, rows, 0)
	if err != nil {
		return fmt.Errorf("the whole model, by other kernels: %w", err)
	}
	if !(d.nmse() <= r.noise.nmse()) {
		r.noise.square, r.noise.size = d.square, d.size
	}
	r.noise.largest = max(r.noise.largest, d.largest)
	return nil
}

// Tokens is the length of the input, the whole model's own choices included.
func (r *Reference) Tokens() int { return len(r.request.Tokens) }

// Judge has the shards compute the same and fills in the report's figures and
// verdict.
func (r *Reference) Judge(ctx context.Context, sharded Evaluator, w Weights, report *Report) error {
	rows, err := collect(ctx, sharded, r.request)
	if err != nil {
		return fmt.Errorf("the shards: %w", err)
	}
	// A choice may flip when each of the two best moves by as much as the
	// library moves by itself.
	d, err := compare(r.rows, rows, 2*r.noise.largest)
	if err != nil {
		return err
	}
	report.TokensCompared, report.TokensDiffer = len(rows), d.flips
	noise := r.noise.nmse()
	if finite(noise) {
		report.Noise = &noise
	}
	nmse := d.nmse()
	if finite(nmse) {
		report.NMSE = &nmse
	}
	limit, what := pipelineLimit, "a pipeline"
	if report.Ranks > 1 {
		limit, what = tensorLimit, "tensor ranks on f32 or f16 weights"
		if w == Quantized {
			limit, what = noiseFactor*noise, "tensor ranks on quantized weights, twice the library's own noise"
		}
	}
	if report.mixed() {
		limit, what = noiseFactor*noise, "shards on several devices, twice what the whole model differs from itself there"
	}
	report.Verdict = Wrong
	switch {
	case !finite(noise):
		report.Reason = "the whole model itself gives logits that are all zero or no numbers; nothing can be compared with them"
		report.Verdict = Failed
	case !finite(nmse):
		report.Reason = "the shards give logits that are no numbers"
	case nmse > limit:
		report.Reason = fmt.Sprintf("NMSE of the logits is %.3g; at most %.3g is right for %s", nmse, limit, what)
	case d.flips > 0:
		report.Reason = fmt.Sprintf("%d of %d greedy tokens differ by more than the library's own noise", d.flips, len(rows))
	default:
		report.Verdict, report.Reason = Right, ""
	}
	return nil
}

func collect(ctx context.Context, e Evaluator, req wire.EvalRequest) ([][]float32, error) {
	var rows [][]float32
	err := e.Eval(ctx, req, func(_ int32, logits []float32) { rows = append(rows, logits) })
	return rows, err
}

// difference sums up two sets of logits.
type difference struct {
	square, size float64 // of the difference, of the first set
	largest      float64 // of one logit
	flips        int     // rows whose best token is another one, outside the margin
}

func (d difference) nmse() float64 {
	return d.square / d.size // without any size it is no number: nothing was compared
}

func compare(want, got [][]float32, margin float64) (difference, error) {
	var d difference
	if len(want) != len(got) {
		return d, fmt.Errorf("%d rows of logits instead of %d", len(got), len(want))
	}
	for i, row := range want {
		if len(got[i]) != len(row) {
			return d, fmt.Errorf("row %d has %d logits instead of %d", i, len(got[i]), len(row))
		}
		for j, w := range row {
			diff := float64(got[i][j]) - float64(w)
			d.square += diff * diff
			d.size += float64(w) * float64(w)
			d.largest = max(d.largest, math.Abs(diff))
		}
		a, b := sample.Argmax(row), sample.Argmax(got[i])
		if a != b && !(float64(row[a])-float64(row[b]) <= margin) {
			d.flips++
		}
	}
	return d, nil
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
