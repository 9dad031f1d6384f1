package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/skein-run/skein/internal/nearest"
)

const tour = `skein makes one AI cluster out of the machines you have.

  skein serve                      start a node and its OpenAI API here
  skein run                        chat with a model
  skein run MODEL "Why is it so?"  ask one question
  skein status                     the cluster: nodes, models, who leads
  skein models load NAME --wait    load a model where there is room
  skein models list                the model files there are
  skein models add FILE.gguf       use a file of yours, where it is
  skein doctor                     check this machine

Any OpenAI client works with the node: its base URL is http://127.0.0.1:52415/v1.`

// newRootCommand puts the commands together.
func newRootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:           "skein",
		Short:         "One AI cluster out of the machines you have",
		Long:          tour,
		Args:          cobra.ArbitraryArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{err: explainFlag(cmd, err), command: cmd.CommandPath()}
	})
	flags := root.PersistentFlags()
	flags.StringVar(&a.host, "host", "", "`ADDRESS` of the node to talk to; default: the one of SKEIN_HOME [SKEIN_HOST]")
	flags.StringVar(&a.port, "port", "", "`PORT` of the node to talk to [SKEIN_PORT]")
	flags.StringVar(&a.apiKey, "api-key", "", "`KEY` to send to the node [SKEIN_API_KEY]")
	flags.BoolVarP(&a.verbose, "verbose", "v", false, "say more")
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "say only what was asked for")
	root.AddCommand(commands(a)...)
	for _, cmd := range allCommands(root) {
		cmd.DisableFlagsInUseLine = true
		wrapArgs(cmd)
	}
	return root
}

// allCommands gives root and everything below it.
func allCommands(cmd *cobra.Command) []*cobra.Command {
	out := []*cobra.Command{cmd}
	for _, sub := range cmd.Commands() {
		out = append(out, allCommands(sub)...)
	}
	return out
}

// wrapArgs makes a wrong number of arguments a usage error.
func wrapArgs(cmd *cobra.Command) {
	check := cmd.Args
	if check == nil {
		return
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return &usageError{err: err, command: cmd.CommandPath()}
		}
		return nil
	}
}

// unknownCommand names what was probably meant.
func unknownCommand(cmd *cobra.Command, word string) error {
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	if near := nearest.Of(word, names); near != "" {
		return usage(cmd, "there is no command %q; did you mean %q?", word, cmd.CommandPath()+" "+near)
	}
	return usage(cmd, "there is no command %q; there are %s", word, strings.Join(names, ", "))
}

// explainFlag adds the nearest flag to the library's error.
func explainFlag(cmd *cobra.Command, err error) error {
	name, found := strings.CutPrefix(err.Error(), "unknown flag: --")
	if !found {
		return err
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if near := nearest.Of(name, names); near != "" {
		return fmt.Errorf("there is no flag --%s; did you mean --%s?", name, near)
	}
	return fmt.Errorf("there is no flag --%s", name)
}

// need refuses a number of arguments other than from low to high (-1: any),
// in words that say what they are.
func need(low, high int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < low {
			return errors.New(what)
		}
		if high >= 0 && len(args) > high {
			return fmt.Errorf("too many arguments: %q is one more than expected", args[high])
		}
		return nil
	}
}
