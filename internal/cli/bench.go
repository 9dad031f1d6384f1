package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	measure "github.com/skein-run/skein/internal/bench"
	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/home"
	modelfiles "github.com/skein-run/skein/internal/library"
	"github.com/skein-run/skein/internal/runner/wire"
)

// newBenchCommand makes `skein bench`.
func newBenchCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure servers as their clients see them",
		Long: `Measure servers as their clients see them. Everything but 'load' starts the
servers itself, on free ports of this machine and with a new SKEIN_HOME. The
figures mean something only while the machine does nothing else.

For the bare engine, without a server, there is 'skein engine bench'.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(newBenchPeersCommand(a))
	return cmd
}

// benchHost gives package bench what it needs of this program. done removes
// what the servers wrote.
func (a *app) benchHost(m modelfiles.Entry, dir string) (h *measure.Host, done func() error, err error) {
	o, err := a.engineOptions(dir)
	if err != nil {
		return nil, nil, err
	}
	found, err := engine.Find(o)
	if err != nil {
		return nil, nil, err
	}
	temp, err := os.MkdirTemp("", "skein-bench-")
	if err != nil {
		return nil, nil, fmt.Errorf("make a folder for the servers' files: %w", err)
	}
	environ := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "SKEIN_") })
	if dir != "" {
		environ = append(environ, "SKEIN_ENGINE_DIR="+found.Dir)
	}
	return &measure.Host{
		Executable: a.Executable, Environ: environ, Dir: temp, Address: nodeAddressOf,
		Engine: func(ctx context.Context, run measure.EngineRun) (measure.EngineResult, error) {
			res, err := runEngineBench(ctx, a.Executable, found, wire.BenchSpec{
				Load:   wire.LoadRequest{Paths: m.Paths, Threads: run.Threads, GPULayers: -1},
				Prompt: run.Prompt, Decode: run.Decode, Streams: run.Streams, Repeat: run.Repeat,
			})
			return measure.EngineResult{Prefill: res.Prefill, Decode: res.Decode, ChunkTokens: res.ChunkTokens, LoadSeconds: res.LoadSeconds}, err
		},
		Say: a.note,
	}, func() error { return os.RemoveAll(temp) }, nil
}

// nodeAddressOf reads where the node of a SKEIN_HOME serves.
func nodeAddressOf(dir string) (string, error) {
	where, err := home.Locate(dir)
	if err != nil {
		return "", err
	}
	node, err := where.ReadNode()
	return node.API, err
}

// measuredModel finds a model and the words of its vocabulary.
func (a *app) measuredModel(ref string) (modelfiles.Entry, measure.Model, error) {
	entry, err := a.benchModel(ref)
	if err != nil {
		return entry, measure.Model{}, err
	}
	opened, err := modelfiles.OpenModel(entry.Paths...)
	if err != nil {
		return entry, measure.Model{}, err
	}
	vocabulary, err := opened.Metadata.Strings("tokenizer.ggml.tokens")
	if err = errors.Join(err, opened.Close()); err != nil {
		return entry, measure.Model{}, fmt.Errorf("read the vocabulary of %s: %w", entry.Name, err)
	}
	words, err := measure.NewWords(vocabulary)
	if err != nil {
		return entry, measure.Model{}, fmt.Errorf("%s: %w", entry.Name, err)
	}
	return entry, measure.Model{Name: entry.Name, Paths: entry.Paths, Bundled: entry.Source == modelfiles.SourceBundled, Words: words}, nil
}

func newBenchPeersCommand(a *app) *cobra.Command {
	var (
		o          measure.PeersOptions
		model, dir string
		asJSON     bool
		api        string
	)
	cmd := &cobra.Command{
		Use:   "peers --llama-server PATH --model MODEL [flags]",
		Short: "Compare a node with llama-server on this machine",
		Long: `Start a node and llama-server with the same model, slots, context and threads,
and measure them in turns with the same client. 'make bench-peers' builds
llama-server with the same kernels and calls this.`,
		Args: need(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch api {
			case "completions":
			case "chat":
				o.Chat = true
			default:
				return usage(cmd, "--api must be completions or chat, not %q", api)
			}
			if model == "" {
				return usage(cmd, "say which model to measure with: --model FILE")
			}
			entry, measured, err := a.measuredModel(model)
			if err != nil {
				return err
			}
			o.Model = measured
			if o.LlamaServer != "" {
				if o.LlamaServer, err = filepath.Abs(o.LlamaServer); err != nil {
					return fmt.Errorf("find llama-server: %w", err)
				}
			}
			h, done, err := a.benchHost(entry, dir)
			if err != nil {
				return err
			}
			res, err := measure.Peers(cmd.Context(), h, o)
			if err = errors.Join(err, done()); err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(res)
			}
			return a.printPeers(res)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.LlamaServer, "llama-server", "", "`PATH` of the program to compare with")
	f.StringVar(&model, "model", "", "`MODEL` to measure with, a name or a file")
	f.IntSliceVar(&o.Streams, "streams", []int{1, 4, 16}, "numbers of streams")
	f.IntVar(&o.Rounds, "rounds", 9, "times each figure is measured")
	f.IntVar(&o.Threads, "threads", 2, "processor threads of both; 0: each as it likes")
	f.IntVar(&o.Slots, "slots", 0, "slots of both; 0: as many as needed")
	f.IntVar(&o.Context, "context", 0, "tokens of each slot; 0: as many as needed")
	f.IntVar(&o.Decode, "decode-tokens", 128, "tokens of each stream")
	f.IntVar(&o.Prompt, "prompt-tokens", 512, "tokens of the prompt whose first token is timed")
	f.IntVar(&o.Long, "long-tokens", 2000, "tokens of the prompt that arrives among running streams")
	f.IntVar(&o.Running, "running", 4, "streams that run when it arrives")
	f.StringSliceVar(&o.Only, "only", nil, "measure only these `FIGURES` of decode, ttft, gap")
	f.StringVar(&api, "api", "completions", "endpoint of the streams: completions or chat")
	addEngineDirFlag(cmd, &dir)
	addJSONFlag(cmd, &asJSON)
	return cmd
}

func (a *app) printPeers(r *measure.PeersResult) error {
	fmt.Fprintf(a.Stdout, "slots %d, context of each %d, threads %d; the idle server used %.1f %% of the time of the measured one\n",
		r.Sizes.Slots, r.Sizes.Context, r.Sizes.Threads, 100*r.IdleShare)
	return table(a.Stdout, r.Table(), 4)
}
