// Package placement decides which nodes hold which part of a model, and
// predicts how fast that will be: whole on one node, as a pipeline of stages, as
// tensor ranks, or both. It filters nodes, tries a few ways to line them up,
// splits the layers, ranks the ways by predicted tokens/s, and says why.
//
// It is pure: values in, a Plan out, time as an argument; equal inputs give
// equal plans in whatever order they come. It must not import net, os, os/exec
// or log/slog, and no package that knows where its inputs come from (package
// profile makes a Model from a file, the cluster's state has the nodes). What a
// piece of a model takes in memory and time says package cost. All
// functions may be called from any goroutine.
//
// It never enumerates subsets or cycles of nodes: a fixed number of orders of
// the nodes is tried, each with a few lengths, so that work grows with nodes
// times layers. docs/placement.md has the formulas.
package placement

import (
	"fmt"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/cluster/placement/cost"
)

// The words of package cost that requests, clusters and plans are told in.
type (
	Model  = cost.Model
	Layer  = cost.Layer
	Part   = cost.Part
	Memory = cost.Memory
	Speed  = cost.Speed
)

// Cluster is what placement knows about nodes: a snapshot of the cluster's
// state with what the nodes measured.
type Cluster struct {
	Nodes []Node
	// Links are measured connections, in both directions. Nodes that no entry
	// joins are taken to be Default apart, nodes of one host Local.
	Links          []Link
	Default, Local Line
	// Loaded is what holds memory now, for the advice in errors.
	Loaded []Loaded
	// Fresh is how old a node's report may be; 0: any age.
	Fresh time.Duration
}

// Node is a machine, or one of several nodes on a machine.
type Node struct {
	ID string
	// Host is equal for nodes of one machine, whose memory is one budget.
	// "": the node is alone on its machine.
	Host      string
	Worker    bool
	Draining  bool // gets nothing new
	Downloads bool // may fetch model files
	Has       bool // the model's files lie there
	Devices   []Device
	// Reported is when the node told what its devices have; zero: it did not
	// answer, and gets nothing while others do.
	Reported time.Time
}

// Device is a memory that a shard can lie in, and the processor that reads it.
type Device struct {
	// ID is "" for the host's own memory, also when an accelerator shares it;
	// else an accelerator with memory of its own ("CUDA0").
	ID    string `json:"id"`
	Total int64  `json:"total"` // bytes
	// Available is what the machine measures as free or easily freed, bytes.
	Available int64 `json:"available"`
	// Reserved is what this node's shards have been promised in all, bytes;
	// Pending is the part of it that is not allocated yet, and so is still
	// measured as available.
	Reserved int64 `json:"reserved"`
	Pending  int64 `json:"pending"`
	Speed    Speed `json:"speed"`
	// Whole: it takes whole models only, no stages and no ranks.
	Whole bool `json:"whole,omitempty"`
}

// Line is how fast bytes travel between two nodes.
type Line struct {
	Latency   float64 `json:"latency"`   // s, one way, of a small message from program to program
	Bandwidth float64 `json:"bandwidth"` // bytes/s
}

func (l Line) seconds(bytes float64) float64 { return l.Latency + bytes/l.Bandwidth }

// Link is a measured line between two nodes.
type Link struct {
	A, B string // node ids
	Line
}

// Loaded is a model, or a part of one, that holds memory of a node.
type Loaded struct {
	Model  string
	Node   string
	Device string
	Memory int64 // bytes that unloading it would free there
}

// Sharding is what kind of split is wanted.
type Sharding string

// Shardings.
const (
	Auto     Sharding = "auto"
	Pipeline Sharding = "pipeline"
	Tensor   Sharding = "tensor"
)

// Request is what is to be placed.
type Request struct {
	Model   Model
	Context int // tokens of each slot
	Slots   int
	Batch   int // tokens of a prompt chunk; 0: 256
	// Sharding Auto picks the fastest way. Pipeline and Tensor take that one if
	// there is one, and else a node that holds the whole model; never another.
	Sharding Sharding
	MinNodes int      // 0: 1
	MaxNodes int      // 0: any number
	Require  []string // nodes that must hold a shard
	Exclude  []string // nodes that must not
	// Depth is how many tokens a stream holds when decode speed is predicted,
	// 0: 256; Prompt the length of the prompt for prefill, tokens, 0: 512.
	Depth, Prompt int
}

func (r Request) validate() (Request, error) {
	if r.Batch == 0 {
		r.Batch = 256
	}
	if r.Depth == 0 {
		r.Depth = 256
	}
	if r.Prompt == 0 {
		r.Prompt = 512
	}
	if r.Sharding == "" {
		r.Sharding = Auto
	}
	r.MinNodes = max(r.MinNodes, 1)
	r.Depth = min(r.Depth, r.Context)
	r.Prompt = min(r.Prompt, r.Context)
	switch {
	case r.Context < 1 || r.Slots < 1 || r.Batch < 1 || r.Depth < 1 || r.Prompt < 1 || r.Context > 1<<30 || r.Slots > 1<<16 || r.Batch > 1<<20:
		return r, &InvalidError{fmt.Sprintf("context %d, slots %d and batch %d must be at least 1 and sensible", r.Context, r.Slots, r.Batch)}
	case r.MaxNodes < 0 || r.MaxNodes > 0 && r.MaxNodes < max(r.MinNodes, len(r.Require)):
		return r, &InvalidError{fmt.Sprintf("at most %d nodes are allowed, and %d must be used", r.MaxNodes, max(r.MinNodes, len(r.Require)))}
	case !slices.Contains([]Sharding{Auto, Pipeline, Tensor}, r.Sharding):
		return r, &InvalidError{fmt.Sprintf("sharding %q must be auto, pipeline or tensor", r.Sharding)}
	}
	for _, id := range r.Require {
		if slices.Contains(r.Exclude, id) {
			return r, &InvalidError{fmt.Sprintf("node %s is required and excluded; leave one of the two out", id)}
		}
	}
	slices.Sort(r.Require)
	r.Require = slices.Compact(slices.Clone(r.Require))
	if err := r.Model.Validate(); err != nil {
		return r, &InvalidError{fmt.Sprintf("model %s: %v", r.Model.Name, err)}
	}
	return r, nil
}

func (n Node) host() string {
	if n.Host == "" {
		return n.ID
	}
	return n.Host
}
