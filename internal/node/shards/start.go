package shards

import (
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

// Plan cuts a model as a layout asks. Errors that wrap slice.ErrRefused say why
// it must be served whole.
func Plan(paths []string, l shards.Layout) ([]slice.Spec, error) {
	m, err := library.OpenModel(paths...)
	if err != nil {
		return nil, err
	}
	defer m.Close() // only read from: nothing can be lost
	return Split(m.Model, max(1, l.Stages), max(1, l.Ranks))
}

// Start begins to serve a model in the shards of specs.
func (h *Host) Start(r Request, specs []slice.Spec) (*group.Group, error) {
	if err := h.validate(); err != nil {
		return nil, err
	}
	o := group.Options{
		Executable: h.Executable, Env: environ(), Build: h.Version, Name: r.Name,
		Engine: r.Engine, Load: r.Load, Bytes: r.Bytes, Logger: h.Logger,
	}
	o.Load.Paths = r.Paths
	threads := r.Layout.Threads
	if threads <= 0 {
		threads = max(1, hostinfo.UsableCores()/len(specs))
	}
	var cpus []int
	if r.Layout.Pin {
		cpus = hostinfo.CPUs()
	}
	var keys *wire.LinkTLS
	if r.Layout.TLS {
		var err error
		if keys, err = localKeys(); err != nil {
			return nil, fmt.Errorf("make certificates for the links: %w", err)
		}
	}
	for i, spec := range specs {
		s := group.Shard{Spec: spec, Threads: threads, TLS: keys, Listen: net.JoinHostPort("127.0.0.1", "0")}
		if len(cpus) >= len(specs)*threads {
			s.CPUs = cpus[i*threads : (i+1)*threads]
		}
		o.Shards = append(o.Shards, s)
	}
	return group.Start(o)
}
