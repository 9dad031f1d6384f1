package cluster

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/bytesize"
)

// ModelWanted tells that a model is to run, until ModelUnwanted.
type ModelWanted struct {
	Wanted Wanted `json:"wanted"` // without Since and Problem
}

func (ModelWanted) kind() string { return "model_wanted" }

func (c ModelWanted) fits(s State) error {
	w := c.Wanted
	if w.ID == "" || w.Context < 1 || w.Slots < 1 || w.MinNodes < 0 {
		return fmt.Errorf("%q needs an id, a context and slots", w.ID)
	}
	if _, ok := s.Wanted[w.ID]; ok {
		return fmt.Errorf("%s is wanted already", w.ID)
	}
	if _, ok := s.Models[w.Model]; !ok {
		return fmt.Errorf("there is no model %s", w.Model)
	}
	if swap, ok := s.Swapping(w.Model); ok {
		return fmt.Errorf("%s is being swapped for %s", swap.Model(), swap.New.Model)
	}
	if swap, ok := s.SwapOf(w.ID); ok {
		return fmt.Errorf("%s is part of swap %s", w.ID, swap.ID)
	}
	return nil
}

func (c ModelWanted) apply(s State, e Event) State {
	w := c.Wanted
	w.Since, w.Problem = e.At, ""
	s.Wanted = put(s.Wanted, w.ID, w)
	// Why it did not come at another time is history now.
	for _, id := range sortedKeys(s.Swaps) {
		if old := s.Swaps[id]; old.Undone != "" && old.New.Model == w.Model {
			s.Swaps = without(s.Swaps, id)
		}
	}
	return s
}

// ModelUnwanted ends that, and releases what was placed for it.
type ModelUnwanted struct {
	Wanted string `json:"wanted"`
	Cause  string `json:"cause"`
	// Drain is how long open generations may go on; nil: as long as their
	// nodes allow.
	Drain *time.Duration `json:"drain,omitempty"`
}

func (ModelUnwanted) kind() string { return "model_unwanted" }

func (c ModelUnwanted) fits(s State) error {
	if _, ok := s.Wanted[c.Wanted]; !ok {
		return fmt.Errorf("%s is not wanted", c.Wanted)
	}
	switch {
	case c.Cause == "":
		return errors.New("it needs a cause")
	case c.Drain != nil && *c.Drain < 0:
		return fmt.Errorf("open generations can't go on for %v", *c.Drain)
	}
	if swap, ok := s.SwapOf(c.Wanted); ok {
		return fmt.Errorf("%s is being swapped for %s", swap.Model(), swap.New.Model)
	}
	return nil
}

func (c ModelUnwanted) apply(s State, _ Event) State { return s.unwant(c.Wanted, c.Cause, c.Drain) }

// unwant ends something wanted, and releases what was placed for it.
func (s State) unwant(wanted, cause string, drain *time.Duration) State {
	s.Wanted = without(s.Wanted, wanted)
	for _, id := range sortedKeys(s.Instances) {
		if i := s.Instances[id]; i.Wanted == wanted && i.Releasing == "" {
			i.Releasing, i.Drain = cause, drain
			s = s.settle(i)
		}
	}
	return s
}

// WantedProblem tells why a wanted model does not run; "": it was overcome.
type WantedProblem struct {
	Wanted  string `json:"wanted"`
	Problem string `json:"problem"`
}

func (WantedProblem) kind() string { return "wanted_problem" }

func (c WantedProblem) fits(s State) error {
	if w, ok := s.Wanted[c.Wanted]; !ok || w.Problem == c.Problem {
		return fmt.Errorf("%s is not wanted, or that is known", c.Wanted)
	}
	return nil
}

func (c WantedProblem) apply(s State, _ Event) State {
	w := s.Wanted[c.Wanted]
	w.Problem = c.Problem
	s.Wanted = put(s.Wanted, w.ID, w)
	return s
}

// InstancePlaced tells where a wanted model goes. All shards begin as placed.
type InstancePlaced struct {
	Instance Instance `json:"instance"`
}

func (InstancePlaced) kind() string { return "instance_placed" }

