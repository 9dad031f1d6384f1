// Package shardcmd holds the commands below `skein shard`, one file each: what
// was typed becomes options, what was measured becomes lines. The work is done
// by a Host that the main program hands in.
//
// It belongs to package cli, which mounts it; it imports the words of the
// measurements (bench/shards) and the library's entries, and neither runners
// nor the node. Everything runs in the goroutine of the command.
package shardcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/bench/shards"
	"github.com/skein-run/skein/internal/library"
)

// Exit codes of `skein shard check`.
const (
	CodeWrong   = 1
	CodeError   = 2
	CodeRefused = 3
)

// Host does the work on this machine.
type Host interface {
	Check(ctx context.Context, o shards.CheckOptions) (shards.Report, error)
	Bench(ctx context.Context, o shards.BenchOptions, say func(format string, args ...any)) ([]shards.Figure, error)
	Serve(ctx context.Context, o ServeOptions) error
}

// ServeOptions are what `skein shard serve` was told.
type ServeOptions struct {
	Listen         string // host:port
	Advertise      string // host for links; "": the one that a coordinator reached
	Certificate    string // PEM files
	Key            string
	CA             string
	InsecureNoAuth bool
	EngineDir      string
	Model          func() ([]library.Entry, error) // models of this machine
	Ready          func(address string)            // called when it listens
}

// Env is what the commands need of the program around them.
type Env struct {
	Stdout io.Writer
	Note   func(format string, args ...any) // for the user, beside the answer; silent with -q
	JSON   func(v any) error                // prints a document

	// Host logs warnings too, not only with -v, if warn is set.
	Host   func(warn bool) (Host, error)
	Model  func(ref string) (library.Entry, error)
	Models func() ([]library.Entry, error)
	// Complete offers names of models to the shell. Optional.
	Complete  cobra.CompletionFunc
	EngineDir func(flag string) (string, error) // by flag, environment and file
}

// New gives the subcommands of `skein shard`.
func New(e Env) []*cobra.Command {
	return []*cobra.Command{newPlan(e), newCheck(e), newBench(e), newServe(e)}
}

// layoutFlags are those of every command that splits a model.
type layoutFlags struct {
	layout      shards.Layout
	on          string
	activations string
	devices     string
	engineDir   string
}

func (f *layoutFlags) add(cmd *cobra.Command, balance shards.Balance) {
	fs := cmd.Flags()
	fs.StringVar((*string)(&f.layout.Balance), "balance", string(balance), "stages share out the layers evenly, best for prompts (even), or what a decoded token reads, the output head too, best for streams (decode)")
	fs.IntVar(&f.layout.Stages, "stages", 2, "pipeline stages, each with some of the layers")
	fs.IntVar(&f.layout.Ranks, "ranks", 1, "tensor ranks of each stage, each with some heads and columns")
	fs.IntVar(&f.layout.Threads, "threads-per-shard", 1, "processor threads of each shard")
	fs.StringVar(&f.activations, "activations", shards.ActivationsExact, "send activations from shard to shard as f32, or as f16 in half the bytes, which is not exact")
	fs.StringVar(&f.on, "on", "", "use the machines at `HOST:PORT,...`, which run 'skein shard serve', for the shards in turn; local: this one")
	fs.StringVar(&f.devices, "devices", "", "compute the shards on `DEVICE,...` in turn, as 'skein engine devices' names them; CPU: the processor; default: all on it")
	fs.StringVar(&f.layout.Certificate, "tls-cert", "", "show this certificate to the machines of --on; PEM `FILE`")
	fs.StringVar(&f.layout.Key, "tls-key", "", "its key; PEM `FILE`")
	fs.StringVar(&f.layout.CA, "tls-ca", "", "trust machines whose certificate is of this authority; PEM `FILE`")
	fs.StringVar(&f.engineDir, "engine-dir", "", "look for the llama.cpp libraries in `DIR` only [SKEIN_ENGINE_DIR]")
}

// read checks the flags. stagesGiven tells whether --stages was written: with
// --ranks alone, the layers stay in one stage.
func (f *layoutFlags) read(cmd *cobra.Command) (shards.Layout, error) {
	l := f.layout
	if cmd.Flags().Changed("ranks") && !cmd.Flags().Changed("stages") {
		l.Stages = 1
	}
	if l.Stages < 1 || l.Ranks < 1 || l.Stages > 256 || l.Ranks > 256 || l.Threads < 1 {
		return l, errors.New("--stages and --ranks are whole numbers from 1 to 256, --threads-per-shard at least 1")
	}
	if l.Balance != shards.BalanceEven && l.Balance != shards.BalanceDecode {
		return l, fmt.Errorf("--balance %q: there are %s and %s", l.Balance, shards.BalanceEven, shards.BalanceDecode)
	}
	var err error
	if l.HalfPrecision, err = parseActivations(f.activations); err != nil {
		return l, fmt.Errorf("--activations %w", err)
	}
	if l.On, err = ParseHosts(f.on); err != nil {
		return l, err
	}
	if f.devices != "" {
		for d := range strings.SplitSeq(f.devices, ",") {
			if d = strings.TrimSpace(d); d == "" {
				return l, fmt.Errorf("--devices %q: write the names of 'skein engine devices', with commas between them", f.devices)
			}
			l.Devices = append(l.Devices, d)
		}
	}
	if err := checkFiles(l.Certificate, l.Key, l.CA); err != nil {
		return l, err
	}
	return l, nil
}

// checkFiles wants all three of a mutual TLS, or none.
func checkFiles(cert, key, ca string) error {
	if (cert == "") != (key == "") || (cert == "") != (ca == "") {
		return errors.New("--tls-cert, --tls-key and --tls-ca belong together: give all three, or none")
	}
	return nil
}

// ParseHosts reads "host:port,host:port".
func ParseHosts(s string) ([]string, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	var out []string
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		host, port, ok := strings.Cut(part, ":")
		if last := strings.LastIndex(part, ":"); ok && last > 0 {
			host, port = part[:last], part[last+1:]
		}
		if part == "local" {
			out = append(out, part)
			continue
		}
		if host == "" || port == "" || strings.Trim(port, "0123456789") != "" {
			return nil, fmt.Errorf("--on %q: write HOST:PORT of each machine, with commas between them", s)
		}
		out = append(out, part)
	}
	return out, nil
}

// exact wants n arguments.
func exact(n int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < n {
			return errors.New(what)
		}
		if len(args) > n {
			return fmt.Errorf("too many arguments: %q is one more than expected", args[n])
		}
		return nil
	}
}

// parseActivations reads how activations travel; true: as f16.
func parseActivations(s string) (half bool, err error) {
	if s != shards.ActivationsExact && s != shards.ActivationsHalf {
		return false, fmt.Errorf("%q: there are %s, and %s, which is not exact", s, shards.ActivationsExact, shards.ActivationsHalf)
	}
	return s == shards.ActivationsHalf, nil
}
