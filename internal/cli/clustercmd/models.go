package clustercmd

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/client"
	"github.com/skein-run/skein/internal/cli/command"
	"github.com/skein-run/skein/internal/cli/table"
)

// Loaded is the bare `skein models`: what is loaded and what is being fetched.
func (e Env) Loaded(ctx context.Context, asJSON bool) error {
	return e.do(ctx, func(c *client.Client) error {
		models, err := c.ClusterModels(ctx)
		if err != nil {
			return err
		}
		if asJSON {
			return e.JSON(models)
		}
		width, _ := e.Terminal()
		if len(models.Loaded) == 0 && len(models.Downloading) == 0 {
			return table.Print(e.Stdout, table.Wrap("No model is loaded. One is loaded when it is first asked for; 'skein models list' shows what there is.", width, 0)...)
		}
		var lines []string
		if len(models.Loaded) > 0 {
			g := table.New("MODEL", "STATUS", "CONTEXT", "SLOTS", "MEMORY", "NODES").Right(2, 3, 4)
			g.Shorten(5).Cut(0, 24).Drop(3).Drop(2).Cut(5, 10).Cut(0, 12).Drop(5).Cut(0, 8)
			for _, m := range models.Loaded {
				g.Add(name(m.ModelName), table.Cell{Text: m.Status, Style: look(m.Status)}, table.T(number(m.ContextLength)), table.T(number(m.Slots)), table.T(fmt.Sprintf("%.1f GB", m.MemoryGB)), places(m))
			}
			lines = append(g.Lines(width, e.Styled()), failures(models.Loaded, width)...)
		}
		if len(models.Downloading) > 0 {
			if len(lines) > 0 {
				lines = append(lines, "")
			}
			lines = append(lines, downloadTable(models.Downloading).Lines(width, e.Styled())...)
		}
		return table.Print(e.Stdout, lines...)
	})
}

func newModelStatus(e Env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "status NAME",
		Short:             "Say how far a model is",
		Args:              command.Need(1, 1, "say which model: skein models status NAME"),
		ValidArgsFunction: at(1, e.completeModels(false)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.do(cmd.Context(), func(c *client.Client) error {
				s, err := c.ModelStatus(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if asJSON {
					return e.JSON(s)
				}
				parts, err := c.ClusterModels(cmd.Context())
				if err != nil {
					return err
				}
				return table.Print(e.Stdout, e.describeModel(s, parts.Loaded)...)
			})
		},
	}
	command.JSONFlag(cmd, &asJSON)
	return cmd
}

// describeModel says how far a model is, and its parts if it has several.
func (e Env) describeModel(s api.ModelStatus, loaded []api.Model) []string {
	width, _ := e.Terminal()
	text := fmt.Sprintf("%s: %s", table.Visible(s.ModelID), table.Paint(table.Visible(cmp.Or(s.Progress, s.Status)), look(s.Status), e.Styled()))
	if len(s.Nodes) > 0 {
		text += " on " + table.Visible(strings.Join(s.Nodes, ", "))
	}
	if s.Replicas > 1 {
		text += fmt.Sprintf(" (%d of %d replicas ready)", s.ReadyReplicas, s.Replicas)
	}
	lines := table.Wrap(text, width, 2)
	switch {
	case s.Error != "" && !strings.Contains(s.Progress, s.Error):
		lines = append(lines, table.Wrap(table.Visible(s.Error), width, 2)...)
	case !s.Found:
		lines = append(lines, table.Wrap("load it with 'skein models load "+table.Visible(s.ModelID)+"'", width, 2)...)
	}
	g := table.New("NODE", "PART", "STATUS", "MEMORY").Right(3)
	g.Cut(1, 24).Cut(0, 12).Cut(2, 12).Drop(3).Cut(1, 10).Cut(0, 8)
	parts := 0
	for _, m := range loaded {
		if m.ModelID != s.ModelID {
			continue
		}
		for _, part := range m.Shards {
			parts++
			g.Add(name(part.NodeName), table.T(part.Role), table.Cell{Text: cmp.Or(part.Progress, part.Status), Style: look(part.Status)}, table.T(fmt.Sprintf("%.1f GB", part.MemoryGB)))
		}
	}
	if parts > 1 {
		lines = append(append(lines, ""), g.Lines(width, e.Styled())...)
	}
	return lines
}

// placing are the flags that say how a model is to be placed.
type placing struct {
	options api.LoadOptions
	dryRun  bool
	wait    bool
	timeout span
	asJSON  bool
}

