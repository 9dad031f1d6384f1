package shards

import (
	"context"
	"fmt"
	"net"

	"github.com/skein-run/skein/internal/bench/shards"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/hostinfo"
	"github.com/skein-run/skein/internal/library"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise/group"
)

// Request says which model to serve in shards.
type Request struct {
	Name   string
	Paths  []string
	Bytes  int64 // of the files
	Layout shards.Layout
	Engine wire.EngineSpec
	Load   wire.LoadRequest // Paths, Threads and Shard are filled in
}

// Local in a layout's On is this machine.
const Local = "local"

// Plan cuts a model as a layout asks. Errors that wrap slice.ErrRefused say why
// it must be served whole.
func Plan(paths []string, l shards.Layout) ([]slice.Spec, error) {
	m, err := library.OpenModel(paths...)
	if err != nil {
		return nil, err
	}
	defer m.Close() // only read from: nothing can be lost
	return Split(m.Model, max(1, l.Stages), max(1, l.Ranks), l.Balance)
}

// Served is a group together with what its machines fetch from.
type Served struct {
	*group.Group
	machines *machines // nil: all shards are here
	host     *Host
	warning  string
}

// Warning implements worker.Warner; "": there is none.
func (s *Served) Warning() string { return s.warning }

// Stop ends all shards, as group.Group's does, and what served their bytes.
func (s *Served) Stop(ctx context.Context) {
	s.Group.Stop(ctx)
	if s.machines == nil {
		return
	}
	if err := s.machines.close(); err != nil {
		s.host.Logger.Warn("the model's files were not closed in order", "error", err)
	}
}

// Start begins to serve a model in the shards of specs.
func (h *Host) Start(ctx context.Context, r Request, specs []slice.Spec) (*Served, error) {
	if err := h.validate(); err != nil {
		return nil, err
	}
	o := group.Options{
		Executable: h.Executable, Env: Environ(), Build: h.Version, Name: r.Name,
		Engine: r.Engine, Load: r.Load, Bytes: r.Bytes, HalfPrecision: r.Layout.HalfPrecision, Logger: h.Logger,
	}
	o.Load.Paths = r.Paths
	p := placing{threads: r.Layout.Threads, listen: "127.0.0.1", devices: r.Layout.Devices}
	if p.threads <= 0 {
		p.threads = max(1, hostinfo.UsableCores()/len(specs))
	}
	if r.Layout.Pin {
		p.cpus = hostinfo.CPUs()
	}
	served := &Served{host: h}
	if r.Layout.HalfPrecision {
		served.warning = "activations travel as f16 between the shards, which is not exact: answers may differ from those of the whole model"
	}
	err := h.places(ctx, r, &p, served)
	if err == nil {
		o.Shards = p.shards(specs, r.Layout.On)
		served.Group, err = group.Start(o)
	}
	if err != nil {
		if served.machines != nil {
			_ = served.machines.close() // the error says what matters
		}
		return nil, err
	}
	return served, nil
}

// placing says how shards become processes.
type placing struct {
	threads  int
	cpus     []int
	listen   string // host for links of shards here
	keys     *wire.LinkTLS
	machines *machines
	devices  []string
}

// places finds out what the machines of a layout need.
func (h *Host) places(ctx context.Context, r Request, p *placing, served *Served) (err error) {
	if r.Layout.TLS {
		if p.keys, err = localKeys(); err != nil {
			return fmt.Errorf("make certificates for the links: %w", err)
		}
	}
	others := 0
	for _, address := range r.Layout.On {
		if address == Local {
			continue
		}
		if others++; others > 1 {
			continue
		}
		if p.machines, err = h.newMachines(r.Paths, r.Layout); err != nil {
			return err
		}
		served.machines = p.machines
		if p.listen, err = p.machines.near(ctx, address); err != nil {
			return err
		}
		p.keys = nil // the machines have identities of their own, and so must shards here
		if p.machines.id != nil {
			p.keys = &p.machines.id.pem
		}
	}
	return nil
}

// shards gives the members of the group, on the machines in turn.
func (p *placing) shards(specs []slice.Spec, on []string) []group.Shard {
	var out []group.Shard
	for i, spec := range specs {
		s := group.Shard{Spec: spec, Threads: p.threads}
		if len(p.devices) > 0 {
			s.Device = p.devices[i%len(p.devices)]
		}
		if len(on) > 0 && on[i%len(on)] != Local {
			s.Where = on[i%len(on)]
			s.Launch = p.machines.launcher(s.Where).Launch
		} else {
			s.Listen, s.TLS = net.JoinHostPort(p.listen, "0"), p.keys
			if len(p.cpus) >= len(specs)*p.threads {
				s.CPUs = p.cpus[i*p.threads : (i+1)*p.threads]
			}
		}
		out = append(out, s)
	}
	return out
}
