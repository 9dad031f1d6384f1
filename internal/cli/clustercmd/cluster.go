package clustercmd

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/client"
	"github.com/skein-run/skein/internal/cli/command"
	"github.com/skein-run/skein/internal/cli/table"
)

func newCluster(e Env) *cobra.Command {
	return command.Group(&cobra.Command{
		Use:   "cluster",
		Short: "Change who leads, drain nodes, follow what happens",
	}, nil, newPromote(e), newDrain(e), newResume(e), newEvents(e))
}

// aboutNode makes a command that changes one node.
func (e Env) aboutNode(use, short, what string, change func(ctx context.Context, c *client.Client, node string) (answer any, message string, err error)) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               use + " NODE",
		SuggestFor:        []string{use},
		Short:             short,
		Args:              command.Need(1, 1, fmt.Sprintf("say which node to %s: skein cluster %s NODE; 'skein nodes' lists them", what, use)),
		ValidArgsFunction: at(1, e.completeNodes),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.do(cmd.Context(), func(c *client.Client) error {
				answer, message, err := change(cmd.Context(), c, args[0])
				if err != nil {
					return err
				}
				if asJSON {
					return e.JSON(answer)
				}
				width, _ := e.Terminal()
				return table.Print(e.Stdout, table.Wrap(table.Visible(message), width, 2)...)
			})
		},
	}
	command.JSONFlag(cmd, &asJSON)
	return cmd
}

func newPromote(e Env) *cobra.Command {
	return e.aboutNode("promote", "Hand the lead over to a node", "promote", func(ctx context.Context, c *client.Client, node string) (any, string, error) {
		a, err := c.Promote(ctx, node)
		return a, a.Message, err
	})
}

func newDrain(e Env) *cobra.Command {
	return e.aboutNode("drain", "Move everything off a node and give it nothing new", "drain", func(ctx context.Context, c *client.Client, node string) (any, string, error) {
		a, err := c.Drain(ctx, node)
		return a, a.Message, err
	})
}

func newResume(e Env) *cobra.Command {
	return e.aboutNode("resume", "Let a drained node take new work", "resume", func(ctx context.Context, c *client.Client, node string) (any, string, error) {
		a, err := c.Resume(ctx, node)
		return a, a.Message, err
	})
}

func newEvents(e Env) *cobra.Command {
	var asJSON, measurements bool
	var o client.FollowOptions
	kinds := []string{api.EventNode, api.EventModel, api.EventTask, api.EventDownload, api.EventMaster, api.EventAudit}
	cmd := &cobra.Command{
		Use:        "events",
		SuggestFor: []string{"events", "logs", "log"},
		Short:      "Follow what happens in the cluster, until Ctrl-C",
		Long: `Follow what happens in the cluster: a line for each change of a node, a model, a
task, a download, or the master, and for each command that somebody gave. With --json each line is an event as GET
/v1/cluster/events sends it, the first one a snapshot of everything.`,
		Args: command.Need(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, k := range o.Types {
				if !slices.Contains(kinds, k) {
					return command.Usage(cmd, "--types are of %s, not %q", strings.Join(kinds, ", "), k)
				}
			}
			o.Measurements = measurements
			o.Lost = func(err error) error {
				e.Note("the connection to the node broke (%v); trying again", err)
				return nil
			}
			ctx, stop := whileRead(cmd.Context(), e.Stdout)
			defer stop()
			err := e.do(ctx, func(c *client.Client) error {
				n := named{}
				return c.Follow(ctx, o, func(event api.Event) error {
					n.take(event)
					if !asJSON {
						width, _ := e.Terminal()
						return table.Print(e.Stdout, n.lines(event, width)...)
					}
					b, err := json.Marshal(event)
					if err != nil {
						return fmt.Errorf("print the event: %w", err)
					}
					return table.Print(e.Stdout, string(b))
				})
			})
			if errors.Is(context.Cause(ctx), errUnread) {
				return &command.ExitError{Code: exitUnread}
			}
			return err
		},
	}
	fs := cmd.Flags()
	fs.StringSliceVar(&o.Types, "types", nil, "only these `KINDS`, separated by commas: "+strings.Join(kinds, ", "))
	fs.StringVar(&o.After, "after", "", "go on after the event of this `ID`")
	fs.BoolVar(&measurements, "measurements", false, "also when only memory, use or speed changed")
	command.JSONFlag(cmd, &asJSON)
	_ = cmd.RegisterFlagCompletionFunc("types", cobra.FixedCompletions(kinds, cobra.ShellCompDirectiveNoFileComp)) // the flag is known
	return cmd
}

// errUnread: nobody reads what is written any more, as with 'events | head'.
var errUnread = errors.New("nobody reads the output any more")

// exitUnread is what the shell shows of a program that writes to such a pipe.
const exitUnread = 141

// named are the names of nodes by their ids, as far as events told them.
type named map[string]string

func (n named) take(event api.Event) {
	if event.Node != nil {
		n[event.Node.NodeID] = event.Node.FriendlyName
	}
	if event.Cluster != nil {
		for _, node := range event.Cluster.Nodes {
			n[node.NodeID] = node.FriendlyName
		}
	}
}

// of is what people call a node.
func (n named) of(id string) string { return cmp.Or(n[id], id) }

// lines are an event for a person: when and about what, and beside it what it is.
func (n named) lines(event api.Event, width int) []string {
	what := ""
	switch {
	case event.Cluster != nil:
		o := event.Cluster
		what = fmt.Sprintf("%s, %s, master %s", plural(o.NodeCount, "node"), plural(len(o.Models), "model"), cmp.Or(n.of(o.MasterNodeID), "none"))
		if event.Reason != "" {
			what += " (" + event.Reason + ")"
		}
	case event.Node != nil:
		x := event.Node
		what = fmt.Sprintf("%s %s, %.1f of %.1f GB free", x.FriendlyName, x.Status, x.RAMAvailableGB, x.RAMTotalGB)
		if x.Draining {
			what += ", draining"
		}
	case event.Model != nil:
		what = fmt.Sprintf("%s on %s: %s", event.Model.ModelID, strings.Join(event.Model.NodeNames, ", "), event.Model.Progress)
	case event.Download != nil:
		d := event.Download
		what = fmt.Sprintf("%s to %s: %s, %.0f %% of %.1f GB", d.ModelID, d.NodeName, d.Status, d.ProgressPercent, d.TotalGB)
	case event.Task != nil:
		what = fmt.Sprintf("%s of %s: %s", event.Task.TaskType, event.Task.ModelID, event.Task.Status)
	case event.Audit != nil:
		a := event.Audit
		what = fmt.Sprintf("%s by key %s at %s: %s", a.What, a.Key, n.of(a.NodeID), a.Result)
		if a.Count > 1 {
			what += fmt.Sprintf(" (%d times)", a.Count)
		}
	case event.MasterNodeID != nil:
		what = "there is none any more"
		if *event.MasterNodeID != "" {
			what = n.of(*event.MasterNodeID)
		}
	}
	at := time.UnixMilli(int64(event.Timestamp * 1000)).Format("15:04:05")
	change := event.Change
	if change == "" {
		change = "now"
	}
	head := fmt.Sprintf("%s %-8s %-7s ", at, event.Type, change)
	out := table.Wrap(table.Visible(what), max(0, width-len(head)), 0)
	for k := range out {
		out[k] = head + out[k]
		head = strings.Repeat(" ", len(head))
	}
	return out
}
