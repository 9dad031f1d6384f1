package cluster

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/ids"
)

// Check says which invariants a state breaks; nil: none. Events that Admit
// takes never break one, so an error is a bug or a damaged file.
//
// That no memory is promised twice is held by Admit when an instance is placed.
// It is not checked here, since a machine may come back with less memory than
// its shards were promised.
func Check(s State) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for id, n := range s.Nodes {
		if n.ID != id || id == "" {
			bad("node %q is listed as %q", n.ID, id)
		}
	}
	for name, m := range s.Models {
		if m.Name != name || !slices.IsSorted(m.Holders) || len(slices.Compact(slices.Clone(m.Holders))) != len(m.Holders) {
			bad("model %q is listed as %q, with holders %v", m.Name, name, m.Holders)
		}
		if err := knownNodes(s, m.Holders); err != nil {
			bad("model %s: %w", name, err)
		}
	}
	for id, w := range s.Wanted {
		if _, ok := s.Models[w.Model]; w.ID != id || !ok {
			bad("%q is wanted as %q: model %s is unknown", w.ID, id, w.Model)
		}
	}
	for id, i := range s.Instances {
		m, ok := s.Models[i.Model]
		if i.ID != id || !ok {
			bad("instance %q is listed as %q: model %s is unknown", i.ID, id, i.Model)
			continue
		}
		if _, ok := s.Wanted[i.Wanted]; !ok && i.Releasing == "" {
			bad("instance %s runs, and nobody wants it", id)
		}
		if err := i.checkShards(len(m.Profile.Layers)); err != nil {
			bad("instance %s: %w", id, err)
		}
		running := false
		for k, shard := range i.Shards {
			n, ok := s.Nodes[shard.Node]
			running = running || !shard.Phase.Ended()
			switch {
			case !ok:
				bad("instance %s, shard %d: there is no node %s", id, k, shard.Node)
			case !n.Online && !shard.Phase.Ended():
				bad("instance %s, shard %d is %s on node %s, which is gone", id, k, shard.Phase, shard.Node)
			case !shard.Phase.known():
				bad("instance %s, shard %d is %q", id, k, shard.Phase)
			case shard.Reserve < 1:
				bad("instance %s, shard %d is promised %d bytes", id, k, shard.Reserve)
			}
		}
		if i.Releasing != "" && !running {
			bad("instance %s has ended and is still there", id)
		}
	}
	for key, d := range s.Downloads {
		if _, ok := s.Models[d.Model]; key != (DownloadKey{d.Node, d.Model}) || !ok || !s.Nodes[d.Node].Online {
			bad("download %v is listed as %v: its model or node is unknown or gone", d, key)
		}
	}
	for id, w := range s.Swaps {
		if text := w.check(s); w.ID != id || text != "" {
			bad("swap %q is listed as %q: %s", w.ID, id, text)
		}
	}
	if len(s.Commands) > maxCommands {
		bad("%d commands are remembered, %d at most", len(s.Commands), maxCommands)
	}
	hashes := map[KeyHash]bool{}
	for name, k := range s.Keys {
		if err := k.check(); err != nil || k.Name != name || hashes[k.Hash] {
			bad("key %q is listed as %q, or has the secret of another: %v", k.Name, name, err)
		}
		hashes[k.Hash] = true
	}
	if len(s.Keys) > maxKeys {
		bad("there are %d keys, %d at most", len(s.Keys), maxKeys)
	}
	if err := checkAudit(s.Audit); err != nil {
		bad("%w", err)
	}
	return errors.Join(errs...)
}

// Report is what a node says about itself outside the log, every few seconds.
type Report struct {
	At time.Time
	// Available is what each device could give away now, bytes, by its id.
	Available map[string]int64
	// Pending is what its shards have been promised and not yet taken.
	Pending map[string]int64
}

// Placement is what the planner gets to see: the members, the ledger, and what
// was last reported. A node that has not reported has nothing free.
func (s State) Placement(model string, reports map[ids.Node]Report, links []placement.Link) placement.Cluster {
	c := placement.Cluster{Links: links}
	mine := map[ids.Node]map[string]int64{} // promised, by node and device
	for _, id := range sortedKeys(s.Instances) {
		i := s.Instances[id]
		for _, shard := range i.Shards {
			if shard.Phase.Ended() {
				continue
			}
			if mine[shard.Node] == nil {
				mine[shard.Node] = map[string]int64{}
			}
			mine[shard.Node][shard.Device] += shard.Reserve
			c.Loaded = append(c.Loaded, placement.Loaded{Model: i.Model, Node: string(shard.Node), Device: shard.Device, Memory: shard.Reserve})
		}
	}
	kept := map[budget]int64{} // by swaps, for their own models
	for _, w := range s.Swaps {
		if w.New.Model != model {
			for b, n := range s.held(w) {
				kept[b] += n
			}
		}
	}
	for _, id := range sortedKeys(s.Nodes) {
		n := s.Nodes[id]
		if !n.Online {
			continue
		}
		r := reports[id]
		out := placement.Node{ID: string(id), Host: n.Host, Worker: n.Worker, Draining: n.Draining, Downloads: n.Downloads,
			Has: slices.Contains(s.Models[model].Holders, id), Reported: r.At, Devices: slices.Clone(n.Devices)}
		for k := range out.Devices {
			d := &out.Devices[k]
			d.Available, d.Pending, d.Reserved = r.Available[d.ID], r.Pending[d.ID], mine[id][d.ID]
			// The nodes of a machine share its memory: one of them tells of it.
			b := budget{s.hostOf(id), d.ID}
			d.Pending, d.Reserved = d.Pending+kept[b], d.Reserved+kept[b]
			delete(kept, b)
		}
		c.Nodes = append(c.Nodes, out)
	}
	return c
}

// Instance makes what a plan says into an instance of a wanted model.
func (w Wanted) Instance(id string, context int, p placement.Plan) Instance {
	i := Instance{ID: id, Wanted: w.ID, Model: w.Model, Way: p.Way, Context: context, Slots: w.Slots, Head: p.Head, Predicted: p.Predicted}
	for _, s := range p.Shards {
		i.Shards = append(i.Shards, Shard{Node: ids.Node(s.Node), Device: s.Device, Spec: s.Spec, Reserve: s.Reserve, Phase: Placed})
	}
	return i
}
