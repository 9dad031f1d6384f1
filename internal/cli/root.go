package cli

import (
	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/buildinfo"
	"github.com/skein-run/skein/internal/cli/command"
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
	root := command.Group(&cobra.Command{
		Use:           "skein",
		Short:         "One AI cluster out of the machines you have",
		Long:          tour,
		SilenceUsage:  true,
		SilenceErrors: true,
	}, nil, commands(a)...)
	root.Version = buildinfo.Read().String()
	root.SetVersionTemplate("{{.Version}}\n")
	root.Flags().Bool("version", false, "say which build this is")
	flags := root.PersistentFlags()
	flags.StringVar(&a.host, "host", "", "`ADDRESS` of the node to talk to; default: the one of SKEIN_HOME [SKEIN_HOST]")
	flags.StringVar(&a.port, "port", "", "`PORT` of the node to talk to [SKEIN_PORT]")
	flags.StringVar(&a.apiKey, "api-key", "", "`KEY` to send to the node [SKEIN_API_KEY]")
	flags.BoolVarP(&a.verbose, "verbose", "v", false, "say more")
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "say only what was asked for")
	command.Explain(root)
	return root
}
