package clustercmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/client"
)

func newTop(e Env) *cobra.Command {
	return &cobra.Command{
		Use:   "top",
		Short: "Watch the cluster: status that refreshes, until Ctrl-C",
		Long: `Watch the cluster: what 'skein status' shows, renewed with every change. Where
the output is no terminal it is shown once.`,
		Args: count(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return e.do(cmd.Context(), func(c *client.Client) error { return e.top(cmd.Context(), c) })
		},
	}
}

// The other screen of a terminal, which leaves what was there as it was.
const (
	screenOn  = "\x1b[?1049h\x1b[?25l"
	screenOff = "\x1b[?25h\x1b[?1049l"
	screenTop = "\x1b[H\x1b[J"
)

func (e Env) top(ctx context.Context, c *client.Client) (err error) {
	once := e.Width() <= 0
	if !once {
		if _, err := io.WriteString(e.Stdout, screenOn); err != nil {
			return fmt.Errorf("show the cluster: %w", err)
		}
		defer func() {
			if _, offErr := io.WriteString(e.Stdout, screenOff); offErr != nil && err == nil {
				err = fmt.Errorf("show the cluster: %w", offErr)
			}
		}()
	}
	var o api.Overview
	lost := ""
	draw := func() error {
		lines := e.frame(o, e.Width())
		if lost != "" {
			lines = append([]string{paint(lost, bad, e.Styled())}, lines...)
		}
		text := strings.Join(append(lines, ""), "\n")
		if !once {
			text = screenTop + text
		}
		if _, err := io.WriteString(e.Stdout, text); err != nil {
			return fmt.Errorf("show the cluster: %w", err)
		}
		return nil
	}
	err = c.Follow(ctx, client.FollowOptions{Measurements: true, Lost: func(err error) error {
		if once {
			return err
		}
		lost = fmt.Sprintf("the connection broke (%v); trying again", err)
		return draw()
	}}, func(event api.Event) error {
		lost = ""
		apply(&o, event)
		if err := draw(); err != nil {
			return err
		}
		if once {
			return errDone
		}
		return nil
	})
	if errors.Is(err, errDone) {
		return nil
	}
	return err
}

// apply brings an overview up to date with a change. What only the node can
// sum up (memory that nodes of one machine share) stays as it was.
func apply(o *api.Overview, e api.Event) {
	switch {
	case e.Cluster != nil:
		*o = *e.Cluster
		return
	case e.MasterNodeID != nil:
		o.MasterNodeID = *e.MasterNodeID
		for i := range o.Nodes {
			o.Nodes[i].IsMaster = o.Nodes[i].NodeID == o.MasterNodeID
		}
	case e.Node != nil:
		o.Nodes = replace(o.Nodes, *e.Node, e.Change, func(n api.Node) string { return n.NodeID })
	case e.Model != nil:
		o.Models = replace(o.Models, *e.Model, e.Change, func(m api.Model) string { return m.InstanceID + " " + m.ModelID })
	case e.Download != nil:
		o.Downloads = replace(o.Downloads, *e.Download, e.Change, func(d api.Download) string { return d.NodeID + " " + d.ModelID })
	case e.Task != nil:
		o.Tasks = replace(o.Tasks, *e.Task, e.Change, func(x api.Task) string { return x.NodeID + " " + x.TaskID })
	}
	o.NodeCount, o.TokensPerSecond, o.Timestamp = 0, 0, e.Timestamp
	for _, n := range o.Nodes {
		if n.Status == api.NodeOnline {
			o.NodeCount++
		}
	}
	for _, m := range o.Models {
		o.TokensPerSecond += m.TokensPerSecond
	}
}

// replace puts one thing into a list, or takes it out.
func replace[T any](list []T, x T, change string, key func(T) string) []T {
	i := slices.IndexFunc(list, func(y T) bool { return key(y) == key(x) })
	switch {
	case change == api.ChangeRemoved && i >= 0:
		return slices.Delete(list, i, i+1)
	case change == api.ChangeRemoved:
		return list
	case i >= 0:
		list[i] = x
		return list
	}
	return append(list, x)
}