func (c InstancePlaced) fits(s State) error {
	i := c.Instance
	w, wanted := s.Wanted[i.Wanted]
	_, known := s.Models[i.Model]
	switch {
	case i.ID == "":
		return errors.New("it has no id")
	case !wanted || w.Model != i.Model:
		return fmt.Errorf("%s is not wanted as %q", i.Model, i.Wanted)
	case !known:
		return fmt.Errorf("there is no model %s", i.Model)
	}
	if _, ok := s.Instances[i.ID]; ok {
		return fmt.Errorf("there is an instance %s", i.ID)
	}
	return s.room(i, s.reserved(i.Wanted))
}

// room says why an instance of a known model can't be where it is to be, beside
// what is reserved.
func (s State) room(i Instance, reserved map[budget]int64) error {
	if err := i.checkShards(len(s.Models[i.Model].Profile.Layers)); err != nil {
		return err
	}
	totals := s.totals()
	for k, shard := range i.Shards {
		n, ok := s.Nodes[shard.Node]
		switch {
		case !ok || !n.Online:
			return fmt.Errorf("shard %d: node %s is not there", k, shard.Node)
		case !n.Worker:
			return fmt.Errorf("shard %d: node %s runs no shards", k, shard.Node)
		case n.Draining:
			return fmt.Errorf("shard %d: node %s is being drained", k, shard.Node)
		case shard.Reserve < 1:
			return fmt.Errorf("shard %d: it is promised %d bytes", k, shard.Reserve)
		}
		key := budget{s.hostOf(shard.Node), shard.Device}
		if !slices.ContainsFunc(n.Devices, func(d device) bool { return d.ID == shard.Device }) {
			return fmt.Errorf("shard %d: node %s has no device %q", k, shard.Node, shard.Device)
		}
		// In this form nothing overflows.
		if left := totals[key] - reserved[key]; shard.Reserve > left {
			return fmt.Errorf("shard %d needs %s, node %s has %s that are not promised", k, bytesize.Format(shard.Reserve), shard.Node, bytesize.Format(max(left, 0)))
		}
		reserved[key] += shard.Reserve
	}
	return nil
}

func (c InstancePlaced) apply(s State, e Event) State {
	i := c.Instance
	i.Shards = slices.Clone(i.Shards)
	for k := range i.Shards {
		x := &i.Shards[k]
		x.Phase, x.Incarnation, x.Link, x.Error = Placed, 0, "", ""
	}
	i.Placed, i.Releasing, i.Drain = e.At, "", nil
	s.Instances = put(s.Instances, i.ID, i)
	if swap, ok := s.SwapOf(i.Wanted); ok && swap.New.ID == i.Wanted {
		swap.Placed = true
		s.Swaps = put(s.Swaps, swap.ID, swap)
	}
	w := s.Wanted[i.Wanted]
	w.Problem = ""
	s.Wanted = put(s.Wanted, w.ID, w)
	return s
}

// checkShards wants every layer exactly once, in stages of equally many ranks.
func (i Instance) checkShards(layers int) error {
	if len(i.Shards) == 0 || i.Head < 0 || i.Head >= len(i.Shards) {
		return fmt.Errorf("%d shards, and head %d", len(i.Shards), i.Head)
	}
	ranks := i.Shards[0].Spec.Ranks()
	if len(i.Shards)%ranks != 0 {
		return fmt.Errorf("%d shards are not stages of %d ranks", len(i.Shards), ranks)
	}
	next := 0
	for k, shard := range i.Shards {
		spec, first := shard.Spec, i.Shards[k-k%ranks].Spec
		switch {
		case spec.Rank != k%ranks || spec.Ranks() != ranks || !slices.Equal(spec.Parts, first.Parts):
			return fmt.Errorf("shard %d is rank %d of %v, not %d of %v", k, spec.Rank, spec.Parts, k%ranks, first.Parts)
		case spec.First != first.First || spec.End != first.End:
			return fmt.Errorf("shard %d has layers [%d, %d), rank 0 of its stage has [%d, %d)", k, spec.First, spec.End, first.First, first.End)
		case k%ranks == 0 && (spec.First != next || spec.End <= next):
			return fmt.Errorf("shard %d has layers [%d, %d), layer %d comes next", k, spec.First, spec.End, next)
		}
		next = spec.End
	}
	if next != layers {
		return fmt.Errorf("layers up to %d of %d are placed", next, layers)
	}
	return nil
}

