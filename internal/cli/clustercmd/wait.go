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
	w := &waiter{model: model, instance: instance, others: map[string]bool{}, entries: map[string]api.Model{}}
	if width := e.WidthErr(); width > 0 {
		w.live, w.width = &live{w: e.Stderr}, width
	}
	var end error
	err := c.Follow(ctx, client.FollowOptions{Types: []string{api.EventModel}, Lost: func(err error) error {
		e.Note("the connection to the node broke (%v); trying again", err)
		return nil
	}}, func(event api.Event) error {
		w.take(event)
		if err := w.show(e); err != nil {
			return err
		}
		done, err := w.result()
		if !done {
			return nil
		}
		end = err
		return errDone
	})
	if !errors.Is(err, errDone) {
		return err
	}
	if end == nil {
		e.Note("%s is ready", model)
	}
	return end
}

// waiter is what is known of the model that is waited for.
type waiter struct {
	model    string
	instance string
	others   map[string]bool      // instances that were there before
	entries  map[string]api.Model // by instance; "": what has no place
	begun    bool                 // the first snapshot was taken
	seen     bool                 // the model was there at some time

	live  *live // nil: no terminal
	width int
	said  string // the last line, where there is no terminal
}

func (w *waiter) take(e api.Event) {
	if e.Type == api.EventSnapshot {
		w.entries = map[string]api.Model{}
		for _, m := range e.Cluster.Models {
			if m.ModelID != w.model {
				continue
			}
			// Without a place of its own it waits for any that comes.
			if !w.begun && w.instance != "" && m.InstanceID != "" && m.InstanceID != w.instance {
				w.others[m.InstanceID] = true
			}
			w.put(m)
		}
		w.begun = true
		return
	}
	if e.Model == nil || e.Model.ModelID != w.model {
		return
	}
	if e.Change == api.ChangeRemoved {
		delete(w.entries, e.Model.InstanceID)
		return
	}
	w.put(*e.Model)
}

func (w *waiter) put(m api.Model) {
	if w.others[m.InstanceID] {
		return
	}
	w.entries[m.InstanceID] = m
	w.seen = true
}

// best is the entry that is furthest.
func (w *waiter) best() (api.Model, bool) {
	var out api.Model
	found := false
	for _, m := range w.entries {
		if !found || rank(m) > rank(out) || rank(m) == rank(out) && m.InstanceID > out.InstanceID {
			out, found = m, true
		}
	}
	return out, found
}

// rank orders entries: one that is on its way counts more than one that
// failed, since it takes its place.
func rank(m api.Model) int {
	switch {
	case m.Ready:
		return 4
	case m.Status == api.StatusStopping:
		return 1
	case m.Status == api.StatusFailed:
		return 2
	}
	return 3
}

// result says whether there is nothing to wait for any more, and how it ended.
func (w *waiter) result() (done bool, err error) {
	m, found := w.best()
	switch {
	case !found && w.seen:
		return true, &ExitError{Code: CodeFailed, Err: fmt.Errorf("%s was unloaded while it was waited for; see 'skein status'", w.model)}
	case !found:
		return false, nil
	case m.Ready:
		return true, nil
	case m.Status == api.StatusFailed:
		return true, &ExitError{Code: CodeFailed, Err: fmt.Errorf("%s failed: %s\n  see 'skein models status %s', or take it back with 'skein models unload %s'", w.model, visible(cmp.Or(m.Error, m.Progress)), w.model, w.model)}
	}
	return false, nil
}

// show tells how far it is: a block of lines that is redrawn on a terminal, a
// line for each step elsewhere.
func (w *waiter) show(e Env) error {
	m, found := w.best()
	if !found {
		return nil
	}
	if w.live != nil {
		return w.live.draw(progressLines(m, w.width))
	}
	line := m.Status
	if !m.Ready && m.Status != api.StatusFailed {
		line = m.Progress
	}
	if line != w.said {
		w.said = line
		e.Note("%s: %s", w.model, visible(line))
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
