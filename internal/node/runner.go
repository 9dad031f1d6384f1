package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	measure "github.com/skein-run/skein/internal/bench/shards"
	"github.com/skein-run/skein/internal/cli/shardcmd"
	"github.com/skein-run/skein/internal/config"
	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/hostinfo"
	"github.com/skein-run/skein/internal/node/shards"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise"
	"github.com/skein-run/skein/internal/worker"
)

// devices asks an engine for its devices; nil: it has the processor alone, and
// need not be asked.
func devices(executable string, e *engine.Engine) func(context.Context) (wire.EngineInfo, error) {
	if !slices.ContainsFunc(e.Backends, func(b string) bool { return b != "cpu" && b != "rpc" && b != "blas" }) {
		return nil
	}
	return func(ctx context.Context) (wire.EngineInfo, error) { return engine.Probe(ctx, executable, e) }
}

// startRunner joins the worker with supervise: each model is one runner, or
// with --local-shards a group of them.
func (n *Node) startRunner(found *engine.Engine, layout *measure.Layout) func(worker.Entry, wire.LoadRequest) (worker.Runner, error) {
	return func(e worker.Entry, load wire.LoadRequest) (worker.Runner, error) {
		whole := func() (*supervise.Runner, error) {
			return supervise.Start(supervise.Options{
				Executable: n.opts.Executable, Build: n.opts.Version, Name: e.Name, Env: shards.Environ(),
				Engine: found.Spec(), Load: load, LoadBytes: e.SizeBytes, Logger: n.log,
			})
		}
		if layout == nil {
			return whole()
		}
		specs, err := shards.Plan(e.Paths, *layout)
		if errors.Is(err, slice.ErrRefused) {
			r, startErr := whole()
			if startErr != nil {
				return nil, startErr
			}
			return &refused{Runner: r, why: fmt.Sprintf("served whole instead of in %dx%d shards: %v", layout.Stages, layout.Ranks, err)}, nil
		}
		if err != nil {
			return nil, err
		}
		h := &shards.Host{Executable: n.opts.Executable, Version: n.opts.Version, Home: n.opts.Home, Logger: n.log}
		return h.Start(context.Background(), shards.Request{
			Name: e.Name, Paths: e.Paths, Bytes: e.SizeBytes, Layout: *layout, Engine: found.Spec(), Load: load,
		}, specs)
	}
}

// refused is a whole model that was to be served in shards.
type refused struct {
	*supervise.Runner
	why string
}

// Warning implements worker.Warner.
func (r *refused) Warning() string { return r.why }

// shardLayout reads --local-shards and what belongs to it; nil: models are
// whole.
func shardLayout(c config.Serve) (*measure.Layout, error) {
	if c.LocalShards == "" {
		if c.On != "" || c.ShardTLSCert != "" || c.ShardTLSKey != "" || c.ShardTLSCA != "" || c.ShardHalf {
			return nil, errors.New("--on, --shard-activations and --shard-tls-... are for shards; say --local-shards PxT too")
		}
		return nil, nil
	}
	l := measure.Layout{Pin: true, Balance: measure.BalanceDecode, Threads: c.Threads, HalfPrecision: c.ShardHalf, Certificate: c.ShardTLSCert, Key: c.ShardTLSKey, CA: c.ShardTLSCA}
	var err error
	if l.Stages, l.Ranks, err = shards.ParseLayout(c.LocalShards); err != nil {
		return nil, fmt.Errorf("--local-shards: %w", err)
	}
	if l.On, err = shardcmd.ParseHosts(c.On); err != nil {
		return nil, err
	}
	if (l.Certificate == "") != (l.Key == "") || (l.Certificate == "") != (l.CA == "") {
		return nil, errors.New("--shard-tls-cert, --shard-tls-key and --shard-tls-ca belong together: give all three, or none")
	}
	return &l, nil
}

// loadDefaults are the parts of a load request that the configuration gives.
func loadDefaults(c config.Serve) wire.LoadRequest {
	return wire.LoadRequest{
		Threads: threads(c.Threads), GPULayers: c.GPULayers, CacheBytes: c.CacheMemory, PrefixReuse: c.PrefixReuse,
	}
}

// threads is the number of compute threads: one a physical core, since the
// library's kernels fill a core's units alone, and never more than the process
// may use.
func threads(want int) int {
	if want > 0 {
		return want
	}
	facts, err := hostinfo.Read(context.Background())
	if err != nil {
		return 0 // the runner takes what the scheduler gives
	}
	if facts.CoresPhysical > 0 {
		return min(facts.CoresPhysical, facts.CoresUsable)
	}
	return facts.CoresUsable
}

// memory reads what the machine has.
func memory() (worker.Memory, error) {
	facts, err := hostinfo.Read(context.Background())
	if err != nil {
		return worker.Memory{}, err
	}
	return worker.Memory{Total: int64(facts.MemoryTotal), Available: int64(facts.MemoryAvailable)}, nil
}
