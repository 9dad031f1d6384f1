package shards

import (
	"context"
	"fmt"

	"github.com/skein-run/skein/internal/bench/shards"
	"github.com/skein-run/skein/internal/hostinfo"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise"
)

// Bench times a model in shards beside the same model whole, with as many threads
// as o.WholeThreads says, and shards with TLS beside the same without. All are loaded at once and measured in turns.
func (h *Host) Bench(ctx context.Context, o shards.BenchOptions, say func(string, ...any)) ([]shards.Figure, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	specs, err := Plan(o.Paths, o.Layout)
	if err != nil {
		return nil, err
	}
	engine, err := h.engine(o.EngineDir)
	if err != nil {
		return nil, err
	}
	// A stream of the decode runs may go on for twice its tokens, see Bench.
	r := Request{Name: o.Model, Paths: o.Paths, Layout: o.Layout, Engine: engine, Load: wire.LoadRequest{
		Paths: o.Paths, Slots: o.Streams, Context: max(o.PromptTokens, 2*o.DecodeTokens) + 16, PrefixReuse: "off",
	}}
	r.Layout.Threads = max(1, o.Layout.Threads)
	g, err := h.Start(ctx, r, specs)
	if err != nil {
		return nil, err
	}
	stopping := context.WithoutCancel(ctx)
	defer g.Stop(stopping)
	var baselines []shards.Baseline
	var stops []func(context.Context)
	defer func() {
		for _, stop := range stops {
			stop(stopping)
		}
	}()
	if o.Plain() {
		open := r
		open.Layout.TLS = false
		plain, err := h.Start(ctx, open, specs)
		if err != nil {
			return nil, err
		}
		defer plain.Stop(stopping)
		if err := plain.Wait(ctx); err != nil {
			return nil, fmt.Errorf("the shards without TLS: %w", err)
		}
		baselines = append(baselines, shards.Baseline{Name: "plain", Model: plain, Streams: o.Streams})
	}
	whole := func(threads int) (*supervise.Runner, error) {
		load := r.Load
		if len(o.Layout.Devices) > 0 {
			load = load.On(o.Layout.Devices[0])
		}
		load.Threads = threads
		w, err := h.whole(o.Model, engine, load, 0)
		if err != nil {
			return nil, err
		}
		stops = append(stops, w.Stop)
		if err := w.Wait(ctx); err != nil {
			return nil, fmt.Errorf("the whole model: %w", err)
		}
		return w, nil
	}
	if o.Twice {
		a, err := whole(1)
		if err != nil {
			return nil, err
		}
		b, err := whole(1)
		if err != nil {
			return nil, err
		}
		baselines = append(baselines, shards.Baseline{Name: "two-wholes", Model: shards.NewTwin(a, b), Streams: o.Streams, DecodeOnly: true})
	}
	for _, threads := range o.WholeThreads {
		w, err := whole(threads)
		if err != nil {
			return nil, err
		}
		b := shards.Baseline{Name: "whole-1-thread", Model: w, Streams: max(1, o.Streams/max(1, o.Layout.Stages))}
		if threads == 2 {
			b.Name, b.Streams = "whole-2-threads", o.Streams
		}
		baselines = append(baselines, b)
	}
	if err := g.Wait(ctx); err != nil {
		return nil, err
	}
	figures, err := shards.Bench(ctx, g, baselines, o, say)
	if err != nil {
		return nil, err
	}
	if len(o.WholeThreads) == 0 {
		return figures, nil
	}
	f, known, err := memoryFigure(ctx, o, g, baselines[len(baselines)-1])
	if err != nil || !known {
		return figures, err
	}
	return append(figures, f), nil
}

// memoryFigure compares the largest shard with the whole. known is false when
// a shard runs on another machine.
func memoryFigure(ctx context.Context, o shards.BenchOptions, g *Served, whole shards.Baseline) (f shards.Figure, known bool, err error) {
	all, err := hostinfo.ResidentMemory(ctx, whole.Model.(*supervise.Runner).State().PID)
	if err != nil {
		return f, false, err
	}
	f = shards.Figure{
		Model: o.Model, Figure: shards.Memory, Stages: o.Layout.Stages, Ranks: o.Layout.Ranks, Streams: o.Streams, PromptTokens: o.PromptTokens,
		Baseline: whole.Name, BaselineStreams: o.Streams, TLS: o.Layout.TLS, Activations: o.Layout.Activations(), Unit: "bytes",
		Whole: float64(all), WholeEach: []float64{float64(all)},
	}
	for _, m := range g.Members() {
		if m.Where != "" {
			return f, false, nil
		}
		one, err := hostinfo.ResidentMemory(ctx, m.State.PID)
		if err != nil {
			return f, false, err
		}
		f.ShardedEach = append(f.ShardedEach, float64(one))
		f.Sharded = max(f.Sharded, float64(one))
	}
	f.Ratio = f.Sharded / f.Whole
	return f, true, nil
}
