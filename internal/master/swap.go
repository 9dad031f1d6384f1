package master

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/cluster/reconcile"
	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/replica"
)

// PlanSwap is a dry run of a swap: where the new model would go. Nothing
// changes. Errors are *replica.Refusal, or of asking the nodes.
func (p *Planner) PlanSwap(ctx context.Context, w command.Swap) (Planned, error) {
	w.Load = p.complete(w.Load)
	planned, _, err := p.planSwap(ctx, "dry-run", w)
	return planned, refusal(err)
}

// Swap has a model take the place of another: the new one's place is found here,
// in what there is when the old one has ended, and checked by the master. When
// it returns, that is decided; if it can't be, nothing changed. The id makes it
// safe to call again. Errors are *replica.Refusal and those of Submit.
func (p *Planner) Swap(ctx context.Context, id string, w command.Swap) (Planned, error) {
	w.Load = p.complete(w.Load)
	return p.again(ctx, "swap for "+w.Load.Model, w.Load.Require, func() (Planned, command.Command, error) {
		planned, placed, err := p.planSwap(ctx, id, w)
		var no *command.Refusal
		switch {
		case errors.As(err, &no):
			// The master says how it is; it takes no swap without a place.
			planned, placed = Planned{Load: w.Load}, w
		case err != nil:
			return Planned{}, command.Command{}, refusal(err)
		}
		c, err := placed.Command(id)
		return planned, c, err
	})
}

func (p *Planner) planSwap(ctx context.Context, id string, w command.Swap) (out Planned, placed command.Swap, err error) {
	err = newest(func(since time.Time) error {
		out, placed, err = p.planSwapSince(ctx, id, w, since)
		return err
	})
	return out, placed, err
}

func (p *Planner) planSwapSince(ctx context.Context, id string, w command.Swap, since time.Time) (Planned, command.Swap, error) {
	state, _ := p.opts.State.State()
	old, next, err := w.Parts(state, id)
	if err != nil {
		return Planned{}, w, err
	}
	vitals, err := p.opts.Vitals.Vitals(ctx, since)
	if err != nil {
		return Planned{}, w, fmt.Errorf("plan %s: the nodes can't be asked for their free memory: %w", next.Model, err)
	}
	plan, tokens, overlap, err := reconcile.SwapPlan(state, vitals, p.opts.Vitals.Links(), old, next, time.Now())
	if err != nil {
		return Planned{}, w, &placementError{err}
	}
	i := next.Instance(reconcile.InstanceID(state.Session, state.Index, next.ID), tokens, plan)
	w.Load.Instances, w.Overlap = []cluster.Instance{i}, overlap
	out := Planned{Load: w.Load, Plans: []placement.Plan{plan}}
	for _, o := range old {
		for _, i := range command.Instances(state, o.ID) {
			out.Result.Freed += i.Memory()
		}
	}
	return out, w, nil
}

// again plans and submits, anew when the cluster changed under the plan, or when
// it is refused for want of nodes while one is there that the cluster's state
// has not yet: one of those that are named, or any.
func (p *Planner) again(ctx context.Context, what string, named []ids.Node, plan func() (Planned, command.Command, error)) (Planned, error) {
	for try := 1; ; try++ {
		changes := p.opts.State.Changes()
		planned, c, err := plan()
		if err == nil {
			var a replica.Answer
			if a, err = p.opts.State.Submit(ctx, replica.Command(c)); err == nil {
				planned.Index, planned.Copies = a.Index, a.Copies
				planned.Result, err = answer(a, nil)
				return planned, err
			}
		}
		if try == replans || !p.passes(ctx, err, named) {
			return Planned{}, err
		}
		wait := time.NewTimer(stale)
		select {
		case <-changes:
		case <-wait.C:
		case <-ctx.Done():
		}
		wait.Stop()
		if ctx.Err() != nil {
			return Planned{}, fmt.Errorf("%s: %w", what, context.Cause(ctx))
		}
	}
}

// passes tells whether what a load or a swap was refused for may be otherwise in
// a moment.
func (p *Planner) passes(ctx context.Context, err error, named []ids.Node) bool {
	var no *replica.Refusal
	if !errors.As(err, &no) {
		return false
	}
	switch no.Code {
	case command.StalePlan:
		return true
	case command.UnknownNode:
		return slices.ContainsFunc(p.joining(ctx), func(id ids.Node) bool { return slices.Contains(named, id) })
	case command.NotEnoughNodes, command.NoMemory:
		return len(p.joining(ctx)) > 0
	}
	return false
}

// joining are the nodes that answer here and are not in the state yet.
func (p *Planner) joining(ctx context.Context) (out []ids.Node) {
	vitals, err := p.opts.Vitals.Vitals(ctx, time.Now().Add(-fresh))
	if err != nil {
		return nil // what was refused stays refused
	}
	state, _ := p.opts.State.State()
	for id := range vitals {
		if _, known := state.Nodes[id]; !known {
			out = append(out, id)
		}
	}
	return out
}
