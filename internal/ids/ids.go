// Package ids holds the names that every part of a cluster uses: of nodes and
// of the terms of their masters. It is a leaf: values and their order.
package ids

import (
	"cmp"
	"fmt"
)

// Node names a machine. It is made once, kept in its home, and never changes.
type Node string

// Session names one term of one master. Events carry it, so that those of a
// master that was replaced are refused.
type Session struct {
	Master Node   `json:"master_node_id"`
	Clock  uint64 `json:"clock"` // of the election that began the term
}

// Zero tells that there was no master yet.
func (s Session) Zero() bool { return s == Session{} }

// Compare orders sessions: negative if s is older than t. Two masters of one
// clock can't both stand; their names decide, so that all nodes agree.
func (s Session) Compare(t Session) int {
	if c := cmp.Compare(s.Clock, t.Clock); c != 0 {
		return c
	}
	return cmp.Compare(s.Master, t.Master)
}

func (s Session) String() string {
	if s.Zero() {
		return "no session"
	}
	return fmt.Sprintf("%s@%d", s.Master, s.Clock)
}
