package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/skein-run/skein/api"
)

// WaitOptions say what to wait for.
type WaitOptions struct {
	Model    string // full id
	Instance string // the one that was made for it; "": it has no place yet, and any will do
	// Progress is told each time that something changed; may be nil. Its error
	// ends the waiting.
	Progress func(m api.Model) error
	// Lost is told when the connection broke, before it is made again; may be
	// nil. Its error ends the waiting.
	Lost func(err error) error
}

// FailedError ends a wait for a model that failed.
type FailedError struct{ Model api.Model }

func (e *FailedError) Error() string {
	return fmt.Sprintf("%s failed: %s", e.Model.ModelID, cmp.Or(e.Model.Error, e.Model.Progress))
}

// GoneError ends a wait for a model that was unloaded meanwhile.
type GoneError struct{ Model string }

func (e *GoneError) Error() string { return e.Model + " was unloaded while it was waited for" }

// errDone ends a following: all is said.
var errDone = errors.New("done")

// Wait follows the changes of the cluster until a model is ready, and gives it
// as it is then. Errors are *FailedError, *GoneError, those of the options'
// functions, of Follow, or the cause of ctx.
func (c *Client) Wait(ctx context.Context, o WaitOptions) (api.Model, error) {
	w := waiter{model: o.Model, instance: o.Instance, others: map[string]bool{}, entries: map[string]api.Model{}}
	var ready api.Model
	var end error
	err := c.Follow(ctx, FollowOptions{Types: []string{api.EventModel}, Lost: o.Lost}, func(e api.Event) error {
		w.take(e)
		m, found := w.best()
		if found && o.Progress != nil {
			if err := o.Progress(m); err != nil {
				return err
			}
		}
		switch {
		case !found && w.seen:
			end = &GoneError{w.model}
		case !found:
			return nil
		case m.Ready:
			ready = m
		case m.Status == api.StatusFailed:
			end = &FailedError{m}
		default:
			return nil
		}
		return errDone
	})
	if errors.Is(err, errDone) {
		return ready, end
	}
	return ready, err
}

// waiter is what is known of the model that is waited for.
type waiter struct {
	model    string
	instance string
	others   map[string]bool      // instances that were there before
	entries  map[string]api.Model // by instance; "": what has no place
	begun    bool                 // the first snapshot was taken
	seen     bool                 // the model was there at some time
}

func (w *waiter) take(e api.Event) {
	if e.Type == api.EventSnapshot && e.Cluster != nil {
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
