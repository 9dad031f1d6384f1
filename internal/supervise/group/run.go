package group

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise"
	"github.com/skein-run/skein/internal/supervise/group/member"
)

// run is the life of the Group.
func (g *Group) run(ctx context.Context) {
	defer close(g.done)
	var mirrors sync.WaitGroup
	for _, m := range g.members {
		mirrors.Go(func() { g.mirror(ctx, m) })
	}
	final := g.serve(ctx)
	g.cancel()
	stopping, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop := make(chan struct{})
	go func() {
		select {
		case <-g.force:
			cancel()
		case <-stop:
		}
	}()
	g.stopMembers(stopping)
	close(stop)
	mirrors.Wait()
	g.set(final)
}

// mirror wakes the group with every change of a member.
func (g *Group) mirror(ctx context.Context, m *member.Member) {
	for {
		s, changed := m.Watch()
		g.poke()
		if s.Final() {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// serve joins the members again and again, until ctx ends or one of them is
// lost for good; it returns the last state.
func (g *Group) serve(ctx context.Context) supervise.State {
	breaks := member.Breaks{StableAfter: g.opts.StableAfter, BackoffMin: g.opts.BackoffMin, Limit: g.opts.BreakLimit}
	var last error // why the group was apart last
	for {
		if state, over := g.gather(ctx, breaks.Count, last); over {
			return state
		}
		err := g.join(ctx)
		if err == nil {
			began := time.Now()
			g.set(supervise.State{Phase: supervise.Ready, Attempt: breaks.Count, Progress: 1})
			g.opts.Logger.Info("shards joined", "model", g.opts.Name, "shards", len(g.members), "epoch", g.current())
			err = g.hold(ctx)
			breaks.Held(time.Since(began))
		}
		if ctx.Err() != nil {
			return supervise.State{Phase: supervise.Stopped}
		}
		last = err
		var wait time.Duration
		over := false
		if !member.Died(err) {
			wait, over = breaks.Add()
		}
		if over {
			g.opts.Logger.Error("the shards cannot be kept together, giving up", "model", g.opts.Name, "error", last)
			return supervise.State{Phase: supervise.Failed, Attempt: breaks.Count, Err: fmt.Errorf("broke %d times, last: %w", breaks.Count, last)}
		}
		g.opts.Logger.Warn("the shards are apart, joining them again", "model", g.opts.Name, "cause", last, "attempt", breaks.Count, "wait", wait)
		g.set(supervise.State{Phase: supervise.Restarting, Attempt: breaks.Count, NextTry: time.Now().Add(wait), Err: last})
		if breaks.Count > 1 {
			t := time.NewTimer(wait)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
			}
		}
	}
}

// gather waits until every member is loaded. over is true when that will never
// be.
func (g *Group) gather(ctx context.Context, breaks int, last error) (final supervise.State, over bool) {
	for {
		s, ready := g.assess(breaks, last)
		switch {
		case ctx.Err() != nil:
			return supervise.State{Phase: supervise.Stopped}, true
		case s.Phase == supervise.Failed:
			g.opts.Logger.Error("a shard is lost for good", "model", g.opts.Name, "error", s.Err)
			return s, true
		case ready:
			return s, false
		}
		g.set(s)
		select {
		case <-g.wake:
		case <-ctx.Done():
		}
	}
}

// assess sums up the members: the worst of their phases, and their mean
// progress.
func (g *Group) assess(breaks int, last error) (s supervise.State, ready bool) {
	s = supervise.State{Phase: supervise.Loading, Attempt: breaks, Err: last}
	ready = true
	starting, restarting := false, last != nil
	for i, m := range g.members {
		one := m.State()
		switch one.Phase {
		case supervise.Ready:
			s.Progress++
			continue
		case supervise.Failed, supervise.Stopped:
			return supervise.State{Phase: supervise.Failed, Attempt: breaks + one.Attempt, Err: g.lost(i, one.Err)}, false
		case supervise.Restarting:
			restarting = true
			s.Attempt += one.Attempt
			s.Err = g.lost(i, one.Err)
			if one.NextTry.After(s.NextTry) {
				s.NextTry = one.NextTry
			}
		case supervise.Starting:
			starting = true
		}
		restarting = restarting || one.Attempt > 0
		ready = false
		s.Progress += one.Progress
	}
	s.Progress /= float64(len(g.members))
	switch {
	case restarting:
		s.Phase = supervise.Restarting
	case starting:
		s.Phase, s.Err = supervise.Starting, nil
	}
	return s, ready
}

func (g *Group) lost(i int, err error) error {
	if err == nil {
		err = errors.New("it was stopped")
	}
	return &Lost{Index: i, Shard: g.opts.describe(i), Err: err}
}

// join connects the members with a new epoch. A member that gives no sign of
// life, or no answer, is killed, so that it comes back anew.
func (g *Group) join(ctx context.Context) error {
	if err := g.all(ctx, (*member.Member).Ping); err != nil {
		return err
	}
	req := wire.ConnectRequest{Addresses: make([]string, len(g.members))}
	for i, m := range g.members {
		req.Addresses[i] = m.Info().Link
	}
	g.mu.Lock()
	req.Epoch = g.begin()
	g.mu.Unlock()
	return g.all(ctx, func(m *member.Member, ctx context.Context) error {
		return m.Connect(ctx, req)
	})
}

// all asks every member at once. It returns the telling one of their errors.
func (g *Group) all(ctx context.Context, ask func(*member.Member, context.Context) error) error {
	errs := make([]error, len(g.members))
	var wg sync.WaitGroup
	for i, m := range g.members {
		wg.Go(func() {
			if err := ask(m, ctx); err != nil {
				errs[i] = g.lost(i, err)
			}
		})
	}
	wg.Wait()
	// The others only say that they miss the one that died.
	for _, err := range errs {
		if err != nil && member.Died(err) {
			return err
		}
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// hold returns when the group is apart, with the reason, or when ctx ends.
func (g *Group) hold(ctx context.Context) error {
	for {
		for i, m := range g.members {
			if s := m.State(); s.Phase != supervise.Ready {
				return g.lost(i, s.Err)
			}
		}
		g.mu.Lock()
		b := g.broken
		g.mu.Unlock()
		if b != nil {
			// New requests wait for the next epoch while the reason is looked for.
			g.set(supervise.State{Phase: supervise.Restarting, Attempt: g.State().Attempt, Err: g.blame(*b)})
			// Whose death was the reason says more than who noticed.
			if err := g.all(ctx, (*member.Member).Ping); err != nil && member.Died(err) {
				return err
			}
			return g.blame(*b)
		}
		select {
		case <-g.wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// blame turns what a shard saw into an error.
func (g *Group) blame(b wire.Broken) error {
	cause := errors.New(b.Cause)
	if b.Cause == "" {
		cause = errLinks
	}
	if b.Shard >= 0 && b.Shard < len(g.members) {
		return g.lost(b.Shard, cause)
	}
	return cause
}

func (g *Group) current() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.epoch
}
