// Package replica keeps one state equal on all nodes: the master orders
// commands into entries of a log, followers copy it, and everybody applies it.
//
// A command is acknowledged when its entry is on the master's disk and on that
// of at least one other live node, if there is one: so it survives the loss of
// any one node. A new master first takes the freshest log there is. When two
// halves of a cluster meet again, the log of the winner stands, and the
// commands of the loser since the split are offered to it again, in order.
//
// A node whose log can't be written confirms nothing and tries again until it
// can (disk.go); Failed says so, and who leads is the election's business.
//
// The package owns the order of things and knows neither what a command means
// (Machine says) nor how nodes are reached (Transport does). It imports ids and
// store, and is joined with the mesh by the node. Methods may be called from any
// goroutine; each term of a master is a lifetime whose goroutines have ended
// before the next one begins.
package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/store"
)

// Entry is one record of the log; Data is the Machine's.
type Entry = store.Entry

// Snapshot stands for all entries up to Index.
type Snapshot = store.Snapshot

// Command is a wish to change the state. ID is chosen by who asks; a command
// that comes twice is carried out once.
type Command struct {
	ID   string          `json:"id"`
	Kind string          `json:"kind"`
	Body json.RawMessage `json:"body"`
	// Offered marks a command that was acknowledged by the losing half of a
	// split. Decide should not refuse it but leave an entry that says why it
	// no longer fits: nothing that was acknowledged disappears in silence.
	Offered bool `json:"offered,omitempty"`
	// By is who gave it, and Via the node that took it; the Machine's.
	By  string   `json:"by,omitempty"`
	Via ids.Node `json:"via,omitempty"`
}

// Answer is what became of a command.
type Answer struct {
	Result json.RawMessage `json:"result"`
	Index  uint64          `json:"index"`  // of its entry
	Copies int             `json:"copies"` // nodes whose disks hold it, at the time of the answer
}

// Refusal is the state's no: the command can't be done, now or ever.
type Refusal struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	// Index is of the last entry that the master knew: who has it sees why.
	Index uint64 `json:"index"`
}

func (r *Refusal) Error() string { return r.Message }

// NoMasterError tells that nobody can order a command.
type NoMasterError struct{ Last ids.Session }

func (e *NoMasterError) Error() string {
	return "the cluster has no master now: try again in a second or two; if that lasts, every live node runs with --no-master or --no-api, and one must be started without these flags"
}

// UnwritableError tells that the log of the master can't be written, and that no
// other node could take the lead within moments. Nothing was promised.
type UnwritableError struct {
	Node ids.Node
	Err  error
}

func (e *UnwritableError) Error() string {
	return fmt.Sprintf("the master, node %s, can't keep a command, and no other node leads in its place: %v", e.Node, e.Err)
}

// Unwrap gives the error of the disk.
func (e *UnwritableError) Unwrap() error { return e.Err }

// ErrUnconfirmed tells that a command's outcome is not known: the master went,
// or no other node confirmed it in time. The same command may be sent again.
var ErrUnconfirmed = errors.New("the command was not confirmed in time; ask for its effect, or send it again with the same id")

// Machine is the replicated state S, a value.
type Machine[S any] struct {
	// Apply is total and deterministic.
	Apply func(S, Entry) S
	// Decide turns a command into the data of entries that are written together,
	// against the state in which all earlier commands are applied. A *Refusal is
	// its no. Without data nothing changes, and the result stands for itself.
	Decide func(S, Command, ids.Session) (data [][]byte, result json.RawMessage, err error)
	// Undo gives the commands of entries that lost a split, in their order, to be
	// offered to the winner; not all entries need an offer.
	Undo func(lost []Entry) []Command
	// Begin is the command that a new master orders first.
	Begin func(ids.Session) Command
	// Encode and Decode are for snapshots.
	Encode func(S) ([]byte, error)
	Decode func([]byte) (S, error)
}

// Storage is the log on disk, as store.Log is one.
type Storage interface {
	Append(...Entry) error
	Entries(from uint64, limit int) (entries []Entry, ok bool, err error)
	Truncate(index uint64) error
	Compact(Snapshot) error
	Install(Snapshot) error
	Snapshot() (Snapshot, error)
	// Probe tells whether the log can be written now.
	Probe() error
}

// Transport reaches other nodes.
type Transport interface {
	// Status asks a node how fresh its log is.
	Status(ctx context.Context, node ids.Node) (Status, error)
	// Submit hands a command to a node that is master.
	Submit(ctx context.Context, node ids.Node, c Command) (Answer, error)
	// Follow opens a stream to a node: the request has been sent, acks are
	// written to it and frames are read from it as JSON values.
	Follow(ctx context.Context, node ids.Node, req FollowRequest) (io.ReadWriteCloser, error)
}

// Status is how far a node's log goes.
type Status struct {
	Index   uint64      `json:"index"`
	Session ids.Session `json:"session"` // of the last entry
	Hash    string      `json:"hash"`    // of the state, at Applied
	Applied uint64      `json:"applied"`
}

// fresher tells whether s knows more than t: later terms first.
func (s Status) fresher(t Status) bool {
	if c := s.Session.Compare(t.Session); c != 0 {
		return c > 0
	}
	return s.Index > t.Index
}

// Run is a stretch of a log that one session wrote.
type Run struct {
	Session ids.Session `json:"session"`
	Last    uint64      `json:"last"` // index of its last entry
}

// FollowRequest begins a stream.
type FollowRequest struct {
	From ids.Node `json:"from"`
	// Session is the one that the follower follows. Who reads the log of a node
	// that is no master (Fetch) is to lead it: a log with entries of a later
	// session is refused.
	Session ids.Session `json:"session"`
	Fetch   bool        `json:"fetch"` // the log as it is, then the end
	Runs    []Run       `json:"runs"`  // of the follower's log, oldest first
}

// frame is what a followed node sends: first Match, then entries.
type frame struct {
	Refused  string    `json:"refused,omitempty"`
	Match    *uint64   `json:"match,omitempty"` // entries up to here are equal; forget what follows
	Snapshot *Snapshot `json:"snapshot,omitempty"`
	Entries  []Entry   `json:"entries,omitempty"`
	Commit   uint64    `json:"commit,omitempty"` // entries up to here may be applied
}

// ack is what a follower sends: its log is on disk up to Index.
type ack struct {
	Index uint64 `json:"index"`
}

// Options make a Replica.
type Options[S any] struct {
	Self      ids.Node
	Machine   Machine[S]
	Storage   Storage
	Transport Transport
	Logger    *slog.Logger
	// Gather is how long a new master waits for the others' Status.
	Gather time.Duration
	// Confirm is how long a command may wait for another node's disk.
	Confirm time.Duration
	// Keep is how many entries stay behind a snapshot; Every, after how many
	// entries one is taken.
	Keep, Every uint64
	// Changed is called when the applied state changed; it must not block.
	Changed func()
}

func (o *Options[S]) validate() error {
	m := o.Machine
	if o.Self == "" || o.Storage == nil || o.Transport == nil || o.Logger == nil || m.Apply == nil || m.Decide == nil || m.Undo == nil || m.Begin == nil || m.Encode == nil || m.Decode == nil {
		return errors.New("replica: an option is missing")
	}
	if o.Gather <= 0 || o.Confirm <= 0 || o.Every == 0 {
		return fmt.Errorf("replica: gather %v, confirm %v and every %d must be positive", o.Gather, o.Confirm, o.Every)
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	return nil
}
