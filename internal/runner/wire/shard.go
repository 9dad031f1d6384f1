package wire

import "github.com/skein-run/skein/internal/gguf/slice"

// ShardSpec in a LoadRequest makes the runner one shard of a model. The
// runners of a group are loaded side by side; when all have answered, each
// gets a ConnectRequest with the addresses of all. Then the head takes
// generations, as the runner of a whole model does.
type ShardSpec struct {
	Group string `json:"group"` // names the group; the same in all its shards
	Index int    `json:"index"` // of this shard in Shards
	// Shards are all shards, stage after stage, in a stage rank after rank.
	Shards []slice.Spec `json:"shards"`
	// Head is the shard that owns the schedule.
	Head int `json:"head"`
	// Listen is the host:port for links from other shards; port 0: any free
	// one. The address is in the answer, ModelInfo.Link.
	Listen string `json:"listen"`
	// StepSeconds is the predicted time of a step in seconds, for its deadline:
	// ten times that, at least 5 s. 0: not known.
	StepSeconds float64 `json:"step_seconds"`
	// HalfPrecision sends activations as f16 (not exact); f32 otherwise.
	HalfPrecision bool     `json:"half_precision"`
	TLS           *LinkTLS `json:"tls,omitempty"`
	// CPUs pins the runner's threads to these cores (Linux); empty: any.
	CPUs []int `json:"cpus,omitempty"`
}

// LinkTLS holds PEM texts. Both sides of a link show a certificate of CA.
type LinkTLS struct {
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
	CA          string `json:"ca"`
}

// ConnectRequest joins the shards of a group. A group that broke is joined
// again, with a new process in place of the dead one, by a larger Epoch; KV
// states of earlier epochs are gone.
type ConnectRequest struct {
	Epoch     uint64   `json:"epoch"`
	Addresses []string `json:"addresses"` // ModelInfo.Link of every shard, in order
}

// Broken tells that the group can't compute any more until it is connected
// again. Generations of a head end with CodeShard at the same time.
type Broken struct {
	Epoch uint64 `json:"epoch"`
	Shard int    `json:"shard"` // the shard that failed, as this one saw it; -1: not known
	Cause string `json:"cause"`
}

// CodeShard is the code of generations that end since a shard was lost.
const CodeShard = "shard_lost"

// EvalRequest computes tokens from an empty state and gives the logits of each
// position from Prompt-1 on. The first Prompt tokens are one batch (in chunks
// if they are more than a chunk), the others are computed one by one. It is
// refused while generations run.
type EvalRequest struct {
	Tokens []int32 `json:"tokens"`
	Prompt int     `json:"prompt"`
	// Greedy appends this many tokens, each the best of the last logits.
	Greedy int `json:"greedy"`
}
