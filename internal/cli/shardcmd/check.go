package shardcmd

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/bench/shards"
	"github.com/skein-run/skein/internal/cli/command"
	"github.com/skein-run/skein/internal/cli/table"
)

func newCheck(e Env) *cobra.Command {
	var (
		f      layoutFlags
		o      shards.CheckOptions
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "check MODEL [flags]",
		Short: "Compare a model in shards with the same model whole",
		Long: `Run a model whole and in shards on this machine and compare the logits. MODEL
is a name of 'skein models list' or a .gguf file.

The verdict is right when a pipeline's logits have an NMSE of at most 1e-8, and
those of tensor ranks at most 1e-6 (f32 and f16 weights) or twice the library's
own noise on this input (quantized weights), and no greedy token differs
outside that noise. The noise is how far the whole model is from itself when a
prompt is computed at once, and token by token. With --devices the whole model is
computed on the first of them; where there are others, on each too, which counts
as noise, and twice the noise is right.

Exit code: 0 right, 1 wrong, 2 error, 3 refused, which means that this model is
not known to be right when it is cut this way, and is placed whole.`,
		Example: `  skein shard check skein-demo-4m-q8_0 --stages 2
  skein shard check ./model.gguf --ranks 2 --json`,
		Args:              exact(1, "say which model to check: skein shard check MODEL"),
		ValidArgsFunction: e.Complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			o.Model = args[0]
			if o.Layout, err = f.read(cmd); err != nil {
				return &command.ExitError{Code: CodeError, Err: err}
			}
			report := shards.Report{Model: o.Model, Stages: o.Layout.Stages, Ranks: o.Layout.Ranks, Verdict: shards.Failed}
			entry, err := e.Model(args[0])
			if err == nil {
				o.Model, o.Paths = entry.Name, entry.Paths
				report.Model, report.Architecture = entry.Name, entry.Architecture
				o.EngineDir, err = e.EngineDir(f.engineDir)
			}
			var host Host
			if err == nil {
				host, err = e.Host(false)
			}
			if err == nil {
				if report, err = host.Check(cmd.Context(), o); err != nil {
					return err // interrupted
				}
			} else {
				report.Reason = err.Error()
			}
			return e.printCheck(report, o.Layout, asJSON)
		},
	}
	f.add(cmd, shards.BalanceEven)
	fs := cmd.Flags()
	fs.IntVar(&o.Tokens, "tokens", 40, "positions compared")
	fs.StringVar(&o.Prompt, "prompt", "", "compare on `TEXT` and what the whole model makes of it; default: random token ids")
	fs.Uint64Var(&o.Seed, "seed", 1, "of the random token ids")
	command.JSONFlag(cmd, &asJSON)
	return cmd
}

func (e Env) printCheck(r shards.Report, l shards.Layout, asJSON bool) error {
	code := map[string]int{shards.Right: 0, shards.Wrong: CodeWrong, shards.Refused: CodeRefused}
	exit, known := code[r.Verdict]
	if !known {
		exit = CodeError
	}
	switch {
	case asJSON:
		if err := e.JSON(r); err != nil {
			return &command.ExitError{Code: CodeError, Err: err}
		}
	case exit == CodeError:
		return &command.ExitError{Code: CodeError, Err: errors.New(r.Reason)}
	default:
		cut := fmt.Sprintf("%d stages of %d ranks", r.Stages, r.Ranks)
		if l.HalfPrecision {
			cut += ", activations as f16 (not exact)"
		}
		rows := [][]string{{"model", r.Model + " (" + r.Architecture + ")"}, {"shards", cut}}
		if len(r.Devices) > 0 {
			rows = append(rows, []string{"devices", strings.Join(r.Devices, ", ") + ", in turn"})
		}
		if r.NMSE != nil {
			rows = append(rows, []string{"NMSE of the logits", figure(r.NMSE)}, []string{"the library's own", figure(r.Noise)},
				[]string{"greedy tokens", fmt.Sprintf("%d compared, %d differ outside that noise", r.TokensCompared, r.TokensDiffer)})
		}
		verdict := r.Verdict
		if r.Reason != "" {
			verdict += ": " + r.Reason
		}
		if err := table.Columns(e.Stdout, append(rows, []string{"verdict", verdict})); err != nil {
			return &command.ExitError{Code: CodeError, Err: err}
		}
	}
	if exit != 0 {
		return &command.ExitError{Code: exit}
	}
	return nil
}

func figure(v *float64) string {
	if v == nil {
		return "not measured"
	}
	return strconv.FormatFloat(*v, 'g', 3, 64)
}
