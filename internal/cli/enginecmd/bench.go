package enginecmd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/bench/load"
	"github.com/skein-run/skein/internal/calm"
	"github.com/skein-run/skein/internal/cli/command"
	"github.com/skein-run/skein/internal/cli/table"
	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/runner/wire"
)

func newBench(e Env) *cobra.Command {
	var (
		dir    string
		asJSON bool
		spec   wire.BenchSpec
	)
	cmd := &cobra.Command{
		Use:   "bench MODEL [flags]",
		Short: "Measure the bare library: no scheduler, no server",
		Long: `Measure how fast the libraries compute a model: prompts (prefill) and then one
token a step (decode), in a loop with nothing around it, in a process of its
own. MODEL is a name of 'skein models list' or a .gguf file.`,
		Example: `  skein engine bench skein-demo-4m-q8_0
  skein engine bench ./model.gguf --streams 4 --threads 2`,
		Args: command.Need(1, 1, "say which model to measure with: skein engine bench MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			entry, err := e.Model(args[0])
			if err != nil {
				return err
			}
			o, err := e.Engine(dir)
			if err != nil {
				return err
			}
			found, err := engine.Find(o)
			if err != nil {
				return err
			}
			spec.Load.Paths = entry.Paths
			res, err := Measure(cmd.Context(), e.Executable, found, spec)
			if err != nil {
				return err
			}
			if asJSON {
				return e.JSON(res)
			}
			return e.printBench(spec, res)
		},
	}
	f := cmd.Flags()
	f.IntVar(&spec.Prompt, "prompt-tokens", 512, "tokens of each prompt")
	f.IntVar(&spec.Decode, "decode-tokens", 128, "tokens decoded after it")
	f.IntVar(&spec.Streams, "streams", 1, "sequences decoded together")
	f.IntVar(&spec.Repeat, "repeat", 5, "runs; the median counts")
	f.IntVar(&spec.Load.Threads, "threads", 0, "processor threads; 0: as many as the process may use")
	f.IntVar(&spec.Load.ChunkTokens, "chunk-tokens", 0, "prompt tokens a step takes; 0: chosen by the model's size")
	f.IntVar(&spec.Load.GPULayers, "gpu-layers", -1, "layers kept on the GPU, the output head being one; -1: as many as fit; 0: the GPU is not used")
	command.EngineDirFlag(cmd, &dir)
	command.JSONFlag(cmd, &asJSON)
	return cmd
}

// Measure measures the bare library in a child, which a failed assertion of it
// may take down.
func Measure(ctx context.Context, executable string, found *engine.Engine, spec wire.BenchSpec) (wire.BenchResult, error) {
	var res wire.BenchResult
	spec.Engine = found.Spec()
	in, err := json.Marshal(spec)
	if err != nil {
		return res, fmt.Errorf("measure the engine: %w", err)
	}
	child := exec.CommandContext(ctx, executable, "runner", "--bench")
	child.WaitDelay = time.Second
	child.Stdin = bytes.NewReader(in)
	var stdout, stderr bytes.Buffer
	child.Stdout, child.Stderr = &stdout, &stderr
	// As a node starts its runners, so that both can be compared.
	err = calm.Start(child)
	if err == nil {
		err = child.Wait()
	}
	if err != nil {
		if ctx.Err() != nil {
			return res, context.Cause(ctx)
		}
		return res, fmt.Errorf("measure the engine in %s: %s", found.Dir, engine.LastWords(stderr.String(), err))
	}
	if err := json.Unmarshal(stdout.Bytes(), &res); err != nil {
		return res, fmt.Errorf("measure the engine: its child's answer: %w", err)
	}
	return res, nil
}

func (e Env) printBench(spec wire.BenchSpec, r wire.BenchResult) error {
	prefill, decode := load.Summarize(r.PrefillEach), load.Summarize(r.DecodeEach)
	row := func(name string, s load.Summary) []string {
		return []string{name, rate(s.Median), rate(s.Min), rate(s.Max), "tok/s"}
	}
	fmt.Fprintf(e.Stdout, "%s on llama.cpp %s, %d threads, %s; load %.2f s\n", r.Model, r.Engine, r.Threads, onGPU(r), r.LoadSeconds)
	return table.Columns(e.Stdout, [][]string{
		{"", "MEDIAN", "MIN", "MAX", "UNIT"},
		row(fmt.Sprintf("prefill, %d tokens in steps of %d", spec.Prompt, r.ChunkTokens), prefill),
		row(fmt.Sprintf("decode, %d tokens, streams: %d", spec.Decode, spec.Streams), decode),
	}, 1, 2, 3)
}

// onGPU says where the model lies.
func onGPU(r wire.BenchResult) string {
	if r.GPULayers == 0 {
		return "no GPU"
	}
	return fmt.Sprintf("%d of %d layers on the GPU", r.GPULayers, r.Layers)
}

// rate writes tokens a second with as many decimals as they deserve.
func rate(v float64) string {
	if v >= 1000 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'f', 1, 64)
}
