// Package command says what a master makes of a command: the events that carry
// it out, or a refusal that names the fix.
//
// A command is either one change of package cluster, asked for by its kind (a
// node's facts, a shard's report, a drain, ...), or a wish that takes several:
// Load, Unload, Batch. Decide looks at the state alone. What it would have to
// measure (free memory) comes inside the command, as a plan that is checked
// against the ledger here: two plans made of one moment can't both take the
// same memory.
//
// It is pure: time is an argument, and it imports cluster and ids alone.
// All functions may be called from any goroutine.
package command

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/ids"
)

// Command is a wish to change the state, as replica.Command is one. ID is
// chosen by who asks: a command that comes twice is carried out once. The
// master's own commands and nodes' facts need none.
type Command struct {
	ID      string
	Kind    string
	Body    json.RawMessage
	Offered bool     // it was acknowledged by the half that lost a split
	By      string   // the name of the key that gave it; "": a node did
	Via     ids.Node // the node that took it
}

// Kinds of commands that are not a single change.
const (
	kindLoad   = "load"
	kindUnload = "unload"
	kindSwap   = "swap"
	kindBatch  = "batch"
)

// Result is what became of a command, for who asked.
type Result struct {
	Command   string   `json:"command_id,omitempty"`
	Model     string   `json:"model_id,omitempty"`
	Wanted    []string `json:"wanted,omitempty"`    // ids
	Instances []string `json:"instances,omitempty"` // placed, or released
	Freed     int64    `json:"freed,omitempty"`     // bytes that the ledger gets back
	// Restored is the model that comes back, since the swap for this one was given up.
	Restored string `json:"restored,omitempty"`
	// Again: the command had been carried out before.
	Again bool `json:"again,omitempty"`
	// Refused are the changes of a batch that do not fit.
	Refused []string `json:"refused,omitempty"`
}

// Of makes a command of one change.
func Of(id string, c cluster.Change) (Command, error) {
	b, err := cluster.EncodeChange(c)
	if err != nil {
		return Command{}, fmt.Errorf("command %s: %w", cluster.KindOf(c), err)
	}
	return Command{ID: id, Kind: cluster.KindOf(c), Body: b}, nil
}

// Batch makes one command of several changes. They are carried out in their
// order, each that fits; what is so already is left out.
func Batch(id string, changes []cluster.Change) (Command, error) {
	var out []written
	for _, c := range changes {
		b, err := cluster.EncodeChange(c)
		if err != nil {
			return Command{}, fmt.Errorf("command %s: %w", cluster.KindOf(c), err)
		}
		out = append(out, written{cluster.KindOf(c), b})
	}
	return encode(id, kindBatch, out)
}

// written is a change of a batch.
type written struct {
	Kind string          `json:"kind"`
	Body json.RawMessage `json:"body"`
}

func encode(id, kind string, body any) (Command, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return Command{}, fmt.Errorf("command %s: %w", kind, err)
	}
	return Command{ID: id, Kind: kind, Body: b}, nil
}

// decision is the work on one command.
type decision struct {
	start   cluster.State
	state   cluster.State // with the events so far
	command Command
	session ids.Session
	now     time.Time
	events  []cluster.Event
	named   bool // an event names the command
	result  Result
}

// Decide turns a command into events that follow the state, none if there is
// nothing to change. The error is a *Refusal.
func Decide(s cluster.State, c Command, session ids.Session, now time.Time) ([]cluster.Event, Result, error) {
	d := &decision{start: s, state: s, command: c, session: session, now: now.UTC().Round(0), result: Result{Command: c.ID}}
	if o, ok := s.Commands[c.ID]; ok && c.ID != "" {
		return nil, d.again(o), d.dropped(o)
	}
	var err error
	switch c.Kind {
	case kindLoad:
		err = with(d, d.load)
	case kindUnload:
		err = with(d, d.unload)
	case kindSwap:
		err = with(d, d.swap)
	case kindBatch:
		err = with(d, d.batch)
	default:
		err = d.single()
	}
	if err != nil {
		return nil, Result{}, err
	}
	return d.events, d.result, nil
}

// with reads the command's body and carries it out.
func with[T any](d *decision, do func(T) error) error {
	var body T
	if err := json.Unmarshal(d.command.Body, &body); err != nil {
		return refuse(Invalid, "command %s can't be read (%v); send it as this version of skein writes it", d.command.Kind, err)
	}
	return do(body)
}

// single carries out one change.
func (d *decision) single() error {
	c, err := cluster.DecodeChange(d.command.Kind, d.command.Body)
	if err != nil {
		return refuse(Invalid, "command %s can't be read: %v", d.command.Kind, err)
	}
	_, dropped := c.(cluster.CommandDropped)
	if !may(c) && !(dropped && d.command.Offered) {
		return refuse(Invalid, "%s is no command; it comes of others", d.command.Kind)
	}
	if d.command.Offered {
		return d.offered(c)
	}
	return d.change(c)
}

