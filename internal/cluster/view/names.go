package view

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/ids"
)

// Model gives the full name of a model by its full or short name in any case.
// The error is a *command.Refusal.
func (v *View) Model(name string) (string, error) { return command.Resolve(v.in.State, name) }

// Loaded is Model among those that are wanted or placed: a short name that only
// one of them has is clear, whatever else there is.
func (v *View) Loaded(name string) (string, error) {
	models := map[string]cluster.Model{}
	for _, w := range v.in.State.Wanted {
		models[w.Model] = v.in.State.Models[w.Model]
	}
	for _, i := range v.in.State.Instances {
		models[i.Model] = v.in.State.Models[i.Model]
	}
	for _, w := range v.in.State.Swaps { // what goes may come back, and what did not come is told of
		models[w.Model()], models[w.New.Model] = v.in.State.Models[w.Model()], v.in.State.Models[w.New.Model]
	}
	id, err := command.Resolve(cluster.State{Models: models}, name)
	if !IsUnknown(err) {
		return id, err
	}
	if id, err = v.Model(name); err != nil {
		return "", err
	}
	if len(models) == 0 {
		return "", &command.Refusal{Code: command.NotLoaded, Message: fmt.Sprintf("%s is not loaded, nor is any other model", id)}
	}
	return "", &command.Refusal{Code: command.NotLoaded, Message: fmt.Sprintf("%s is not loaded; loaded are: %s", id, strings.Join(slices.Sorted(maps.Keys(models)), ", "))}
}

// IsUnknown tells that a name means nothing.
func IsUnknown(err error) bool {
	var r *command.Refusal
	return errors.As(err, &r) && r.Code == command.UnknownModel
}

// AmbiguousNode is the code of a reference that may mean several nodes.
const AmbiguousNode = "ambiguous_node"

// tellApart gives names to nodes of one name, such as several on one machine:
// the name and as much of the id as only one node has. It is the same on all
// nodes that know the same ones.
func (v *View) tellApart() map[ids.Node]string {
	byName := map[string][]ids.Node{}
	for _, id := range v.known() {
		if name := strings.ToLower(v.in.State.Nodes[id].Name); name != "" && v.listed(id) {
			byName[name] = append(byName[name], id)
		}
	}
	out := map[ids.Node]string{}
	var all []ids.Node // sorted
	for _, same := range byName {
		if len(same) < 2 {
			continue
		}
		if all == nil {
			all = slices.Sorted(slices.Values(v.known()))
		}
		for _, id := range same {
			out[id] = v.in.State.Nodes[id].Name + "-" + beginning(all, id)
		}
	}
	return out
}

// Names gives what people call each node of a moment that is there or was
// lately, for shapes that are not the view's.
func Names(in Inputs) func(ids.Node) string {
	v := &View{in: in}
	v.names = v.tellApart()
	return v.name
}

// beginning is the shortest part of an id, of four letters at least, with which
// no other of the sorted ones begins.
func beginning(sorted []ids.Node, id ids.Node) string {
	n := 4
	at, _ := slices.BinarySearch(sorted, id)
	for _, k := range []int{at - 1, at + 1} {
		if k < 0 || k >= len(sorted) {
			continue
		}
		for n < len(id) && strings.HasPrefix(string(sorted[k]), string(id[:n])) {
			n++
		}
	}
	return string(id[:min(n, len(id))])
}

// Named is a text for a person in which nodes are called by their names, where
// it has their ids.
func (v *View) Named(text string) string {
	var pairs []string
	for _, id := range v.known() {
		if name := v.name(id); name != string(id) && strings.Contains(text, string(id)) {
			pairs = append(pairs, string(id), name)
		}
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// Node finds a node by its id, a prefix of the id that only one has, or its
// friendly name, in any case. The error is a *command.Refusal.
func (v *View) Node(ref string) (api.Node, error) {
	var found []api.Node
	for _, match := range []func(api.Node) bool{
		func(n api.Node) bool { return n.NodeID == ref },
		func(n api.Node) bool { return strings.EqualFold(n.NodeID, ref) },
		func(n api.Node) bool { return strings.EqualFold(n.FriendlyName, ref) },
		func(n api.Node) bool { return strings.EqualFold(v.in.State.Nodes[ids.Node(n.NodeID)].Name, ref) },
		func(n api.Node) bool {
			return ref != "" && len(ref) <= len(n.NodeID) && strings.EqualFold(n.NodeID[:len(ref)], ref)
		},
	} {
		for _, n := range v.nodes {
			if match(n) {
				found = append(found, n)
			}
		}
		if len(found) > 0 {
			break
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		if len(v.nodes) == 0 {
			return api.Node{}, &command.Refusal{Code: command.UnknownNode, Message: fmt.Sprintf("there is no node %q, nor any other", ref)}
		}
		return api.Node{}, &command.Refusal{Code: command.UnknownNode, Message: fmt.Sprintf("there is no node %q; there are: %s", ref, describe(v.nodes))}
	}
	return api.Node{}, &command.Refusal{Code: AmbiguousNode, Message: fmt.Sprintf("%q may be any of: %s; give the id, or as much of it as only one has", ref, describe(found))}
}

// Require turns references into ids.
func (v *View) Require(refs []string) ([]ids.Node, error) {
	var out []ids.Node
	for _, ref := range refs {
		n, err := v.Node(ref)
		if err != nil {
			return nil, err
		}
		if id := ids.Node(n.NodeID); !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out, nil
}

// describe lists nodes for a person, not too many.
func describe(nodes []api.Node) string {
	const most = 12
	var out []string
	for _, n := range nodes[:min(most, len(nodes))] {
		text := n.NodeID
		if n.FriendlyName != n.NodeID {
			text += " (" + n.FriendlyName + ")"
		}
		out = append(out, text)
	}
	if len(nodes) > most {
		out = append(out, fmt.Sprintf("and %d more", len(nodes)-most))
	}
	return strings.Join(out, ", ")
}
