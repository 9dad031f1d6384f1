package sim

import (
	"errors"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/reconcile"
	"github.com/skein-run/skein/internal/ids"
)

// Swap has a client ask a node to swap a model for another.
func (w *World) Swap(at ids.Node, old, model string) string {
	id := w.id()
	w.swap(at, id, command.Swap{Unload: old, Load: command.Load{Model: model, Context: 512, Slots: 1}, Drain: time.Second}, 5)
	return id
}

// swap finds a place and gives the swap, again if the master's ledger says no.
func (w *World) swap(at ids.Node, id string, c command.Swap, tries int) {
	n := w.nodes[at]
	if !n.up {
		return
	}
	what := "swap " + c.Unload + " for " + c.Load.Model
	n.ask(func(vitals map[ids.Node]cluster.Vitals) {
		s := n.state()
		c.Load.Instances = nil
		old, next, err := c.Parts(s, id)
		if err == nil {
			p, tokens, overlap, err := reconcile.SwapPlan(s, vitals, nil, old, next, n.clock())
			if err != nil {
				w.note("%s: %s %s: %v", at, id, what, err)
				return
			}
			c.Overlap = overlap
			c.Load.Instances = append(c.Load.Instances, next.Instance(reconcile.InstanceID(s.Session, s.Index, next.ID), tokens, p))
		}
		// What is refused here the master refuses too, unless it knows better.
		written, err := c.Command(id)
		if err != nil {
			w.broken("%v", err)
			return
		}
		w.give(at, what, written, 3, func(err error) {
			var no *command.Refusal
			if errors.As(err, &no) && no.Code == command.StalePlan && tries > 0 {
				n.after(w.between(10*time.Millisecond, 300*time.Millisecond), func() { w.swap(at, id, c, tries-1) })
			}
		})
	})
}
