// Package cluster is what all nodes of a cluster agree on: nodes, models, what
// is wanted, where it was placed, what became of it. The State is a value, and
// so is an Event; Apply makes the next State of the two. All nodes apply the
// same events in the same order and so hold the same State. Only the master
// makes events.
//
// It owns what an event means and which ones fit a State. It is pure: no net,
// os, os/exec or log/slog, no clock (time is in the events) and no randomness
// (ids come with the events). A State and everything in it never changes once
// made, so it may be read from any goroutine.
//
// What is not in here: what changes every second (free memory, progress, load),
// which nodes tell each other outside the log, and tokens, which never pass
// through it.
package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/ids"
)

// State is the cluster after the event Index. The zero value is the state
// before the first one.
type State struct {
	Index   uint64      `json:"index"`
	Session ids.Session `json:"session"` // of the newest event
	At      time.Time   `json:"at"`      // of the newest event

	Nodes     map[ids.Node]Node         `json:"nodes,omitempty"`
	Models    map[string]Model          `json:"models,omitempty"` // by name
	Wanted    map[string]Wanted         `json:"wanted,omitempty"` // by id
	Instances map[string]Instance       `json:"instances,omitempty"`
	Downloads map[DownloadKey]Download  `json:"downloads,omitempty"`
	Commands  map[string]CommandOutcome `json:"commands,omitempty"` // the newest maxCommands
	Swaps     map[string]Swap           `json:"swaps,omitempty"`
	Audit     []Audit                   `json:"audit,omitempty"` // the newest maxAudit, oldest first
	// Keys are in snapshots, and in no other JSON of a state.
	Keys map[string]Key `json:"-"`
}

// maxCommands is how many commands are remembered, so that one that is sent
// again is not done twice.
const maxCommands = 1024

// Node is a member, also one that is away for a while.
type Node struct {
	ID        ids.Node           `json:"id"`
	Name      string             `json:"name"` // for people
	Host      string             `json:"host"` // machine and boot: nodes that share one share its memory
	Worker    bool               `json:"worker"`
	Candidate bool               `json:"candidate"`
	API       bool               `json:"api"`
	Downloads bool               `json:"downloads"`
	Version   string             `json:"version"`
	Address   string             `json:"address"` // host:port for peers
	Devices   []placement.Device `json:"devices"` // sizes and speeds; what is free is told outside the log
	Online    bool               `json:"online"`
	Draining  bool               `json:"draining"`
	Since     time.Time          `json:"since"` // when Online last changed
}

// Model is a model whose files lie on some nodes.
type Model struct {
	Name    string          `json:"name"`
	Profile placement.Model `json:"profile"`
	Files   []File          `json:"files"`
	Holders []ids.Node      `json:"holders"` // who has all files, sorted
}

// Hashed tells that the files' contents are known. Before, the model is the one
// of the node that told it, its only holder: others can neither have it nor
// fetch it.
func (m Model) Hashed() bool {
	return !slices.ContainsFunc(m.Files, func(f File) bool { return f.SHA256 == "" })
}

// File is one file of a model.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // "": its node is still reading it
}

// Wanted is a model that is to run until somebody unloads it, wherever: it
// outlives its instances.
type Wanted struct {
	ID    string `json:"id"`
	Model string `json:"model"`
	// Copy numbers the replicas of a model from 0: two that came into being on
	// two sides of a split with one number are one wish.
	Copy     int                `json:"copy,omitempty"`
	Context  int                `json:"context"`
	Slots    int                `json:"slots"`
	Sharding placement.Sharding `json:"sharding"`
	MinNodes int                `json:"min_nodes"`
	Require  []ids.Node         `json:"require,omitempty"`
	Since    time.Time          `json:"since"`
	// Problem is why it does not run at the moment; "" if it does or is about to.
	Problem string `json:"problem,omitempty"`
}

// Phase is how far a shard is.
type Phase string

// Phases, in the order in which a shard goes through them. Failed, Stopped and
// Lost are ends.
const (
	Placed    Phase = "placed"
	Fetching  Phase = "fetching"
	Starting  Phase = "starting"
	Loading   Phase = "loading"
	Loaded    Phase = "loaded" // waits for the others of its instance
	Connected Phase = "connected"
	Ready     Phase = "ready"
	Failed    Phase = "failed"
	Stopped   Phase = "stopped"
	Lost      Phase = "lost" // its node is gone
)

// order gives a phase's place; ends have none.
func (p Phase) order() int {
	return slices.Index([]Phase{Placed, Fetching, Starting, Loading, Loaded, Connected, Ready}, p)
}

// Ended tells that the shard runs no more.
func (p Phase) Ended() bool { return p == Failed || p == Stopped || p == Lost }

func (p Phase) known() bool { return p.order() >= 0 || p.Ended() }

// Shard is one shard of an instance and what its node last said about it.
type Shard struct {
	Node    ids.Node   `json:"node"`
	Device  string     `json:"device"`
	Spec    slice.Spec `json:"spec"`
	Reserve int64      `json:"reserve"` // bytes promised
	Phase   Phase      `json:"phase"`
	// Incarnation counts the processes that held the shard, from 1.
	Incarnation int    `json:"incarnation"`
	Link        string `json:"link,omitempty"` // host:port for the other shards, from Loaded on
	Error       string `json:"error,omitempty"`
}

