package clustercmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/client"
	"github.com/skein-run/skein/internal/cli/command"
	"github.com/skein-run/skein/internal/cli/table"
)

func newTop(e Env) *cobra.Command {
	return &cobra.Command{
		Use:        "top",
		SuggestFor: []string{"watch", "monitor", "dashboard"},
		Short:      "Watch the cluster: status that refreshes, until Ctrl-C",
		Long: `Watch the cluster: what 'skein status' shows, renewed with every change and
every other second. Where the output is no terminal it is shown once.`,
		Args: command.Need(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return e.do(cmd.Context(), func(c *client.Client) error { return e.top(cmd.Context(), c) })
		},
	}
}

// The other screen of a terminal, which leaves what was there as it was.
const (
	screenOn  = "\x1b[?1049h\x1b[?25l"
	screenOff = "\x1b[?25h\x1b[?1049l"
	screenTop = "\x1b[H"
	lineEnd   = "\x1b[K\n" // what was longer before is gone
	screenEnd = "\x1b[J"
)

// topEvery is how often the whole is asked for: what changes is told at once,
// but only the node sums up memory that its nodes share, and how long ago it
// saw whom.
const topEvery = 2 * time.Second

func (e Env) top(ctx context.Context, c *client.Client) (err error) {
	if width, _ := e.Terminal(); width <= 0 {
		o, err := c.Overview(ctx)
		if err != nil {
			return err
		}
		return table.Print(e.Stdout, e.frame(o)...)
	}
	if err := e.show(screenOn); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.show(screenOff)) }()

	ctx, cancel := context.WithCancel(ctx)
	events, lost, ended := make(chan api.Event), make(chan error), make(chan error, 1)
	var following sync.WaitGroup
	following.Go(func() {
		ended <- c.Follow(ctx, client.FollowOptions{Measurements: true, Lost: func(err error) error { return pass(ctx, lost, err) }},
			func(event api.Event) error { return pass(ctx, events, event) })
	})
	defer following.Wait()
	defer cancel()
	tick := time.NewTicker(topEvery)
	defer tick.Stop()
	var o api.Overview
	known, broken := false, ""
	for {
		select {
		case event := <-events:
			known, broken = true, ""
			apply(&o, event)
		case err := <-lost:
			broken = fmt.Sprintf("the connection broke (%v); trying again", err)
		case err := <-ended:
			return err
		case <-tick.C:
			// That the node can't be asked is told by the stream.
			if whole, err := c.Overview(ctx); err == nil && whole.Timestamp >= o.Timestamp {
				o, known = whole, true
			}
		}
		if !known && broken == "" {
			continue
		}
		if err := e.screen(o, broken); err != nil {
			return err
		}
	}
}

// pass hands something over unless ctx ends before.
func pass[T any](ctx context.Context, to chan<- T, x T) error {
	select {
	case to <- x:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// screen draws all that there is room for.
func (e Env) screen(o api.Overview, broken string) error {
	width, height := e.Terminal()
	styled := e.Styled()
	lines := e.frame(o)
	if broken != "" {
		first := table.Wrap(table.Visible(broken), width, 2)
		for k := range first {
			first[k] = table.Paint(first[k], table.Bad, styled)
		}
		lines = append(first, lines...)
	}
	at := time.UnixMilli(int64(o.Timestamp * 1000)).Format("15:04:05")
	lines = append(table.Keep(lines, height-2), "", table.Paint(table.Clip(at+"  Ctrl-C ends", width), table.Faint, styled))
	return e.show(screenTop + strings.Join(lines, lineEnd) + screenEnd)
}

func (e Env) show(text string) error {
	if _, err := io.WriteString(e.Stdout, text); err != nil {
		return fmt.Errorf("show the cluster: %w", err)
	}
	return nil
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
