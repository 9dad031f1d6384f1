package cli

import "github.com/spf13/cobra"

// commands lists the subcommands of skein; each has a file of its own.
func commands(a *app) []*cobra.Command {
	return append(newClusterCommands(a),
		newServeCommand(a),
		newRunCommand(a),
		newModelsCommand(a),
		newEngineCommand(a, newEngineBenchCommand(a)),
		newBenchCommand(a),
		newShardCommand(a),
		newDoctorCommand(a),
		newVersionCommand(a),
	)
}
