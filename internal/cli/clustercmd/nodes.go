package clustercmd

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/client"
)

func newNodes(e Env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "nodes [ID]",
		Short: "List the machines, or tell all about one",
		Long: `List the machines of the cluster, or tell all about one of them. ID is a node
id, a beginning of one, or the name of the machine.`,
		Args:              count(0, 1, ""),
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
					return printLines(e.Stdout, e.describeNode(n))
				}
				list, err := c.Nodes(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON {
					return e.JSON(list)
				}
				g := newGrid("NODE", "ID", "STATUS", "FREE", "OF", "CHIP", "ADDRESS", "ROLES").alignRight(3, 4).cut(0, 1, 5, 6, 7)
				for _, n := range list.Nodes {
					g.add(cell{n.FriendlyName, bold}, t(n.NodeID), cell{n.Status, look(n.Status)}, t(fmt.Sprintf("%.1f", n.RAMAvailableGB)), t(fmt.Sprintf("%.1f GB", n.RAMTotalGB)),
						t(cmp.Or(n.Chip, "-")), t(cmp.Or(strings.Join(n.IPAddresses, ", "), "-")), t(cmp.Or(strings.Join(n.Roles, ", "), "-")))
				}
				return printLines(e.Stdout, g.lines(e.Width(), e.Styled()))
			})
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
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
		{"status", paint(visible(n.Status), look(n.Status), styled)},
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
	var out []string
	for _, r := range rows {
		value := visible(r[1])
		if r[0] == "status" {
			value = r[1] // it may be coloured
		}
		out = append(out, fmt.Sprintf("%-12s %s", r[0], cmp.Or(value, "-")))
	}
	return out
}
