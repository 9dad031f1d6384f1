// Package benchcmd holds the commands below `skein bench`: what was typed becomes
// options of package bench, what was measured becomes lines.
//
// It belongs to package cli, which mounts it. Everything runs in the goroutine
// of the command.
package benchcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	measure "github.com/skein-run/skein/internal/bench"
	"github.com/skein-run/skein/internal/bench/load"
	"github.com/skein-run/skein/internal/cli/command"
	"github.com/skein-run/skein/internal/cli/enginecmd"
	"github.com/skein-run/skein/internal/cli/table"
	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/home"
	modelfiles "github.com/skein-run/skein/internal/library"
	"github.com/skein-run/skein/internal/runner/wire"
)

// Env is what the commands need of the program around them.
type Env struct {
	Stdout io.Writer
	Note   func(format string, args ...any) // for the user, beside the answer; silent with -q
	JSON   func(v any) error                // prints a document

	Executable string                                     // the servers that are measured
	Engine     func(dir string) (engine.Options, error)   // where the libraries are looked for; dir is --engine-dir
	Model      func(ref string) (modelfiles.Entry, error) // by name or file
	APIKey     func() string                              // of a server that runs already
}

// New makes `skein bench`.
func New(e Env) *cobra.Command {
	return command.Group(&cobra.Command{
		Use:   "bench",
		Short: "Measure servers as their clients see them",
		Long: `Measure servers as their clients see them. Everything but 'load' starts the
servers itself, on free ports of this machine and with a new SKEIN_HOME. The
figures mean something only while the machine does nothing else.

For the bare engine, without a server, there is 'skein engine bench'.`,
	}, nil, newNode(e), newPeers(e), newLoad(e))
}

