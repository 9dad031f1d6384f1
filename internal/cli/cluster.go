package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/skein-run/skein/client"
	"github.com/skein-run/skein/internal/cli/clustercmd"
)

// clusterEnv is what the commands about the cluster need of this program.
func (a *app) clusterEnv() clustercmd.Env {
	return clustercmd.Env{
		Stdout: a.Stdout, Stderr: a.Stderr, Connect: a.connectOrSay, Explain: explain, Note: a.note, JSON: a.printJSON,
		Terminal: func() (int, int) { return size(a.Stdout) }, TerminalErr: func() (int, int) { return size(a.Stderr) },
		Styled: a.styled, StyledErr: func() bool { return a.coloured(a.Stderr) },
	}
}

// connectOrSay is connect where a node must be there.
func (a *app) connectOrSay(ctx context.Context, silent bool) (*client.Client, error) {
	a.quiet = a.quiet || silent
	node, err := a.connect(ctx)
	if err == nil && node == nil {
		where, failed := a.home()
		if failed != nil {
			return nil, failed
		}
		err = fmt.Errorf("no node is running with SKEIN_HOME %s; start one with 'skein serve', or name one with --host and --port ('skein models list' shows the files here without one)", where.Dir())
	}
	return node, err
}

// size is that of the terminal behind a stream, in characters; 0: it is none.
func size(stream any) (width, height int) {
	f, ok := stream.(interface{ Fd() uintptr })
	if !ok {
		return 0, 0
	}
	w, h, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0, 0 // not a terminal
	}
	return w, h
}

// newClusterCommands makes `skein status`, `health`, `nodes`, `top`, `cluster`.
func newClusterCommands(a *app) []*cobra.Command { return clustercmd.New(a.clusterEnv()) }
