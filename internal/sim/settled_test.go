package sim

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/plan"
	"github.com/skein-run/skein/internal/cluster/reconcile"
	"github.com/skein-run/skein/internal/ids"
)

// Settled says what is not as it must be when nothing happens any more, in
// each part of the network; nil: all is well.
func (w *World) Settled() []string {
	var out []string
	bad := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	sides := map[int][]*node{}
	for _, id := range w.names {
		if n := w.nodes[id]; n.up {
			sides[w.group[id]] = append(sides[w.group[id]], n)
		}
	}
	for _, g := range slices.Sorted(maps.Keys(sides)) {
		side := sides[g]
		candidates := slices.ContainsFunc(side, func(n *node) bool { return !n.opts.NoMaster })
		var master *node
		for _, n := range side {
			for _, p := range side {
				if n != p && n.members[p.opts.ID] != p.life {
					bad("%s does not see %s", n.opts.ID, p.opts.ID)
				}
			}
			if len(n.members) != len(side)-1 {
				bad("%s sees %v", n.opts.ID, n.peers())
			}
			if n.leader.Self && n.leader.Live {
				if master != nil {
					bad("%s and %s are both master", master.opts.ID, n.opts.ID)
				}
				master = n
			}
		}
		switch {
		case master == nil && candidates:
			bad("no master on side %d", g)
		case master == nil:
			for _, n := range side {
				if n.leader.Live {
					bad("%s follows %v, who is not there", n.opts.ID, n.leader.Session)
				}
			}
		default:
			out = append(out, w.agreed(master, side)...)
		}
	}
	return out
}

// agreed holds a side's nodes against its master.
func (w *World) agreed(master *node, side []*node) []string {
	var out []string
	bad := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	s := master.state()
	for _, n := range side {
		if n.leader.Session != master.leader.Session || n.applied != uint64(len(n.entries)) || n.applied != master.applied || len(n.lost) > 0 {
			bad("%s is at %d of %d in %v with %d offers, the master %s at %d in %v", n.opts.ID, n.applied, len(n.entries), n.leader.Session, len(n.lost), master.opts.ID, master.applied, master.leader.Session)
			continue
		}
		if n != master && !reflect.DeepEqual(s, n.state()) {
			bad("%s has another state than the master:\n%s", n.opts.ID, cmp.Diff(s, n.state()))
		}
		if me := s.Nodes[n.opts.ID]; !me.Online {
			bad("%s is there and not online", n.opts.ID)
		}
		for k, l := range n.local {
			i, ok := s.Instances[k.Instance]
			if !ok {
				bad("%s still has %v: %+v", n.opts.ID, k, l.Local)
			} else if x := i.Shards[k.Shard]; l.Runner != plan.Serving || l.Incarnation != x.Incarnation || len(i.Shards) > 1 && l.Epoch != i.Epoch() {
				bad("%s has %v as %+v, and the state %s of process %d", n.opts.ID, k, l.Local, x.Phase, x.Incarnation)
			}
		}
	}
	for id, x := range s.Nodes {
		if n := w.nodes[id]; x.Online && !slices.Contains(side, n) {
			bad("%s is away and online", id)
		}
	}
	vitals := map[ids.Node]cluster.Vitals{}
	for _, n := range side {
		vitals[n.opts.ID] = n.vitals()
	}
	for _, id := range slices.Sorted(maps.Keys(s.Wanted)) {
		wanted := s.Wanted[id]
		switch all := command.Instances(s, id); {
		case len(all) > 1:
			bad("%s has %d instances", id, len(all))
		case len(all) == 1 && all[0].Status() != "ready":
			bad("%s is %s", id, all[0].Status())
		case len(all) == 0 && wanted.Problem == "":
			bad("%s does not run, and nobody says why", id)
		case len(all) == 0:
			if _, _, err := reconcile.Plan(s, vitals, nil, wanted, nil, master.clock()); err == nil && !strings.Contains(wanted.Problem, "times in a row") {
				bad("%s would fit and does not run: %s", id, wanted.Problem)
			}
		}
	}
	for id, x := range s.Swaps {
		if x.Undone == "" {
			bad("swap %s is still under way", id)
		}
	}
	for id, i := range s.Instances {
		if i.Releasing != "" {
			bad("%s is still being released: %s", id, i.Releasing)
		}
	}
	return out
}

