// Package reconcile keeps the cluster's promises: it compares what is wanted
// with what is there and says which changes bring the one to the other. Nodes
// that come and go are noted, instances that lost a shard are released, wanted
// models are placed, moved off nodes that are drained, and tried again.
//
// It is pure: Decide is a function of the state, the members, what nodes told
// of themselves, and of a memory of earlier attempts that its caller keeps;
// time is an argument. It imports only packages of the cluster, and may be
// called from any goroutine. The master calls it whenever something changed;
// called again with the same, it says the same.
package reconcile

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/ids"
)

// Pauses and limits.
const (
	// A wanted model that can't be placed, or whose instances fail, is tried
	// again after firstPause, doubled with each time up to lastPause.
	firstPause = time.Second
	lastPause  = 30 * time.Second
	// MaxFailures is after how many failed instances in a row nothing is
	// tried until a node or a file changes. One that lived for steady is not
	// in a row with the one before.
	MaxFailures = 5
	steady      = 5 * time.Minute
	// settle is how long something wanted may be without a place before one is
	// looked for, and arrival how long a node may be on the list and not be
	// seen: when a split heals, the places that the losing half found are offered
	// after what is wanted, and maybe before their nodes are seen.
	settle  = time.Second
	arrival = 2 * time.Second
	// patience is how many misses in a row are no problem yet while memory is
	// being released.
	patience = 3
	// forgetAfter is after how long a node that is away is forgotten.
	forgetAfter = 24 * time.Hour
)

// Attempt is what is remembered of a wanted model that does not run.
type Attempt struct {
	// Failures counts instances that failed, in a row; Avoid is where, Error
	// why. Next is when to place it again.
	Failures int
	Avoid    []ids.Node
	Error    string
	Next     time.Time
	counted  string // the last instance that was counted

	// Misses counts plans that found no place, in a row. It is tried again at
	// Again, or when what it depends on has changed: nodes and files (ground),
	// or memory that shards gave back (held).
	Misses int
	Again  time.Time
	ground uint64
	held   int64
}

// Memory is what a master remembers between two decisions of its term. The zero
// value is that of its first one.
type Memory struct {
	Attempts map[string]Attempt // by what is wanted
	// Freed is when memory was last given back, of the held bytes.
	Freed time.Time
	held  int64
}

// Input is what is known at a moment.
type Input struct {
	State   cluster.State
	Session ids.Session // of this master
	// Members are the nodes that are alive, with this one. Causes may say why
	// others are not.
	Members map[ids.Node]bool
	Causes  map[ids.Node]string
	// Vitals are those that were told, measured at Asked or after it; nil: nobody
	// was asked yet.
	Vitals map[ids.Node]cluster.Vitals
	Asked  time.Time
	Links  []placement.Link
	Now    time.Time
	Memory Memory
}

// Output is what to do.
type Output struct {
	// Changes are to be asked for in their order. They fit the state one after
	// the other, unless it has changed meanwhile.
	Changes []cluster.Change
	// Ask: something is to be placed, so vitals are needed.
	Ask bool
	// Wake is when to decide again if nothing changes; zero: never.
	Wake time.Time
	// Odd are changes that should have fitted and did not: errors of this
	// package, to be logged. They are tried again the next time.
	Odd []error
	// Memory is for the next time.
	Memory Memory
}

// pass is the work of one Decide.
type pass struct {
	Input
	state cluster.State // with the changes so far
	out   Output
	// attempts are those of out.Memory.
	attempts map[string]Attempt
	held     int64  // bytes that all shards hold in the ledger
	nodes    uint64 // fingerprint of the nodes
}

// Decide says what to change.
func Decide(in Input) Output {
	p := &pass{Input: in, state: in.State}
	p.attempts = map[string]Attempt{}
	for id, a := range in.Memory.Attempts {
		if _, ok := in.State.Wanted[id]; ok {
			p.attempts[id] = a
		}
	}
	p.out.Memory = Memory{Attempts: p.attempts, Freed: in.Memory.Freed, held: held(p.state)}
	if p.out.Memory.held < in.Memory.held {
		p.out.Memory.Freed = p.Now
	}
	p.members()
	p.swaps()
	p.broken()
	p.surplus()
	p.held, p.nodes = held(p.state), fingerprint(p.state)
	p.place()
	p.forget()
	return p.out
}

// do notes a change if it fits.
func (p *pass) do(c cluster.Change) error {
	e := cluster.Event{Index: p.state.Index + 1, Session: p.Session, At: p.Now, Change: c}
	if err := p.state.Admit(e); err != nil {
		return err
	}
	p.state = p.state.Apply(e)
	p.out.Changes = append(p.out.Changes, c)
	return nil
}

// must is do for changes that were made to fit.
func (p *pass) must(c cluster.Change) {
	if err := p.do(c); err != nil {
		p.out.Odd = append(p.out.Odd, err)
	}
}

// members notes who is there.
func (p *pass) members() {
	for _, id := range sorted(p.state.Nodes) {
		n := p.state.Nodes[id]
		switch {
		case n.Online && !p.Members[id]:
			if age := p.Now.Sub(n.Since); age >= 0 && age < arrival {
				p.wake(n.Since.Add(arrival))
				continue
			}
			cause := p.Causes[id]
			if cause == "" {
				cause = "it does not answer"
			}
			p.must(cluster.NodeGone{Node: id, Cause: cause})
		case !n.Online && p.Members[id]:
			// What it is, it says itself when that has changed.
			p.must(cluster.NodeSeen{Node: n})
		}
	}
}

