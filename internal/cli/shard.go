package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/cli/command"
	"github.com/skein-run/skein/internal/cli/shardcmd"
	modelfiles "github.com/skein-run/skein/internal/library"
)

// newShardCommand makes `skein shard`.
func newShardCommand(a *app) *cobra.Command {
	return command.Group(&cobra.Command{
		Use:   "shard",
		Short: "Split a model over processes or machines: check it, time it, offer a machine",
		Long: `Split one model into shards: pipeline stages, which hold some layers, tensor
ranks, which hold some heads and columns of each layer, or both. docs/sharding.md
tells how it works.`,
	}, nil, shardcmd.New(shardcmd.Env{
		Stdout: a.Stdout, Note: a.note, JSON: a.printJSON,
		Host:   a.shardHost,
		Model:  a.localModel,
		Models: a.localModels, Complete: a.completeModels,
		EngineDir: func(flag string) (string, error) {
			o, err := a.engineOptions(flag)
			return o.Dir, err
		},
	})...)
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