// batch carries out what fits.
func (d *decision) batch(list []written) error {
	for _, w := range list {
		c, err := cluster.DecodeChange(w.Kind, w.Body)
		if err != nil || !may(c) {
			return refuse(Invalid, "change %s of a batch can't be read (%v); send it as this version of skein writes it", w.Kind, err)
		}
		if err := d.change(c); err != nil {
			d.result.Refused = append(d.result.Refused, w.Kind+": "+err.Error())
		}
	}
	return nil
}

// may tells whether a change can be asked for.
func may(c cluster.Change) bool {
	_, dropped := c.(cluster.CommandDropped)
	return !dropped
}

// change carries out a change, unless it is so already.
func (d *decision) change(c cluster.Change) error {
	if d.already(c) {
		return nil
	}
	if r := d.explain(c); r != nil {
		return r
	}
	if err := d.add(c); err != nil {
		return refuse(codeOf(c), "%v", err)
	}
	return nil
}

// add makes an event. The first one of a command names it.
func (d *decision) add(c cluster.Change) error {
	e := cluster.Event{Index: d.state.Index + 1, Session: d.session, At: d.now, Change: c}
	names := !d.named && !(d.command.Offered && told(c)) // an offered fact needs no memory
	if names {
		e.Command = d.command.ID
	}
	e.By, e.Via = d.command.By, d.command.Via
	if err := d.state.Admit(e); err != nil {
		return err
	}
	d.state = d.state.Apply(e)
	d.events = append(d.events, e)
	d.named = d.named || names
	return nil
}

// again answers a command that was carried out before.
func (d *decision) again(o cluster.CommandOutcome) Result {
	r := Result{Command: d.command.ID, Again: true}
	switch d.command.Kind {
	case kindLoad:
		var l Load
		if json.Unmarshal(d.command.Body, &l) != nil {
			return r
		}
		r.Model = l.Model
		for n := 0; ; n++ {
			id := l.wanted(d.command.ID, n)
			if _, ok := d.state.Wanted[id]; !ok {
				break
			}
			r.Wanted = append(r.Wanted, id)
			for _, i := range Instances(d.state, id) {
				r.Instances = append(r.Instances, i.ID)
			}
		}
	case kindUnload:
		var u Unload
		if json.Unmarshal(d.command.Body, &u) == nil {
			r.Model = u.Model
		}
	case kindSwap:
		var w Swap
		if json.Unmarshal(d.command.Body, &w) == nil {
			w.again(d.state, d.command.ID, &r)
		}
	}
	return r
}

func (d *decision) dropped(o cluster.CommandOutcome) error {
	if o.Dropped == "" || d.command.Offered {
		return nil
	}
	return refuse(Dropped, "this command was taken by a half of the cluster that lost, and not done after all: %s; give it again under another id", o.Dropped)
}

// nameless begins the ids of offered commands that had none.
const nameless = "event:"

// Offers makes the commands that offer events of a losing half to the winner, in
// their order. An instance that came into being and ended in that half needs no
// offer: the winner would try once more what failed.
func Offers(lost []cluster.Event) []Command {
	over := map[string]bool{}
	for _, e := range lost {
		if c, ok := e.Change.(cluster.InstanceReleased); ok {
			over[c.Instance] = true
		}
	}
	var out []Command
	for _, e := range lost {
		if c, ok := e.Change.(cluster.InstancePlaced); ok && e.Command == "" && over[c.Instance.ID] {
			continue
		}
		if c, ok := undo(e); ok {
			out = append(out, c)
		}
	}
	return out
}

// undo makes the command that offers an event; false if it needs no offer: the
// master's view of nodes, and why something does not run, are the winner's to
// find out. That a command was dropped is offered: the winner may know nothing
// of it. What a node of the losing half released for want of its peers may run
// well on the other side.
func undo(e cluster.Event) (Command, bool) {
	id := e.Command
	switch c := e.Change.(type) {
	case cluster.SessionBegan, cluster.NodeGone, cluster.WantedProblem, cluster.InstanceReleased, nil:
		return Command{}, false
	case cluster.CommandDropped:
		// The log that said what became of a third half's command may lose in
		// its turn; the promise that no command disappears in silence goes on.
		if strings.HasPrefix(c.Command, nameless) {
			return Command{}, false // nobody waits for it
		}
		id = ""
	case cluster.SwapEnded, cluster.SwapUndone, cluster.SwapForgotten:
		if id == "" {
			return Command{}, false // the winner sees for itself how a swap goes
		}
	}
	if id == "" {
		id = fmt.Sprintf("%s%v/%d", nameless, e.Session, e.Index)
	}
	c, err := Of(id, e.Change)
	if err != nil {
		return Command{}, false // it was read from JSON, so it can be written
	}
	c.Offered, c.By, c.Via = true, e.By, e.Via
	return c, true
}
