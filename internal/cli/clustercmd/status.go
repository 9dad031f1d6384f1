package clustercmd

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/client"
)

func newStatus(e Env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the cluster: nodes and their memory, who leads, which model lies where",
		Long: `Show the cluster as it is now: the nodes with their memory, the master, the
models with their places and speed, and what is being fetched. --json prints
what GET /v1/cluster answers.`,
		Args: count(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return e.do(cmd.Context(), func(c *client.Client) error {
				o, err := c.Overview(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON {
					return e.JSON(o)
				}
				return printLines(e.Stdout, e.frame(o, e.Width()))
			})
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// frame is the cluster for a person.
func (e Env) frame(o api.Overview, width int) []string {
	styled := e.Styled()
	master := ""
	for _, n := range o.Nodes {
		if n.IsMaster {
			master = n.FriendlyName
		}
	}
	lead := paint("no master: commands wait for one", bad, styled)
	if o.MasterNodeID != "" {
		lead = "master " + paint(cmp.Or(master, o.MasterNodeID), bold, styled)
	}
	lines := []string{fmt.Sprintf("%s, %s, %.1f of %.1f GB free, %.1f tokens/s now", plural(o.NodeCount, "node"), lead, o.AvailableRAMGB, o.TotalRAMGB, o.TokensPerSecond), ""}
	lines = append(lines, nodeGrid(o.Nodes).lines(width, styled)...)
	lines = append(lines, "")
	if len(o.Models) == 0 {
		lines = append(lines, "No model is loaded. Load one with 'skein models load NAME'; 'skein models list' shows what there is.")
	} else {
		lines = append(lines, modelGrid(o.Models).lines(width, styled)...)
		lines = append(lines, failures(o.Models)...)
	}
	if len(o.Downloads) > 0 {
		lines = append(lines, "")
		lines = append(lines, downloadGrid(o.Downloads).lines(width, styled)...)
	}
	return lines
}

// nodeGrid lists nodes with bars of their memory.
func nodeGrid(nodes []api.Node) *grid {
	const barWidth = 16
	g := newGrid("NODE", "STATUS", "MEMORY", "USED", "OF", "MODELS").alignRight(3, 4).cut(0, 5)
	for _, n := range nodes {
		status := cell{n.Status, good}
		switch {
		case n.Status == api.NodeStale:
			status = cell{"gone " + ago(n.SecondsSinceSeen), bad}
		case n.Status == api.NodeUnknown:
			status.style = busy
		case n.Draining:
			status = cell{"draining", busy}
		case n.IsMaster:
			status.text = "master"
		}
		memory := cell{bar(n.RAMUsedPercent, barWidth), plain}
		used := fmt.Sprintf("%.1f", n.RAMUsedGB)
		if n.RAMUsedPercent > 90 {
			memory.style = bad
		}
		if n.Status != api.NodeOnline {
			memory, used = cell{}, "-"
		}
		g.add(cell{n.FriendlyName, bold}, status, memory, t(used), t(fmt.Sprintf("%.1f GB", n.RAMTotalGB)), t(cmp.Or(strings.Join(n.LoadedModels, ", "), "-")))
	}
	return g
}

// look gives a status its colour.
func look(status string) style {
	switch status {
	case api.StatusReady, api.StatusRunning, api.NodeOnline:
		return good
	case api.StatusFailed, api.NodeStale:
		return bad
	}
	return busy
}

// modelGrid lists what is loaded, and how far the rest is.
func modelGrid(models []api.Model) *grid {
	g := newGrid("MODEL", "STATUS", "WAY", "CONTEXT", "SLOTS", "TOKENS/S", "NODES").alignRight(3, 4, 5).cut(0, 1, 6)
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
		g.add(cell{m.ModelName, bold}, cell{status, look(m.Status)}, t(cmp.Or(m.Way, "-")), t(number(m.ContextLength)), t(number(m.Slots)), t(speed), t(cmp.Or(strings.Join(m.NodeNames, ", "), "-")))
	}
	return g
}

// failures says why models failed, one line each.
func failures(models []api.Model) []string {
	var out []string
	for _, m := range models {
		if m.Status == api.StatusFailed && m.Error != "" {
			out = append(out, visible(m.ModelName+" failed: "+m.Error))
		}
	}
	return out
}

func downloadGrid(downloads []api.Download) *grid {
	g := newGrid("FETCHING", "STATUS", "DONE", "OF", "SPEED", "LEFT", "NODE").alignRight(2, 3, 4, 5).cut(0, 1, 6)
	for _, d := range downloads {
		status := d.Status
		if d.Error != "" {
			status += ": " + d.Error
		}
		left := "-"
		if d.ETASeconds > 0 {
			left = ago(d.ETASeconds)
		}
		g.add(cell{d.ModelID, bold}, cell{status, look(d.Status)}, t(fmt.Sprintf("%.0f %%", d.ProgressPercent)), t(fmt.Sprintf("%.1f GB", d.TotalGB)), t(fmt.Sprintf("%.1f MB/s", d.SpeedMBs)), t(left), t(d.NodeName))
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
		Args:  count(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return e.do(cmd.Context(), func(c *client.Client) error { return e.health(cmd.Context(), c, asJSON) })
		},
	}
	jsonFlag(cmd, &asJSON)
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
		word, s := "healthy", good
		if !h.Healthy {
			word, s = "not healthy", bad
		}
		text := fmt.Sprintf("%s: %s, master %s, this node up for %s", paint(word, s, e.Styled()), plural(h.NodeCount, "node"), cmp.Or(h.MasterNodeID, "none"), ago(h.UptimeSeconds))
		if h.Problem != "" {
			text += "\n" + visible(h.Problem)
		}
		err = printLines(e.Stdout, []string{text})
	}
	if err == nil && !h.Healthy {
		err = &ExitError{Code: CodeFailed}
	}
	return err
}
