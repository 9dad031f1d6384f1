package sim

import (
	"time"

	"github.com/skein-run/skein/internal/ids"
)

// link is what is under way from one node to another. Nodes call each other
// through connections that keep order: what was sent first is read first, and
// what comes early waits for what is before it.
type link struct {
	from, to ids.Node
	sent     []*message // oldest first
}

// message is one that was sent and is not read yet.
type message struct {
	do      func(*node)
	void    func() bool // its connection is gone, or a process at its ends
	arrived bool        // its bytes would be there, if none before it were missing
	stuck   bool        // a cut held it; after the cut it is sent again
}

// send delivers to a node's process, after all that was sent before on the
// same link. A connection over a link that is cut holds what it has for as long
// as neither side noticed; what is under way when a process goes is lost.
func (w *World) send(from, to ids.Node, do func(*node)) {
	a, b := w.nodes[from], w.nodes[to]
	if !b.up {
		return
	}
	d := w.between(200*time.Microsecond, 8*time.Millisecond)
	if w.rng.IntN(50) == 0 { // one that was lost and sent again
		d += w.between(0, 200*time.Millisecond)
	}
	lives, drops := [2]int{a.life, b.life}, [2]int{a.drops[to], b.drops[from]}
	m := &message{do: do, void: func() bool {
		return lives != [2]int{a.life, b.life} || drops != [2]int{a.drops[to], b.drops[from]}
	}}
	key := [2]ids.Node{from, to}
	l := w.links[key]
	if l == nil {
		l = &link{from: from, to: to}
		w.links[key] = l
	}
	l.sent = append(l.sent, m)
	w.after(d, func() {
		m.arrived = true
		w.read(l)
	})
}

// read delivers what arrived on a link, up to the first message that is missing.
func (w *World) read(l *link) {
	for len(l.sent) > 0 {
		m := l.sent[0]
		if !m.void() {
			if !m.arrived || m.stuck {
				return
			}
			if !w.reach(l.from, l.to) {
				m.stuck = true
				return
			}
		}
		l.sent[0] = nil
		l.sent = l.sent[1:]
		if !m.void() {
			m.do(w.nodes[l.to])
		}
	}
}

// resume sends again what a cut held on a link, some time after the cut.
func (w *World) resume(from, to ids.Node) {
	l := w.links[[2]ids.Node{from, to}]
	if l == nil || len(l.sent) == 0 || !l.sent[0].stuck {
		return
	}
	m := l.sent[0]
	w.after(w.between(time.Millisecond, 300*time.Millisecond), func() {
		m.stuck = false
		w.read(l)
	})
}
