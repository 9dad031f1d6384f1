package clustercmd

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/client"
	"github.com/skein-run/skein/internal/cli/command"
	"github.com/skein-run/skein/internal/cli/table"
)

func newStatus(e Env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the cluster: nodes and their memory, who leads, which model lies where",
		Long: `Show the cluster as it is now: the nodes with their memory, the master, the
models with their places and speed, and what is being fetched. --json prints
what GET /v1/cluster answers.`,
		Args: command.Need(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return e.do(cmd.Context(), func(c *client.Client) error {
				o, err := c.Overview(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON {
					return e.JSON(o)
				}
				return table.Print(e.Stdout, e.frame(o)...)
			})
		},
	}
	command.JSONFlag(cmd, &asJSON)
	return cmd
}

// frame is the cluster for a person.
func (e Env) frame(o api.Overview) []string {
	styled := e.Styled()
	width, _ := e.Terminal()
	master := ""
	for _, n := range o.Nodes {
		if n.IsMaster {
			master = n.FriendlyName
		}
	}
	lead := table.Paint("no master: commands wait for one", table.Bad, styled)
	if o.MasterNodeID != "" {
		lead = "master " + table.Paint(table.Visible(cmp.Or(master, o.MasterNodeID)), table.Bold, styled)
	}
	lines := table.Wrap(fmt.Sprintf("%s, %s, %.1f of %.1f GB free, %.1f tokens/s now", plural(o.NodeCount, "node"), lead, o.AvailableRAMGB, o.TotalRAMGB, o.TokensPerSecond), width, 2)
	lines = append(append(lines, ""), nodeTable(o.Nodes).Lines(width, styled)...)
	lines = append(lines, cards(o.Nodes, width, styled)...)
	lines = append(lines, "")
	if len(o.Models) == 0 {
		lines = append(lines, table.Wrap("No model is loaded. Load one with 'skein models load NAME'; 'skein models list' shows what there is.", width, 0)...)
	} else {
		lines = append(lines, modelTable(o.Models).Lines(width, styled)...)
		lines = append(lines, failures(o.Models, width)...)
	}
	if len(o.Downloads) > 0 {
		lines = append(lines, "")
		lines = append(lines, downloadTable(o.Downloads).Lines(width, styled)...)
	}
	return lines
}

// nodeTable lists nodes with bars of their memory.
func nodeTable(nodes []api.Node) *table.Table {
	g := table.New("NODE", "STATUS", "MEMORY", "USED", "OF", "MODELS").Right(3, 4)
	g.Cut(5, 20).Shorten(2).Cut(0, 16).Cut(5, 8).Drop(2).Drop(5).Cut(0, 8).Drop(4)
	for _, n := range nodes {
		memory, used := table.Cell{Text: table.Bar(n.RAMUsedPercent, 16), Short: table.Bar(n.RAMUsedPercent, 8)}, fmt.Sprintf("%.1f", n.RAMUsedGB)
		if n.RAMUsedPercent > 90 {
			memory.Style = table.Bad
		}
		if n.Status != api.NodeOnline {
			memory, used = table.Cell{}, "-"
		}
		g.Add(name(n.FriendlyName), nodeStatus(n), memory, table.T(used), table.T(fmt.Sprintf("%.1f GB", n.RAMTotalGB)), table.T(list(n.LoadedModels)))
	}
	return g
}

// cards lists what accelerators the nodes have beside their memory, below the
// nodes.
func cards(nodes []api.Node, width int, styled bool) []string {
	g := table.New("NODE", "DEVICE", "FREE", "OF", "KIND", "CHIP").Right(2, 3)
	g.Cut(5, 12).Cut(0, 16).Drop(4).Drop(5).Cut(0, 8).Drop(3)
	found := false
	for _, n := range nodes {
		for _, d := range n.Accelerators {
			found = true
			g.Add(name(n.FriendlyName), table.T(cmp.Or(d.ID, "-")), table.T(fmt.Sprintf("%.1f", d.MemoryAvailableGB)), table.T(fmt.Sprintf("%.1f GB", d.MemoryTotalGB)), table.T(d.Kind), table.T(cmp.Or(d.Name, "-")))
		}
	}
	if !found {
		return nil
	}
	return append([]string{""}, g.Lines(width, styled)...)
}

// name is a cell that says what a row is about.
func name(text string) table.Cell { return table.Cell{Text: text, Style: table.Bold} }

// list is a list in a cell.
func list(of []string) string { return cmp.Or(strings.Join(of, ", "), "-") }

// nodeStatus is how a node is, in a word.
func nodeStatus(n api.Node) table.Cell {
	switch {
	case n.Status == api.NodeStale:
		return table.Cell{Text: "gone " + ago(n.SecondsSinceSeen), Style: table.Bad}
	case n.Status == api.NodeUnknown:
		return table.Cell{Text: n.Status, Style: table.Busy}
	case n.Draining:
		return table.Cell{Text: "draining", Style: table.Busy}
	case n.IsMaster:
		return table.Cell{Text: "master", Style: table.Good}
	}
	return table.Cell{Text: n.Status, Style: table.Good}
}

// look gives a status its colour.
func look(status string) table.Style {
	switch status {
	case api.StatusReady, api.StatusRunning, api.NodeOnline:
		return table.Good
	case api.StatusFailed, api.NodeStale:
		return table.Bad
	}
	return table.Busy
}

