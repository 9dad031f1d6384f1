// Package keycmd holds the commands about keys of the API: make one, list
// them, revoke one. What was typed becomes a call of the client, and what comes
// back lines.
//
// It belongs to package cli, which mounts it; it imports client and api, and
// nothing of a node. Everything runs in the goroutine of the command. A new
// key's secret goes to stdout, all about it to stderr.
package keycmd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/client"
	"github.com/skein-run/skein/internal/cli/clustercmd"
	"github.com/skein-run/skein/internal/cli/command"
	"github.com/skein-run/skein/internal/cli/table"
)

var roles = []string{api.RoleChat, api.RoleRead, api.RoleManage}

// commands share what they need of the program.
type commands struct{ clustercmd.Env }

// New makes `skein keys`.
func New(e clustercmd.Env) *cobra.Command {
	c := commands{e}
	list := c.list()
	return command.Group(&cobra.Command{
		Use:   "keys",
		Short: "Make, list and revoke keys of the API",
		Long: `Make, list and revoke keys of the API. They hold on all nodes of the cluster. Roles:

  chat    ask models, and see which there are
  read    look at everything but keys
  manage  everything

While there is no key, a node serves its own machine alone. As soon as there is
one, every request needs one; commands on a node's own machine have theirs from
its address file.`,
	}, func(cmd *cobra.Command) error { return list.RunE(cmd, nil) }, c.add(), list, c.revoke())
}

// do runs a command that talks to a node.
func (c commands) do(ctx context.Context, work func(n *client.Client) error) error {
	n, err := c.Connect(ctx, false)
	if err != nil {
		return err
	}
	defer n.Close()
	return c.Hint(work(n))
}

func (c commands) add() *cobra.Command {
	var (
		role, expires string
		req           api.AddKeyRequest
		asJSON        bool
	)
	cmd := &cobra.Command{
		Use:   "add NAME --role ROLE",
		Short: "Make a key; its secret is shown once",
		Long: `Make a key that all nodes of the cluster accept. Its secret is printed once, and
kept nowhere; what is kept is its hash. Limits are of each node by itself.`,
		Example: `  skein keys add ci --role chat --expires 30d --requests-per-minute 60
  SKEIN_API_KEY=$(skein keys add me --role manage --quiet)`,
		Args: one("give the key a name: skein keys add NAME --role ROLE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(roles, role) {
				return command.Usage(cmd, "say what the key may: --role %s", strings.Join(roles, ", --role "))
			}
			d, err := span(expires)
			if err != nil {
				return command.Usage(cmd, "--expires: %v", err)
			}
			if req.RequestsPerMinute < 0 || req.Concurrent < 0 {
				return command.Usage(cmd, "--requests-per-minute and --concurrent must not be negative; 0 is no limit")
			}
			req.Name, req.Role, req.ExpiresSeconds = args[0], role, d.Seconds()
			return c.do(cmd.Context(), func(n *client.Client) error {
				a, err := n.AddKey(cmd.Context(), req)
				if err != nil {
					return err
				}
				if asJSON {
					return c.JSON(a)
				}
				c.Note("%s", a.Message)
				_, err = fmt.Fprintln(c.Stdout, a.Secret)
				return err
			})
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&role, "role", "", "what it may: `ROLE` is chat, read or manage")
	fs.StringVar(&expires, "expires", "", "end it after `DURATION`, such as 12h or 30d; default: when it is revoked")
	fs.IntVar(&req.RequestsPerMinute, "requests-per-minute", 0, "most requests a minute to each node; 0: no limit")
	fs.IntVar(&req.Concurrent, "concurrent", 0, "most open requests at each node; 0: no limit")
	command.JSONFlag(cmd, &asJSON)
	_ = cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions(roles, cobra.ShellCompDirectiveNoFileComp)) // the flag is known
	return cmd
}

func (c commands) list() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the keys of the cluster",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.do(cmd.Context(), func(n *client.Client) error {
				l, err := n.Keys(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON {
					return c.JSON(l)
				}
				if len(l.Keys) == 0 {
					c.Note("the cluster has no keys; make one with 'skein keys add NAME --role ROLE'")
					return nil
				}
				g := table.New("NAME", "ROLE", "MADE", "BY", "EXPIRES", "PER MINUTE", "CONCURRENT")
				g.Cut(3, 8).Drop(6).Drop(5).Drop(3).Drop(2).Cut(0, 12).Drop(4)
				for _, k := range l.Keys {
					g.Add(table.T(k.Name), table.T(k.Role), table.T(day(k.CreatedAt)), table.T(k.CreatedBy), table.T(end(k)), table.T(limit(k.RequestsPerMinute)), table.T(limit(k.Concurrent)))
				}
				width, _ := c.Terminal()
				return table.Print(c.Stdout, g.Lines(width, c.Styled())...)
			})
		},
	}
	command.JSONFlag(cmd, &asJSON)
	return cmd
}

func (c commands) revoke() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "revoke NAME",
		Short:             "End a key on all nodes",
		Args:              one("say which key: skein keys revoke NAME; 'skein keys list' shows them"),
		ValidArgsFunction: c.complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.do(cmd.Context(), func(n *client.Client) error {
				a, err := n.RevokeKey(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if asJSON {
					return c.JSON(a)
				}
				_, err = fmt.Fprintln(c.Stdout, a.Message)
				return err
			})
		},
	}
	command.JSONFlag(cmd, &asJSON)
	return cmd
}

// complete offers names of keys. It can't show an error, so there are no offers
// instead.
func (c commands) complete(cmd *cobra.Command, args []string, word string) (out []string, _ cobra.ShellCompDirective) {
	const none = cobra.ShellCompDirectiveNoFileComp
	if len(args) > 0 {
		return nil, none
	}
	n, err := c.Connect(cmd.Context(), true)
	if err != nil {
		return nil, none
	}
	defer n.Close()
	l, err := n.Keys(cmd.Context())
	if err != nil {
		return nil, none
	}
	for _, k := range l.Keys {
		if strings.HasPrefix(k.Name, word) {
			out = append(out, k.Name)
		}
	}
	return out, none
}

// one wants a single argument.
func one(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < 1:
			return errors.New(what)
		case len(args) > 1:
			return fmt.Errorf("too many arguments: %q is one more than expected", args[1])
		}
		return nil
	}
}

// span reads "12h", "90m", "30d"; "": 0.
func span(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n float64
		n, err = strconv.ParseFloat(days, 64)
		d = time.Duration(n * 24 * float64(time.Hour))
	}
	if err != nil || d < time.Second || d > 10*365*24*time.Hour {
		return 0, fmt.Errorf("%q must be a time like 12h or 30d, from a second to ten years", text)
	}
	return d, nil
}

func day(seconds float64) string {
	return time.Unix(int64(seconds), 0).UTC().Format("2006-01-02")
}

func end(k api.Key) string {
	switch {
	case k.ExpiresAt == 0:
		return "never"
	case k.Expired:
		return "has expired"
	}
	return time.Unix(int64(k.ExpiresAt), 0).UTC().Format("2006-01-02 15:04") + " UTC"
}

func limit(n int) string {
	if n == 0 {
		return "-"
	}
	return strconv.Itoa(n)
}
