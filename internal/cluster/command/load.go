package command

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/ids"
)

// Load wants a model to run, until Unload.
type Load struct {
	Model    string             `json:"model"`   // its full name
	Context  int                `json:"context"` // tokens of each slot
	Slots    int                `json:"slots"`
	Sharding placement.Sharding `json:"sharding,omitempty"` // "": auto
	MinNodes int                `json:"min_nodes,omitempty"`
	Require  []ids.Node         `json:"require,omitempty"` // each gets a shard
	// Replicas is how many are wanted in total; 0: 1.
	Replicas int `json:"replicas,omitempty"`
	// ID names what is wanted; "": a name made of the command's id.
	ID string `json:"id,omitempty"`
	// Instances are where the replicas that are missing go, by a plan: as many
	// or fewer. Their Wanted and Model are set here. What has no place is
	// placed by the master.
	Instances []cluster.Instance `json:"instances,omitempty"`
	// Placed loads are refused with StalePlan where a replica has no place: who
	// gives the command plans again.
	Placed bool `json:"placed,omitempty"`
}

// Command makes the command. It needs an id, which also names what is wanted.
func (l Load) Command(id string) (Command, error) { return encode(id, kindLoad, l) }

// Unload ends what is wanted: of a model all replicas, or a single one by the
// id of what is wanted or of its instance.
type Unload struct {
	Model    string `json:"model,omitempty"`
	Wanted   string `json:"wanted,omitempty"`
	Instance string `json:"instance,omitempty"`
	Cause    string `json:"cause,omitempty"` // "": unloaded
	// Drain is how long open generations may go on; nil: the usual time.
	Drain *time.Duration `json:"drain,omitempty"`
}

// Command makes the command.
func (u Unload) Command(id string) (Command, error) { return encode(id, kindUnload, u) }

// maxReplicas bounds what one command can ask for.
const maxReplicas = 64

// wanted names the n-th of what a load makes.
func (l Load) wanted(command string, n int) string {
	id := l.ID
	if id == "" {
		id = command
	}
	if n == 0 {
		return id
	}
	return fmt.Sprintf("%s.%d", id, n)
}

// Want is what a load wants, once; for plans.
func (l Load) Want(id string) cluster.Wanted {
	sharding := l.Sharding
	if sharding == "" {
		sharding = placement.Auto
	}
	return cluster.Wanted{ID: id, Model: l.Model, Context: l.Context, Slots: l.Slots, Sharding: sharding, MinNodes: max(l.MinNodes, 1), Require: slices.Clone(l.Require)}
}

// Missing checks a load against the state and gives what it would add: wants
// with their ids, one for each replica that is not there yet.
func (l Load) Missing(s cluster.State, command string) ([]cluster.Wanted, error) {
	total := max(l.Replicas, 1)
	switch {
	case command == "" && l.ID == "":
		return nil, refuse(Invalid, "a load needs an id; give the command one")
	case l.Context < 1 || l.Slots < 1:
		return nil, refuse(Invalid, "context %d and slots %d must be at least 1", l.Context, l.Slots)
	case l.MinNodes < 0 || total > maxReplicas || l.Replicas < 0:
		return nil, refuse(Invalid, "min_nodes %d must not be negative, and replicas %d from 1 to %d", l.MinNodes, l.Replicas, maxReplicas)
	case !slices.Contains([]placement.Sharding{"", placement.Auto, placement.Pipeline, placement.Tensor}, l.Sharding):
		return nil, refuse(Invalid, "sharding %q must be auto, pipeline or tensor", l.Sharding)
	}
	if err := known(s, l.Model); err != nil {
		return nil, err
	}
	for _, id := range l.Require {
		if _, ok := s.Nodes[id]; !ok {
			return nil, refuse(UnknownNode, "there is no node %s; there are: %s", id, list(slices.Sorted(maps.Keys(s.Nodes))))
		}
	}
	workers := 0
	for _, n := range s.Nodes {
		if n.Online && n.Worker {
			workers++
		}
	}
	if l.MinNodes > max(workers, 1) {
		return nil, refuse(NotEnoughNodes, "%d nodes are wanted and %d workers are online; ask for fewer with min_nodes, or add nodes", l.MinNodes, workers)
	}
	if w, ok := s.Swapping(l.Model); ok && w.Model() == l.Model {
		return nil, busy(l.Model, w)
	}
	taken := map[int]bool{}
	var there []cluster.Wanted
	for _, id := range slices.Sorted(maps.Keys(s.Wanted)) {
		if w := s.Wanted[id]; w.Model == l.Model {
			taken[w.Copy] = true
			there = append(there, w)
		}
	}
	if total <= len(there) {
		return nil, refuse(AlreadyLoaded, "%s is loaded already (%s); unload it first, or ask for one more with replicas: %d", l.Model, describe(s, there[0]), len(there)+1)
	}
	var out []cluster.Wanted
	for copied := 0; len(there)+len(out) < total; copied++ {
		if taken[copied] {
			continue
		}
		w := l.Want(l.wanted(command, len(out)))
		w.Copy = copied
		if old, ok := s.Wanted[w.ID]; ok {
			return nil, refuse(Conflict, "%s is wanted already, for %s; choose another id", w.ID, old.Model)
		}
		out = append(out, w)
	}
	return out, nil
}

