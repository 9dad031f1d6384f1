// Package plan says what a node does next about the shards that it was given:
// fetch the files, start a process, load, connect with the others, serve, stop,
// and tell the master. It compares what the cluster's state wants with what
// the node has, each time anew, so it needs no memory and survives restarts.
//
// It is pure: the worker makes a View, carries the actions out, each in its own
// time, and asks again when something changed. It imports cluster and ids
// alone. Next may be called from any goroutine.
package plan

import (
	"cmp"
	"maps"
	"slices"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/ids"
)

// View is what a node knows at a moment.
type View struct {
	Self  ids.Node
	State cluster.State
	// Local is what is on this node, also of shards that the state no longer
	// has. What is missing here is not there.
	Local map[Key]Local
}

// Key names a shard.
type Key struct {
	Instance string
	Shard    int
}

func (k Key) compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Instance, o.Instance), cmp.Compare(k.Shard, o.Shard))
}

// Runner is how far a shard's process is.
type Runner int

// States of a process.
const (
	None      Runner = iota // there is none, or it has ended
	Up                      // it runs
	Loaded                  // it has the shard in memory
	Connected               // with the other shards, in Local.Epoch
	Serving                 // it is warm and takes steps
)

// Local is what a node has of a shard.
type Local struct {
	Fetched     bool // the bytes are here
	Runner      Runner
	Incarnation int    // of the process, or of the last one
	Link        string // host:port for other shards, from Loaded on
	Epoch       uint64 // of the connection, from Connected on
	// Doing is the action in progress; "": none. One at a time.
	Doing Do
	// Failed is why the shard can't run here; "": it can. A process that died
	// is no such reason: it is started again.
	Failed string
	// Told is the newest report that is on its way to the master, or arrived;
	// the worker clears it when it could not be delivered.
	Told cluster.ShardReported
}

// Do is a kind of action.
type Do string

// Kinds of actions.
const (
	Fetch   Do = "fetch"
	Start   Do = "start"
	Load    Do = "load"
	Connect Do = "connect"
	Serve   Do = "serve"
	Stop    Do = "stop"
	Report  Do = "report"
	// Forget: nothing of the shard is running any more, and nobody wants it.
	Forget Do = "forget"
)

// Action is one thing to do about one shard.
type Action struct {
	Do  Do
	Key Key
	// Incarnation is that of the process to start.
	Incarnation int
	// Epoch and Addresses, of all shards in order, are what Connect needs.
	Epoch     uint64
	Addresses []string
	// Report is what to tell the master.
	Report cluster.ShardReported
}

// Next lists what to do now, at most one report and one other action for each
// shard, in the order of the shards. What it says about one shard does not
// depend on what is being done about others of other instances.
func Next(v View) []Action {
	keys := map[Key]bool{}
	for k := range v.Local {
		keys[k] = true
	}
	for id, i := range v.State.Instances {
		for n, s := range i.Shards {
			if s.Node == v.Self && !s.Phase.Ended() {
				keys[Key{id, n}] = true
			}
		}
	}
	var out []Action
	for _, k := range slices.SortedFunc(maps.Keys(keys), Key.compare) {
		out = append(out, v.next(k)...)
	}
	return out
}

func (v View) next(k Key) []Action {
	local := v.Local[k]
	i, ok := v.State.Instances[k.Instance]
	mine := ok && k.Shard >= 0 && k.Shard < len(i.Shards) && i.Shards[k.Shard].Node == v.Self
	if !mine || i.Shards[k.Shard].Phase.Ended() {
		return end(k, local, Action{Do: Forget, Key: k})
	}
	shard := i.Shards[k.Shard]
	if i.Releasing != "" {
		stopped := cluster.ShardReported{Instance: k.Instance, Shard: k.Shard, Incarnation: shard.Incarnation, Phase: cluster.Stopped}
		if local.Told == stopped {
			return end(k, local)
		}
		return end(k, local, Action{Do: Report, Key: k, Report: stopped})
	}
	var out []Action
	if told := v.report(k, shard, local); told != nil {
		out = append(out, Action{Do: Report, Key: k, Report: *told})
	}
	if local.Failed != "" {
		return append(out, end(k, local)...)
	}
	if local.Doing == "" {
		if a := v.step(k, i, local); a != nil {
			out = append(out, *a)
		}
	}
	return out
}

