package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/client"
)

// quiet is how long no event must come before those that came are answered. It
// decides how many calls are needed, not what is seen: the next call goes on
// after the last event.
const quiet = 300 * time.Millisecond

type eventsInput struct {
	After       string   `json:"after,omitempty" maxLength:"200" doc:"last_event_id of an earlier answer: everything since then is told. Left out: what happens from now on" example:"k3x9.17"`
	WaitSeconds *float64 `json:"wait_seconds,omitempty" minimum:"0" maximum:"120" default:"0" doc:"How long to wait for the first event, in seconds. 0: only what is there already"`
	Types       []string `json:"types,omitempty" nullable:"false" maxItems:"5" enum:"node,model,task,download,master" doc:"Only events of these types; left out: all but task, which are many"`
	Limit       *int     `json:"limit,omitempty" minimum:"1" maximum:"1000" default:"100" doc:"Events at most; call again with after for the rest"`
}

type events struct {
	Events      []event `json:"events" nullable:"false" doc:"Oldest first; memory, load and speed alone make no events"`
	LastEventID string  `json:"last_event_id" doc:"Give it as after in the next call, within a minute, to miss nothing"`
	Gap         string  `json:"gap" doc:"Not empty: why some events since after are lost; look at cluster_overview for how things stand"`
}

// event is one change in a sentence.
type event struct {
	ID        string  `json:"id"`
	Type      string  `json:"type" enum:"node,model,task,download,master"`
	Change    string  `json:"change" doc:"added, changed or removed; empty for master"`
	Timestamp float64 `json:"timestamp" doc:"Unix seconds"`
	Subject   string  `json:"subject" doc:"Node id, model id, task id, or id of the new master; empty: there is no master any more"`
	Summary   string  `json:"summary" example:"Qwen3-30B is loading: loading layer 12/48 (25%)"`
}

var errCollected = errors.New("collected")

func (s *server) addEvents() {
	add(s, tool{"recent_events", "Recent events", reads,
		"What changed in the cluster: nodes that came or went, models that load, became ready or failed, downloads, a new master. " +
			"Call it once without after to get a last_event_id, do something, then call it with after set to that id. " +
			"A node keeps events for a minute after the last call, then \"gap\" says that some are lost."}, s.collect)
}

// collect follows the changes until there are some and no more come for a
// moment.
func (s *server) collect(ctx context.Context, c call, in eventsInput) (events, error) {
	out := events{Events: []event{}, LastEventID: in.After}
	limit, wait := 100, quiet
	if in.Limit != nil {
		limit = *in.Limit
	}
	if in.WaitSeconds != nil {
		wait = max(wait, seconds(*in.WaitSeconds))
	}
	types := in.Types
	if len(types) == 0 {
		types = []string{api.EventNode, api.EventModel, api.EventDownload, api.EventMaster}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(wait, func() { cancel(errCollected) })
	defer timer.Stop()
	err := c.Follow(ctx, client.FollowOptions{After: in.After, Types: types, Lost: s.lost}, func(e api.Event) error {
		out.LastEventID = e.ID
		if e.Type == api.EventSnapshot {
			// Without after it only says from where on.
			if out.Gap = e.Reason; e.Reason != "" || in.WaitSeconds == nil || *in.WaitSeconds == 0 {
				return errCollected
			}
			return nil
		}
		out.Events = append(out.Events, describe(e))
		if len(out.Events) == limit {
			return errCollected
		}
		timer.Reset(quiet)
		return nil
	})
	if errors.Is(err, errCollected) {
		err = nil
	}
	return out, err
}

// describe makes a sentence of a change.
func describe(e api.Event) event {
	out := event{ID: e.ID, Type: e.Type, Change: e.Change, Timestamp: e.Timestamp}
	gone := e.Change == api.ChangeRemoved
	switch {
	case e.Node != nil:
		out.Subject, out.Summary = e.Node.NodeID, fmt.Sprintf("node %s is %s", e.Node.FriendlyName, e.Node.Status)
		if gone {
			out.Summary = fmt.Sprintf("node %s is gone", e.Node.FriendlyName)
		}
	case e.Model != nil:
		out.Subject, out.Summary = e.Model.ModelID, sentence(*e.Model)
		if gone {
			out.Summary = fmt.Sprintf("%s is no longer loaded (instance %s)", e.Model.ModelName, e.Model.InstanceID)
		}
	case e.Task != nil:
		out.Subject, out.Summary = e.Task.TaskID, fmt.Sprintf("%s on %s is %s", e.Task.TaskType, e.Task.ModelID, e.Task.Status)
		if gone {
			out.Summary = fmt.Sprintf("%s on %s is done", e.Task.TaskType, e.Task.ModelID)
		}
	case e.Download != nil:
		d := e.Download
		out.Subject, out.Summary = d.ModelID, fmt.Sprintf("%s to %s is %s, %.1f of %.1f GB", d.ModelID, d.NodeName, d.Status, d.DownloadedGB, d.TotalGB)
		if d.Error != "" {
			out.Summary += ": " + d.Error
		}
	case e.MasterNodeID != nil && *e.MasterNodeID == "":
		out.Summary = "there is no master any more"
	case e.MasterNodeID != nil:
		out.Subject, out.Summary = *e.MasterNodeID, "the master is "+*e.MasterNodeID
	}
	return out
}

// sentence says how far a model is.
func sentence(m api.Model) string {
	text := m.ModelName + " is " + m.Status
	switch {
	case m.Error != "":
		return text + ": " + m.Error
	case m.Ready || m.Progress == "" || m.Progress == m.Status:
		return text
	}
	return text + ": " + m.Progress
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