func (p *placing) add(e Env, cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.IntVar(&p.options.MinNodes, "min-nodes", 0, "spread it over at least `N` nodes")
	fs.StringVar(&p.options.Sharding, "sharding", "", "spread it this `WAY`: auto, pipeline or tensor")
	fs.StringSliceVar(&p.options.NodeIDs, "node", nil, "`NODE`s that must hold a part, by id or name; may be repeated")
	fs.IntVar(&p.options.ContextLength, "context", 0, "`TOKENS` of each slot")
	fs.IntVar(&p.options.Slots, "slots", 0, "`N` requests that run at once")
	fs.BoolVar(&p.dryRun, "dry-run", false, "say what would be done, and do nothing")
	fs.BoolVar(&p.wait, "wait", false, "show progress until the model is ready; exit code 1 if it fails, 124 after --timeout")
	p.timeout = span(600 * time.Second)
	fs.Var(&p.timeout, "timeout", "wait at most this long, in seconds or like 10m")
	command.JSONFlag(cmd, &p.asJSON)
	// Registering fails for unknown flags only, and these are known.
	_ = cmd.RegisterFlagCompletionFunc("node", e.completeNodes)
	_ = cmd.RegisterFlagCompletionFunc("sharding", cobra.FixedCompletions([]string{api.ShardingAuto, api.ShardingPipeline, api.ShardingTensor}, cobra.ShellCompDirectiveNoFileComp))
}

func (p *placing) check(e Env, cmd *cobra.Command) error {
	o := p.options
	switch {
	case o.MinNodes < 0 || o.ContextLength < 0 || o.Slots < 0:
		return command.Usage(cmd, "--min-nodes, --context and --slots must not be negative")
	case !slices.Contains([]string{"", api.ShardingAuto, api.ShardingPipeline, api.ShardingTensor}, o.Sharding):
		return command.Usage(cmd, "--sharding must be auto, pipeline or tensor, not %q", o.Sharding)
	case p.dryRun && p.wait:
		return command.Usage(cmd, "--dry-run does nothing that --wait could wait for; leave one of the two out")
	}
	return nil
}

func newLoad(e Env) *cobra.Command {
	var p placing
	var replicas int
	cmd := &cobra.Command{
		Use:        "load NAME",
		SuggestFor: []string{"load"},
		Short:      "Load a model; the cluster finds the place",
		Long: `Load a model. The cluster decides where it goes, says so, and goes on in the
background; --wait shows how far it is until it is ready. --dry-run only says
where it would go, how fast it would be, and what else there is.`,
		Args:              command.Need(1, 1, "say which model: skein models load NAME; 'skein models list' shows what there is"),
		ValidArgsFunction: at(1, e.completeModels(false)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := p.check(e, cmd); err != nil {
				return err
			}
			if replicas < 0 {
				return command.Usage(cmd, "--replicas must not be negative")
			}
			return e.do(cmd.Context(), func(c *client.Client) error {
				a, err := c.Load(cmd.Context(), api.LoadRequest{ModelID: args[0], LoadOptions: p.options, DryRun: p.dryRun, Replicas: replicas})
				if err != nil {
					return err
				}
				if p.asJSON {
					if err := e.JSON(a); err != nil {
						return err
					}
				} else if err := e.told(cmd.Context(), c, p.dryRun, a.Message, a.Placement, a.EstimatedMemoryGB, a.PredictedTokensPerSecond, a.Explanation, a.Alternatives); err != nil {
					return err
				}
				if !p.wait {
					return nil
				}
				return e.wait(cmd.Context(), c, a.ModelID, a.InstanceID, time.Duration(p.timeout))
			})
		},
	}
	p.add(e, cmd)
	cmd.Flags().IntVar(&replicas, "replicas", 0, "`N` of it are wanted in total")
	return cmd
}

