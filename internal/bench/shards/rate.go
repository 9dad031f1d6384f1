package shards

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/runner/wire"
)

// Model is what is timed.
type Model interface {
	Info() wire.ModelInfo
	Generate(ctx context.Context, req wire.GenerateRequest) (generation.Stream, error)
}

// BenchOptions say what to time.
type BenchOptions struct {
	Model        string
	Paths        []string
	Layout       Layout
	Streams      int // generations at once
	PromptTokens int
	DecodeTokens int // of each stream, at least 2
	// WholeThreads are the threads of the whole models to compare with: 1, 2 or both,
	// or none where shards with TLS are compared with those without.
	WholeThreads []int
	// Twice compares with two whole models of one thread each too, which share the
	// streams: what two cores of this machine can give at once.
	Twice     bool
	Rounds    int // each of which times everything once
	Seed      uint64
	EngineDir string
}

// Plain tells whether shards with TLS are compared with the same without.
func (o BenchOptions) Plain() bool { return o.Layout.TLS && len(o.Layout.On) == 0 }

// Validate says what is wrong with o.
func (o BenchOptions) Validate() error {
	if o.Streams < 1 || o.PromptTokens < 1 || o.DecodeTokens < 2 || o.Rounds < 1 {
		return errors.New("streams, prompt tokens and rounds must be at least 1, decode tokens at least 2")
	}
	if w := o.WholeThreads; len(w) == 0 && !o.Plain() || len(w) > 2 || slices.ContainsFunc(w, func(n int) bool { return n < 1 || n > 2 }) || len(w) == 2 && w[0] == w[1] {
		return fmt.Errorf("the whole model with %v threads: name 1, 2, or both", w)
	}
	return nil
}

// Kinds of figures.
const (
	Decode  = "decode"  // tokens a second over all streams, after the first of each
	Prefill = "prefill" // prompt tokens a second of one prompt
	Memory  = "memory"  // resident bytes of the largest shard
)

// Figure is one comparison.
type Figure struct {
	Model           string    `json:"model"`
	Figure          string    `json:"figure"`
	Stages          int       `json:"stages"`
	Ranks           int       `json:"ranks"`
	Streams         int       `json:"streams"`
	PromptTokens    int       `json:"prompt_tokens"`
	TLS             bool      `json:"tls"`
	Activations     string    `json:"activations"` // as they travel: f32 | f16 (not exact)
	Baseline        string    `json:"baseline"`    // whole-1-thread | whole-2-threads | two-wholes: 1 thread and half of the streams each | plain: shards without TLS
	BaselineStreams int       `json:"baseline_streams"`
	Sharded         float64   `json:"sharded"` // median
	Whole           float64   `json:"whole"`   // median
	Ratio           float64   `json:"ratio"`   // of the medians
	Unit            string    `json:"unit"`
	ShardedEach     []float64 `json:"sharded_each"` // in the order of the rounds
	WholeEach       []float64 `json:"whole_each"`
}

// Baseline is a whole model to compare with.
type Baseline struct {
	Name       string
	Model      Model
	Streams    int  // for decode
	DecodeOnly bool // a prompt of it tells nothing
}

// Twin is two copies of a model as one: generations go to them in turn.
type Twin struct {
	Model
	other Model
	turn  atomic.Uint32
}

// NewTwin joins two copies of a model.
func NewTwin(a, b Model) *Twin { return &Twin{Model: a, other: b} }

// Generate implements Model.
func (t *Twin) Generate(ctx context.Context, req wire.GenerateRequest) (generation.Stream, error) {
	if t.turn.Add(1)%2 == 0 {
		return t.other.Generate(ctx, req)
	}
	return t.Model.Generate(ctx, req)
}

