package sim

import (
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/cluster/reconcile"
	"github.com/skein-run/skein/internal/ids"
)

// poke lets the master decide, once for all news of a moment.
func (n *node) poke() {
	if n.term == nil || n.poked {
		return
	}
	n.poked = true
	n.after(time.Millisecond, func() {
		n.poked = false
		n.keep(nil, time.Time{})
	})
}

// keep decides as the master's keeper does.
func (n *node) keep(vitals map[ids.Node]cluster.Vitals, asked time.Time) {
	t := n.term
	if t == nil || !t.serving || n.keeping || n.state().Session != t.session {
		return // it is called again when that changes
	}
	in := reconcile.Input{State: n.state(), Session: t.session, Members: map[ids.Node]bool{n.opts.ID: true}, Causes: n.causes, Vitals: vitals, Asked: asked, Now: n.clock(), Memory: n.memory}
	for peer := range n.members {
		in.Members[peer] = true
	}
	out := reconcile.Decide(in)
	n.memory = out.Memory
	for _, err := range out.Odd {
		n.w.broken("odd: %v", err)
	}
	if out.Ask && !n.asking {
		n.asking = true
		n.ask(func(v map[ids.Node]cluster.Vitals) {
			n.asking = false
			if n.term == t {
				n.keep(v, in.Now)
			}
		})
	}
	if len(out.Changes) > 0 {
		c, err := command.Batch("", out.Changes)
		if err != nil {
			n.w.broken("%v", err)
			return
		}
		n.keeping = true
		n.submit(c, func(r answer, err error) {
			if n.term != t {
				return
			}
			n.keeping = false
			if err != nil || len(r.Refused) > 0 {
				n.after(time.Second, n.poke)
			}
			n.poke()
		})
	}
	if !out.Wake.IsZero() && !out.Wake.Equal(n.wake) {
		n.wake = out.Wake
		n.after(max(out.Wake.Sub(in.Now), time.Millisecond), func() {
			n.wake = time.Time{}
			n.poke()
		})
	}
}

// ask gets the vitals of those who answer within 300 ms.
func (n *node) ask(got func(map[ids.Node]cluster.Vitals)) {
	out := map[ids.Node]cluster.Vitals{n.opts.ID: n.vitals()}
	peers := n.peers()
	done := false
	end := func() {
		if !done {
			done = true
			got(out)
		}
	}
	for _, peer := range peers {
		n.w.send(n.opts.ID, peer, func(p *node) {
			v := p.vitals()
			n.w.send(peer, n.opts.ID, func(*node) {
				if !done {
					out[peer] = v
				}
				if len(out) == len(peers)+1 {
					end()
				}
			})
		})
	}
	if len(peers) == 0 {
		n.after(0, end)
		return
	}
	n.after(300*time.Millisecond, end)
}

// give submits a client's command, and once more with the same id when its
// outcome is not known.
func (w *World) give(at ids.Node, what string, c command.Command, tries int, ended func(error)) {
	n := w.nodes[at]
	if !n.up {
		return
	}
	n.submit(c, func(r answer, err error) {
		var no *command.Refusal
		switch {
		case err == nil:
			w.acked[c.ID] = acked{c, at, n.applied}
			w.note("%s: %s %s: done", at, c.ID, what)
		case errors.As(err, &no) && no.Code == command.StalePlan && ended != nil:
		case errors.As(err, &no):
			w.note("%s: %s %s: %s", at, c.ID, what, no.Message)
		case tries > 0:
			n.after(w.between(100*time.Millisecond, time.Second), func() { w.give(at, what, c, tries-1, ended) })
			return
		default:
			w.note("%s: %s %s: %v", at, c.ID, what, err)
		}
		if ended != nil {
			ended(err)
		}
	})
}

// id names a client's command.
func (w *World) id() string {
	w.given++
	return fmt.Sprintf("c%d", w.given)
}

// Load has a client ask a node to load a model, with a place by a plan, or
// without.
func (w *World) Load(at ids.Node, l command.Load, planned bool) string {
	id := w.id()
	if l.Context == 0 {
		l.Context = 512
	}
	if l.Slots == 0 {
		l.Slots = 1
	}
	if !planned {
		c, err := l.Command(id)
		if err != nil {
			w.broken("%v", err)
			return id
		}
		w.give(at, "load "+l.Model, c, 3, nil)
		return id
	}
	w.plan(at, id, l, 5)
	return id
}

// plan finds places and gives the load, again if the master's ledger says no.
func (w *World) plan(at ids.Node, id string, l command.Load, tries int) {
	n := w.nodes[at]
	if !n.up {
		return
	}
	n.ask(func(vitals map[ids.Node]cluster.Vitals) {
		l.Instances = nil
		s := n.state()
		missing, err := l.Missing(s, id)
		if err == nil {
			for _, m := range missing {
				var p placement.Plan
				var tokens int
				s = s.Apply(cluster.Event{Index: s.Index + 1, Session: s.Session, At: s.At, Change: cluster.ModelWanted{Wanted: m}})
				if p, tokens, err = reconcile.Plan(s, vitals, nil, m, nil, n.clock()); err != nil {
					w.note("%s: %s load %s: %v", at, id, l.Model, err)
					return
				}
				i := m.Instance(reconcile.InstanceID(s.Session, s.Index, m.ID), tokens, p)
				s = s.Apply(cluster.Event{Index: s.Index + 1, Session: s.Session, At: s.At, Change: cluster.InstancePlaced{Instance: i}})
				l.Instances = append(l.Instances, i)
			}
		}
		// What is refused here the master refuses too, unless it knows better.
		c, err := l.Command(id)
		if err != nil {
			w.broken("%v", err)
			return
		}
		w.give(at, "load "+l.Model, c, 3, func(err error) {
			var no *command.Refusal
			if errors.As(err, &no) && no.Code == command.StalePlan && tries > 0 {
				n.after(w.between(10*time.Millisecond, 300*time.Millisecond), func() { w.plan(at, id, l, tries-1) })
			}
		})
	})
}

// Unload has a client ask a node to unload a model.
func (w *World) Unload(at ids.Node, model string) string {
	id := w.id()
	c, err := command.Unload{Model: model}.Command(id)
	if err != nil {
		w.broken("%v", err)
		return id
	}
	w.give(at, "unload "+model, c, 3, nil)
	return id
}

// Change has a client ask a node for a change, as a drain.
func (w *World) Change(at ids.Node, change cluster.Change) string {
	id := w.id()
	c, err := command.Of(id, change)
	if err != nil {
		w.broken("%v", err)
		return id
	}
	w.give(at, cluster.KindOf(change), c, 3, nil)
	return id
}

// Promote has an operator ask a node to make another one master.
func (w *World) Promote(at, target ids.Node) {
	n := w.nodes[at]
	if !n.up {
		return
	}
	if err := n.el.Promote(target, n.clock()); err != nil {
		w.note("%s: %v", at, err)
	}
	n.elect()
}