// told prints what was decided.
func (e Env) told(ctx context.Context, c *client.Client, dryRun bool, message string, placement map[string]string, memory, speed float64, explanation string, alternatives []api.Alternative) error {
	width, _ := e.Terminal()
	message = fmt.Sprintf("%s; %s of memory", table.Visible(message), inGB(memory))
	if speed > 0 {
		message += fmt.Sprintf(", about %.1f tokens/s", speed)
	}
	lines := table.Wrap(message, width, 2)
	if dryRun {
		names, err := nodeNames(ctx, c)
		if err != nil {
			return err
		}
		g := table.New("NODE", "PART").Cut(0, 12).Cut(1, 12)
		for _, id := range slices.SortedFunc(maps.Keys(placement), func(a, b string) int {
			return cmp.Or(cmp.Compare(placement[a], placement[b]), cmp.Compare(a, b)) // stage after stage
		}) {
			g.Add(name(cmp.Or(names[id], id)), table.T(placement[id]))
		}
		lines = append(lines, g.Lines(width, e.Styled())...)
		if explanation != "" {
			lines = append(lines, table.Wrap(table.Visible(explanation), width, 0)...)
		}
		for _, a := range alternatives {
			text := fmt.Sprintf("  %s: about %.1f tokens/s", a.Way, a.PredictedTokensPerSecond)
			if a.Why != "" {
				text = fmt.Sprintf("  %s: %s", a.Way, a.Why)
			}
			lines = append(lines, table.Wrap(table.Visible(text), width, 2)...)
		}
	}
	return table.Print(e.Stdout, lines...)
}

// inGB writes an amount of memory; the API tells it in tenths.
func inGB(gb float64) string {
	if gb < 0.05 {
		return "less than 0.1 GB"
	}
	return fmt.Sprintf("%.1f GB", gb)
}

// nodeNames are those of all nodes, by id.
func nodeNames(ctx context.Context, c *client.Client) (map[string]string, error) {
	nodes, err := c.Nodes(ctx)
	out := map[string]string{}
	for _, n := range nodes.Nodes {
		out[n.NodeID] = n.FriendlyName
	}
	return out, err
}

// drainFlag gives a command --drain.
func drainFlag(cmd *cobra.Command, drain *span) {
	*drain = span(30 * time.Second)
	cmd.Flags().Var(drain, "drain", "let requests in progress go on this long, in seconds or like 2m")
}

func newUnload(e Env) *cobra.Command {
	var drain span
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "unload NAME",
		SuggestFor:        []string{"unload", "stop", "eject"},
		Short:             "Unload a model, with all its replicas",
		Args:              command.Need(1, 1, "say which model: skein models unload NAME; 'skein models' shows what is loaded"),
		ValidArgsFunction: at(1, e.completeModels(true)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.do(cmd.Context(), func(c *client.Client) error {
				a, err := c.Unload(cmd.Context(), args[0], time.Duration(drain))
				if err != nil {
					return err
				}
				if asJSON {
					return e.JSON(a)
				}
				width, _ := e.Terminal()
				return table.Print(e.Stdout, table.Wrap(fmt.Sprintf("%s; this frees %s", table.Visible(a.Message), inGB(a.FreedMemoryGB)), width, 2)...)
			})
		},
	}
	drainFlag(cmd, &drain)
	command.JSONFlag(cmd, &asJSON)
	return cmd
}

func newSwap(e Env) *cobra.Command {
	var p placing
	var drain span
	cmd := &cobra.Command{
		Use:        "swap OLD NEW",
		SuggestFor: []string{"swap"},
		Short:      "Unload a model and load another in its place, as one step",
		Long: `Unload one model and load another, as one decision: if the new one can't be
placed in the memory that the old one frees, nothing changes. Requests to the
old model that are in progress go on for --drain.`,
		Args: command.Need(2, 2, "say what to unload and what to load: skein models swap OLD NEW"),
		ValidArgsFunction: at(2, func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			return e.completeModels(len(args) == 0)(cmd, args, word)
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := p.check(e, cmd); err != nil {
				return err
			}
			seconds := time.Duration(drain).Seconds()
			return e.do(cmd.Context(), func(c *client.Client) error {
				a, err := c.Swap(cmd.Context(), api.SwapRequest{UnloadModelID: args[0], LoadModelID: args[1], LoadOptions: p.options, DryRun: p.dryRun, DrainSeconds: &seconds})
				if err != nil {
					return err
				}
				if p.asJSON {
					if err := e.JSON(a); err != nil {
						return err
					}
				} else if err := e.told(cmd.Context(), c, p.dryRun, a.Message, a.Placement, a.EstimatedLoadMemoryGB, a.PredictedTokensPerSecond, a.Explanation, nil); err != nil {
					return err
				}
				if !p.wait {
					return nil
				}
				return e.wait(cmd.Context(), c, a.LoadedModel, a.InstanceID, time.Duration(p.timeout))
			})
		},
	}
	p.add(e, cmd)
	drainFlag(cmd, &drain)
	return cmd
}
