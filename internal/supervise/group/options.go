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
	"time"

	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise"
	"github.com/skein-run/skein/internal/supervise/group/member"
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
	Device  string           // what computes it (wire.LoadRequest.On); "": as Load says
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
	for _, d := range []time.Duration{o.PingLimit, o.ConnectLimit, o.StableAfter, o.BackoffMin} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("negative duration %v", d))
		}
	}
	if o.BreakLimit < 0 {
		errs = append(errs, fmt.Errorf("negative limit %d", o.BreakLimit))
	}
	if err := member.CheckOrder(o.specs()); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("group: %w", err)
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

// head is the shard that owns the schedule.
func head(shards []Shard) int { return member.Head((&Options{Shards: shards}).specs()) }

func (o *Options) specs() []slice.Spec {
	out := make([]slice.Spec, len(o.Shards))
	for i, s := range o.Shards {
		out[i] = s.Spec
	}
	return out
}

// memberOptions says how shard i is kept running.
func (o *Options) memberOptions(i int, id string) member.Options {
	s := o.Shards[i]
	r := o.runner
	r.Executable, r.Args, r.Env, r.Build = o.Executable, o.Args, o.Env, o.Build
	r.Name, r.Engine, r.Load, r.LoadBytes, r.Logger = o.Name, o.Engine, o.Load, o.Bytes, o.Logger
	if s.Launch != nil {
		r.Launch = s.Launch
	}
	if s.Where != "" && r.LoadCrashes == 0 {
		r.LoadCrashes, r.CrashLimit = 6, 6 // a machine may be away for a moment
	}
	if s.Threads > 0 {
		r.Load.Threads = s.Threads
	}
	if s.Device != "" {
		r.Load = r.Load.On(s.Device)
	}
	return member.Options{
		Runner: r, Group: id, Index: i, Specs: o.specs(), Where: s.Where, Listen: s.Listen, TLS: s.TLS, CPUs: s.CPUs,
		StepSeconds: o.StepSeconds, HalfPrecision: o.HalfPrecision, PingLimit: o.PingLimit, ConnectLimit: o.ConnectLimit,
	}
}

func (o *Options) describe(i int) string { return member.Describe(o.specs(), i, o.Shards[i].Where) }
