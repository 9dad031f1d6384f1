package clustercmd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/client"
)

// errDone ends a following: all is said.
var errDone = errors.New("done")

// wait follows the changes of the cluster until a model is ready. instance is
// the one that was made for it; "": it has no place yet.
func (e Env) wait(ctx context.Context, c *client.Client, model, instance string, timeout time.Duration) error {
	errTimeout := &ExitError{Code: CodeTimeout, Err: fmt.Errorf("%s is not ready after %s; it goes on in the background: see 'skein models status %s'", model, ago(timeout.Seconds()), model)}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errTimeout)
	defer cancel()
	p := &progress{model: model}
	if width := e.WidthErr(); width > 0 {
		p.live, p.width = &live{w: e.Stderr}, width
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
		return &ExitError{Code: CodeFailed, Err: fmt.Errorf("%w; see 'skein status'", err)}
	case errors.As(err, &failed):
		m := failed.Model
		return &ExitError{Code: CodeFailed, Err: fmt.Errorf("%s failed: %s\n  see 'skein models status %s', or take it back with 'skein models unload %s'", model, visible(cmp.Or(m.Error, m.Progress)), model, model)}
	}
	return err
}

// progress is what is shown while a model is waited for.
type progress struct {
	model string
	live  *live // nil: no terminal
	width int
	said  string // the last line, where there is no terminal
}

// show tells how far it is: a block of lines that is redrawn on a terminal, a
// line for each step elsewhere.
func (p *progress) show(e Env, m api.Model) error {
	if p.live != nil {
		return p.live.draw(progressLines(m, p.width))
	}
	line := m.Status
	if !m.Ready && m.Status != api.StatusFailed {
		line = m.Progress
	}
	if line != p.said {
		p.said = line
		e.Note("%s: %s", p.model, visible(line))
	}
	return nil
}

// progressLines is the progress of an instance: as a whole, then by stage and
// node.
func progressLines(m api.Model, width int) []string {
	const barWidth = 20
	line := func(name, text string, percent float64) string {
		return shorten(strings.TrimRight(fmt.Sprintf("%-28s %s %s", shorten(name, 28), bar(percent, barWidth), text), " "), width-1)
	}
	out := []string{line(m.ModelName, m.Progress, m.ProgressPercent)}
	if len(m.Shards) < 2 {
		return out
	}
	for _, s := range m.Shards {
		out = append(out, line("  "+s.NodeName+" "+s.Role, s.Progress, s.ProgressPercent))
	}
	return out
}
