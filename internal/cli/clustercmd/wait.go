package clustercmd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/client"
	"github.com/skein-run/skein/internal/cli/command"
	"github.com/skein-run/skein/internal/cli/table"
)

// wait follows the changes of the cluster until a model is ready. instance is
// the one that was made for it; "": it has no place yet.
func (e Env) wait(ctx context.Context, c *client.Client, model, instance string, timeout time.Duration) error {
	errTimeout := &command.ExitError{Code: CodeTimeout, Err: fmt.Errorf("%s is not ready after %s; it goes on in the background: see 'skein models status %s'", model, ago(timeout.Seconds()), model)}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errTimeout)
	defer cancel()
	p := &progress{model: model}
	if width, _ := e.TerminalErr(); width > 0 {
		p.live = table.NewLive(e.Stderr)
	}
	_, err := c.Wait(ctx, client.WaitOptions{
		Model: model, Instance: instance, Progress: func(m api.Model) error { return p.show(e, m) },
		Lost: func(err error) error {
			e.Note("the connection to the node broke (%v); trying again", err)
			return nil
		},
	})
	var failed *client.FailedError
	var gone *client.GoneError
	switch {
	case err == nil:
		e.Note("%s is ready", model)
	case errors.As(err, &gone):
		return &command.ExitError{Code: CodeFailed, Err: fmt.Errorf("%w; see 'skein status'", err)}
	case errors.As(err, &failed):
		m := failed.Model
		return &command.ExitError{Code: CodeFailed, Err: fmt.Errorf("%s failed: %s\n  see 'skein models status %s', or take it back with 'skein models unload %s'", model, table.Visible(cmp.Or(m.Error, m.Progress)), model, model)}
	}
	return err
}

// progress is what is shown while a model is waited for.
type progress struct {
	model string
	live  *table.Live // nil: no terminal
	said  string      // the last line, where there is no terminal
}

// show tells how far it is: a block of lines that is redrawn on a terminal, a
// line for each step elsewhere.
func (p *progress) show(e Env, m api.Model) error {
	if p.live != nil {
		width, height := e.TerminalErr()
		return p.live.Draw(table.Keep(progressLines(m, max(width-1, 1), e.StyledErr()), height-1))
	}
	line := m.Status
	if !m.Ready && m.Status != api.StatusFailed {
		line = m.Progress
	}
	if line != p.said {
		p.said = line
		e.Note("%s: %s", p.model, table.Visible(line))
	}
	return nil
}

// progressLines is the progress of an instance: as a whole, then by stage and
// node.
func progressLines(m api.Model, width int, styled bool) []string {
	// The texts change all the time, and the bars are to stand still.
	length := 10
	if width >= 100 {
		length = 20
	}
	g := table.New("", "", "")
	g.Cut(0, 16).Drop(1).Cut(2, 16).Cut(0, 8).Cut(2, 6)
	line := func(name table.Cell, status, text string, percent float64) {
		g.Add(name, table.Cell{Text: table.Bar(percent, length), Style: look(status)}, table.T(text))
	}
	line(name(m.ModelName), m.Status, m.Progress, m.ProgressPercent)
	if len(m.Shards) > 1 {
		for _, s := range m.Shards {
			line(table.T("  "+s.NodeName+" "+s.Role), s.Status, cmp.Or(s.Progress, s.Status), s.ProgressPercent)
		}
	}
	return g.Lines(width, styled)[1:]
}