// places is where a model lies, by names and their accelerators or by their number.
func places(m api.Model) table.Cell {
	names := slices.Clone(m.NodeNames)
	for i, n := range names {
		for _, s := range m.Shards {
			if s.NodeName == n && s.Device != "" {
				names[i] = n + " (" + s.Device + ")"
				break
			}
		}
	}
	c := table.T(list(names))
	if len(names) > 1 {
		c.Short = plural(len(names), "node")
	}
	return c
}

// modelTable lists what is loaded, and how far the rest is.
func modelTable(models []api.Model) *table.Table {
	g := table.New("MODEL", "STATUS", "WAY", "CONTEXT", "SLOTS", "TOKENS/S", "NODES").Right(3, 4, 5)
	g.Shorten(6).Cut(1, 28).Cut(0, 24).Drop(4).Drop(3).Cut(6, 10).Cut(0, 14).Drop(2).Cut(1, 12).Drop(6).Cut(0, 8)
	for _, m := range models {
		status := m.Status
		if !m.Ready && m.Status != api.StatusFailed {
			status = cmp.Or(m.Progress, m.Status)
		}
		if m.Status == api.StatusRunning {
			status = m.Progress
		}
		speed := "-"
		switch {
		case m.TokensPerSecond > 0:
			speed = fmt.Sprintf("%.1f", m.TokensPerSecond)
		case m.MeasuredTokensPerSecond > 0:
			speed = fmt.Sprintf("(%.1f)", m.MeasuredTokensPerSecond)
		case m.PredictedTokensPerSecond > 0:
			speed = fmt.Sprintf("~%.1f", m.PredictedTokensPerSecond)
		}
		g.Add(name(m.ModelName), table.Cell{Text: status, Style: look(m.Status)}, table.T(cmp.Or(m.Way, "-")), table.T(number(m.ContextLength)), table.T(number(m.Slots)), table.T(speed), places(m))
	}
	return g
}

// failures says why models failed.
func failures(models []api.Model, width int) []string {
	var out []string
	for _, m := range models {
		if m.Status == api.StatusFailed && m.Error != "" {
			out = append(out, table.Wrap(table.Visible(m.ModelName+" failed: "+m.Error), width, 2)...)
		}
	}
	return out
}

func downloadTable(downloads []api.Download) *table.Table {
	g := table.New("FETCHING", "STATUS", "DONE", "OF", "SPEED", "LEFT", "NODE").Right(2, 3, 4, 5)
	g.Cut(1, 20).Cut(0, 24).Drop(5).Cut(6, 10).Drop(4).Cut(1, 11).Cut(0, 12).Drop(3).Drop(6).Cut(0, 8)
	for _, d := range downloads {
		status := d.Status
		if d.Error != "" {
			status += ": " + d.Error
		}
		left := "-"
		if d.ETASeconds > 0 {
			left = ago(d.ETASeconds)
		}
		g.Add(name(d.ModelID), table.Cell{Text: status, Style: look(d.Status)}, table.T(fmt.Sprintf("%.0f %%", d.ProgressPercent)), table.T(fmt.Sprintf("%.1f GB", d.TotalGB)), table.T(fmt.Sprintf("%.1f MB/s", d.SpeedMBs)), table.T(left), table.T(d.NodeName))
	}
	return g
}

// number prints a count, "-" when it is not known.
func number(n int) string {
	if n <= 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

func newHealth(e Env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Say whether the cluster has nodes and a master; exit code 1 if not",
		Args:  command.Need(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return e.do(cmd.Context(), func(c *client.Client) error { return e.health(cmd.Context(), c, asJSON) })
		},
	}
	command.JSONFlag(cmd, &asJSON)
	return cmd
}

func (e Env) health(ctx context.Context, c *client.Client, asJSON bool) error {
	h, err := c.Health(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		err = e.JSON(h)
	} else {
		word, style := "healthy", table.Good
		if !h.Healthy {
			word, style = "not healthy", table.Bad
		}
		var master string
		if master, err = masterName(ctx, c, h.MasterNodeID); err != nil {
			return err
		}
		width, _ := e.Terminal()
		lines := table.Wrap(fmt.Sprintf("%s: %s, master %s, this node up for %s", table.Paint(word, style, e.Styled()), plural(h.NodeCount, "node"), table.Visible(master), ago(h.UptimeSeconds)), width, 2)
		if h.Problem != "" {
			lines = append(lines, table.Wrap(table.Visible(h.Problem), width, 2)...)
		}
		for _, w := range h.Warnings {
			lines = append(lines, table.Wrap(table.Visible(w), width, 2)...)
		}
		if h.GenerationsResumed+h.GenerationsLost > 0 {
			lines = append(lines, table.Wrap(fmt.Sprintf("generations that lost their place: %d went on at another, %d ended", h.GenerationsResumed, h.GenerationsLost), width, 2)...)
		}
		err = table.Print(e.Stdout, lines...)
	}
	if err == nil && !h.Healthy {
		err = &command.ExitError{Code: CodeFailed}
	}
	return err
}

// masterName is what people call the master.
func masterName(ctx context.Context, c *client.Client, id string) (string, error) {
	if id == "" {
		return "none", nil
	}
	names, err := nodeNames(ctx, c)
	return cmp.Or(names[id], id), err
}
