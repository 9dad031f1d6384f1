package sim

import (
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/plan"
)

// grace is how long a shard that the state lost is kept: after a split its
// instance may be adopted.
const grace = 2 * time.Second

// local is what a node has of a shard.
type local struct {
	plan.Local
	job     int       // number of the action in progress
	reserve int64     // bytes that it takes when loaded
	orphan  time.Time // since when the state does not have it; zero: it has
	part    string    // name of its bytes on the disk
	clearAt uint64    // index of the state that knows Told; 0: not yet
}

// work does what the plan says. It is called when something changed.
func (n *node) work() {
	s := n.state()
	view := plan.View{Self: n.opts.ID, State: s, Local: map[plan.Key]plan.Local{}}
	for k, l := range n.local {
		i, ok := s.Instances[k.Instance]
		if ok && k.Shard < len(i.Shards) && i.Shards[k.Shard].Node == n.opts.ID {
			l.orphan = time.Time{}
		} else if l.orphan.IsZero() {
			l.orphan = n.w.now
			n.after(grace, n.work)
		}
		if l.clearAt != 0 && n.applied >= l.clearAt {
			l.Told, l.clearAt = cluster.ShardReported{}, 0 // an instance that is placed again is told of again
		}
		if l.orphan.IsZero() || n.w.now.Sub(l.orphan) >= grace {
			view.Local[k] = l.Local
		}
	}
	for _, a := range plan.Next(view) {
		n.act(a)
	}
}

// act begins one action.
func (n *node) act(a plan.Action) {
	l := n.local[a.Key]
	if l == nil {
		i := n.state().Instances[a.Key.Instance]
		if a.Key.Shard >= len(i.Shards) {
			n.w.broken("%s is to %s %v, which is not its own", n.opts.ID, a.Do, a.Key)
			return
		}
		x := i.Shards[a.Key.Shard]
		l = &local{reserve: x.Reserve, part: fmt.Sprintf("%s %d-%d", i.Model, x.Spec.First, x.Spec.End)}
		n.local[a.Key] = l
	}
	var d time.Duration
	w := n.w
	switch a.Do {
	case plan.Report:
		n.report(a.Key, l, a.Report)
		return
	case plan.Forget:
		delete(n.local, a.Key)
		n.glance()
		return
	case plan.Fetch:
		if d = w.between(50*time.Millisecond, 2*time.Second); n.files[l.part] {
			d = time.Millisecond
		}
	case plan.Start:
		d = w.between(20*time.Millisecond, 200*time.Millisecond)
	case plan.Load:
		if n.taken(l)+l.reserve > n.opts.Memory {
			return // something is still being stopped; that will wake it
		}
		d = w.between(50*time.Millisecond, time.Second)
	case plan.Connect, plan.Serve:
		d = w.between(5*time.Millisecond, 100*time.Millisecond)
	case plan.Stop:
		d = w.between(5*time.Millisecond, 300*time.Millisecond)
	}
	l.job++
	l.Doing = a.Do
	job := l.job
	n.after(d, func() {
		if n.local[a.Key] == l && l.job == job {
			n.done(a, l)
		}
	})
}

// done ends an action.
func (n *node) done(a plan.Action, l *local) {
	w := n.w
	l.Doing = ""
	switch a.Do {
	case plan.Fetch:
		l.Fetched, n.files[l.part] = true, true
	case plan.Start:
		l.Runner, l.Incarnation = plan.Up, a.Incarnation
	case plan.Load:
		if w.rng.IntN(1000) < w.opts.LoadFails || w.refuses(a.Key.Instance, n) {
			l.Failed = "the library refuses it"
			break
		}
		l.Runner, l.Link = plan.Loaded, fmt.Sprintf("%s:%d", n.opts.ID, l.Incarnation)
		if w.rng.IntN(1000) < w.opts.Crashes {
			job := l.Incarnation
			n.after(w.between(0, 5*time.Second), func() { n.die(a.Key, job) })
		}
	case plan.Connect:
		l.Runner, l.Epoch = plan.Connected, a.Epoch
	case plan.Serve:
		l.Runner = plan.Serving
	case plan.Stop:
		l.Runner, l.Link, l.Epoch = plan.None, "", 0
	}
	n.gave()
}

// refuses tells whether an instance's model is one that never loads.
func (w *World) refuses(instance string, at *node) bool {
	name := at.state().Instances[instance].Model
	for _, n := range w.opts.Nodes {
		for _, m := range n.Models {
			if m.Name == name && m.Fails {
				return true
			}
		}
	}
	return false
}

// gave lets the nodes of the machine look again: there may be memory now that
// one of them waited for.
func (n *node) gave() {
	for _, id := range n.w.names {
		if p := n.w.nodes[id]; p.up && p.opts.Host == n.opts.Host {
			p.glance()
		}
	}
}

// die is a process that ends by itself.
func (n *node) die(k plan.Key, incarnation int) {
	l := n.local[k]
	if l == nil || l.Incarnation != incarnation || l.Runner == plan.None || l.Doing == plan.Stop {
		return
	}
	n.w.note("%s: process %d of shard %d of %s dies", n.opts.ID, incarnation, k.Shard, k.Instance)
	l.job++
	l.Runner, l.Link, l.Epoch, l.Doing = plan.None, "", 0, ""
	n.gave()
}

// report tells the master.
func (n *node) report(k plan.Key, l *local, r cluster.ShardReported) {
	c, err := command.Of("", r)
	if err != nil {
		n.w.broken("%v", err)
		return
	}
	l.Told, l.clearAt = r, 0
	asked := n.session
	n.submit(c, func(a answer, err error) {
		if l.Told != r || n.local[k] != l {
			return
		}
		if err == nil {
			l.clearAt = a.index
			if n.session != asked {
				l.clearAt = 1 // the log that stands may not have it, nor ever come so far
			}
			n.glance()
			return
		}
		n.after(n.w.between(20*time.Millisecond, 500*time.Millisecond), func() {
			if l.Told == r {
				l.Told = cluster.ShardReported{}
			}
			n.glance()
		})
	})
}

// taken is what processes on the node's machine take, without one of them.
func (n *node) taken(without *local) int64 {
	var sum int64
	for _, id := range n.w.names {
		p := n.w.nodes[id]
		if p.opts.Host != n.opts.Host {
			continue
		}
		for _, l := range p.local {
			if l != without && (l.Runner >= plan.Loaded || l.Doing == plan.Load) {
				sum += l.reserve
			}
		}
	}
	return sum
}

// vitals are what the node tells of itself.
func (n *node) vitals() cluster.Vitals {
	free := max(n.opts.Memory-n.taken(nil), 0)
	var pending int64
	for k, l := range n.local {
		i, ok := n.state().Instances[k.Instance]
		if ok && i.Releasing == "" && !i.Shards[k.Shard].Phase.Ended() && l.Runner < plan.Loaded && l.Doing != plan.Load {
			pending += l.reserve
		}
	}
	return cluster.Vitals{At: n.clock(), Devices: []cluster.DeviceVitals{{Total: n.opts.Memory, Available: free, Pending: pending}}}
}