// host gives package bench what it needs of this program. done removes
// what the servers wrote.
func (e Env) host(m modelfiles.Entry, dir string) (h *measure.Host, done func() error, err error) {
	o, err := e.Engine(dir)
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
		Executable: e.Executable, Environ: environ, Dir: temp, Address: nodeAddressOf,
		Engine: func(ctx context.Context, run measure.EngineRun) (measure.EngineResult, error) {
			res, err := enginecmd.Measure(ctx, e.Executable, found, wire.BenchSpec{
				Load:   wire.LoadRequest{Paths: m.Paths, Threads: run.Threads, GPULayers: -1},
				Prompt: run.Prompt, Decode: run.Decode, Streams: run.Streams, Repeat: run.Repeat,
			})
			return measure.EngineResult{Prefill: res.Prefill, Decode: res.Decode, ChunkTokens: res.ChunkTokens, LoadSeconds: res.LoadSeconds}, err
		},
		Say: e.Note,
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
func (e Env) measuredModel(ref string) (modelfiles.Entry, measure.Model, error) {
	entry, err := e.Model(ref)
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
	words, err := load.NewWords(vocabulary)
	if err != nil {
		return entry, measure.Model{}, fmt.Errorf("%s: %w", entry.Name, err)
	}
	return entry, measure.Model{Name: entry.Name, Paths: entry.Paths, Bundled: entry.Source == modelfiles.SourceBundled, Words: words}, nil
}

func newPeers(e Env) *cobra.Command {
	var (
		o          measure.PeersOptions
		model, dir string
		asJSON     bool
		api        string
		text       bool
	)
	cmd := &cobra.Command{
		Use:   "peers --llama-server PATH --model MODEL [flags]",
		Short: "Compare a node with llama-server on this machine",
		Long: `Start a node and llama-server with the same model, slots, context and threads,
and measure them in turns with the same client. 'make bench-peers' builds
llama-server with the same kernels and calls this.`,
		Args: command.Need(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch api {
			case "completions":
			case "chat":
				o.Chat = true
			default:
				return command.Usage(cmd, "--api must be completions or chat, not %q", api)
			}
			if model == "" {
				return command.Usage(cmd, "say which model to measure with: --model FILE")
			}
			if !text && !slices.Contains(o.Only, "text") {
				o.TextTokens = 0
			}
			entry, measured, err := e.measuredModel(model)
			if err != nil {
				return err
			}
			o.Model = measured
			if o.LlamaServer != "" {
				if o.LlamaServer, err = filepath.Abs(o.LlamaServer); err != nil {
					return fmt.Errorf("find llama-server: %w", err)
				}
			}
			h, done, err := e.host(entry, dir)
			if err != nil {
				return err
			}
			res, err := measure.Peers(cmd.Context(), h, o)
			if err = errors.Join(err, done()); err != nil {
				return err
			}
			if asJSON {
				return e.JSON(res)
			}
			return e.printPeers(res)
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
	f.BoolVar(&text, "text", false, "compare the greedy answers to 30 questions, too")
	f.IntVar(&o.TextTokens, "text-tokens", 64, "tokens of each compared answer")
	f.StringSliceVar(&o.Only, "only", nil, "measure only these `FIGURES`: decode, ttft, gap, text")
	f.StringVar(&api, "api", "completions", "endpoint of the streams: completions or chat")
	command.EngineDirFlag(cmd, &dir)
	command.JSONFlag(cmd, &asJSON)
	return cmd
}

func (e Env) printPeers(r *measure.PeersResult) error {
	fmt.Fprintf(e.Stdout, "slots %d, context of each %d, threads %d; the idle server used %.1f %% of the time of the measured one\n",
		r.Sizes.Slots, r.Sizes.Context, r.Sizes.Threads, 100*r.IdleShare)
	if len(r.Figures) > 0 {
		if err := table.Columns(e.Stdout, r.Table(), 4); err != nil {
			return err
		}
	}
	if r.Texts != nil {
		fmt.Fprintln(e.Stdout, r.Texts)
	}
	return nil
}

func newNode(e Env) *cobra.Command {
	var (
		o          measure.NodeOptions
		small, dir string
		asJSON     bool
	)
	cmd := &cobra.Command{
		Use:   "node MODEL [flags]",
		Short: "Measure a node by itself: overhead, gaps, start, memory, soak",
		Long: `Start nodes with MODEL, a name or a .gguf file, and measure what needs nothing
to compare with: a stream over HTTP beside the bare engine, the worst wait of
running streams while a long prompt arrives, and, with the demo model, the time
to start, the memory of an idle node, and a soak with many cancelled requests.`,
		Args: command.Need(1, 1, "say which model to measure with: skein bench node MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			entry, model, err := e.measuredModel(args[0])
			if err != nil {
				return err
			}
			o.Model, o.Small, o.Soak.Threads = model, model, o.Threads
			if small != "" {
				if _, o.Small, err = e.measuredModel(small); err != nil {
					return err
				}
			}
			h, done, err := e.host(entry, dir)
			if err != nil {
				return err
			}
			res, err := measure.Node(cmd.Context(), h, o)
			if err = errors.Join(err, done()); err != nil {
				return err
			}
			if asJSON {
				return e.JSON(res)
			}
			if err := table.Columns(e.Stdout, res.Table()); err != nil {
				return err
			}
			if res.Soak != nil {
				fmt.Fprintf(e.Stdout, "soak: %s\n", res.Soak)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&small, "small", "skein-demo-4m-q8_0", "`MODEL` for start, memory and soak; empty: the measured one")
	f.IntVar(&o.Rounds, "rounds", 7, "times each figure is measured")
	f.IntVar(&o.Threads, "threads", 0, "processor threads; 0: as the node chooses")
	f.IntVar(&o.Decode, "decode-tokens", 256, "tokens of the stream over HTTP")
	f.IntVar(&o.Long, "long-tokens", 2000, "tokens of the prompt that arrives among running streams")
	f.IntVar(&o.Running, "running", 4, "streams that run when it arrives")
	f.IntVar(&o.Soak.Connections, "soak-connections", 500, "idle connections of the soak")
	f.IntVar(&o.Soak.Streams, "soak-streams", 64, "streams of the soak at once, and slots of its node")
	f.IntVar(&o.Soak.Requests, "soak-requests", 10000, "requests of the soak in sum")
	f.Uint64Var(&o.Soak.Seed, "seed", 1, "of the soak's random choices")
	f.StringSliceVar(&o.Only, "only", nil, "measure only these `FIGURES`: http, gap, start, memory, soak")
	command.EngineDirFlag(cmd, &dir)
	command.JSONFlag(cmd, &asJSON)
	return cmd
}

// loadResult is what `skein bench load --json` prints.
type loadResult struct {
	Model   string       `json:"model"`
	Streams int          `json:"streams"`
	Decode  load.Summary `json:"decode"`    // tokens a second of all streams together
	TTFT    load.Summary `json:"ttft"`      // of the last stream to begin, seconds
	Gap     load.Summary `json:"worst_gap"` // seconds
}

func newLoad(e Env) *cobra.Command {
	var (
		url, model, api         string
		streams, tokens, rounds int
		asJSON                  bool
	)
	cmd := &cobra.Command{
		Use:   "load --url URL --model NAME [flags]",
		Short: "Measure streams on a server that is running already",
		Args:  command.Need(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case url == "" || model == "":
				return command.Usage(cmd, "say which server and model: --url http://127.0.0.1:52415 --model NAME")
			case streams < 1 || rounds < 1 || tokens < 4:
				return command.Usage(cmd, "--streams and --rounds must be at least 1, --decode-tokens at least 4")
			case api != "chat" && api != "completions":
				return command.Usage(cmd, "--api must be completions or chat, not %q", api)
			}
			c, err := load.NewClient(url, model, e.APIKey())
			if err != nil {
				return err
			}
			defer c.Close()
			var rates, firsts, gaps []float64
			for range rounds {
				d, err := c.Decode(cmd.Context(), load.Stories(streams, tokens, api == "chat"))
				if err != nil {
					return fmt.Errorf("measure %s: %w", url, err)
				}
				rates, firsts, gaps = append(rates, d.Rate), append(firsts, d.TTFT), append(gaps, d.WorstGap)
			}
			res := loadResult{Model: model, Streams: streams, Decode: load.Summarize(rates), TTFT: load.Summarize(firsts), Gap: load.Summarize(gaps)}
			if asJSON {
				return e.JSON(res)
			}
			return table.Columns(e.Stdout, [][]string{
				{"FIGURE", "MEDIAN (RANGE)", "UNIT"},
				{fmt.Sprintf("decode, streams: %d", streams), res.Decode.Spread("%.1f"), "tok/s"},
				{"first token of the last stream", res.TTFT.Spread("%.4f"), "s"},
				{"worst gap", res.Gap.Spread("%.4f"), "s"},
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&url, "url", "", "`URL` of the server")
	f.StringVar(&model, "model", "", "`NAME` of the model there")
	f.IntVar(&streams, "streams", 1, "streams at once")
	f.IntVar(&tokens, "decode-tokens", 128, "tokens of each stream")
	f.IntVar(&rounds, "rounds", 5, "times it is measured")
	f.StringVar(&api, "api", "completions", "endpoint: completions or chat")
	command.JSONFlag(cmd, &asJSON)
	return cmd
}