// Instance is a model placed on nodes.
type Instance struct {
	ID        string               `json:"id"`
	Wanted    string               `json:"wanted"`
	Model     string               `json:"model"`
	Way       placement.Way        `json:"way"`
	Context   int                  `json:"context"`
	Slots     int                  `json:"slots"`
	Shards    []Shard              `json:"shards"`
	Head      int                  `json:"head"`
	Predicted placement.Prediction `json:"predicted"`
	Placed    time.Time            `json:"placed"`
	// Releasing is why it is being stopped; "": it is not.
	Releasing string `json:"releasing,omitempty"`
	// Drain is how long generations that are open then may go on; nil: as long
	// as the head's node allows.
	Drain *time.Duration `json:"drain,omitempty"`
}

// Epoch numbers the connections of the shards with each other: it grows when
// any of them gets a new process.
func (i Instance) Epoch() uint64 {
	var n uint64
	for _, s := range i.Shards {
		n += uint64(s.Incarnation)
	}
	return n
}

// Memory is what its shards are promised, bytes.
func (i Instance) Memory() int64 {
	var n int64
	for _, x := range i.Shards {
		if !x.Phase.Ended() {
			n += x.Reserve
		}
	}
	return n
}

// Status is the state of an instance in the words of the management API.
func (i Instance) Status() string {
	least := Ready.order()
	for _, s := range i.Shards {
		switch {
		case i.Releasing != "":
			return "stopping"
		case s.Phase.Ended():
			return "failed"
		}
		least = min(least, s.Phase.order())
	}
	switch {
	case least == Ready.order():
		return "ready"
	case least <= Fetching.order() && slices.ContainsFunc(i.Shards, func(s Shard) bool { return s.Phase == Fetching }):
		return "downloading"
	}
	return "loading"
}

// DownloadKey names a download: "node model" as text.
type DownloadKey struct {
	Node  ids.Node
	Model string
}

// MarshalText makes the key usable in JSON objects; node ids have no blanks.
func (k DownloadKey) MarshalText() ([]byte, error) {
	return []byte(string(k.Node) + " " + k.Model), nil
}

// UnmarshalText reads what MarshalText wrote.
func (k *DownloadKey) UnmarshalText(b []byte) error {
	for i, c := range b {
		if c == ' ' {
			k.Node, k.Model = ids.Node(b[:i]), string(b[i+1:])
			return nil
		}
	}
	return fmt.Errorf("%q names no download", b)
}

// Download is the transfer of a model's files, or of a shard's part of them,
// to a node.
type Download struct {
	Node  ids.Node  `json:"node"`
	Model string    `json:"model"`
	From  ids.Node  `json:"from"`
	Bytes int64     `json:"bytes"` // in all
	Since time.Time `json:"since"`
	// Error is why it failed; "": it runs.
	Error string `json:"error,omitempty"`
}

// CommandOutcome is what became of a command.
type CommandOutcome struct {
	Index uint64 `json:"index"` // of the event that it made
	// Dropped is why it was not done: it no longer fitted when the halves of a
	// partition met again. "": it was done.
	Dropped string `json:"dropped,omitempty"`
}

// Hash is equal for equal states.
func (s State) Hash() (string, error) {
	b, err := s.seal(0)
	if err != nil {
		return "", fmt.Errorf("hash the state: %w", err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// reserved sums up what shards have been promised of each memory: nodes of one
// host share it. What swaps keep free for their own models counts, but not for
// the one of these that wanted names.
func (s State) reserved(wanted string) map[budget]int64 {
	out := map[budget]int64{}
	for _, i := range s.Instances {
		for _, shard := range i.Shards {
			if !shard.Phase.Ended() {
				out[budget{s.hostOf(shard.Node), shard.Device}] += shard.Reserve
			}
		}
	}
	for _, w := range s.Swaps {
		if w.New.ID != wanted {
			for b, n := range s.held(w) {
				out[b] += n
			}
		}
	}
	return out
}

// budget is a memory that is given away: a device of a machine.
type budget struct{ host, device string }

func (s State) hostOf(id ids.Node) string {
	if n, ok := s.Nodes[id]; ok && n.Host != "" {
		return n.Host
	}
	return string(id)
}

// totals is the size of each memory: the least that a node of the machine
// told.
func (s State) totals() map[budget]int64 {
	out := map[budget]int64{}
	for id, n := range s.Nodes {
		for _, d := range n.Devices {
			key := budget{s.hostOf(id), d.ID}
			if have, ok := out[key]; !ok || d.Total < have {
				out[key] = d.Total
			}
		}
	}
	return out
}

// put gives a copy of a map with one entry changed.
func put[K comparable, V any](m map[K]V, k K, v V) map[K]V {
	out := maps.Clone(m)
	if out == nil {
		out = map[K]V{}
	}
	out[k] = v
	return out
}

// without gives a copy of a map without one entry; nil if nothing is left, so
// that equal states are equal bytes.
func without[K comparable, V any](m map[K]V, k K) map[K]V {
	if _, ok := m[k]; !ok {
		return m
	}
	if len(m) == 1 {
		return nil
	}
	out := maps.Clone(m)
	delete(out, k)
	return out
}

// Before tells that a phase comes before another in a shard's way to Ready.
func (p Phase) Before(other Phase) bool { return p.order() >= 0 && p.order() < other.order() }
