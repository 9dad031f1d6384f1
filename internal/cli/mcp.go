package cli

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/client"
	"github.com/skein-run/skein/internal/agent"
	"github.com/skein-run/skein/internal/buildinfo"
	"github.com/skein-run/skein/internal/cli/command"
)

const mcpLong = `Serve the Model Context Protocol on stdin and stdout, so that an AI agent can look
at the cluster, load, unload and swap models, and chat with them. The agent's
program starts this command; in its configuration it stands as

  {"mcpServers": {"skein": {"command": "skein", "args": ["mcp"]}}}

It talks to the node that --host and --port name, or to the one that runs here,
and finds it anew for each call, so that it may be started before the node. The
same tools are at http://HOST:PORT/mcp on every node. docs/mcp.md lists them.

Only messages of the protocol go to stdout; the log goes to stderr.`

// newMCPCommand makes `skein mcp`.
func newMCPCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "mcp",
		Short: "Serve the tools of the cluster to an AI agent (MCP on stdin and stdout)",
		Long:  mcpLong,
		Args:  command.Need(0, 0, ""),
		Example: `  skein mcp
  skein mcp --host studio --api-key KEY`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			level := slog.LevelWarn
			if a.verbose {
				level = slog.LevelInfo
			}
			var one sync.Mutex // of connect, which is for one goroutine
			err := agent.Stdio(cmd.Context(), a.Stdin, a.Stdout, agent.Options{
				Version: buildinfo.Read().Version,
				Log:     slog.New(slog.NewTextHandler(a.Stderr, &slog.HandlerOptions{Level: level})),
				Connect: func(ctx context.Context) (*client.Client, error) {
					one.Lock()
					defer one.Unlock()
					node, err := a.connect(ctx)
					if err == nil && node == nil {
						err = errors.New("no node is running on this machine for this SKEIN_HOME\nNext: ask the user to start one with `skein serve`, or to name one with `skein mcp --host HOST --port PORT`")
					}
					return node, err
				},
			})
			if cmd.Context().Err() != nil {
				return nil // told to end, as agents' programs do
			}
			return err
		},
	}
}
