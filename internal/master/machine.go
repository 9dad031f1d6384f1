package master

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/replica"
)

// Machine is what a replica has to know of the cluster's state. now is the
// clock of the events that this node makes as master; log is told of events
// that it can't read.
func Machine(now func() time.Time, log *slog.Logger) replica.Machine[cluster.State] {
	return replica.Machine[cluster.State]{
		Apply: func(s cluster.State, e replica.Entry) cluster.State {
			event, err := decode(e)
			if err != nil {
				log.Error("an entry of the cluster's log can't be read; this node's view of the cluster lacks it", "index", e.Index, "error", err)
			}
			return s.Apply(event)
		},
		Decide: func(s cluster.State, c replica.Command, session ids.Session) ([][]byte, json.RawMessage, error) {
			events, result, err := command.Decide(s, command.Command(c), session, now())
			var no *command.Refusal
			if errors.As(err, &no) {
				return nil, nil, &replica.Refusal{Code: no.Code, Message: no.Message}
			}
			if err != nil {
				return nil, nil, err
			}
			var data [][]byte
			for _, e := range events {
				b, err := e.Encode()
				if err != nil {
					return nil, nil, err
				}
				data = append(data, b)
			}
			b, err := json.Marshal(result)
			if err != nil {
				return nil, nil, fmt.Errorf("command %s: %w", c.Kind, err)
			}
			return data, b, nil
		},
		Undo: func(lost []replica.Entry) (out []replica.Command) {
			var events []cluster.Event
			for _, e := range lost {
				if event, err := decode(e); err == nil {
					events = append(events, event)
				}
			}
			for _, c := range command.Offers(events) {
				out = append(out, replica.Command(c))
			}
			return out
		},
		Begin: func(ids.Session) replica.Command {
			return replica.Command{Kind: cluster.KindOf(cluster.SessionBegan{}), Body: json.RawMessage("{}")}
		},
		Encode: func(s cluster.State) ([]byte, error) { return s.Snapshot() },
		Decode: cluster.DecodeState,
	}
}

// decode reads an entry's event. Where the entry and its event differ about
// their place in the log, the entry counts; of what can't be read only that is
// left, so that what follows is still in order.
func decode(e replica.Entry) (cluster.Event, error) {
	event, err := cluster.DecodeEvent(e.Data)
	if err == nil && (event.Index != e.Index || event.Session != e.Session) {
		err = fmt.Errorf("entry %d of %v has event %d of %v; the log is damaged", e.Index, e.Session, event.Index, event.Session)
	}
	if err != nil {
		return cluster.Event{Index: e.Index, Session: e.Session, Change: cluster.SessionBegan{}}, err
	}
	return event, nil
}
