package sim

import (
	"fmt"
	"slices"
	"strings"

	"github.com/skein-run/skein/internal/cluster"
)

// check holds what must be so at all times, when a master has written events.
func (w *World) check(n *node) {
	s := n.states[len(n.states)-1]
	if err := cluster.Check(s); err != nil {
		w.broken("event %d: %v", s.Index, err)
	}
	promised := map[string]int64{} // by host
	total := map[string]int64{}
	for id, x := range s.Nodes {
		total[x.Host] = w.nodes[id].opts.Memory
	}
	for _, i := range s.Instances {
		for _, x := range i.Shards {
			if !x.Phase.Ended() {
				promised[s.Nodes[x.Node].Host] += x.Reserve
			}
		}
	}
	// What swaps keep for their own models is promised too.
	for _, x := range s.Swaps {
		if x.Undone != "" || x.Placed || x.Overlap {
			continue
		}
		kept := map[string]int64{}
		for _, p := range x.Place.Shards {
			kept[s.Nodes[p.Node].Host] += p.Reserve
		}
		for _, i := range s.Instances {
			for _, p := range i.Shards {
				if slices.ContainsFunc(x.Old, func(o cluster.Wanted) bool { return o.ID == i.Wanted }) && !p.Phase.Ended() {
					kept[s.Nodes[p.Node].Host] -= p.Reserve
				}
			}
		}
		for host, sum := range kept {
			promised[host] += max(0, sum)
		}
	}
	for host, sum := range promised {
		if sum > total[host] {
			w.broken("event %d: %d bytes are promised of %s, which has %d", s.Index, sum, host, total[host])
		}
	}
}

func places(i cluster.Instance) string {
	var out []string
	for _, x := range i.Shards {
		out = append(out, string(x.Node))
	}
	return strings.Join(out, "+")
}

// describe writes an event on a line.
func describe(e cluster.Event) string {
	text := ""
	switch c := e.Change.(type) {
	case cluster.NodeSeen:
		text = string(c.Node.ID)
	case cluster.NodeGone:
		text = string(c.Node) + ": " + c.Cause
	case cluster.NodeDrained:
		text = fmt.Sprintf("%s resume=%v", c.Node, c.Resume)
	case cluster.NodeForgotten:
		text = string(c.Node)
	case cluster.ModelKnown:
		text = fmt.Sprintf("%s on %v", c.Model.Name, c.Model.Holders)
	case cluster.ModelWanted:
		text = fmt.Sprintf("%s: %s", c.Wanted.ID, c.Wanted.Model)
	case cluster.ModelUnwanted:
		text = c.Wanted + ": " + c.Cause
	case cluster.WantedProblem:
		text = c.Wanted + ": " + c.Problem
	case cluster.InstancePlaced:
		text = fmt.Sprintf("%s of %s on %s", c.Instance.ID, c.Instance.Wanted, places(c.Instance))
	case cluster.InstanceReleased:
		text = c.Instance + ": " + c.Cause
	case cluster.ShardReported:
		text = strings.TrimSpace(fmt.Sprintf("%s/%d process %d is %s %s", c.Instance, c.Shard, c.Incarnation, c.Phase, c.Error))
	case cluster.SwapBegan:
		text = fmt.Sprintf("%s: %s comes on %s", c.Swap.ID, c.Swap.New.Model, places(c.Swap.Place))
		if c.Swap.Overlap {
			text += ", beside the old one"
		}
	case cluster.SwapEnded:
		text = c.Swap
	case cluster.SwapUndone:
		text = c.Swap + ": " + c.Cause
	case cluster.SwapForgotten:
		text = c.Swap
	case cluster.CommandDropped:
		text = c.Command + ": " + c.Reason
	}
	return fmt.Sprintf("%d %s %s", e.Index, cluster.KindOf(e.Change), text)
}
