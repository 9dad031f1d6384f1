// Package shards joins what shards are made of: it cuts a model as it was asked
// for, starts a group of runners on this machine or on machines that offer
// themselves, and hands groups and whole runners to those who serve, check or
// time them. It is the part of the composition root that the commands
// `skein shard` and the option --local-shards share.
//
// Only internal/node and cmd/skein may import it. Functions may be called from
// any goroutine; what Start gives is stopped by its caller.
package shards

import (
	"errors"
	"log/slog"
	"os"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/home"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise"
)

// Host is this program on this machine.
type Host struct {
	Executable string // runners are started from it
	Version    string
	Home       home.Home
	Logger     *slog.Logger
}

func (h *Host) validate() error {
	if h.Executable == "" || h.Version == "" || h.Logger == nil {
		return errors.New("shards: executable, version and logger are required")
	}
	return nil
}

// Environ is that of every runner. On an abort the library would attach a
// debugger to its own process to print a backtrace; the message is all that
// helps here.
func Environ() []string { return append(os.Environ(), "GGML_NO_BACKTRACE=1") }

// engine finds the libraries; dir is --engine-dir, "" for the search order.
func (h *Host) engine(dir string) (wire.EngineSpec, error) {
	found, err := engine.Find(engine.Options{Dir: dir, Executable: h.Executable, Home: h.Home.Dir()})
	if err != nil {
		return wire.EngineSpec{}, err
	}
	return found.Spec(), nil
}

// whole starts a runner that holds all of a model.
func (h *Host) whole(name string, spec wire.EngineSpec, load wire.LoadRequest, bytes int64) (*supervise.Runner, error) {
	return supervise.Start(supervise.Options{
		Executable: h.Executable, Build: h.Version, Name: name, Env: Environ(),
		Engine: spec, Load: load, LoadBytes: bytes, Logger: h.Logger,
	})
}
