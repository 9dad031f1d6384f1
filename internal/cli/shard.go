package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/cli/shardcmd"
	modelfiles "github.com/skein-run/skein/internal/library"
)

// newShardCommand makes `skein shard`.
func newShardCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "shard",
		Short: "Split a model over processes or machines: check it, time it, offer a machine",
		Long: `Split one model into shards: pipeline stages, which hold some layers, tensor
ranks, which hold some heads and columns of each layer, or both. docs/sharding.md
tells how it works.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(shardcmd.New(shardcmd.Env{
		Stdout: a.Stdout, Note: a.note, JSON: a.printJSON,
		Table:  func(rows [][]string, right ...int) error { return columns(a.Stdout, rows, right...) },
		Host:   a.shardHost,
		Model:  a.benchModel,
		Models: a.localModels,
		EngineDir: func(flag string) (string, error) {
			o, err := a.engineOptions(flag)
			return o.Dir, err
		},
	})...)
	return cmd
}

func (a *app) shardHost(warn bool) (shardcmd.Host, error) {
	where, err := a.home()
	if err != nil {
		return nil, err
	}
	if a.Shards == nil {
		return nil, errors.New("this program cannot run shards")
	}
	return a.Shards(ShardOptions{Home: where, Stderr: a.Stderr, Verbose: a.verbose, Quiet: a.quiet || !warn && !a.verbose})
}

// localModels lists what this machine has, without a node.
func (a *app) localModels() ([]modelfiles.Entry, error) {
	files, _, err := a.openModelFiles()
	if err != nil {
		return nil, err
	}
	return files.List()
}
