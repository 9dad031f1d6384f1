package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/view"
	"github.com/skein-run/skein/internal/httpapi/manage"
	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/master"
	"github.com/skein-run/skein/internal/node/control"
	"github.com/skein-run/skein/internal/replica"
)

// clustered joins the management API with the cluster.
type clustered struct {
	control *control.Control
	self    ids.Node
	begun   time.Time
	audits  audits
}

// Changes implements manage.Cluster.
func (c clustered) Changes() <-chan struct{} { return c.control.Cluster().Changes() }

// Snapshot implements manage.Cluster.
func (c clustered) Snapshot(ctx context.Context) (view.Inputs, error) {
	vitals, err := c.control.Vitals(ctx)
	if err != nil {
		return view.Inputs{}, err
	}
	state, _ := c.control.Cluster().State()
	now := time.Now()
	in := view.Inputs{Now: now, State: state, Vitals: vitals, Live: map[ids.Node]bool{c.self: true}, Uptime: now.Sub(c.begun)}
	for _, p := range c.control.Peers() {
		in.Live[p] = true
	}
	if l := c.control.Leader(); l.Live {
		in.Master = l.Session.Master
	} else {
		in.NoMaster = (&replica.NoMasterError{Last: l.Session}).Error()
	}
	return in, nil
}

// submit gives a command, and puts its errors in the API's words.
func (c clustered) submit(ctx context.Context, cmd command.Command) (command.Result, replica.Answer, error) {
	a, err := c.control.Cluster().Submit(ctx, replica.Command(cmd))
	if err != nil {
		return command.Result{}, a, managed(cmd.ID, err)
	}
	c.see(ctx, a.Index)
	var r command.Result
	if err := json.Unmarshal(a.Result, &r); err != nil {
		return r, a, fmt.Errorf("read the answer to command %s: %w", cmd.ID, err)
	}
	return r, a, nil
}

// lag is how long an answer waits for this node's own view of the cluster: who
// was answered and asks here again sees what was done, unless the node lags far.
const lag = 250 * time.Millisecond

// see is seen, or returns after a while.
func (c clustered) see(ctx context.Context, index uint64) {
	ctx, cancel := context.WithTimeout(ctx, lag)
	defer cancel()
	_ = c.seen(ctx, index) // what was done is answered all the same
}

// seen waits until this node knows of a command that the master has carried
// out: who makes or deletes something asks for it next.
func (c clustered) seen(ctx context.Context, index uint64) error {
	for {
		changes := c.control.Cluster().Changes()
		if _, applied := c.control.Cluster().State(); applied >= index {
			return nil
		}
		select {
		case <-changes:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// managed puts an error of a command in the words of the management API.
func managed(id string, err error) error {
	var no *replica.Refusal
	var none *replica.NoMasterError
	var full *replica.UnwritableError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &full):
		return manage.Unwritable(err.Error())
	case errors.As(err, &none):
		return manage.NoMaster(err.Error())
	case errors.Is(err, replica.ErrUnconfirmed):
		return manage.Unconfirmed(id, err)
	case errors.As(err, &no):
		return manage.Refused(no.Code, no.Message)
	}
	return err
}

// Load implements manage.Commands.
func (c clustered) Load(ctx context.Context, id string, l command.Load, dryRun bool) (manage.Loaded, error) {
	do := func() (p master.Planned, err error) { return c.control.Planner().Load(ctx, id, l) }
	if dryRun {
		do = func() (p master.Planned, err error) { return c.control.Planner().Plan(ctx, l) }
	}
	p, err := do()
	if err != nil {
		return manage.Loaded{}, managed(id, err)
	}
	c.see(ctx, p.Index)
	return loaded(p), nil
}

// loaded is what is told of a plan, carried out or not.
func loaded(p master.Planned) manage.Loaded {
	out := manage.Loaded{Plans: p.Plans, Context: p.Load.Context, Slots: p.Load.Slots, Copies: p.Copies, Instances: p.Result.Instances}
	for _, i := range p.Load.Instances {
		if i.Context < p.Load.Context {
			out.Warning = fmt.Sprintf("context lowered from %d to %d tokens a slot, as memory or the model allow", p.Load.Context, i.Context)
			out.Context = i.Context
		}
	}
	return out
}

// Unload implements manage.Commands. The executor lets open generations end.
func (c clustered) Unload(ctx context.Context, id, model string, drain time.Duration) (manage.Unloaded, error) {
	cmd, err := command.Unload{Model: model, Drain: &drain}.Command(id)
	if err != nil {
		return manage.Unloaded{}, err
	}
	r, a, err := c.submit(ctx, cmd)
	if err != nil {
		return manage.Unloaded{}, err
	}
	return manage.Unloaded{Instances: r.Instances, Freed: r.Freed, Restored: r.Restored, Copies: a.Copies}, nil
}

// Swap implements manage.Commands.
func (c clustered) Swap(ctx context.Context, id string, s manage.Swap, dryRun bool) (manage.Swapped, error) {
	w := command.Swap{Unload: s.Unload, Load: s.Load, Drain: s.Drain}
	do := func() (p master.Planned, err error) { return c.control.Planner().Swap(ctx, id, w) }
	if dryRun {
		do = func() (p master.Planned, err error) { return c.control.Planner().PlanSwap(ctx, w) }
	}
	p, err := do()
	if err != nil {
		return manage.Swapped{}, managed(id, err)
	}
	c.see(ctx, p.Index)
	return manage.Swapped{Loaded: loaded(p), UnloadID: id, LoadID: id, Freed: p.Result.Freed}, nil
}

// Promote implements manage.Commands.
func (c clustered) Promote(ctx context.Context, id string, node ids.Node) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := c.control.Promote(ctx, node)
	c.audits.note(ctx, id, "promote node "+string(node), err)
	if err != nil {
		return manage.Refused(command.Conflict, err.Error())
	}
	return nil
}

// Drain implements manage.Commands.
func (c clustered) Drain(ctx context.Context, id string, node ids.Node, resume bool) (int, error) {
	cmd, err := command.Of(id, cluster.NodeDrained{Node: node, Resume: resume})
	if err != nil {
		return 0, err
	}
	_, a, err := c.submit(ctx, cmd)
	return a.Copies, err
}