// Bench times the shards and every baseline in turns, so that what disturbs the
// machine disturbs all of them, and gives a figure for each baseline and kind.
func Bench(ctx context.Context, sharded Model, baselines []Baseline, o BenchOptions, say func(string, ...any)) ([]Figure, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	all := append([]Baseline{{Name: "sharded", Model: sharded, Streams: o.Streams}}, baselines...)
	decode, prefill := make([][]float64, len(all)), make([][]float64, len(all))
	random := rand.New(rand.NewPCG(o.Seed, 0))
	for round := range o.Rounds {
		order := make([]int, len(all))
		for i := range order {
			order[i] = (i + round) % len(all) // nobody is always the first
		}
		for _, i := range order {
			b := all[i]
			p := 0.0
			if !b.DecodeOnly {
				var err error
				if p, err = timePrefill(ctx, b.Model, o.PromptTokens, random); err != nil {
					return nil, fmt.Errorf("%s, prefill: %w", b.Name, err)
				}
			}
			d, err := timeDecode(ctx, b.Model, b.Streams, o.DecodeTokens, random)
			if err != nil {
				return nil, fmt.Errorf("%s, decode: %w", b.Name, err)
			}
			prefill[i], decode[i] = append(prefill[i], p), append(decode[i], d)
			if b.DecodeOnly {
				say("round %d of %d: %s: decode %.2f tok/s", round+1, o.Rounds, b.Name, d)
				continue
			}
			say("round %d of %d: %s: prefill %.1f, decode %.2f tok/s", round+1, o.Rounds, b.Name, p, d)
		}
	}
	var out []Figure
	for i, b := range baselines {
		for _, kind := range []string{Decode, Prefill} {
			if kind == Prefill && b.DecodeOnly {
				continue
			}
			f := Figure{
				Model: o.Model, Figure: kind, Stages: o.Layout.Stages, Ranks: o.Layout.Ranks, TLS: o.Layout.TLS, Activations: o.Layout.Activations(),
				Streams: o.Streams, PromptTokens: o.PromptTokens, Baseline: b.Name, BaselineStreams: b.Streams, Unit: "tok/s",
			}
			f.ShardedEach, f.WholeEach = decode[0], decode[i+1]
			if kind == Prefill {
				f.Streams, f.BaselineStreams = 1, 1
				f.ShardedEach, f.WholeEach = prefill[0], prefill[i+1]
			}
			f.Sharded, f.Whole = median(f.ShardedEach), median(f.WholeEach)
			f.Ratio = f.Sharded / f.Whole
			out = append(out, f)
		}
	}
	return out, nil
}

// timePrefill is the speed of one prompt of random tokens, up to the first
// token of the answer.
func timePrefill(ctx context.Context, m Model, tokens int, random *rand.Rand) (float64, error) {
	done, err := run(ctx, m, request(m, tokens, 1, random), nil)
	if err != nil {
		return 0, err
	}
	if done.PrefillSeconds <= 0 {
		return 0, errors.New("no time was measured")
	}
	return float64(done.PromptTokens-done.CachedTokens) / done.PrefillSeconds, nil
}

// timeDecode is the speed of all streams together while every one of them
// decodes: from the moment the last one gave its first token until the first
// one ends.
func timeDecode(ctx context.Context, m Model, streams, tokens int, random *rand.Rand) (float64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &window{waiting: streams}
	errs := make([]error, streams)
	var wg sync.WaitGroup
	for i := range streams {
		// Streams start one after the other, so all but the last go on for
		// longer than they count.
		req := request(m, 8, tokens*2, random)
		wg.Go(func() {
			_, errs[i] = run(ctx, m, req, func(n, sum int) bool { return w.add(n, sum, tokens*streams) })
			if errs[i] != nil {
				cancel()
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			return 0, err
		}
	}
	if err := errors.Join(errs...); err != nil {
		return 0, err
	}
	return w.rate()
}

// window counts the tokens of several streams while all of them run.
type window struct {
	mu          sync.Mutex // guards all below
	waiting     int        // streams without a token yet
	begin, last time.Time
	tokens      int // after begin
	closed      bool
}

// add counts n new tokens of a stream that has sum by now; it reports false
// when enough were counted.
func (w *window) add(n, sum, enough int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	first := sum == n
	if first {
		w.waiting--
	}
	switch {
	case w.closed:
	case w.waiting > 0:
	case w.begin.IsZero():
		w.begin, w.last = now, now
	default:
		w.tokens += n
		w.last = now
	}
	w.closed = w.closed || w.tokens >= enough
	return !w.closed
}

func (w *window) rate() (float64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.tokens == 0 || !w.last.After(w.begin) {
		return 0, errors.New("too few tokens to time; ask for more with --decode-tokens")
	}
	return float64(w.tokens) / w.last.Sub(w.begin).Seconds(), nil
}

// request asks for tokens after a prompt of random ones.
func request(m Model, prompt, tokens int, random *rand.Rand) wire.GenerateRequest {
	vocabulary := max(1, m.Info().Vocabulary)
	r := wire.GenerateRequest{MaxTokens: tokens, Sampling: wire.NeutralSampling(), IgnoreEnd: true, Prompt: make([]int32, prompt)}
	r.Sampling.Temperature = 0
	for i := range r.Prompt {
		r.Prompt[i] = int32(random.IntN(vocabulary))
	}
	return r
}

// run reads a generation to its end; when more says that it is enough, it is
// cancelled.
func run(ctx context.Context, m Model, req wire.GenerateRequest, more func(n, sum int) bool) (*wire.Done, error) {
	generating, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := m.Generate(generating, req)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	sum := 0
	for {
		tokens, done, err := s.Next(ctx)
		if err != nil {
			return nil, err
		}
		sum += len(tokens)
		if len(tokens) > 0 && more != nil && !more(len(tokens), sum) {
			cancel() // and read on to the end: what is timed next must be alone
		}
		if done != nil {
			if done.Reason == wire.ReasonError {
				return done, fmt.Errorf("%s: %s", done.Code, done.Error)
			}
			return done, nil
		}
	}
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if len(s) == 0 {
		return 0
	}
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}
