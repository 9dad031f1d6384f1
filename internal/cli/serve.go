package cli

import (
	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/cli/command"
	"github.com/skein-run/skein/internal/config"
)

// newServeCommand makes `skein serve`.
func newServeCommand(a *app) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:        "serve [flags]",
		SuggestFor: []string{"start", "up", "join", "server"},
		Short:      "Run a node: the OpenAI API, the models, the cluster",
		Long: `Run a node in the foreground. It answers any OpenAI client at
http://ADDRESS:PORT/v1 and loads models when they are asked for.

Every flag can also be set by the variable behind it, or by its name in the
configuration file (SKEIN_HOME/config.yaml), lists for repeatable ones; a flag
wins over a variable, a variable over the file. Lists in variables are
separated by commas.

Ctrl-C stops taking requests and lets running ones finish for up to 10
seconds; a second Ctrl-C stops at once.`,
		Args: command.Need(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			where, err := a.home()
			if err != nil {
				return err
			}
			serve, settings, err := a.resolve(where, file, config.FromFlags(cmd.Flags()))
			if err != nil {
				return err
			}
			return a.Serve(cmd.Context(), ServeOptions{
				Home: where, Config: serve, Settings: settings,
				Stdout: a.Stdout, Stderr: a.Stderr, Force: a.Interrupts.Force(),
			})
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "read options from `FILE`; default: SKEIN_HOME/config.yaml [SKEIN_CONFIG]")
	config.AddFlags(cmd.Flags())
	// The flags are known, so that registering can't fail.
	_ = cmd.RegisterFlagCompletionFunc("load", func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return a.completeModels(cmd, nil, word)
	})
	for _, o := range config.Table() {
		if o.Kind == config.Choice {
			_ = cmd.RegisterFlagCompletionFunc(o.Name, cobra.FixedCompletions(o.Choices, cobra.ShellCompDirectiveNoFileComp))
		}
	}
	return cmd
}
