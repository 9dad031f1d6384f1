package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/client"
	"github.com/skein-run/skein/internal/cli/runcmd"
)

// newRunCommand makes `skein run`.
func newRunCommand(a *app) *cobra.Command {
	return runcmd.New(runcmd.Env{
		Stdin: a.Stdin, Stdout: a.Stdout, Stderr: a.Stderr, Interrupts: a.Interrupts, Note: a.note,
		Verbose: func() bool { return a.verbose }, Styled: a.styled, Terminal: isTerminal,
		Home: a.home, Connect: a.connect, Local: a.localNode, Explain: explain, Complete: a.completeModels,
	})
}

// localNode runs a node inside this process that lists these files too, and says
// so.
func (a *app) localNode(ctx context.Context, files []string) (node *client.Client, stop func() error, err error) {
	where, err := a.home()
	if err != nil {
		return nil, nil, err
	}
	serve, _, err := a.resolve(where, "", nil)
	if err != nil {
		return nil, nil, err
	}
	// Only this command talks to it, on a port nobody knows.
	serve.APIHost, serve.APIPort, serve.Load = "127.0.0.1", 0, nil
	serve.APIKeys, serve.NamedKeys, serve.AllowOrigins, serve.InsecureNoAuth = nil, nil, nil, false
	a.note("no node is running; this command runs one for itself (start one with 'skein serve' to keep models loaded)")
	local, err := a.Local(ctx, LocalOptions{Home: where, Config: serve, Files: files, Stderr: a.Stderr})
	if err != nil {
		return nil, nil, fmt.Errorf("run a node in this process: %w", err)
	}
	if node, err = a.dial(local.API, ""); err != nil {
		return nil, nil, errors.Join(err, local.Stop())
	}
	return node, local.Stop, nil
}
