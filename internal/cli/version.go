package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/buildinfo"
)

// newVersionCommand makes `skein version`.
func newVersionCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Say which build this is",
		Args:  need(0, 0, ""),
		RunE: func(*cobra.Command, []string) error {
			info := buildinfo.Read()
			if asJSON {
				return a.printJSON(info)
			}
			fmt.Fprintln(a.Stdout, info)
			return nil
		},
	}
	addJSONFlag(cmd, &asJSON)
	return cmd
}
