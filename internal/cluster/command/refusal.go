package command

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/ids"
)

// Codes of refusals.
const (
	Invalid        = "invalid"          // the command makes no sense
	UnknownModel   = "unknown_model"    // nobody has its files
	UnknownNode    = "unknown_node"     //
	UnknownKey     = "unknown_key"      //
	Ambiguous      = "ambiguous"        // a short name of several models
	AlreadyLoaded  = "already_loaded"   // or loading; replicas would ask for one more
	NotLoaded      = "not_loaded"       //
	NotEnoughNodes = "not_enough_nodes" // more min_nodes than workers
	NoFiles        = "no_files"         // no node that has the files is online
	NoMemory       = "no_memory"        // it fits nowhere
	Unplaceable    = "unplaceable"      // it can't be placed so, for another reason
	StalePlan      = "stale_plan"       // the ledger changed under the plan: plan again
	InUse          = "in_use"           // what is to be forgotten is needed
	Conflict       = "conflict"         // another model of that name, a download that runs, ...
	Stale          = "stale"            // a report about what is no more
	Dropped        = "dropped"          // by the winner of a split
)

// Refusal is the state's no: the command can't be done, and Message says what
// to do about it.
type Refusal struct {
	Code    string
	Message string
}

func (r *Refusal) Error() string { return r.Message }

func refuse(code, format string, args ...any) *Refusal {
	return &Refusal{Code: code, Message: fmt.Sprintf(format, args...)}
}

// codeOf is the code for a change that does not fit, if nothing is more exact.
func codeOf(c cluster.Change) string {
	switch c.(type) {
	case cluster.InstancePlaced:
		return StalePlan
	case cluster.SwapBegan:
		return StalePlan
	case cluster.SwapEnded, cluster.SwapUndone, cluster.SwapForgotten, cluster.ShardReported, cluster.InstanceReleased, cluster.WantedProblem, cluster.DownloadEnded:
		return Stale
	case cluster.NodeForgotten, cluster.ModelForgotten:
		return InUse
	case cluster.ModelKnown, cluster.DownloadBegan, cluster.FilesMoved, cluster.KeyRevoked:
		return Conflict
	}
	return Invalid
}

// explain finds a better reason than the event's own, nil if there is none to
// refuse.
func (d *decision) explain(c cluster.Change) error {
	s := d.state
	node := func(id ids.Node) error {
		if _, ok := s.Nodes[id]; !ok {
			return refuse(UnknownNode, "there is no node %s; there are: %s", id, list(slices.Sorted(maps.Keys(s.Nodes))))
		}
		return nil
	}
	switch c := c.(type) {
	case cluster.NodeDrained:
		return node(c.Node)
	case cluster.NodeForgotten:
		if err := node(c.Node); err != nil {
			return err
		}
		if s.Nodes[c.Node].Online {
			return refuse(InUse, "node %s is online; stop it there before it is forgotten, or drain it to keep it empty", c.Node)
		}
	case cluster.ModelForgotten:
		return known(s, c.Model)
	case cluster.FilesMoved:
		if err := known(s, c.Model); err != nil {
			return err
		}
		return node(c.Node)
	case cluster.KeyAdded:
		if _, ok := s.Keys[c.Key.Name]; ok {
			return refuse(Conflict, "there is a key %s already; revoke it first, or choose another name", c.Key.Name)
		}
	case cluster.KeyRevoked:
		if _, ok := s.Keys[c.Name]; !ok {
			return refuse(UnknownKey, "there is no key %s; there are: %s", c.Name, list(slices.Sorted(maps.Keys(s.Keys))))
		}
	case cluster.InstancePlaced:
		// Two plans of one moment, of which one was carried out.
		for _, i := range Instances(s, c.Instance.Wanted) {
			if !onDraining(s, i) {
				return refuse(StalePlan, "%s is placed already, as instance %s", i.Model, i.ID)
			}
		}
	}
	return nil
}

// known refuses models that nobody has.
func known(s cluster.State, model string) error {
	if _, ok := s.Models[model]; ok {
		return nil
	}
	if len(s.Models) == 0 {
		return refuse(UnknownModel, "there is no model %s, and no other; add a model file on a node with 'skein models add'", model)
	}
	return refuse(UnknownModel, "there is no model %s; there are: %s", model, list(slices.Sorted(maps.Keys(s.Models))))
}

// list writes names for a person, not too many.
func list[T ~string](names []T) string {
	const most = 12
	var out []string
	for _, n := range names[:min(most, len(names))] {
		out = append(out, string(n))
	}
	if len(names) > most {
		out = append(out, fmt.Sprintf("and %d more", len(names)-most))
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ", ")
}

// Resolve finds a model by its full name or by the last part of it, without
// regard to case.
func Resolve(s cluster.State, name string) (string, error) {
	if _, ok := s.Models[name]; ok {
		return name, nil
	}
	var full, short []string
	for _, m := range slices.Sorted(maps.Keys(s.Models)) {
		if strings.EqualFold(m, name) {
			full = append(full, m)
		}
		if strings.EqualFold(m[strings.LastIndexByte(m, '/')+1:], name) {
			short = append(short, m)
		}
	}
	for _, found := range [][]string{full, short} {
		switch {
		case len(found) == 1:
			return found[0], nil
		case len(found) > 1:
			return "", refuse(Ambiguous, "%s may be any of: %s; give the full name", name, list(found))
		}
	}
	return "", known(s, name)
}
