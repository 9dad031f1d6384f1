package cluster

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/skein-run/skein/internal/ids"
)

// SessionBegan is the first event of a master.
type SessionBegan struct{}

func (SessionBegan) kind() string                 { return "session_began" }
func (SessionBegan) fits(State) error             { return nil }
func (SessionBegan) apply(s State, _ Event) State { return s }

// NodeSeen tells that a node is there, or that something about it is new.
// Online, Draining and Since of it are not looked at.
type NodeSeen struct {
	Node Node `json:"node"`
}

func (NodeSeen) kind() string { return "node_seen" }

func (c NodeSeen) fits(State) error {
	if c.Node.ID == "" || slices.Contains([]byte(c.Node.ID), ' ') {
		return fmt.Errorf("node id %q must have letters and no blanks", c.Node.ID)
	}
	for _, d := range c.Node.Devices {
		if d.Total < 0 {
			return fmt.Errorf("device %q of node %s has %d bytes", d.ID, c.Node.ID, d.Total)
		}
	}
	return nil
}

func (c NodeSeen) apply(s State, e Event) State {
	n := c.Node
	old, known := s.Nodes[n.ID]
	n.Online, n.Draining, n.Since = true, old.Draining, old.Since
	if !known || !old.Online {
		n.Since = e.At
	}
	n.Devices = slices.Clone(n.Devices)
	// What is free, and what the ledger says, is not part of the state.
	for i := range n.Devices {
		n.Devices[i].Available, n.Devices[i].Reserved, n.Devices[i].Pending = 0, 0, 0
	}
	slices.SortFunc(n.Devices, func(a, b device) int { return cmp.Compare(a.ID, b.ID) })
	s.Nodes = put(s.Nodes, n.ID, n)
	return s
}

// NodeGone tells that a node is dead, or left. Its shards are lost.
type NodeGone struct {
	Node  ids.Node `json:"node"`
	Cause string   `json:"cause"`
}

func (NodeGone) kind() string { return "node_gone" }

func (c NodeGone) fits(s State) error {
	if n, ok := s.Nodes[c.Node]; !ok || !n.Online {
		return fmt.Errorf("node %s is not there", c.Node)
	}
	return nil
}

func (c NodeGone) apply(s State, e Event) State {
	n := s.Nodes[c.Node]
	n.Online, n.Since = false, e.At
	s.Nodes = put(s.Nodes, n.ID, n)
	for _, id := range sortedKeys(s.Instances) {
		i := s.Instances[id]
		for k, shard := range i.Shards {
			if shard.Node == c.Node && !shard.Phase.Ended() {
				i = i.with(k, func(x *Shard) { x.Phase, x.Link, x.Error = Lost, "", "node "+string(c.Node)+" is gone: "+c.Cause })
			}
		}
		s = s.settle(i)
	}
	for key := range s.Downloads {
		if key.Node == c.Node {
			s.Downloads = without(s.Downloads, key)
		}
	}
	return s
}

// NodeForgotten drops a node that has been away for long.
type NodeForgotten struct {
	Node ids.Node `json:"node"`
}

func (NodeForgotten) kind() string { return "node_forgotten" }

func (c NodeForgotten) fits(s State) error {
	n, ok := s.Nodes[c.Node]
	if !ok || n.Online {
		return fmt.Errorf("node %s is unknown, or online", c.Node)
	}
	for _, i := range s.Instances {
		if slices.ContainsFunc(i.Shards, func(x Shard) bool { return x.Node == c.Node }) {
			return fmt.Errorf("node %s has a shard of instance %s; release that first", c.Node, i.ID)
		}
	}
	return nil
}

func (c NodeForgotten) apply(s State, _ Event) State {
	s.Nodes = without(s.Nodes, c.Node)
	for _, name := range sortedKeys(s.Models) {
		m := s.Models[name]
		if slices.Contains(m.Holders, c.Node) {
			m.Holders = slices.DeleteFunc(slices.Clone(m.Holders), func(id ids.Node) bool { return id == c.Node })
			s.Models = put(s.Models, name, m)
		}
	}
	return s
}

// NodeDrained tells that a node gets nothing new, or, with Resume, that it does
// again.
type NodeDrained struct {
	Node   ids.Node `json:"node"`
	Resume bool     `json:"resume,omitempty"`
}

func (NodeDrained) kind() string { return "node_drained" }

func (c NodeDrained) fits(s State) error {
	if n, ok := s.Nodes[c.Node]; !ok || n.Draining != c.Resume {
		return errors.New("node " + string(c.Node) + " is unknown, or so already")
	}
	return nil
}

func (c NodeDrained) apply(s State, _ Event) State {
	n := s.Nodes[c.Node]
	n.Draining = !c.Resume
	s.Nodes = put(s.Nodes, n.ID, n)
	return s
}