// Kept says which acknowledged commands the node's state knows nothing of.
func (w *World) Kept(id ids.Node) []string {
	var out []string
	s := w.nodes[id].state()
	for _, name := range slices.Sorted(maps.Keys(w.acked)) {
		if _, ok := s.Commands[name]; !ok && w.made[name] {
			a := w.acked[name]
			out = append(out, fmt.Sprintf("command %s (%s), acknowledged by %s, is lost", name, a.command.Kind, a.node))
		}
	}
	return out
}

// Swapped says where a node's log holds a swap that was not one decision: at
// its end what went is not wanted and what came is, or the other way round.
func (w *World) Swapped(id ids.Node) []string {
	var out []string
	var s cluster.State
	for _, e := range w.nodes[id].entries {
		before := s
		if s = s.Apply(e); before.Admit(e) != nil {
			continue
		}
		swap, undone := "", false
		switch c := e.Change.(type) {
		case cluster.SwapEnded:
			swap = c.Swap
		case cluster.SwapUndone:
			swap, undone = c.Swap, true
		default:
			continue
		}
		x := before.Swaps[swap]
		if _, ok := s.Wanted[x.New.ID]; ok == undone {
			out = append(out, fmt.Sprintf("event %d: %s is wanted: %v", e.Index, x.New.ID, ok))
		}
		for _, o := range x.Old {
			if _, ok := s.Wanted[o.ID]; ok != undone {
				out = append(out, fmt.Sprintf("event %d: %s is wanted: %v", e.Index, o.ID, ok))
			}
		}
	}
	return out
}

// Replayed says where a node's log, read again from its written form, gives
// another state than the one it has; "": nowhere.
func (w *World) Replayed(id ids.Node) string {
	n := w.nodes[id]
	var s cluster.State
	for _, e := range n.entries[:n.applied] {
		b, err := e.Encode()
		if err == nil {
			e, err = cluster.DecodeEvent(b)
		}
		if err != nil {
			return err.Error()
		}
		s = s.Apply(e)
	}
	live, err := n.state().Hash()
	if err != nil {
		return err.Error()
	}
	again, err := s.Hash()
	if err != nil {
		return err.Error()
	}
	b, err := s.Snapshot()
	if err != nil {
		return err.Error()
	}
	back, err := cluster.DecodeState(b)
	if err != nil {
		return err.Error()
	}
	snapshot, err := back.Hash()
	if err != nil {
		return err.Error()
	}
	if live != again || live != snapshot {
		return fmt.Sprintf("%s: live %s, replayed %s, from a snapshot %s", id, live, again, snapshot)
	}
	return ""
}

// Status is what a person sees of the cluster, through a node.
func (w *World) Status(id ids.Node) []string {
	n := w.nodes[id]
	if !n.up {
		return []string{fmt.Sprintf("%s is down", id)}
	}
	s := n.state()
	out := []string{fmt.Sprintf("%s: %v live=%v, event %d", id, n.leader.Session, n.leader.Live, n.applied)}
	for _, k := range slices.Sorted(maps.Keys(s.Nodes)) {
		x := s.Nodes[k]
		word := "away"
		if x.Online {
			word = "online"
		}
		if x.Draining {
			word += ", draining"
		}
		out = append(out, fmt.Sprintf("  node %s: %s", k, word))
	}
	for _, k := range slices.Sorted(maps.Keys(s.Wanted)) {
		x := s.Wanted[k]
		out = append(out, fmt.Sprintf("  wanted %s: %s %s", k, x.Model, x.Problem))
		for _, i := range command.Instances(s, k) {
			out = append(out, fmt.Sprintf("    instance %s on %s: %s", i.ID, places(i), i.Status()))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(s.Instances)) {
		if i := s.Instances[k]; i.Releasing != "" {
			out = append(out, fmt.Sprintf("  releasing %s on %s: %s", i.ID, places(i), i.Releasing))
		}
	}
	return out
}
