package master

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/cluster/reconcile"
	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/replica"
)

const (
	// replans is how often a load is planned anew when the cluster changed
	// under its plan.
	replans = 10
	// stale is how long to wait for that change to arrive here.
	stale = 250 * time.Millisecond
	// fresh is how old what nodes told may be.
	fresh = time.Second
)

// PlannerOptions make a Planner.
type PlannerOptions struct {
	State  State
	Vitals Vitals
	// Context and Slots are for loads that do not say.
	Context, Slots int
}

// Planner works out where a model would go, and loads it there. Any node has
// one, master or not. Its methods may be called from any goroutine.
type Planner struct{ opts PlannerOptions }

// NewPlanner gives a Planner.
func NewPlanner(o PlannerOptions) (*Planner, error) {
	if o.State == nil || o.Vitals == nil {
		return nil, errors.New("planner: an option is missing")
	}
	if o.Context < 1 || o.Slots < 1 {
		return nil, fmt.Errorf("planner: context %d and slots %d must be at least 1", o.Context, o.Slots)
	}
	return &Planner{opts: o}, nil
}

// Planned is what a load comes to.
type Planned struct {
	Load command.Load // complete, with its places
	// Plans are those of Load.Instances, in order; why is in their
	// Explanation.
	Plans []placement.Plan
	// Result, Index and Copies are of the command that was given; zero after
	// Plan.
	Result command.Result
	Index  uint64
	Copies int
}

// Plan is a dry run: where a load would place its model, from what the nodes
// have now. Nothing changes. Errors are *replica.Refusal, or of asking the
// nodes.
func (p *Planner) Plan(ctx context.Context, l command.Load) (Planned, error) {
	return p.PlanWithin(ctx, l, 0)
}

// PlanWithin is Plan with at most so many nodes; 0: any number.
func (p *Planner) PlanWithin(ctx context.Context, l command.Load, most int) (Planned, error) {
	planned, err := p.plan(ctx, "dry-run", p.complete(l), site{most: most})
	return planned, refusal(err)
}

// site says more about where a load goes than its command does.
type site struct {
	most int // nodes; 0: any number
	// instance and seats are the one instance's id and place, if somebody else
	// decided them.
	instance string
	seats    []placement.Seat
}

func (at site) place(s cluster.State, vitals map[ids.Node]cluster.Vitals, links []placement.Link, w cluster.Wanted, now time.Time) (placement.Plan, int, error) {
	if at.seats != nil {
		return reconcile.Exactly(s, vitals, links, w, at.seats, now)
	}
	return reconcile.Within(s, vitals, links, w, at.most, nil, now)
}

// Load has a model loaded: it is planned here and checked against the ledger by
// the master, and planned again if it is refused for that. When it returns,
// the model has its place; it is not ready yet. The id makes it safe to call
// again. Errors are *replica.Refusal and those of Submit.
func (p *Planner) Load(ctx context.Context, id string, l command.Load) (Planned, error) {
	return p.load(ctx, id, l, site{})
}

// LoadAt is Load for a split that was decided elsewhere: the shards go where
// seats says, and the instance gets that id. If it can't be had exactly so, the
// load is refused.
func (p *Planner) LoadAt(ctx context.Context, id string, l command.Load, instance string, seats []placement.Seat) (Planned, error) {
	return p.load(ctx, id, l, site{instance: instance, seats: seats})
}

func (p *Planner) load(ctx context.Context, id string, l command.Load, at site) (Planned, error) {
	l = p.complete(l)
	return p.again(ctx, "load "+l.Model, l.Require, func() (Planned, command.Command, error) {
		planned, err := p.plan(ctx, id, l, at)
		var no *command.Refusal
		switch {
		case errors.As(err, &no) && at.seats == nil:
			// This node's state may be a moment old: the master says how it is, or
			// to plan again when the change is here.
			planned = Planned{Load: l}
			planned.Load.Placed = true
		case err != nil:
			return Planned{}, command.Command{}, refusal(err)
		}
		c, err := planned.Load.Command(id)
		return planned, c, err
	})
}

func (p *Planner) complete(l command.Load) command.Load {
	if l.Context == 0 {
		l.Context = p.opts.Context
		state, _ := p.opts.State.State()
		if n := state.Models[l.Model].Profile.Trained; n > 0 {
			l.Context = min(l.Context, n)
		}
	}
	if l.Slots == 0 {
		l.Slots = p.opts.Slots
	}
	l.Instances = nil
	return l
}

// placementError is a load that fits nowhere: the master can't know better.
type placementError struct{ err error }

func (e *placementError) Error() string { return e.err.Error() }

// refusal makes what is refused here look as if the master had.
func refusal(err error) error {
	var (
		no      *command.Refusal
		nowhere *placementError
	)
	switch {
	case errors.As(err, &nowhere):
		no = reconcile.Refusal(nowhere.err)
	case !errors.As(err, &no):
		return err
	}
	return &replica.Refusal{Code: no.Code, Message: no.Message}
}

// newest plans by what the nodes told lately, and if there is no place by that,
// by what they tell now: something may have ended since.
func newest(plan func(since time.Time) error) error {
	err := plan(time.Now().Add(-fresh))
	var nowhere *placementError
	if errors.As(err, &nowhere) {
		err = plan(time.Now())
	}
	return err
}

// plan places each replica that is missing, one after the other, in a copy of
// the state. Errors are *command.Refusal, *placementError and those of Vitals.
func (p *Planner) plan(ctx context.Context, id string, l command.Load, at site) (out Planned, err error) {
	err = newest(func(since time.Time) error {
		out, err = p.planSince(ctx, id, l, at, since)
		return err
	})
	return out, err
}

func (p *Planner) planSince(ctx context.Context, id string, l command.Load, at site, since time.Time) (Planned, error) {
	state, _ := p.opts.State.State()
	missing, err := l.Missing(state, id)
	if err != nil {
		return Planned{}, err
	}
	vitals, err := p.opts.Vitals.Vitals(ctx, since)
	if err != nil {
		return Planned{}, fmt.Errorf("plan %s: the nodes can't be asked for their free memory: %w", l.Model, err)
	}
	out := Planned{Load: l}
	now := time.Now()
	add := func(c cluster.Change) error {
		e := cluster.Event{Index: state.Index + 1, Session: state.Session, At: now, Change: c}
		if err := state.Admit(e); err != nil {
			return err
		}
		state = state.Apply(e)
		return nil
	}
	for _, w := range missing {
		if err := add(cluster.ModelWanted{Wanted: w}); err != nil {
			return Planned{}, fmt.Errorf("plan %s: %w", l.Model, err)
		}
		plan, tokens, err := at.place(state, vitals, p.opts.Vitals.Links(), w, now)
		if err != nil {
			return Planned{}, &placementError{err}
		}
		i := w.Instance(cmp.Or(at.instance, reconcile.InstanceID(state.Session, state.Index, w.ID)), tokens, plan)
		if err := add(cluster.InstancePlaced{Instance: i}); err != nil {
			return Planned{}, &placementError{err}
		}
		out.Load.Instances = append(out.Load.Instances, i)
		out.Plans = append(out.Plans, plan)
	}
	return out, nil
}
