package view

import (
	"cmp"
	"maps"
	"slices"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/ids"
)

// Library adds to the model files of one node what the other nodes have, and
// says of each who has it. Of files elsewhere the cluster knows no path and no
// architecture. own is sorted by name, and so is what comes back.
func (v *View) Library(self ids.Node, own []api.LibraryEntry) []api.LibraryEntry {
	out := make([]api.LibraryEntry, 0, len(own))
	here := map[string]bool{}
	for _, e := range own {
		here[e.Name] = true
		holders := v.in.State.Models[e.Name].Holders
		if !slices.Contains(holders, self) {
			// It has not been told yet, or has other contents than that of the others.
			holders = []ids.Node{self}
		}
		e.Nodes, e.NodeNames = v.holders(holders)
		out = append(out, e)
	}
	for _, name := range slices.Sorted(maps.Keys(v.in.State.Models)) {
		m := v.in.State.Models[name]
		if here[name] || len(others(self, m)) == 0 {
			continue // or it was taken off the list here, and the cluster is about to know
		}
		e := api.LibraryEntry{
			Name: name, Paths: []string{}, SizeBytes: v.files(name), SizeGB: inGB(v.files(name)),
			Parameters: m.Profile.Parameters, ContextLength: m.Profile.Trained, Source: api.SourceNodes,
		}
		if slices.Contains(m.Holders, self) {
			e.Source = api.SourceFetched
		}
		e.Nodes, e.NodeNames = v.holders(m.Holders)
		out = append(out, e)
	}
	slices.SortStableFunc(out, func(a, b api.LibraryEntry) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Elsewhere names the nodes other than self that have a model's files.
func (v *View) Elsewhere(self ids.Node, model string) []string {
	_, names := v.holders(others(self, v.in.State.Models[model]))
	return names
}

func others(self ids.Node, m cluster.Model) []ids.Node {
	return slices.DeleteFunc(slices.Clone(m.Holders), func(id ids.Node) bool { return id == self })
}

func (v *View) holders(nodes []ids.Node) (list, names []string) {
	for _, id := range nodes {
		list, names = append(list, string(id)), append(names, v.name(id))
	}
	return list, names
}
