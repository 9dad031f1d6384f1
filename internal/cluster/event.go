package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/ids"
)

// EventVersion is written into each event. It grows when an older skein could
// no longer make the same state of the events; golden logs of each version
// stay in testdata.
//
//	1  2026-11-22  first
//	2  2026-11-28  swaps
//	3  2026-11-28  keys, and who gave a command
//	4  2026-11-28  models before their files are hashed
//	5  2026-11-29  a model that nobody has gives its name to another one
const EventVersion = 5

// Event is one entry of the log.
type Event struct {
	Index   uint64 // 1, 2, 3, ... without gaps
	Session ids.Session
	At      time.Time // of the master, UTC
	Command string    // the command that it is the result of; "": none
	By      string    // the name of the key that gave it; "": a node did
	Via     ids.Node  // the node that took it
	Change  Change
}

// Change is what an event does. The types of this package are all there are.
type Change interface {
	kind() string
	// fits says why a state can't take the change; nil if it can.
	fits(s State) error
	// apply makes the next state of one that the change fits.
	apply(s State, e Event) State
}

// Errors of Admit that a caller may tell apart.
var (
	ErrFenced = errors.New("it is of a session that was replaced")
	ErrGap    = errors.New("it does not follow the newest event")
)

// Admit says why an event can't be applied: it is of a master that was
// replaced, does not follow, or does not fit. The master asks before it writes.
func (s State) Admit(e Event) error {
	switch {
	case e.Session.Compare(s.Session) < 0:
		return fmt.Errorf("event %d of %v, but the session is %v: %w", e.Index, e.Session, s.Session, ErrFenced)
	case e.Index != s.Index+1:
		return fmt.Errorf("event %d after event %d: %w", e.Index, s.Index, ErrGap)
	case e.Change == nil:
		return fmt.Errorf("event %d changes nothing", e.Index)
	}
	if len(e.By) > maxWho || len(e.Via) > maxWhat {
		return fmt.Errorf("event %d names its giver with %d letters, at most %d", e.Index, len(e.By), maxWho)
	}
	if err := e.Change.fits(s); err != nil {
		return fmt.Errorf("%s: %w", e.Change.kind(), err)
	}
	return nil
}

// Apply makes the next state. It is total: an event of an old session or out
// of order leaves the state as it is, and a change that does not fit only counts.
func (s State) Apply(e Event) State {
	err := s.Admit(e)
	if errors.Is(err, ErrFenced) || errors.Is(err, ErrGap) {
		return s
	}
	next := s
	next.Index, next.Session = e.Index, e.Session
	if e.At.After(s.At) {
		next.At = e.At
	}
	if err != nil {
		return next
	}
	next = e.Change.apply(next, e).audit(s, e)
	if _, dropped := e.Change.(CommandDropped); e.Command != "" && !dropped {
		next.Commands = remember(next.Commands, e.Command, CommandOutcome{Index: e.Index})
	}
	return next
}

// remember adds a command and forgets the oldest beyond maxCommands.
func remember(m map[string]CommandOutcome, id string, o CommandOutcome) map[string]CommandOutcome {
	out := put(m, id, o)
	if len(out) <= maxCommands {
		return out
	}
	oldest := ""
	for id, o := range out {
		if oldest == "" || o.Index < out[oldest].Index || o.Index == out[oldest].Index && id < oldest {
			oldest = id
		}
	}
	delete(out, oldest) // out is a copy
	return out
}

// written is an event as bytes.
type written struct {
	Version int             `json:"v"`
	Index   uint64          `json:"index"`
	Session ids.Session     `json:"session"`
	At      time.Time       `json:"at"`
	Command string          `json:"command,omitempty"`
	By      string          `json:"by,omitempty"`
	Via     ids.Node        `json:"via,omitempty"`
	Kind    string          `json:"kind"`
	Change  json.RawMessage `json:"change"`
}

// Encode writes an event for the log, and so for other nodes: with hashes of
// keys. Who shows one to people encodes its Change with package json.
func (e Event) Encode() ([]byte, error) {
	if e.Change == nil {
		return nil, fmt.Errorf("encode event %d: it changes nothing", e.Index)
	}
	change, err := EncodeChange(e.Change)
	if err == nil {
		var b []byte
		if b, err = json.Marshal(written{EventVersion, e.Index, e.Session, e.At.UTC(), e.Command, e.By, e.Via, e.Change.kind(), change}); err == nil {
			return b, nil
		}
	}
	return nil, fmt.Errorf("encode event %d: %w", e.Index, err)
}

// ErrVersion is in errors about events that a newer skein wrote.
var ErrVersion = errors.New("it was written by a newer skein; update this node")

