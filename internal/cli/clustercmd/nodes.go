package clustercmd

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/client"
	"github.com/skein-run/skein/internal/cli/command"
	"github.com/skein-run/skein/internal/cli/table"
)

func newNodes(e Env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:        "nodes [ID]",
		SuggestFor: []string{"node", "peers"},
		Short:      "List the machines, or tell all about one",
		Long: `List the machines of the cluster, or tell all about one of them. ID is a node
id, a beginning of one, or the name of the machine.`,
		Args:              command.Need(0, 1, ""),
		ValidArgsFunction: at(1, e.completeNodes),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.do(cmd.Context(), func(c *client.Client) error {
				if len(args) == 1 {
					n, err := c.Node(cmd.Context(), args[0])
					if err != nil {
						return err
					}
					if asJSON {
						return e.JSON(n)
					}
					return table.Print(e.Stdout, e.describeNode(n)...)
				}
				nodes, err := c.Nodes(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON {
					return e.JSON(nodes)
				}
				g := table.New("NODE", "ID", "STATUS", "FREE", "OF", "CHIP", "ADDRESS", "ROLES").Right(3, 4)
				g.Shorten(6).Drop(7).Cut(5, 12).Shorten(1).Drop(6).Drop(5).Cut(0, 12).Drop(1).Drop(4)
				for _, n := range nodes.Nodes {
					g.Add(name(n.FriendlyName), table.Cell{Text: n.NodeID, Short: beginning(n.NodeID)}, nodeStatus(n), table.T(fmt.Sprintf("%.1f", n.RAMAvailableGB)), table.T(fmt.Sprintf("%.1f GB", n.RAMTotalGB)),
						table.T(cmp.Or(n.Chip, "-")), addresses(n), table.T(list(n.Roles)))
				}
				width, _ := e.Terminal()
				return table.Print(e.Stdout, append(g.Lines(width, e.Styled()), cards(nodes.Nodes, width, e.Styled())...)...)
			})
		},
	}
	command.JSONFlag(cmd, &asJSON)
	return cmd
}

// beginning is as much of an id as mostly only one node has.
func beginning(id string) string { return id[:min(8, len(id))] }

// addresses are those of a node, or the first of them.
func addresses(n api.Node) table.Cell {
	c := table.T(list(n.IPAddresses))
	if len(n.IPAddresses) > 1 {
		c.Short = n.IPAddresses[0]
	}
	return c
}

// describeNode tells all about one.
func (e Env) describeNode(n api.Node) []string {
	styled := e.Styled()
	measured := func(field, format string, value float64) string {
		if slices.Contains(n.Unmeasured, field) {
			return "not measured"
		}
		return fmt.Sprintf(format, value)
	}
	rows := [][2]string{
		{"name", n.FriendlyName},
		{"id", n.NodeID},
		{"status", table.Paint(table.Visible(n.Status), look(n.Status), styled)},
		{"last seen", ago(n.SecondsSinceSeen) + " ago"},
		{"roles", strings.Join(n.Roles, ", ")},
		{"version", n.Version},
		{"chip", n.Chip},
		{"system", n.OSVersion},
		{"memory", fmt.Sprintf("%.1f of %.1f GB used (%.0f %%), %.1f GB promised to models", n.RAMUsedGB, n.RAMTotalGB, n.RAMUsedPercent, n.ReservedMemoryGB)},
		{"disk", measured("disk_total_gb", "%.1f GB", n.DiskTotalGB) + ", free " + measured("disk_available_gb", "%.1f GB", n.DiskAvailableGB)},
		{"processor", "fast cores " + measured("cpu_p_usage_percent", "%.0f %%", n.CPUPUsagePercent) + ", efficient cores " + measured("cpu_e_usage_percent", "%.0f %%", n.CPUEUsagePercent)},
		{"GPU", measured("gpu_usage_percent", "%.0f %%", n.GPUUsagePercent)},
		{"temperature", measured("temperature_c", "%.0f °C", n.TemperatureC)},
		{"power", measured("power_watts", "%.0f W", n.PowerWatts)},
		{"addresses", strings.Join(n.IPAddresses, ", ")},
		{"links", strings.Join(n.ConnectionTypes, ", ")},
		{"models", strings.Join(n.LoadedModels, ", ")},
	}
	for _, d := range n.Accelerators {
		rows = append(rows, [2]string{"device", fmt.Sprintf("%s %s (%s), %.1f of %.1f GB free", d.ID, d.Name, d.Kind, d.MemoryAvailableGB, d.MemoryTotalGB)})
	}
	if n.Draining {
		rows = append(rows, [2]string{"draining", "it gets nothing new; 'skein cluster resume " + n.FriendlyName + "' takes it back"})
	}
	width, _ := e.Terminal()
	var out []string
	for _, r := range rows {
		value := table.Visible(r[1])
		if r[0] == "status" {
			value = r[1] // it may be coloured
		}
		const margin = 13
		for k, l := range table.Wrap(cmp.Or(value, "-"), max(0, width-margin), 0) {
			if k > 0 {
				r[0] = ""
			}
			out = append(out, fmt.Sprintf("%-*s%s", margin, r[0], l))
		}
	}
	return out
}
