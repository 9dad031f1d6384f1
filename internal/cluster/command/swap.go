package command

import (
	"maps"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/ids"
)

// Swap has a model take the place of another: all replicas of the one go, and
// one of the other comes. It is one decision: it is taken with a place for the
// model that comes, or refused and nothing changes.
type Swap struct {
	Unload string `json:"unload"` // full name
	// Load is what comes, once, with its place as the only one of Instances.
	Load Load `json:"load"`
	// Overlap: the place is free beside the model that goes, which serves until
	// the other is ready.
	Overlap bool `json:"overlap,omitempty"`
	// Drain is how long open generations may go on.
	Drain time.Duration `json:"drain"`
}

// Command makes the command. It needs an id, which also names the swap and what
// is wanted.
func (w Swap) Command(id string) (Command, error) { return encode(id, kindSwap, w) }

// Parts checks a swap against the state and gives what would go and what would
// come.
func (w Swap) Parts(s cluster.State, command string) (old []cluster.Wanted, next cluster.Wanted, err error) {
	if err := known(s, w.Unload); err != nil {
		return nil, next, err
	}
	if err := known(s, w.Load.Model); err != nil {
		return nil, next, err
	}
	switch {
	case w.Unload == w.Load.Model:
		return nil, next, refuse(Invalid, "%s can't be swapped for itself; to load it with other settings, unload it first", w.Unload)
	case w.Drain < 0:
		return nil, next, refuse(Invalid, "open requests can't go on for %v; give 0 or more", w.Drain)
	case w.Load.Replicas > 1:
		return nil, next, refuse(Invalid, "a swap brings one of %s; load the other replicas when it is ready", w.Load.Model)
	}
	for _, model := range []string{w.Unload, w.Load.Model} {
		if other, ok := s.Swapping(model); ok {
			return nil, next, busy(model, other)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.Wanted)) {
		if x := s.Wanted[id]; x.Model == w.Unload {
			old = append(old, x)
		}
	}
	if len(old) == 0 {
		return nil, next, notLoaded(s, w.Unload)
	}
	missing, err := w.Load.Missing(s, command)
	if err != nil {
		return nil, next, err
	}
	m := s.Models[w.Load.Model]
	if !slices.ContainsFunc(m.Holders, func(id ids.Node) bool { return s.Nodes[id].Online }) {
		return nil, next, refuse(NoFiles, "no node that is online has the files of %s; add them to a node with 'skein models add'", m.Name)
	}
	return old, missing[0], nil
}

// busy refuses a command about a model that is part of a swap.
func busy(model string, w cluster.Swap) *Refusal {
	return refuse(Conflict, "%s is being swapped for %s; wait for that ('skein models status %s'), or give it up with 'skein models unload %s'", w.Model(), w.New.Model, w.New.Model, w.New.Model)
}

func (d *decision) swap(w Swap) error {
	old, next, err := w.Parts(d.state, d.command.ID)
	if err != nil {
		return err
	}
	if len(w.Load.Instances) != 1 {
		return refuse(StalePlan, "%d places are given for %s, and a swap needs one; plan again", len(w.Load.Instances), w.Load.Model)
	}
	i := w.Load.Instances[0]
	i.Wanted, i.Model = next.ID, next.Model
	for _, o := range old {
		for _, i := range Instances(d.state, o.ID) {
			d.result.Freed += i.Memory()
		}
	}
	change := cluster.SwapBegan{Swap: cluster.Swap{ID: next.ID, Old: old, New: next, Place: i, Overlap: w.Overlap, Drain: w.Drain}}
	if err := d.add(change); err != nil {
		return refuse(StalePlan, "the cluster changed while %s was planned (%v); plan again", next.Model, err)
	}
	if w.Overlap {
		if err := d.add(cluster.InstancePlaced{Instance: i}); err != nil {
			return refuse(StalePlan, "the cluster changed while %s was planned (%v); plan again", next.Model, err)
		}
	}
	d.result.Model, d.result.Wanted, d.result.Instances = next.Model, []string{next.ID}, []string{i.ID}
	return nil
}

// giveUp ends a swap by an unload of one of its models: without the new one
// the old one stays or comes back, without the old one the new one is loaded as
// by a load.
func (d *decision) giveUp(w cluster.Swap, unloaded string) error {
	var change cluster.Change = cluster.SwapEnded{Swap: w.ID}
	ends := w.Old
	if unloaded == w.New.Model {
		change = cluster.SwapUndone{Swap: w.ID, Cause: unloaded + " was unloaded"}
		ends = []cluster.Wanted{w.New}
		d.result.Restored = w.Model()
	}
	d.result.Model = unloaded
	for _, x := range ends {
		d.result.Wanted = append(d.result.Wanted, x.ID)
		for _, i := range Instances(d.state, x.ID) {
			d.result.Instances = append(d.result.Instances, i.ID)
			d.result.Freed += i.Memory()
		}
	}
	if err := d.add(change); err != nil {
		return refuse(Invalid, "%v", err)
	}
	return nil
}

// forget drops what is told of swaps that failed to bring a model; false: there
// is nothing.
func (d *decision) forget(model string) (bool, error) {
	found := false
	for _, id := range slices.Sorted(maps.Keys(d.state.Swaps)) {
		if w := d.state.Swaps[id]; w.Undone != "" && w.New.Model == model {
			if err := d.add(cluster.SwapForgotten{Swap: id}); err != nil {
				return false, refuse(Invalid, "%v", err)
			}
			found = true
		}
	}
	return found, nil
}

func notLoaded(s cluster.State, what string) *Refusal {
	var loaded []string
	for _, w := range s.Wanted {
		loaded = append(loaded, w.Model)
	}
	slices.Sort(loaded)
	return refuse(NotLoaded, "%s is not loaded; loaded are: %s", what, list(slices.Compact(loaded)))
}

// again is the result of a swap that was taken before.
func (w Swap) again(s cluster.State, command string, r *Result) {
	id := w.Load.wanted(command, 0)
	r.Model = w.Load.Model
	if _, ok := s.Wanted[id]; !ok {
		return
	}
	r.Wanted = []string{id}
	for _, i := range Instances(s, id) {
		r.Instances = append(r.Instances, i.ID)
	}
	if x, ok := s.Swaps[id]; ok && !x.Placed {
		r.Instances = []string{x.Place.ID}
	}
}