// DecodeEvent reads an event, of this version or an older one.
func DecodeEvent(b []byte) (Event, error) {
	var w written
	if err := json.Unmarshal(b, &w); err != nil {
		return Event{}, fmt.Errorf("decode event: %w", err)
	}
	if w.Version > EventVersion {
		return Event{}, fmt.Errorf("decode event %d of version %d: %w", w.Index, w.Version, ErrVersion)
	}
	e := Event{Index: w.Index, Session: w.Session, At: w.At.UTC(), Command: w.Command, By: w.By, Via: w.Via}
	var err error
	if e.Change, err = decodeChange(w.Kind, w.Change); err != nil {
		return Event{}, fmt.Errorf("decode event %d: %s: %w", w.Index, w.Kind, err)
	}
	return e, nil
}

func decodeChange(kind string, b []byte) (Change, error) {
	switch kind {
	case SessionBegan{}.kind():
		return as[SessionBegan](b)
	case NodeSeen{}.kind():
		return as[NodeSeen](b)
	case NodeGone{}.kind():
		return as[NodeGone](b)
	case NodeForgotten{}.kind():
		return as[NodeForgotten](b)
	case NodeDrained{}.kind():
		return as[NodeDrained](b)
	case ModelKnown{}.kind():
		return as[ModelKnown](b)
	case ModelForgotten{}.kind():
		return as[ModelForgotten](b)
	case FilesMoved{}.kind():
		return as[FilesMoved](b)
	case ModelWanted{}.kind():
		return as[ModelWanted](b)
	case ModelUnwanted{}.kind():
		return as[ModelUnwanted](b)
	case WantedProblem{}.kind():
		return as[WantedProblem](b)
	case InstancePlaced{}.kind():
		return as[InstancePlaced](b)
	case InstanceReleased{}.kind():
		return as[InstanceReleased](b)
	case ShardReported{}.kind():
		return as[ShardReported](b)
	case DownloadBegan{}.kind():
		return as[DownloadBegan](b)
	case DownloadEnded{}.kind():
		return as[DownloadEnded](b)
	case SwapBegan{}.kind():
		return as[SwapBegan](b)
	case SwapEnded{}.kind():
		return as[SwapEnded](b)
	case SwapUndone{}.kind():
		return as[SwapUndone](b)
	case SwapForgotten{}.kind():
		return as[SwapForgotten](b)
	case CommandDropped{}.kind():
		return as[CommandDropped](b)
	case KeyAdded{}.kind():
		return openKeyAdded(b)
	case KeyRevoked{}.kind():
		return as[KeyRevoked](b)
	case Audited{}.kind():
		return as[Audited](b)
	}
	return nil, fmt.Errorf("there is no such change: %w", ErrVersion)
}

func as[T Change](b []byte) (Change, error) {
	var c T
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, err
	}
	return c, nil
}

// snapshot is a state as bytes. Its keys are apart, since a State's own JSON
// has none.
type snapshot struct {
	Version int                  `json:"v,omitempty"`
	State   State                `json:"state"`
	Keys    map[string]sealedKey `json:"keys,omitempty"`
}

func (s State) seal(version int) ([]byte, error) {
	w := snapshot{Version: version, State: s}
	if len(s.Keys) > 0 {
		w.Keys = map[string]sealedKey{}
	}
	for name, k := range s.Keys {
		w.Keys[name] = seal(k)
	}
	return json.Marshal(w) // maps are written in the order of their keys
}

// Snapshot writes a state, hashes of keys included: it is for nodes. What is
// for people's eyes is made with package json, and has no keys.
func (s State) Snapshot() ([]byte, error) {
	b, err := s.seal(EventVersion)
	if err != nil {
		return nil, fmt.Errorf("write a snapshot of event %d: %w", s.Index, err)
	}
	return b, nil
}

// DecodeState reads a snapshot, of this version or an older one, and checks it.
func DecodeState(b []byte) (State, error) {
	var w struct {
		Version int                  `json:"v"`
		State   json.RawMessage      `json:"state"`
		Keys    map[string]sealedKey `json:"keys"`
	}
	if err := json.Unmarshal(b, &w); err != nil {
		return State{}, fmt.Errorf("read a snapshot: %w", err)
	}
	if w.Version > EventVersion {
		return State{}, fmt.Errorf("read a snapshot of version %d: %w", w.Version, ErrVersion)
	}
	var s State
	if err := json.Unmarshal(w.State, &s); err != nil {
		return State{}, fmt.Errorf("read a snapshot: %w", err)
	}
	for name, sealed := range w.Keys {
		k, err := sealed.open()
		if err != nil {
			return State{}, fmt.Errorf("read a snapshot: key %.70q: %w", name, err)
		}
		s.Keys = put(s.Keys, name, k)
	}
	if err := Check(s); err != nil {
		return State{}, fmt.Errorf("read a snapshot of event %d: %w", s.Index, err)
	}
	return s, nil
}
