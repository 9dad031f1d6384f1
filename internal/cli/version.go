package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/buildinfo"
	"github.com/skein-run/skein/internal/cli/command"
	"github.com/skein-run/skein/internal/engine"
)

// versions is what `skein version --json` prints.
type versions struct {
	buildinfo.Info
	Engine    string `json:"engine"`     // of llama.cpp, "" when none is found
	EngineDir string `json:"engine_dir"` // folder of its libraries
}

// newVersionCommand makes `skein version`.
func newVersionCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Say which build this is, and which engine it uses",
		Args:  command.Need(0, 0, ""),
		RunE: func(*cobra.Command, []string) error {
			v := versions{Info: buildinfo.Read()}
			// The version is told also when nothing else works.
			problem := ""
			if o, err := a.engineOptions(""); err != nil {
				problem = err.Error()
			} else if found, err := engine.Find(o); err != nil {
				problem = "none found; run 'skein engine install'"
			} else {
				v.Engine, v.EngineDir = found.Version, found.Dir
			}
			if asJSON {
				return a.printJSON(v)
			}
			fmt.Fprintln(a.Stdout, v.Info)
			if problem != "" {
				fmt.Fprintf(a.Stdout, "engine: %s\n", problem)
				return nil
			}
			fmt.Fprintf(a.Stdout, "engine: llama.cpp %s in %s\n", v.Engine, v.EngineDir)
			return nil
		},
	}
	command.JSONFlag(cmd, &asJSON)
	return cmd
}
