// Package route chooses which instance of a model serves a request: the one
// that has most of its prompt cached, and of those the least busy.
//
// It is pure, and imports cluster, generation/prefix and ids alone. What the
// vitals say may be a moment old: they decide what is better, never what is
// right.
package route

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/generation/prefix"
	"github.com/skein-run/skein/internal/ids"
)

// Request is what an instance is needed for.
type Request struct {
	Model  string  // full name
	Prompt []int32 // nil: any will do
	// Lost is the Key of a place that has just been lost: it is not given
	// again before it has begun anew.
	Lost string
}

// Choice is where a request goes.
type Choice struct {
	Instance string
	Head     ids.Node
	// Key names the instance since its shards were last connected: when any
	// of them gets a new process it is another.
	Key   string
	Slots int
}

// Choose gives the best instance that serves now; false if there is none. open
// counts the requests that this node has under way, by instance.
func Choose(s cluster.State, vitals map[ids.Node]cluster.Vitals, open map[string]int, r Request) (Choice, bool) {
	type candidate struct {
		Choice
		cached int     // tokens
		load   float64 // requests for each slot
	}
	var all []candidate
	chains := map[int][]uint32{}
	for id, i := range s.Instances {
		if i.Model != r.Model || i.Releasing != "" || i.Status() != "ready" || i.Head < 0 || i.Head >= len(i.Shards) {
			continue
		}
		head := i.Shards[i.Head].Node
		c := candidate{Choice: Choice{Instance: id, Head: head, Key: Key(i), Slots: i.Slots}}
		if c.Key == r.Lost || !s.Nodes[head].Online {
			continue
		}
		busy := open[id]
		for _, v := range vitals[head].Instances {
			if v.Instance != id {
				continue
			}
			busy = max(busy, v.Running+v.Waiting)
			if v.Chunk > 0 && len(r.Prompt) > 0 {
				if chains[v.Chunk] == nil {
					chains[v.Chunk] = prefix.Chain(r.Prompt, v.Chunk)
				}
				c.cached = v.Chunk * prefix.Match(chains[v.Chunk], v.Prefixes)
			}
		}
		c.load = float64(busy) / float64(max(1, i.Slots))
		all = append(all, c)
	}
	if len(all) == 0 {
		return Choice{}, false
	}
	return slices.MinFunc(all, func(a, b candidate) int {
		// A cached prompt is worth nothing behind a queue.
		full := func(c candidate) bool { return c.load >= 1 }
		if full(a) != full(b) {
			if full(b) {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.cached, a.cached), cmp.Compare(a.load, b.load), cmp.Compare(a.Instance, b.Instance))
	}).Choice, true
}

// Key names an instance in its present connection.
func Key(i cluster.Instance) string { return i.ID + "@" + strconv.FormatUint(i.Epoch(), 10) }
