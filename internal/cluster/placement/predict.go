package placement

import (
	"math"

	"github.com/skein-run/skein/internal/cluster/placement/cost"
	"github.com/skein-run/skein/internal/runner/schedule"
)

// Prediction is how fast a plan is expected to be.
type Prediction struct {
	Decode    float64 `json:"decode_tokens_per_second"`    // one stream
	Aggregate float64 `json:"aggregate_tokens_per_second"` // all slots busy
	Prefill   float64 `json:"prefill_tokens_per_second"`   // one prompt
	// StepSeconds is the longest of a decode step of all slots and a prompt
	// chunk, from its start in the first shard to its end in the last.
	StepSeconds float64 `json:"step_seconds"`
}

// stage is a group of seats that hold the same layers: one seat for a stage of
// a pipeline, more for tensor ranks.
type stage struct {
	seats      []*seat
	units      []int // of each seat, out of all
	all        int
	first, end int
	whole      bool // one seat holds the model as it is
}

func (g *stage) piece(rank int) cost.Piece {
	return cost.Piece{First: g.first, End: g.end, Units: g.units[rank], All: g.all, Whole: g.whole}
}

// speed is what the stage reads in a second when each rank gets its units.
func (g *stage) speed() float64 {
	slowest := math.Inf(1)
	for i, s := range g.seats {
		slowest = min(slowest, s.speed.Bandwidth*float64(g.all)/float64(g.units[i]))
	}
	return slowest
}

// stageTime is the slowest rank and what the ranks exchange. of is Decode or
// Chunk for one rank.
func (t *table) stageTime(g *stage, tokens float64, of func(cost.Piece, cost.Speed) float64) float64 {
	slowest := 0.0
	for i, seat := range g.seats {
		slowest = max(slowest, of(g.piece(i), seat.speed))
	}
	if len(g.seats) == 1 {
		return slowest
	}
	sums := t.sums.Reductions(g.first, g.end)
	return slowest + float64(sums)*t.allReduce(g.seats, tokens*float64(t.request.Model.Embedding)*4)
}

// allReduce is the time until all ranks have the sum of that many bytes: each
// sends everything to each other at once, or, if that is faster, its parts to
// be summed up, and the sums back.
func (t *table) allReduce(seats []*seat, bytes float64) float64 {
	direct, scattered := 0.0, 0.0
	n := float64(len(seats))
	for i, a := range seats {
		for _, b := range seats[:i] {
			l := t.line(a, b)
			direct = max(direct, l.Latency+(n-1)*bytes/l.Bandwidth)
			scattered = max(scattered, 2*(l.Latency+(n-1)/n*bytes/l.Bandwidth))
		}
	}
	return min(direct, scattered)
}

// hop is the time that hidden states need from a stage to the next.
func (t *table) hop(from, to *stage, tokens float64) float64 {
	slowest := 0.0
	for i := range from.seats {
		slowest = max(slowest, t.line(from.seats[i], to.seats[i]).seconds(tokens*float64(t.request.Model.Embedding)*4))
	}
	return slowest
}

// predict says how fast stages are together.
func (t *table) predict(stages []*stage) Prediction {
	t.steps += len(stages)
	s, r := t.sums, t.request
	n := float64(len(stages))
	// What one token takes from stage to stage and back to the first, and the
	// slowest of the stages.
	walk := func(tokens float64, of func(cost.Piece, cost.Speed) float64) (total, slowest float64) {
		for i, g := range stages {
			d := t.stageTime(g, tokens, of)
			total, slowest = total+d, max(slowest, d)
			if i > 0 {
				total += t.hop(stages[i-1], g, tokens)
			}
		}
		return total, slowest
	}
	back := 0.0
	if len(stages) > 1 {
		back = t.line(stages[len(stages)-1].seats[0], stages[0].seats[0]).Latency
	}
	decode := func(streams float64) func(cost.Piece, cost.Speed) float64 {
		return func(p cost.Piece, v cost.Speed) float64 { return s.Decode(p, v, streams, r.Depth) }
	}
	var p Prediction
	one, _ := walk(1, decode(1))
	p.Decode = 1 / (one + back)
	// Streams are divided into as many micro-batches as there are stages, as
	// long as there are streams. A round lets each of them advance by one
	// token: either the slowest stage is always busy, or all wait for one walk.
	slots := float64(r.Slots)
	micro := math.Ceil(slots / min(n, slots))
	total, slowest := walk(micro, decode(micro))
	p.Aggregate = slots / max(total+back, math.Ceil(slots/micro)*slowest)
	// Chunks of a prompt follow each other without waiting.
	batch := r.Batch
	if len(stages) > 1 {
		batch = min(batch, schedule.ChunkTokens(r.Model.Parameters, false, len(stages)))
	}
	chunk := float64(min(batch, r.Prompt))
	chunks := math.Ceil(float64(r.Prompt) / chunk)
	each := float64(r.Prompt) / chunks
	walked, slowestChunk := walk(each, func(p cost.Piece, v cost.Speed) float64 { return s.Chunk(p, v, each) })
	p.Prefill = float64(r.Prompt) / (walked + (chunks-1)*slowestChunk)
	p.StepSeconds = max(total, walked)
	return p
}