// end stops what runs of a shard; last is done when nothing does.
func end(k Key, local Local, last ...Action) []Action {
	switch {
	case local.Doing == Stop:
		return nil
	case local.Runner != None || local.Doing != "":
		// Stop also ends an action that is in progress.
		return []Action{{Do: Stop, Key: k}}
	}
	return last
}

// step is the next thing to do about a shard that is to run.
func (v View) step(k Key, i cluster.Instance, local Local) *Action {
	shard := i.Shards[k.Shard]
	switch {
	case !local.Fetched:
		return &Action{Do: Fetch, Key: k}
	case local.Runner == None:
		return &Action{Do: Start, Key: k, Incarnation: max(local.Incarnation, shard.Incarnation) + 1}
	case local.Incarnation < shard.Incarnation:
		// The state knows of a later process, which is gone: it was told so late,
		// after a split. What this one would say is refused.
		return &Action{Do: Stop, Key: k}
	case local.Runner == Up:
		return &Action{Do: Load, Key: k}
	case local.Runner == Serving && (local.Epoch == i.Epoch() || len(i.Shards) == 1), local.Incarnation != shard.Incarnation:
		return nil // all is done, or the others do not know this process yet
	case len(i.Shards) == 1:
		return &Action{Do: Serve, Key: k}
	case local.Runner == Loaded || local.Epoch != i.Epoch():
		// All of them must have loaded, and be known by all to have.
		a := &Action{Do: Connect, Key: k, Epoch: i.Epoch()}
		for _, s := range i.Shards {
			if s.Link == "" || s.Phase.Ended() {
				return nil
			}
			a.Addresses = append(a.Addresses, s.Link)
		}
		return a
	case k.Shard == i.Head && slices.ContainsFunc(i.Shards, func(s cluster.Shard) bool { return s.Phase != cluster.Connected && s.Phase != cluster.Ready }):
		return nil // the head serves when all others are connected
	}
	return &Action{Do: Serve, Key: k}
}

// report is what the master does not know yet about a shard; nil: nothing.
func (v View) report(k Key, shard cluster.Shard, local Local) *cluster.ShardReported {
	r := cluster.ShardReported{Instance: k.Instance, Shard: k.Shard, Incarnation: local.Incarnation}
	epoch := v.State.Instances[k.Instance].Epoch()
	switch {
	case local.Failed != "":
		r.Phase, r.Error, r.Incarnation = cluster.Failed, local.Failed, shard.Incarnation
	case local.Runner == None && local.Doing == Fetch:
		r.Phase, r.Incarnation = cluster.Fetching, shard.Incarnation
	case local.Runner == None:
		return nil // a process is announced when it is up: it may not come up at all
	case local.Runner == Up && local.Doing == Load:
		r.Phase = cluster.Loading
	case local.Runner == Up:
		r.Phase = cluster.Starting
	case local.Runner == Serving && (local.Epoch == epoch || len(v.State.Instances[k.Instance].Shards) == 1):
		r.Phase, r.Link, r.Epoch = cluster.Ready, local.Link, local.Epoch
	case local.Runner >= Connected && local.Epoch == epoch:
		r.Phase, r.Link, r.Epoch = cluster.Connected, local.Link, local.Epoch
	default:
		r.Phase, r.Link = cluster.Loaded, local.Link
	}
	if local.Told == r || !news(shard, r) {
		return nil
	}
	return &r
}

// news tells whether a report says something that the state can take.
func news(shard cluster.Shard, r cluster.ShardReported) bool {
	switch {
	case r.Phase.Ended():
		return true
	case r.Incarnation != shard.Incarnation:
		return r.Incarnation > shard.Incarnation
	}
	return shard.Phase.Before(r.Phase)
}
