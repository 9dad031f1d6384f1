// Package supervise is the node's side of a runner process: it starts the
// child, loads one model in it, passes requests and tokens to and fro, watches
// it, starts it again when it dies, and gives up with the reason when that
// does not help. A runner that aborts takes its open streams and nothing else.
//
// One Runner stands for one model. Behind it there is at most one process at
// any time; each has a reader, a writer, a stderr reader, a watchdog and one
// waiter that reaps it, all owned and joined by the process value. A Runner
// implements generation.Model, and all its methods may be called from any
// goroutine. A stream has one reader.
//
// The package speaks internal/runner/wire and knows neither llama.cpp nor what
// a model is worth; it must not import internal/runner, the edges, or another
// adapter.
//
// An orphan never outlives its node: package child sees to that.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise/child"
)

// Launch starts the program of a runner.
type Launch = func(context.Context, child.Command) (*child.Child, error)

// Options says which program to start, what to load and how patient to be.
// Zero durations and counts take the default named beside them.
type Options struct {
	Executable string   // program that has the hidden runner subcommand
	Args       []string // default: "runner"
	Env        []string // whole environment of the child; nil: the node's own
	Build      string   // version of this binary, sent in the handshake

	Name   string // model name, for logs and messages
	Engine wire.EngineSpec
	Load   wire.LoadRequest
	Logger *slog.Logger

	StartLimit  time.Duration // process start to loaded library; 60 s
	LoadLimit   time.Duration // without progress while loading; 60 s and 1 s for each 50 MB of LoadBytes
	LoadBytes   int64         // size of the model files, for LoadLimit
	BeatLimit   time.Duration // without any frame while there is work; 60 s
	StepLimit   time.Duration // without a step while there is work; 60 s and a whole chunk at 20 GFLOP/s
	StopGrace   time.Duration // from the polite request to exit to the kill; 5 s
	BackoffMin  time.Duration // wait before the first restart; 200 ms, doubled each time
	BackoffMax  time.Duration // 30 s
	StableAfter time.Duration // a runner ready for so long starts with a clean record; 1 min
	CrashLimit  int           // so many crashes within CrashWindow are a crash loop; 5
	CrashWindow time.Duration // 2 min
	LoadCrashes int           // so many crashes in a row before ready are one too; 2

	// Launch starts the process, nil: child.Start. Its context ends with Stop.
	Launch Launch
	// Launching is told before each launch. Optional.
	Launching func()
	// Broken is told when the runner, a shard, cannot reach its group any more.
	// It runs in the process's reader and must not block. Optional.
	Broken func(wire.Broken)
}

func (o *Options) validate() error {
	var errs []error
	if o.Executable == "" && o.Launch == nil {
		errs = append(errs, errors.New("no executable"))
	}
	if o.Name == "" {
		errs = append(errs, errors.New("no model name"))
	}
	if o.Logger == nil {
		errs = append(errs, errors.New("no logger"))
	}
	if len(o.Load.Paths) == 0 {
		errs = append(errs, errors.New("no model file"))
	}
	for _, d := range []time.Duration{o.StartLimit, o.LoadLimit, o.BeatLimit, o.StepLimit, o.StopGrace, o.BackoffMin, o.BackoffMax, o.StableAfter, o.CrashWindow} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("negative duration %v", d))
		}
	}
	if o.CrashLimit < 0 || o.LoadCrashes < 0 || o.LoadBytes < 0 {
		errs = append(errs, errors.New("negative limit"))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("supervise: %w", err)
	}
	return nil
}

// withDefaults fills the zero values in.
func (o Options) withDefaults() Options {
	if o.Args == nil {
		o.Args = []string{"runner"}
	}
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&o.StartLimit, time.Minute)
	// A cold disk and the repacking of weights make a load slow in proportion
	// to its size, and the last part of it reports nothing.
	set(&o.LoadLimit, time.Minute+time.Duration(o.LoadBytes/(50<<20))*time.Second)
	set(&o.BeatLimit, time.Minute)
	set(&o.StopGrace, 5*time.Second)
	set(&o.BackoffMin, 200*time.Millisecond)
	set(&o.BackoffMax, 30*time.Second)
	set(&o.StableAfter, time.Minute)
	set(&o.CrashWindow, 2*time.Minute)
	if o.CrashLimit == 0 {
		o.CrashLimit = 5
	}
	if o.LoadCrashes == 0 {
		o.LoadCrashes = 2
	}
	if o.Launching == nil {
		o.Launching = func() {}
	}
	if o.Launch == nil {
		o.Launch = func(_ context.Context, c child.Command) (*child.Child, error) { return child.Start(c) }
	}
	return o
}

// stepLimit is how long one step may take: a minute, and on top what a full
// prompt chunk costs (two operations a parameter and token) on a machine slow
// enough that nobody would wait longer.
func (o *Options) stepLimit(info wire.ModelInfo) time.Duration {
	if o.StepLimit != 0 {
		return o.StepLimit
	}
	const slowest = 20e9 // operations a second
	chunk := max(info.ChunkTokens, 1)
	ops := 2 * float64(info.Parameters) * float64(chunk)
	const longest = 24 * time.Hour // bounds what a senseless answer can do
	return time.Minute + time.Duration(min(ops/slowest, longest.Seconds())*float64(time.Second))
}
