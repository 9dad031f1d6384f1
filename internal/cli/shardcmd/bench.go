package shardcmd

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/bench/shards"
	"github.com/skein-run/skein/internal/bytesize"
	"github.com/skein-run/skein/internal/cli/table"
)

func newBench(e Env) *cobra.Command {
	var (
		f      layoutFlags
		o      shards.BenchOptions
		asJSON bool
		tls    bool
		pin    bool
	)
	cmd := &cobra.Command{
		Use:   "bench MODEL [flags]",
		Short: "Time a model in shards beside the same model whole",
		Long: `Time a model in shards beside the same model whole with 1 and with 2 threads, in
turns within one run, and give the ratios of the medians. Each shard of this
machine gets cores of its own when there are enough. Everything is loaded at
once, so the memory must hold the model three times.

With --tls the same shards without it are timed in turns too (baseline plain), so
that the ratio tells what TLS costs; --whole-threads 0 leaves the whole model out then.

With --twice two whole models, each with 1 thread and half of the streams, are timed
too: what two shards could reach at most on this machine.

Decode is the speed of all streams together; the whole with 1 thread is given
the streams of one micro-batch (the streams divided by the stages). Prefill is
the speed of one prompt. The figures mean something only while the machine does
nothing else. With --json there is one object a line.`,
		Example: `  skein shard bench ./model.gguf --ranks 2
  skein shard bench ./model.gguf --stages 2 --streams 4`,
		Args:              exact(1, "say which model to time: skein shard bench MODEL"),
		ValidArgsFunction: e.Complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if o.Layout, err = f.read(cmd); err != nil {
				return err
			}
			o.Layout.TLS, o.Layout.Pin = tls, pin
			if slices.Equal(o.WholeThreads, []int{0}) {
				o.WholeThreads = nil
			}
			if err := o.Validate(); err != nil {
				return err
			}
			entry, err := e.Model(args[0])
			if err != nil {
				return err
			}
			o.Model, o.Paths = entry.Name, entry.Paths
			if o.EngineDir, err = e.EngineDir(f.engineDir); err != nil {
				return err
			}
			host, err := e.Host(false)
			if err != nil {
				return err
			}
			figures, err := host.Bench(cmd.Context(), o, e.Note)
			if err != nil {
				return err
			}
			if asJSON {
				return e.printLines(figures)
			}
			return e.printFigures(figures)
		},
	}
	f.add(cmd, shards.BalanceDecode)
	fs := cmd.Flags()
	fs.IntVar(&o.Streams, "streams", 1, "generations at once")
	fs.IntVar(&o.PromptTokens, "prompt-tokens", 512, "tokens of the prompt")
	fs.IntVar(&o.DecodeTokens, "decode-tokens", 64, "tokens decoded by each stream")
	fs.IntVar(&o.Rounds, "rounds", 5, "times that each is measured; the median counts")
	fs.IntSliceVar(&o.WholeThreads, "whole-threads", []int{1, 2}, "compare with the whole model with so many threads: 1, 2 or both; 0: not at all")
	fs.BoolVar(&o.Twice, "twice", false, "compare with two whole models with 1 thread each too, which share the streams: what the machine gives to two at once")
	fs.Uint64Var(&o.Seed, "seed", 1, "of the random prompts")
	fs.BoolVar(&tls, "tls", false, "encrypt the links between local shards")
	fs.BoolVar(&pin, "pin", true, "give each local shard cores of its own")
	fs.BoolVar(&asJSON, "json", false, "print JSON, one object a line")
	return cmd
}

func (e Env) printLines(figures []shards.Figure) error {
	enc := json.NewEncoder(e.Stdout)
	for _, f := range figures {
		if err := enc.Encode(f); err != nil {
			return fmt.Errorf("print the figures: %w", err)
		}
	}
	return nil
}

func (e Env) printFigures(figures []shards.Figure) error {
	if len(figures) > 0 && figures[0].Activations == shards.ActivationsHalf {
		e.Note("activations travel as f16: what is computed is not exact")
	}
	rows := [][]string{{"FIGURE", "STREAMS", "BASELINE", "SHARDED", "WHOLE", "RATIO", "SPREAD", "UNIT"}}
	for _, f := range figures {
		number := func(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) }
		unit := f.Unit
		if f.Figure == shards.Memory {
			number, unit = func(v float64) string { return bytesize.Format(int64(v)) }, ""
		}
		baseline := f.Baseline
		if f.BaselineStreams != f.Streams {
			baseline += fmt.Sprintf(" (%d streams)", f.BaselineStreams)
		}
		rows = append(rows, []string{f.Figure, strconv.Itoa(f.Streams), baseline, number(f.Sharded), number(f.Whole),
			strconv.FormatFloat(f.Ratio, 'f', 3, 64), number(slices.Min(f.ShardedEach)) + ".." + number(slices.Max(f.ShardedEach)), unit})
	}
	return table.Columns(e.Stdout, rows, 1, 3, 4, 5, 6)
}