// InstanceReleased begins the end of an instance: its shards are stopped, and
// when all have, it is gone.
type InstanceReleased struct {
	Instance string `json:"instance"`
	Cause    string `json:"cause"`
}

func (InstanceReleased) kind() string { return "instance_released" }

func (c InstanceReleased) fits(s State) error {
	if i, ok := s.Instances[c.Instance]; !ok || i.Releasing != "" {
		return fmt.Errorf("there is no instance %s, or it is being released", c.Instance)
	}
	if c.Cause == "" {
		return errors.New("it needs a cause")
	}
	return nil
}

func (c InstanceReleased) apply(s State, _ Event) State {
	i := s.Instances[c.Instance]
	i.Releasing = c.Cause
	return s.settle(i)
}

// ShardReported is what a node says about a shard of its own. A new
// incarnation is a new process: the others must be connected to it again.
type ShardReported struct {
	Instance    string `json:"instance"`
	Shard       int    `json:"shard"`
	Incarnation int    `json:"incarnation"`
	Phase       Phase  `json:"phase"`
	Link        string `json:"link,omitempty"`
	// Epoch is that of the connection, in reports of Connected and Ready of an
	// instance of several shards. One of an earlier connection is refused.
	Epoch uint64 `json:"epoch,omitempty"`
	Error string `json:"error,omitempty"`
}

func (ShardReported) kind() string { return "shard_reported" }

func (c ShardReported) fits(s State) error {
	i, ok := s.Instances[c.Instance]
	if !ok || c.Shard < 0 || c.Shard >= len(i.Shards) {
		return fmt.Errorf("there is no shard %d of an instance %s", c.Shard, c.Instance)
	}
	old := i.Shards[c.Shard]
	switch {
	case !c.Phase.known() || c.Phase == Lost || c.Phase == Placed:
		return fmt.Errorf("a node can't report %q", c.Phase)
	case old.Phase.Ended():
		return fmt.Errorf("it is %s, which is the end", old.Phase)
	case c.Incarnation < old.Incarnation:
		return fmt.Errorf("it is about process %d, and %d holds the shard", c.Incarnation, old.Incarnation)
	case c.Incarnation > 1<<30:
		return fmt.Errorf("process %d is too many", c.Incarnation)
	case c.Phase.order() > Loaded.order() && len(i.Shards) > 1 && (c.Epoch != i.Epoch() || c.Incarnation != old.Incarnation):
		return fmt.Errorf("it was %s in epoch %d, and this is epoch %d", c.Phase, c.Epoch, i.Epoch())
	case c.Incarnation == old.Incarnation && !c.Phase.Ended() && c.Phase.order() <= old.Phase.order():
		return fmt.Errorf("it is %s already", old.Phase)
	case c.Incarnation == 0 && c.Phase.order() > Fetching.order():
		return fmt.Errorf("it is %s without a process", c.Phase)
	case c.Phase == Failed && c.Error == "":
		return errors.New("a failure needs its reason")
	}
	return nil
}

func (c ShardReported) apply(s State, _ Event) State {
	i := s.Instances[c.Instance]
	renewed := c.Incarnation > i.Shards[c.Shard].Incarnation
	i = i.with(c.Shard, func(x *Shard) {
		x.Phase, x.Incarnation, x.Error = c.Phase, c.Incarnation, c.Error
		switch {
		case c.Link != "":
			x.Link = c.Link
		case renewed || c.Phase.Ended():
			x.Link = ""
		}
	})
	if renewed {
		for k, shard := range i.Shards {
			if k != c.Shard && shard.Phase.order() > Loaded.order() {
				i = i.with(k, func(x *Shard) { x.Phase = Loaded })
			}
		}
	}
	return s.settle(i)
}

// with gives a copy with one shard changed.
func (i Instance) with(shard int, change func(*Shard)) Instance {
	i.Shards = slices.Clone(i.Shards)
	change(&i.Shards[shard])
	return i
}

// settle stores an instance, or drops it if it is released and all shards have
// ended.
func (s State) settle(i Instance) State {
	if i.Releasing != "" && !slices.ContainsFunc(i.Shards, func(x Shard) bool { return !x.Phase.Ended() }) {
		s.Instances = without(s.Instances, i.ID)
		return s
	}
	s.Instances = put(s.Instances, i.ID, i)
	return s
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
