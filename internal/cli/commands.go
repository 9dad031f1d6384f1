package cli

import (
	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/cli/keycmd"
)

// commands lists the subcommands of skein; each has a file of its own.
func commands(a *app) []*cobra.Command {
	return append(newClusterCommands(a),
		newServeCommand(a),
		newRunCommand(a),
		newModelsCommand(a),
		keycmd.New(a.clusterEnv()),
		newEngineCommand(a),
		newBenchCommand(a),
		newShardCommand(a),
		newMCPCommand(a),
		newDoctorCommand(a),
		newVersionCommand(a),
	)
}
