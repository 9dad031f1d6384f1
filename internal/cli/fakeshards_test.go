package cli_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/skein-run/skein/internal/bench/shards"
	"github.com/skein-run/skein/internal/cli/shardcmd"
)

// fakeShards gives the verdict that the seed names.
type fakeShards struct{}

func (fakeShards) Check(_ context.Context, o shards.CheckOptions) (shards.Report, error) {
	nmse, noise := 2e-9, 1e-6
	r := shards.Report{Model: o.Model, Architecture: "llama", Stages: o.Layout.Stages, Ranks: o.Layout.Ranks, NMSE: &nmse, Noise: &noise, TokensCompared: o.Tokens, Verdict: shards.Right}
	switch o.Seed {
	case 2:
		r.Verdict, r.Reason, r.TokensDiffer = shards.Wrong, "3 tokens differ", 3
	case 3:
		r = shards.Report{Model: o.Model, Architecture: "llama", Stages: o.Layout.Stages, Ranks: o.Layout.Ranks, Verdict: shards.Refused, Reason: "placed whole instead"}
	case 4:
		r = shards.Report{Model: o.Model, Verdict: shards.Failed, Reason: fmt.Sprintf("no memory for %q on %v", o.Prompt, o.Layout.On)}
	}
	return r, nil
}

func (fakeShards) Bench(_ context.Context, o shards.BenchOptions, say func(string, ...any)) ([]shards.Figure, error) {
	say("round 1 of %d", o.Rounds)
	f := shards.Figure{Model: o.Model, Figure: shards.Decode, Stages: o.Layout.Stages, Ranks: o.Layout.Ranks, Streams: o.Streams, PromptTokens: o.PromptTokens,
		TLS: o.Layout.TLS, Activations: o.Layout.Activations(), Baseline: "whole-1-thread", BaselineStreams: 2, Sharded: 18, Whole: 10, Ratio: 1.8, Unit: "tok/s", ShardedEach: []float64{17, 18, 19}, WholeEach: []float64{10}}
	return []shards.Figure{f, f}, nil
}

func (fakeShards) Serve(_ context.Context, o shardcmd.ServeOptions) error {
	if o.Listen == "0.0.0.0:1" && !o.InsecureNoAuth {
		return errors.New("--listen 0.0.0.0:1 can be reached from other machines")
	}
	o.Ready(o.Listen)
	return nil
}
