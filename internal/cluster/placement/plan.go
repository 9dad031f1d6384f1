package placement

import (
	"github.com/skein-run/skein/internal/cluster/placement/apportion"
	"github.com/skein-run/skein/internal/cluster/placement/cost"
	"github.com/skein-run/skein/internal/gguf/slice"
)

// Way is how a model lies on nodes.
type Way string

// Ways.
const (
	WayWhole    Way = "whole"    // one node has all of it
	WayPipeline Way = "pipeline" // stages of layers
	WayTensor   Way = "tensor"   // ranks that share each layer out
	WayMixed    Way = "mixed"    // stages of ranks
	WayReplicas Way = "replicas" // an alternative only: the whole model twice
)

// Plan says where a model goes, how fast it will be, and why.
type Plan struct {
	Way    Way     `json:"way"`
	Shards []Shard `json:"shards"` // stage after stage, in a stage rank after rank
	// Stages and Ranks are how many there are; Head is the shard that owns the
	// schedule: rank 0 of the last stage, where the logits are.
	Stages    int        `json:"stages"`
	Ranks     int        `json:"ranks"`
	Head      int        `json:"head"`
	Predicted Prediction `json:"predicted"`
	// Explanation is for a person: why this way, and what others would give.
	Explanation  string        `json:"explanation"`
	Alternatives []Alternative `json:"alternatives"`
	// Visits counts the steps of the search, the measure of its work.
	Visits int `json:"-"`
}

// Shard is one shard's place.
type Shard struct {
	Node   string     `json:"node"`
	Device string     `json:"device"` // "": the host's own memory
	Spec   slice.Spec `json:"spec"`
	Memory Memory     `json:"memory"`
	// Reserve is what is to be promised to it: its memory and a tenth.
	Reserve int64 `json:"reserve"`
	// Fetch says that the model's files are not on the node.
	Fetch bool `json:"fetch"`
}

// Alternative is a way that was considered.
type Alternative struct {
	Way       Way        `json:"way"`
	Nodes     []string   `json:"nodes,omitempty"`
	Predicted Prediction `json:"predicted"`
	// Why says what speaks against it; empty if it is only slower.
	Why string `json:"why,omitempty"`
}

// candidate is a way with stages that fit.
type candidate struct {
	way       Way
	stages    []*stage
	predicted Prediction
	score     float64
}

func (c *candidate) shards() int {
	n := 0
	for _, g := range c.stages {
		n += len(g.seats)
	}
	return n
}

func (c *candidate) nodes() []string {
	var out []string
	for _, g := range c.stages {
		for _, s := range g.seats {
			out = append(out, s.node)
		}
	}
	return out
}

// better says whether c is to be preferred to best. One stream's speed counts;
// what is within 3 % of it is as fast, and then fewer shards, and then more
// tokens with all slots busy.
func (c *candidate) better(best *candidate) bool {
	const equal = 1.03
	switch {
	case best == nil || c.score > best.score*equal:
		return true
	case c.score*equal < best.score:
		return false
	case c.shards() != best.shards():
		return c.shards() < best.shards()
	}
	return c.predicted.Aggregate > best.predicted.Aggregate
}

// rate completes a candidate: its prediction, and a score that prefers nodes
// with the model's files by up to a tenth.
func (t *table) rate(way Way, stages []*stage) *candidate {
	c := &candidate{way: way, stages: stages, predicted: t.predict(stages)}
	missing := 0
	for _, g := range stages {
		for _, s := range g.seats {
			if !s.has {
				missing++
			}
		}
	}
	c.score = c.predicted.Decode * (1 - 0.1*float64(missing)/float64(c.shards()))
	return c
}

// plan turns a candidate into what is handed out.
func (t *table) plan(c *candidate) Plan {
	p := Plan{Way: c.way, Stages: len(c.stages), Ranks: len(c.stages[0].seats), Predicted: c.predicted}
	for i, g := range c.stages {
		if i == len(c.stages)-1 {
			p.Head = len(p.Shards)
		}
		for rank, s := range g.seats {
			spec := slice.Spec{First: g.first, End: g.end, Rank: rank}
			if len(g.seats) > 1 {
				spec.Parts = apportion.Reduced(g.units)
			}
			m := t.sums.Memory(g.piece(rank))
			p.Shards = append(p.Shards, Shard{Node: s.node, Device: s.device, Spec: spec, Memory: m, Reserve: cost.Headroom(m.Total), Fetch: !s.has})
		}
	}
	return p
}
