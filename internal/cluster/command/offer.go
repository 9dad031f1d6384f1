package command

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/ids"
)

// already tells that what a change would make so is so.
func (d *decision) already(c cluster.Change) bool {
	s := d.state
	switch c := c.(type) {
	case cluster.NodeSeen:
		if !s.Nodes[c.Node.ID].Online {
			return false
		}
		next := s.Apply(cluster.Event{Index: s.Index + 1, Session: d.session, At: s.At, Change: c})
		return reflect.DeepEqual(s.Nodes[c.Node.ID], next.Nodes[c.Node.ID])
	case cluster.NodeGone:
		return !s.Nodes[c.Node].Online
	case cluster.NodeDrained:
		n, ok := s.Nodes[c.Node]
		return ok && n.Draining != c.Resume
	case cluster.ModelKnown:
		old, ok := s.Models[c.Model.Name]
		return ok && slices.Equal(old.Files, c.Model.Files) && reflect.DeepEqual(old.Profile, c.Model.Profile) &&
			!slices.ContainsFunc(c.Model.Holders, func(id ids.Node) bool { return !slices.Contains(old.Holders, id) })
	case cluster.FilesMoved:
		m, ok := s.Models[c.Model]
		return ok && slices.Contains(m.Holders, c.Node) != c.Gone
	case cluster.WantedProblem:
		w, ok := s.Wanted[c.Wanted]
		return !ok || w.Problem == c.Problem
	case cluster.InstancePlaced:
		_, ok := s.Instances[c.Instance.ID]
		return ok
	case cluster.InstanceReleased:
		i, ok := s.Instances[c.Instance]
		return !ok || i.Releasing != ""
	case cluster.SwapBegan:
		_, ok := s.Swaps[c.Swap.ID]
		return ok
	case cluster.SwapEnded:
		return swapOver(s, c.Swap)
	case cluster.SwapUndone:
		return swapOver(s, c.Swap)
	case cluster.SwapForgotten:
		_, ok := s.Swaps[c.Swap]
		return !ok
	case cluster.CommandDropped:
		_, ok := s.Commands[c.Command]
		return ok
	case cluster.KeyAdded:
		k, ok := s.Keys[c.Key.Name]
		return ok && k.ID == c.Key.ID && k.Hash == c.Key.Hash
	case cluster.ShardReported:
		i, ok := s.Instances[c.Instance]
		if !ok || c.Shard < 0 || c.Shard >= len(i.Shards) {
			return false
		}
		x := i.Shards[c.Shard]
		return x.Phase == c.Phase && x.Incarnation == c.Incarnation && x.Link == c.Link && x.Error == c.Error
	}
	return false
}

// swapOver tells that a swap has ended one way or the other.
func swapOver(s cluster.State, id string) bool {
	w, ok := s.Swaps[id]
	return !ok || w.Undone != ""
}

// offered carries out a change that was acknowledged by the half that lost a
// split, or leaves an event that says why it no longer fits.
func (d *decision) offered(c cluster.Change) error {
	why := d.differs(c)
	switch {
	case d.already(c) || d.settled(c):
		if strings.HasPrefix(d.command.ID, nameless) {
			return nil // nobody waits for it
		}
		why = "it was so already"
	case why == "":
		err := d.revive(c)
		if err == nil {
			err = d.add(c)
		}
		if err == nil {
			return nil
		}
		why = err.Error()
		d.events, d.state, d.named = nil, d.start, false
	}
	if told(c) {
		return nil
	}
	if err := d.add(cluster.CommandDropped{Command: d.command.ID, Reason: why}); err != nil {
		return refuse(Invalid, "%v", err)
	}
	return nil
}

// told tells that a change is a fact that its node tells again.
func told(c cluster.Change) bool {
	switch c.(type) {
	case cluster.NodeSeen, cluster.FilesMoved, cluster.ShardReported, cluster.DownloadBegan, cluster.DownloadEnded:
		return true
	}
	return false
}

// settled tells that the other half came to the same.
func (d *decision) settled(c cluster.Change) bool {
	s := d.state
	switch c := c.(type) {
	case cluster.NodeSeen: // what the winner knows of a node that is there is newer
		return s.Nodes[c.Node.ID].Online
	case cluster.NodeForgotten:
		_, ok := s.Nodes[c.Node]
		return !ok
	case cluster.ModelForgotten:
		_, ok := s.Models[c.Model]
		return !ok
	case cluster.KeyRevoked:
		k, ok := s.Keys[c.Name]
		return !ok || c.ID != "" && k.ID != c.ID
	case cluster.ModelWanted:
		_, ok := s.Wanted[c.Wanted.ID]
		return ok
	case cluster.ModelUnwanted:
		_, ok := s.Wanted[c.Wanted]
		return !ok
	}
	return false
}

// differs says what the other half decided otherwise; "": nothing.
func (d *decision) differs(c cluster.Change) string {
	s := d.state
	switch c := c.(type) {
	case cluster.ModelWanted:
		for _, w := range s.Wanted {
			if w.Model == c.Wanted.Model && w.Copy == c.Wanted.Copy {
				return fmt.Sprintf("%s was loaded on the other side too, as %s", w.Model, w.ID)
			}
		}
	case cluster.InstancePlaced:
		if _, ok := s.Wanted[c.Instance.Wanted]; !ok {
			return fmt.Sprintf("%s is not wanted any more; its shards are stopped", c.Instance.Model)
		}
		for _, i := range Instances(s, c.Instance.Wanted) {
			if i.Status() == "ready" {
				return fmt.Sprintf("%s runs as instance %s, which is kept; the shards of %s are stopped", i.Model, i.ID, c.Instance.ID)
			}
		}
	}
	return ""
}

// revive takes nodes as online that the other half lost sight of: they hold an
// instance that is to be adopted. If one is gone in truth, the master will say
// so next.
func (d *decision) revive(c cluster.Change) error {
	var shards []cluster.Shard
	switch c := c.(type) {
	case cluster.InstancePlaced:
		shards = c.Instance.Shards
	case cluster.SwapBegan:
		shards = c.Swap.Place.Shards
	}
	for _, shard := range shards {
		if n, ok := d.state.Nodes[shard.Node]; ok && !n.Online {
			if err := d.add(cluster.NodeSeen{Node: n}); err != nil {
				return err
			}
		}
	}
	return nil
}
