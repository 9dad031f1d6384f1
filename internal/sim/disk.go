package sim

import (
	"time"

	"github.com/skein-run/skein/internal/ids"
)

// Disks that are full, by the rules of package replica: who can't write confirms
// nothing, tells its election, and tries again with growing pauses.

// Fill leaves no room on a node's disk for its log, or makes room again.
func (w *World) Fill(id ids.Node, full bool) {
	n := w.nodes[id]
	if n.full == full {
		return
	}
	n.full = full
	w.note("%s: the disk is full: %v", id, full)
}

// room tells whether entries can be written, and notes it where they can't.
func (n *node) room() bool {
	if n.full && !n.failed {
		n.failed = true
		n.w.note("%s can't write", n.opts.ID)
		n.after(0, func() { // the election hears of it by a message
			n.el.Writable(false, n.clock())
			n.elect()
		})
		n.mend(200 * time.Millisecond)
	}
	return !n.full
}

// mend tries again.
func (n *node) mend(pause time.Duration) {
	n.after(pause, func() {
		if n.failed && !n.recover() {
			n.mend(min(2*pause, 5*time.Second))
		}
	})
}

// recover tries to write, and goes on if that is possible; false: it is not.
func (n *node) recover() bool {
	if n.full {
		return false
	}
	n.failed = false
	n.w.note("%s can write again", n.opts.ID)
	n.after(0, func() {
		if !n.failed {
			n.el.Writable(true, n.clock())
			n.elect()
		}
	})
	switch t := n.term; {
	case t != nil && !t.begun:
		n.reign() // the term begins now
	case t == nil && n.leader.Live:
		n.follow()
	}
	return true
}

// settled is settle for a term that may be over.
func (n *node) settled(t *term) {
	if n.term == t {
		n.settle()
	}
}
