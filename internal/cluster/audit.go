package cluster

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/ids"
)

// Bounds of what is kept about who did what.
const (
	maxAudit = 200 // entries
	maxWho   = 80  // bytes of a name
	maxWhat  = 300
)

// Audit is one command and who gave it.
type Audit struct {
	Index   uint64    `json:"index"` // of its event
	At      time.Time `json:"at"`
	By      string    `json:"by"`            // name of the key
	Via     ids.Node  `json:"via,omitempty"` // the node that took it
	Command string    `json:"command,omitempty"`
	What    string    `json:"what"`
	Result  string    `json:"result"` // "done", or why not
}

// Audited tells of something done that no other event tells of: a promotion, a
// change of one node's library.
type Audited struct {
	What   string `json:"what"`
	Result string `json:"result"`
}

func (Audited) kind() string { return "audited" }

func (c Audited) fits(State) error {
	if c.What == "" || c.Result == "" || len(c.What) > maxWhat || len(c.Result) > maxWhat {
		return fmt.Errorf("what was done and its result must have from 1 to %d letters", maxWhat)
	}
	return nil
}

func (c Audited) apply(s State, _ Event) State { return s }

// audit keeps who gave a command, of the newest maxAudit ones. before is the
// state that it changed.
func (s State) audit(before State, e Event) State {
	if e.By == "" || e.Command == "" {
		return s // nobody's: a node's fact, or a later event of a command
	}
	a := Audit{Index: e.Index, At: e.At, By: e.By, Via: e.Via, Command: e.Command, What: clip(before.describe(e.Change), maxWhat), Result: "done"}
	switch c := e.Change.(type) {
	case Audited:
		a.Result = c.Result
	case CommandDropped:
		a.Result = clip("dropped: "+c.Reason, maxWhat)
	}
	kept := s.Audit
	if len(kept) >= maxAudit {
		kept = kept[len(kept)-maxAudit+1:]
	}
	s.Audit = append(append(make([]Audit, 0, len(kept)+1), kept...), a)
	return s
}

// describe says what a change asks for.
func (s State) describe(c Change) string {
	switch c := c.(type) {
	case ModelWanted:
		return "load " + c.Wanted.Model
	case ModelUnwanted:
		return "unload " + s.Wanted[c.Wanted].Model
	case SwapBegan:
		return "swap " + s.Wanted[c.Swap.Old[0].ID].Model + " for " + c.Swap.New.Model
	case ModelForgotten:
		return "forget " + c.Model
	case NodeDrained:
		if c.Resume {
			return "resume node " + string(c.Node)
		}
		return "drain node " + string(c.Node)
	case NodeForgotten:
		return "forget node " + string(c.Node)
	case KeyAdded:
		return fmt.Sprintf("add key %s (%s)", c.Key.Name, c.Key.Role)
	case KeyRevoked:
		return "revoke key " + c.Name
	case Audited:
		return c.What
	}
	return strings.ReplaceAll(c.kind(), "_", " ")
}

// clip cuts a text at a whole letter.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}

// checkAudit says whether the list is in order.
func checkAudit(list []Audit) error {
	if len(list) > maxAudit {
		return fmt.Errorf("%d audits are kept, %d at most", len(list), maxAudit)
	}
	for i, a := range list {
		if a.By == "" || len(a.By) > maxWho || i > 0 && a.Index <= list[i-1].Index {
			return errors.New("the audits are out of order, or say nobody")
		}
	}
	return nil
}
