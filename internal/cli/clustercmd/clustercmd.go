// Package clustercmd holds the commands that look at a cluster and change it,
// one file for each matter: status and top, nodes, models, the cluster itself.
// What was typed becomes a call of the client, and what comes back lines.
//
// It belongs to package cli, which mounts it; it imports client and api, and
// nothing of a node. Everything runs in the goroutine of the command. Answers
// go to stdout, progress and notes to stderr.
package clustercmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/client"
)

// Exit codes beside those of all commands.
const (
	CodeFailed  = 1   // the model failed, the cluster is not healthy
	CodeTimeout = 124 // not done in time; it goes on
)

// Env is what the commands need of the program around them.
type Env struct {
	Stdout, Stderr io.Writer
	// Connect finds the node to talk to; its error names the way out. Silent:
	// without notes for the user, in completion.
	Connect func(ctx context.Context, silent bool) (*client.Client, error)
	Explain func(err error) error            // adds the way out to errors about the connection
	Note    func(format string, args ...any) // for the user, beside the answer; silent with -q
	JSON    func(v any) error                // prints a document
	// Terminal is how wide and high the terminal behind stdout is, in characters;
	// 0: it is none. Styled tells whether stdout may hold colours. The others
	// are the same of stderr.
	Terminal, TerminalErr func() (width, height int)
	Styled, StyledErr     func() bool
}

// New gives the commands below `skein`.
func New(e Env) []*cobra.Command {
	return []*cobra.Command{newStatus(e), newTop(e), newHealth(e), newNodes(e), newCluster(e)}
}

// Models gives the commands below `skein models`.
func Models(e Env) []*cobra.Command {
	return []*cobra.Command{newModelStatus(e), newLoad(e), newUnload(e), newSwap(e)}
}

// do runs a command that talks to a node.
func (e Env) do(ctx context.Context, work func(c *client.Client) error) error {
	c, err := e.Connect(ctx, false)
	if err != nil {
		return err
	}
	defer c.Close()
	return e.Hint(work(c))
}

// hints are the commands to type next, by the code of an error.
var hints = map[string]string{
	api.CodeModelNotFound:     "'skein models list' shows the files there are; 'skein models add FILE' adds one",
	api.CodeAmbiguousModel:    "'skein models list' shows the full names",
	api.CodeModelNotLoaded:    "'skein models' shows what is loaded",
	api.CodeModelLoaded:       "'skein models' shows it, 'skein models unload NAME' unloads it; 'skein models load NAME --replicas 2' asks for one more",
	api.CodeNoMemory:          "free memory with 'skein models unload NAME', take its place with 'skein models swap OLD NEW', or see what would fit with 'skein models load NAME --dry-run'",
	api.CodeDiskFull:          "'skein nodes' shows the machines, 'skein nodes ID' their disks",
	api.CodeNodeNotFound:      "'skein nodes' lists them",
	api.CodeAmbiguousNode:     "'skein nodes' shows their ids",
	api.CodeNotEnoughNodes:    "'skein nodes' shows the workers",
	api.CodeNotPlaceable:      "'skein models load NAME --dry-run' shows what can be done",
	api.CodeNoMaster:          "'skein status' shows who could lead",
	api.CodeUnwritable:        "'skein health' shows which disks",
	api.CodeUnconfirmed:       "see what became of it with 'skein status'",
	api.CodeConflict:          "see 'skein status', then try again",
	api.CodeUnavailable:       "'skein status' shows how the cluster is",
	api.CodeInternal:          "'skein doctor' checks this machine; the log of 'skein serve -v' says more",
	api.CodeInsufficientRole:  "name a key that may: 'skein --api-key KEY', or SKEIN_API_KEY; 'skein keys add NAME --role manage' makes one",
	api.CodeKeyNotFound:       "'skein keys list' shows those there are",
	api.CodeRateLimit:         "try again in a moment; 'skein keys list' shows the limits of each key",
	api.CodeInvalidModelFile:  "'skein models show FILE' says what is in it",
	api.CodeFileNotFound:      "'skein models list' shows the files there are",
	api.CodeModelNotRemovable: "'skein models list' shows where each comes from",
}

// Hint adds the next command to type to what a node refused.
func (e Env) Hint(err error) error {
	var refused *api.Error
	if errors.As(err, &refused) {
		if next := hints[refused.ErrorCode()]; next != "" && !strings.Contains(err.Error(), "'skein ") {
			return fmt.Errorf("%w\n  %s", err, next)
		}
	}
	return e.Explain(err)
}

// span is a flag of a length of time: seconds, or with a unit.
type span time.Duration

func (s *span) String() string { return strconv.FormatFloat(time.Duration(*s).Seconds(), 'f', -1, 64) }

// Type names it in help texts.
func (s *span) Type() string { return "seconds" }

// Set reads "600", "1.5", "10m".
func (s *span) Set(text string) error {
	d, err := time.ParseDuration(text)
	if n, numberErr := strconv.ParseFloat(text, 64); numberErr == nil {
		d, err = time.Duration(n*float64(time.Second)), nil
	}
	if err != nil || d < 0 || d > 365*24*time.Hour {
		return errors.New("it must be a number of seconds, or a time like 90s or 10m")
	}
	*s = span(d)
	return nil
}

// ago writes a length of time for a person.
func ago(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d > 0 && d < 950*time.Millisecond:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0f h", d.Hours())
	}
	return fmt.Sprintf("%.0f days", d.Hours()/24)
}

// plural writes a number of things.
func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// completeModels offers names of models: of those that are loaded, or of all
// there are. Who typed the beginning of a short name is offered short ones.
func (e Env) completeModels(loaded bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		return e.offer(cmd.Context(), word, func(ctx context.Context, c *client.Client) (full, short []string, err error) {
			o, err := c.Overview(ctx)
			if err != nil {
				return nil, nil, err
			}
			for _, m := range o.Models {
				full = append(full, m.ModelID)
			}
			if !loaded {
				all, err := c.Models(ctx) // of all nodes
				if err != nil {
					return nil, nil, err
				}
				for _, m := range all {
					full = append(full, m.ID)
				}
			}
			for _, name := range full {
				short = append(short, path.Base(name))
			}
			return full, short, nil
		})
	}
}

// completeNodes offers names of nodes, or ids to who types one.
func (e Env) completeNodes(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	return e.offer(cmd.Context(), word, func(ctx context.Context, c *client.Client) (names, ids []string, err error) {
		list, err := c.Nodes(ctx)
		for _, n := range list.Nodes {
			names, ids = append(names, n.FriendlyName), append(ids, n.NodeID)
		}
		return names, ids, err
	})
}

// offer gives the words that begin like what was typed: of the first choice,
// or if there are none, of the second. Completion can't show an error, so there
// are no offers instead.
func (e Env) offer(ctx context.Context, word string, words func(context.Context, *client.Client) (first, second []string, err error)) ([]string, cobra.ShellCompDirective) {
	c, err := e.Connect(ctx, true)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer c.Close()
	first, second, err := words(ctx, c)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	for _, all := range [][]string{first, second} {
		var out []string
		for _, w := range all {
			if !slices.Contains(out, w) && len(w) >= len(word) && strings.EqualFold(w[:len(word)], word) {
				out = append(out, w)
			}
		}
		if len(out) > 0 {
			return out, cobra.ShellCompDirectiveNoFileComp
		}
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// at limits a completion to one place among the arguments.
func at(most int, f cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return f(cmd, args, word)
	}
}