// describe says how something wanted is.
func describe(s cluster.State, w cluster.Wanted) string {
	if all := Instances(s, w.ID); len(all) > 0 {
		return fmt.Sprintf("instance %s, %s", all[0].ID, all[0].Status())
	}
	if w.Problem != "" {
		return "waiting: " + w.Problem
	}
	return "being placed"
}

func (d *decision) load(l Load) error {
	missing, err := l.Missing(d.state, d.command.ID)
	if err != nil {
		return err
	}
	if len(l.Instances) > len(missing) {
		return refuse(StalePlan, "%d places are given for %d replicas of %s", len(l.Instances), len(missing), l.Model)
	}
	if l.Placed && len(l.Instances) < len(missing) {
		return refuse(StalePlan, "%s could not be planned where it was asked for, from a state that is older than the master's; plan again", l.Model)
	}
	d.result.Model = l.Model
	for n, w := range missing {
		if err := d.add(cluster.ModelWanted{Wanted: w}); err != nil {
			return refuse(Invalid, "%v", err)
		}
		d.result.Wanted = append(d.result.Wanted, w.ID)
		if n >= len(l.Instances) {
			continue
		}
		i := l.Instances[n]
		i.Wanted, i.Model = w.ID, l.Model
		if err := d.add(cluster.InstancePlaced{Instance: i}); err != nil {
			return refuse(StalePlan, "the cluster changed while %s was planned (%v); plan again", l.Model, err)
		}
		d.result.Instances = append(d.result.Instances, i.ID)
	}
	return nil
}

func (d *decision) unload(u Unload) error {
	if u.Cause == "" {
		u.Cause = "unloaded"
	}
	if u.Drain != nil && *u.Drain < 0 {
		return refuse(Invalid, "open requests can't go on for %v; give 0 or more", *u.Drain)
	}
	for _, id := range slices.Sorted(maps.Keys(d.state.Swaps)) {
		w := d.state.Swaps[id]
		if w.Undone != "" {
			continue
		}
		for _, x := range append([]cluster.Wanted{w.New}, w.Old...) {
			if u.Model == x.Model || u.Wanted == x.ID || u.Instance != "" && d.state.Instances[u.Instance].Wanted == x.ID {
				return d.giveUp(w, x.Model)
			}
		}
	}
	d.result.Model = u.Model
	var ends []string
	for _, id := range slices.Sorted(maps.Keys(d.state.Wanted)) {
		w := d.state.Wanted[id]
		if u.Model != "" && w.Model == u.Model || u.Wanted == id || u.Instance != "" && d.state.Instances[u.Instance].Wanted == id {
			ends = append(ends, id)
			d.result.Model = w.Model
		}
	}
	if len(ends) == 0 {
		what := u.Model + u.Wanted + u.Instance
		if u.Model != "" {
			if err := known(d.state, u.Model); err != nil {
				return err
			}
			if found, err := d.forget(u.Model); found || err != nil {
				return err
			}
		}
		return notLoaded(d.state, what)
	}
	for _, id := range ends {
		for _, i := range Instances(d.state, id) {
			d.result.Instances = append(d.result.Instances, i.ID)
			d.result.Freed += i.Memory()
		}
		if err := d.add(cluster.ModelUnwanted{Wanted: id, Cause: u.Cause, Drain: u.Drain}); err != nil {
			return refuse(Invalid, "%v", err)
		}
		d.result.Wanted = append(d.result.Wanted, id)
	}
	return nil
}

// Instances are those of something wanted that are not being released, by id.
func Instances(s cluster.State, wanted string) []cluster.Instance {
	var out []cluster.Instance
	for _, id := range slices.Sorted(maps.Keys(s.Instances)) {
		if i := s.Instances[id]; i.Wanted == wanted && i.Releasing == "" {
			out = append(out, i)
		}
	}
	return out
}

// onDraining tells whether an instance has a shard on a node that is being
// drained, or one that has ended: it may have a second place.
func onDraining(s cluster.State, i cluster.Instance) bool {
	return slices.ContainsFunc(i.Shards, func(x cluster.Shard) bool { return s.Nodes[x.Node].Draining || x.Phase.Ended() })
}
