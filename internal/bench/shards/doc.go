// Package shards compares a model that is served by several shards with the
// same model whole: whether the logits are right (Check), and how fast each is
// (Bench). It owns the arithmetic, the verdicts and the order of the rounds.
//
// It starts nothing and measures whatever it is given behind two small
// interfaces; internal/node starts runners and groups and hands them in. It
// imports the runner's words and generation, and no other part. Each function
// runs in the goroutine that calls it.
package shards

import (
	"context"

	"github.com/skein-run/skein/internal/runner/wire"
)

// Evaluator computes logits; supervise.Runner and group.Group are some.
type Evaluator interface {
	Eval(ctx context.Context, req wire.EvalRequest, each func(token int32, logits []float32)) error
}

// Balance is what the stages of a pipeline are to share out evenly.
type Balance string

// Balances. The output head works for tokens that are drawn, and for no others:
// of a model with a large vocabulary it weighs as much as several layers when
// tokens are decoded, and nothing in a prompt.
const (
	BalanceEven   Balance = "even"   // layers: prompts are fastest
	BalanceDecode Balance = "decode" // what a decoded token reads, the head too: streams are fastest
)

// Layout says how a model is to be split and where the shards run.
type Layout struct {
	Stages  int      // at least 1
	Ranks   int      // of each stage, at least 1
	Balance Balance  // of the stages; "": even
	Threads int      // of each shard; 0: chosen from the machine
	On      []string // host:port of machines that run `skein shard serve`, for the shards in turn; empty: this machine
	// Devices compute the shards in turn (wire.LoadRequest.On); empty: the
	// processor does, or what the load says.
	Devices []string
	// HalfPrecision sends activations as f16: half the bytes, and not exact.
	HalfPrecision bool
	TLS           bool // links of local shards are encrypted, with certificates made for it
	Pin           bool // each local shard gets cores of its own, when there are enough
	Certificate,
	Key, CA string // PEM files for the machines of On; "": without TLS
}

// Activations names how they travel: f32 or f16.
func (l Layout) Activations() string {
	if l.HalfPrecision {
		return ActivationsHalf
	}
	return ActivationsExact
}

// Formats in which activations travel between shards.
const (
	ActivationsExact = "f32"
	ActivationsHalf  = "f16" // not exact
)

// Shards is the number of processes.
func (l Layout) Shards() int { return max(1, l.Stages) * max(1, l.Ranks) }
