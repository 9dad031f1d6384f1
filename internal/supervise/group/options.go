// Package group is one model served by several runners, its shards: it starts
// them side by side, joins them when all have loaded, and joins them again
// when one of them died and came back, or when their links broke. To the rest
// of a node a Group is what a supervise.Runner is: a generation.Model that
// loads, is ready, comes back, or fails for good with the reason.
//
// Each shard is a supervise.Runner, which owns its process and starts it again
// with its usual back-off; the group owns the joining and nothing else. The
// head, the first rank of the last stage, is the only one that generates. One
// goroutine of the Group decides, one for each shard mirrors its runner's state;
// Stop joins all. All methods may be called from any goroutine.
//
// The package knows runners by supervise alone: it must not import child,
// remote, the network, or llama.cpp. Where a shard runs is decided by the
// Launch function it is given.
package group

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise"
)

// Shard is one member and where it runs.
type Shard struct {
	Spec    slice.Spec
	Where   string           // host:port of its machine; "": this one
	Launch  supervise.Launch // how its process starts; nil: Options.Executable here
	Listen  string           // host:port for links; "": 127.0.0.1, any port
	TLS     *wire.LinkTLS    // of its links; nil: none, or its machine's own
	CPUs    []int            // cores it is pinned to; empty: any
	Threads int              // of computing; 0: Load.Threads
}

// Options say what to serve and how. Zero durations and counts take the
// default named beside them.
type Options struct {
	Executable string   // as in supervise.Options
	Args       []string // likewise
	Env        []string // likewise
	Build      string   // likewise

	Name   string // of the model
	Engine wire.EngineSpec
	Load   wire.LoadRequest // Shard and Threads are filled in
	Bytes  int64            // size of the model files
	Shards []Shard          // stage after stage, in a stage rank after rank
	Logger *slog.Logger

	// StepSeconds and HalfPrecision are those of wire.ShardSpec.
	StepSeconds   float64
	HalfPrecision bool

	PingLimit    time.Duration // for a sign of life before joining; 3 s
	ConnectLimit time.Duration // for the answer to Connect; 30 s
	StableAfter  time.Duration // joined for so long, a group has a clean record; 1 min
	BackoffMin   time.Duration // wait before the second join in a row, doubled each time; 200 ms
	BreakLimit   int           // so many breaks without being stable are the end; 5

	// runner is what each shard's supervise.Options start from; tests set it.
	runner supervise.Options
}

func (o *Options) validate() error {
	var errs []error
	if o.Name == "" || o.Logger == nil {
		errs = append(errs, errors.New("name and logger are required"))
	}
	if len(o.Shards) == 0 {
		errs = append(errs, errors.New("no shards"))
	}
	for _, d := range []time.Duration{o.PingLimit, o.ConnectLimit, o.StableAfter, o.BackoffMin} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("negative duration %v", d))
		}
	}
	if o.BreakLimit < 0 {
		errs = append(errs, fmt.Errorf("negative limit %d", o.BreakLimit))
	}
	if err := checkOrder(o.Shards); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("group: %w", err)
	}
	return nil
}

// checkOrder wants stages that follow each other without a gap, each with all
// its ranks in order.
func checkOrder(shards []Shard) error {
	next, rank, ranks := 0, 0, 0
	for i, s := range shards {
		switch {
		case s.Spec.First >= s.Spec.End || s.Spec.First != next || s.Spec.Rank != rank:
			return fmt.Errorf("shard %d holds layers %d to %d, rank %d; expected one that begins at layer %d with rank %d", i, s.Spec.First, s.Spec.End-1, s.Spec.Rank, next, rank)
		case rank == 0:
			ranks = s.Spec.Ranks()
		case s.Spec.End != shards[i-1].Spec.End || !slices.Equal(s.Spec.Parts, shards[i-1].Spec.Parts):
			return fmt.Errorf("shard %d is cut in another way than the rank before it", i)
		}
		if rank++; rank == ranks {
			next, rank = s.Spec.End, 0
		}
	}
	if rank != 0 {
		return fmt.Errorf("the last stage has %d of its %d ranks", rank, ranks)
	}
	return nil
}

func (o Options) withDefaults() Options {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&o.PingLimit, 3*time.Second)
	set(&o.ConnectLimit, 30*time.Second)
	set(&o.StableAfter, time.Minute)
	set(&o.BackoffMin, 200*time.Millisecond)
	if o.BreakLimit == 0 {
		o.BreakLimit = 5
	}
	return o
}

// head is the shard that owns the schedule: logits are in the last stage, and
// all its ranks hold the same.
func head(shards []Shard) int {
	return len(shards) - shards[len(shards)-1].Spec.Ranks()
}

// runnerOptions says how shard i is kept running.
func (o *Options) runnerOptions(i int, id string) supervise.Options {
	s := o.Shards[i]
	r := o.runner
	r.Executable, r.Args, r.Env, r.Build = o.Executable, o.Args, o.Env, o.Build
	r.Name = fmt.Sprintf("%s (%s)", o.Name, o.describe(i))
	r.Engine, r.Load, r.LoadBytes, r.Logger = o.Engine, o.Load, o.Bytes, o.Logger
	if s.Launch != nil {
		r.Launch = s.Launch
	}
	if s.Where != "" && r.LoadCrashes == 0 {
		r.LoadCrashes, r.CrashLimit = 6, 6 // a machine may be away for a moment
	}
	if s.Threads > 0 {
		r.Load.Threads = s.Threads
	}
	listen := s.Listen
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	specs := make([]slice.Spec, len(o.Shards))
	for j, other := range o.Shards {
		specs[j] = other.Spec
	}
	r.Load.Shard = &wire.ShardSpec{
		Group: id, Index: i, Shards: specs, Head: head(o.Shards), Listen: listen, TLS: s.TLS, CPUs: s.CPUs,
		StepSeconds: o.StepSeconds, HalfPrecision: o.HalfPrecision,
	}
	return r
}

// describe names shard i for a person: "shard 1: layers 15-29, rank 0 of 2 on
// host:port".
func (o *Options) describe(i int) string {
	s := o.Shards[i]
	text := fmt.Sprintf("shard %d: layers %d-%d", i, s.Spec.First, s.Spec.End-1)
	if n := s.Spec.Ranks(); n > 1 {
		text += fmt.Sprintf(", rank %d of %d", s.Spec.Rank, n)
	}
	if s.Where != "" {
		text += " on " + s.Where
	}
	return text
}
