package runner

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/skein-run/skein/internal/runner/loop"
	"github.com/skein-run/skein/internal/runner/sample"
	"github.com/skein-run/skein/internal/runner/schedule"
	"github.com/skein-run/skein/internal/runner/wire"
)

// richBackend is a fakeBackend whose rows are random, and depend on the whole
// text of the sequence alone.
type richBackend struct{ *fakeBackend }

func (f richBackend) Logits(i int) ([]float32, error) {
	if _, err := f.fakeBackend.Logits(i); err != nil {
		return nil, err
	}
	h := fnv.New64a()
	fmt.Fprint(h, f.seqs[f.last[i].Sequence][:f.last[i].Position+1])
	rng := rand.New(rand.NewPCG(h.Sum64(), 1))
	row := make([]float32, fakeVocabulary)
	for t := range row {
		row[t] = float32(rng.NormFloat64() * 3)
	}
	row[fakeEnd] = -30
	return row, nil
}

// pipeline gives a whole model the shape of a group of shards: several batches
// in flight, each carried out when it is finished, and rows in two parts.
type pipeline struct {
	t     *testing.T
	w     *whole
	queue []started
	full  [][]float32 // rows of the batch that was finished last
	deep  int         // most batches in flight at once
	asked int         // whole rows that were asked for afterwards
}

// started is a batch that is not finished.
type started struct {
	batch *schedule.Batch
	needs []sample.Need
}

func (*pipeline) Stages() int { return 2 }
func (*pipeline) Depth() int  { return 3 }

func (p *pipeline) Start(b *schedule.Batch, needs []sample.Need) error {
	// The loop may change its slices when the batch is finished, not before.
	p.queue = append(p.queue, started{b, needs})
	p.deep = max(p.deep, len(p.queue))
	p.full = nil
	return nil
}

func (p *pipeline) Finish() (schedule.Outcome, []sample.Row, error) {
	f := p.queue[0]
	p.queue = p.queue[1:]
	if err := p.w.Start(f.batch, f.needs); err != nil {
		return schedule.Outcome{}, nil, err
	}
	out, rows, err := p.w.Finish()
	if len(rows) != len(f.needs) {
		p.t.Errorf("%d needs for %d rows", len(f.needs), len(rows))
	}
	var told []sample.Row
	p.full = nil
	for i, r := range rows {
		p.full = append(p.full, r.Full)
		n, cut := f.needs[i], len(r.Full)/3
		if n.Full {
			told = append(told, r)
			continue
		}
		told = append(told, sample.Row{Part: sample.Merge(n, []sample.Part{
			sample.Extract(n, 0, r.Full[:cut]), sample.Extract(n, int32(cut), r.Full[cut:]),
		})})
	}
	return out, told, err
}

func (p *pipeline) Row(i int) ([]float32, error) {
	if i >= len(p.full) {
		return nil, fmt.Errorf("row %d of %d was asked for, or after the next start", i, len(p.full))
	}
	p.asked++
	return p.full[i], nil
}

func startPipeline(t *testing.T, cfg schedule.Config, back library, vocab loop.Vocabulary) (*rig, *pipeline) {
	t.Helper()
	p := &pipeline{t: t, w: newWhole(back, cfg.CacheBytes)}
	cfg.Stages, cfg.Depth = p.Stages(), p.Depth()
	return startLoopOn(t, cfg, p, vocab), p
}

// severalRequests differ in everything that sampling knows.
func severalRequests() []wire.GenerateRequest {
	var out []wire.GenerateRequest
	add := func(change func(*wire.GenerateRequest)) {
		id := uint64(len(out) + 1)
		req := request(id, slices.Repeat([]int32{int32(id), 3, 5}, int(id)+2)...)
		req.Sampling = wire.NeutralSampling()
		req.Sampling.Seed, req.MaxTokens = id, 12+int(id)
		change(&req)
		out = append(out, req)
	}
	add(func(r *wire.GenerateRequest) { r.Sampling.Temperature = 0 })
	add(func(r *wire.GenerateRequest) {})
	add(func(r *wire.GenerateRequest) { r.Sampling.Temperature = 1.5; r.Logprobs = true; r.TopLogprobs = 3 })
	add(func(r *wire.GenerateRequest) { r.Sampling.TopK = 5; r.Sampling.RepeatPenalty = 1.3; r.Logprobs = true })
	add(func(r *wire.GenerateRequest) { r.Sampling.TopP = 0.7; r.Sampling.PresencePenalty = 1 })
	add(func(r *wire.GenerateRequest) {
		r.Sampling.LogitBias = map[int32]float32{4: 3}
		r.Sampling.TypicalP = 0.8
	})
	return out
}

// A pipeline gives what the whole model gives, with several batches in flight.
func TestPipelineEqualsWhole(t *testing.T) {
	cfg := schedule.Config{Slots: 4, Context: 64, Chunk: 8, Pending: 8, Rewindable: true, CacheBytes: 1 << 16}
	run := func(r *rig) map[uint64][]wire.Token {
		for _, req := range severalRequests() {
			r.start(req)
		}
		r.out.wait(t, "all done", func() bool { return len(r.out.done) == 6 })
		for id, d := range r.out.done {
			if d.Reason != wire.ReasonLength || d.Generated != 12+int(id) {
				t.Errorf("generation %d: %+v", id, d)
			}
		}
		return r.out.tokens
	}
	back := richBackend{newFakeBackend()}
	want := run(startLoopOn(t, cfg, newWhole(back, cfg.CacheBytes), back))
	back = richBackend{newFakeBackend()}
	r, p := startPipeline(t, cfg, back, back)
	got := run(r)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("the pipeline says otherwise:\n%s", d)
	}
	if p.deep != p.Depth() {
		t.Errorf("%d batches in flight at most, %d may be", p.deep, p.Depth())
	}
}

func TestPipelineRestoresAndCancels(t *testing.T) {
	back := newFakeBackend()
	cfg := small()
	cfg.Slots, cfg.Context = 1, 1<<20
	r, _ := startPipeline(t, cfg, back, back)
	a, b := slices.Repeat([]int32{1, 2}, 12), slices.Repeat([]int32{3, 4}, 12)
	run := func(id uint64, prompt []int32) wire.Done {
		req := request(id, prompt...)
		req.MaxTokens = 2
		r.start(req)
		r.out.wait(t, "done", func() bool { return r.out.done[id].Reason != "" })
		return r.out.done[id]
	}
	run(1, a)
	run(2, b)
	if d := run(3, a); d.CachedTokens != 23 {
		t.Fatalf("the spilled prompt came back with %d tokens, want 23", d.CachedTokens)
	}
	back.restore = errors.New("refused")
	if d := run(4, b); d.CachedTokens != 0 || d.Reason != wire.ReasonLength {
		t.Errorf("after a failed restore: %+v", d)
	}
	if got := r.out.tokens[4][0].Token; got != 5 {
		t.Errorf("token %d, want 5", got)
	}
	endless := request(5, 1)
	endless.IgnoreEnd = true
	r.start(endless)
	r.out.wait(t, "it runs", func() bool { return len(r.out.tokens[5]) > 3 })
	r.Cancel(5)
	if d := run(6, b); d.Reason != wire.ReasonLength || r.out.tokens[6][0].Token != 5 {
		t.Errorf("in the slot of a cancelled one: %+v, %v", d, r.out.tokens[6])
	}
	if r.out.done[5].Reason != wire.ReasonCancelled {
		t.Errorf("%+v", r.out.done[5])
	}
}