// broken releases instances that have lost a shard.
func (p *pass) broken() {
	for _, id := range sorted(p.state.Instances) {
		i := p.state.Instances[id]
		k := slices.IndexFunc(i.Shards, func(x cluster.Shard) bool { return x.Phase.Ended() })
		if i.Releasing != "" || k < 0 {
			continue
		}
		if f := slices.IndexFunc(i.Shards, func(x cluster.Shard) bool { return x.Phase == cluster.Failed }); f >= 0 {
			k = f
			p.failed(i, i.Shards[f])
		}
		p.must(cluster.InstanceReleased{Instance: id, Cause: ending(k, i.Shards[k])})
	}
}

// ending says why a shard's instance can't go on.
func ending(k int, x cluster.Shard) string {
	switch x.Phase {
	case cluster.Failed:
		return fmt.Sprintf("shard %d failed on node %s: %s", k, x.Node, x.Error)
	case cluster.Lost:
		return fmt.Sprintf("shard %d is lost: %s", k, x.Error)
	}
	return fmt.Sprintf("shard %d was stopped on node %s", k, x.Node)
}

// failed counts a failure.
func (p *pass) failed(i cluster.Instance, x cluster.Shard) {
	a := p.attempts[i.Wanted]
	if a.counted == i.ID {
		return
	}
	if p.Now.Sub(i.Placed) >= steady {
		a = Attempt{}
	}
	a.counted = i.ID
	a.Failures++
	a.Error = ending(slices.IndexFunc(i.Shards, func(y cluster.Shard) bool { return y.Phase == cluster.Failed }), x)
	if !slices.Contains(a.Avoid, x.Node) {
		a.Avoid = append(slices.Clone(a.Avoid), x.Node)
	}
	a.Next = p.Now.Add(pause(a.Failures))
	a.ground = fingerprint(p.state) ^ files(p.state, i.Model)
	p.attempts[i.Wanted] = a
}

// pause is how long to wait after so many times.
func pause(times int) time.Duration {
	d := firstPause
	for range times - 1 {
		if d *= 2; d >= lastPause {
			return lastPause
		}
	}
	return d
}

// surplus ends all but one of several instances of something wanted, as soon
// as one of them serves that may stay: after a split both halves may have
// placed it, and what is moved runs twice for a while.
func (p *pass) surplus() {
	by := map[string][]cluster.Instance{}
	for _, id := range sorted(p.state.Instances) {
		if i := p.state.Instances[id]; alive(i) {
			by[i.Wanted] = append(by[i.Wanted], i)
		}
	}
	for _, wanted := range sorted(by) {
		all := by[wanted]
		if len(all) < 2 {
			continue
		}
		slices.SortStableFunc(all, func(a, b cluster.Instance) int {
			return cmp.Or(cmp.Compare(p.rank(b), p.rank(a)), cmp.Compare(b.Predicted.Decode, a.Predicted.Decode), a.Placed.Compare(b.Placed))
		})
		best := all[0]
		if p.rank(best) < serves {
			continue // nothing serves yet: the first one that does will stay
		}
		for _, i := range all[1:] {
			switch node := p.draining(i); {
			case node != "" && p.rank(best) == stays:
				p.must(cluster.InstanceReleased{Instance: i.ID, Cause: fmt.Sprintf("node %s is being drained; instance %s runs instead", node, best.ID)})
			case p.rank(best) == stays:
				p.must(cluster.InstanceReleased{Instance: i.ID, Cause: fmt.Sprintf("it runs twice; instance %s is kept", best.ID)})
			case node != "":
				p.must(cluster.InstanceReleased{Instance: i.ID, Cause: fmt.Sprintf("it runs twice on nodes that are being drained; instance %s is kept", best.ID)})
			}
		}
	}
}

// Ranks of an instance among those of the same wanted model.
const (
	comes  = iota // not ready
	serves        // ready, on a node that is being drained
	stays         // ready
)

func (p *pass) rank(i cluster.Instance) int {
	switch {
	case i.Status() != "ready":
		return comes
	case p.draining(i) != "":
		return serves
	}
	return stays
}

// alive tells whether an instance serves or is about to.
func alive(i cluster.Instance) bool {
	return i.Releasing == "" && !slices.ContainsFunc(i.Shards, func(x cluster.Shard) bool { return x.Phase.Ended() })
}

// draining is a node of an instance that is being drained; "": none is.
func (p *pass) draining(i cluster.Instance) ids.Node {
	for _, x := range i.Shards {
		if p.state.Nodes[x.Node].Draining {
			return x.Node
		}
	}
	return ""
}

// forget drops nodes that have been away for long.
func (p *pass) forget() {
	for _, id := range sorted(p.state.Nodes) {
		n := p.state.Nodes[id]
		if n.Online {
			continue
		}
		if at := n.Since.Add(forgetAfter); p.Now.Before(at) {
			p.wake(at)
			continue
		}
		p.must(cluster.NodeForgotten{Node: id})
	}
}

// wake asks to be called again.
func (p *pass) wake(at time.Time) {
	if p.out.Wake.IsZero() || at.Before(p.out.Wake) {
		p.out.Wake = at
	}
}

// instanceID names a new instance. Two masters never give the same: sessions
// differ.
func (p *pass) instanceID(wanted string) string { return InstanceID(p.Session, p.state.Index, wanted) }

// InstanceID makes the name of an instance from what sets it apart.
func InstanceID(session ids.Session, index uint64, wanted string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d %s", session.Master, session.Clock, index, wanted))
	return hex.EncodeToString(sum[:6])
}

func sorted[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
