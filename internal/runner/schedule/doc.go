// Package schedule decides what every step of a runner computes: continuous
// batching, fair prompts, slots, and the prefix cache.
//
// It is pure. A Scheduler is owned by one goroutine; it reads no clock and
// calls no library. Plan returns a Step, the work as a value: edits of the KV
// state, one token of each running stream, and a bounded chunk of one prompt.
// The runner carries the Step out and
// reports back with Decoded and Chunked. The same Step,
// sent to other shards of a model, keeps them all in the same state.
//
// # Why decode and chunk are two batches
//
// A library kernel may round differently for another batch shape. Prompts are
// therefore always computed in the same shapes: in chunks of Config.Chunk
// tokens that start at multiples of Chunk, never together with other streams'
// tokens; the last prompt token is computed as the first decode step. Reuse of
// a cached prefix ends at such a boundary. So the state of a prompt does not
// depend on what was cached or on what else ran, and a request that is alone
// gives the same text again. Tokens decoded beside other streams share a batch
// with them; there the library decides.
package schedule

// Item is one token of a batch. It has the fields of the library's batch.
type Item struct {
	Token    int32
	Slot     int // sequence id
	Position int
	Output   bool // logits wanted
}

// OpKind is the kind of a KV edit.
type OpKind int

// Kinds of KV edits.
const (
	OpRemove  OpKind = iota // forget positions >= From of Slot
	OpCopy                  // make Slot a copy of Source
	OpSave                  // copy Slot's state to Snapshot.Data
	OpRestore               // set Slot's state from Snapshot.Data
)

// Op is one KV edit.
type Op struct {
	Kind     OpKind
	Slot     int
	Source   int       // OpCopy
	From     int       // OpRemove
	Snapshot *Snapshot // OpSave, OpRestore
}

// Step is the work of one step, in this order: Before, Decode, Chunk, After.
type Step struct {
	Before []Op
	Decode []Item // one token of each running stream, all with Output
	Chunk  []Item // part of one prompt, without Output; a batch of its own
	After  []Op   // saves at the boundary that Chunk reached
}

// Empty tells that there is nothing to do.
func (s *Step) Empty() bool {
	return len(s.Before) == 0 && len(s.Decode) == 0 && len(s.Chunk) == 0
}

// Reuse is how far a cached prefix is used.
type Reuse int

// Ways of reuse.
const (
	// ReuseExact ends at a chunk boundary and never takes tokens that were
	// decoded one by one: a repeated request gives the same text.
	ReuseExact Reuse = iota
	// ReuseLongest takes the longest common prefix, answers included: less to
	// compute in a long conversation, rounding may differ.
	ReuseLongest
	// ReuseOff computes every prompt from its start.
	ReuseOff
)

// Config sizes a Scheduler.
type Config struct {
	Slots   int
	Context int // tokens of each slot
	Chunk   int // prompt tokens a step may take
	Pending int // requests that may wait
	Reuse   Reuse
	// Rewindable tells that a slot's state can go back to any earlier position.
	// Recurrent and sliding-window memories can't: there, a prefix is reused
	// through snapshots taken at chunk boundaries.
	Rewindable bool
	CacheBytes int64 // host memory for snapshots; 0: none
}

// Job is one generation, as the scheduler sees it.
type Job struct {
	ID     uint64
	Prompt []int32 // at least one token
	Max    int     // tokens to produce at most; 0: up to the context

	// Cached is the number of prompt tokens taken from the cache, known when
	// the job has a slot.
	Cached int

	slot     int
	admitted bool
	produced int
	next     int32 // token that the next decode step computes
	arrival  uint64
	branch   int // boundary up to which another content agreed; worth a snapshot
}

// Slot is the job's sequence id; valid once it is admitted.
func (j *Job) Slot() int { return j.slot }

// Admitted tells whether the job has a slot.
func (j *Job) Admitted() bool { return j.admitted }

// Produced is the number of tokens made so far.
func (j *Job) Produced() int { return j.produced }
