// Package schedule decides what every step of a runner computes: continuous
// batching, fair prompts, slots, and the prefix cache.
//
// It is pure. A Scheduler is owned by one goroutine; it reads no clock and
// calls no library. Next returns a Batch, the work as a value: edits of the KV
// state, and one token of each of several running streams or a bounded chunk of
// one prompt. The runner carries batches out in the order in which they were
// planned and reports each back with Finished. The same batches, sent to all
// shards of a model, keep them in the same state.
//
// # Several batches in flight
//
// A pipeline computes as many batches at once as it has stages. Slots hold what
// they will hold when all planned batches are done, so chunks of a prompt follow
// each other without waiting, and KV edits are right by their place in the
// order alone. Three things have to be waited for: the token that a stream
// decodes next, the outcome of a restored state, and a saved state before it is
// used again. Running streams are divided into as many groups as there are
// stages, anew with each batch, neighbours together: so groups stay even as
// streams come and go, and the library computes each in one pass. Between two tokens of a stream there are
// at most as many chunks as stages.
//
// # The same prompt again
//
// A slot holds its prompt's state up to the last token and, with
// Config.KeepRows, that token's logits, if it was computed alone: computing it
// again, alone, would give the same bits. So the first token of a prompt that
// comes again, to the slot that has it, costs nothing.
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
//
// A prompt's last chunk that lacks one token of what the kernels compute at once
// (Config.Tile) gets one more behind the prompt, which the same batch forgets: that
// costs less than computing what is left over by itself. Prompts of round lengths
// are such, since their last token is computed alone.
package schedule

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
	Chunk   int // prompt tokens a batch may take
	Tile    int // tokens that the kernels compute at once; 0: any number alike
	Stages  int // batches that compute at the same time; 0: 1
	Depth   int // batches that may be planned and not finished; 0: Stages
	Pending int // requests that may wait
	Reuse   Reuse
	// Rewindable tells that a slot's state can go back to any earlier position.
	// Recurrent and sliding-window memories can't: there, a prefix is reused
	// through snapshots taken at chunk boundaries.
	Rewindable bool
	CacheBytes int64 // host memory for snapshots; 0: none
	// KeepRows lets a slot keep the logits of the last token of its prompt, so
	// that the same prompt again needs no computing for its first token. It is
	// for memories that are Rewindable, and for who holds whole rows.
	KeepRows bool
}

// Job is one generation, as the scheduler sees it.
type Job struct {
	ID     uint64
	Prompt []int32 // at least one token
	Max    int     // tokens to produce at most; 0: up to the context
	Fresh  bool    // nothing of the prompt is taken from the cache

	// Cached is the number of prompt tokens taken from the cache, known when
	// the job has a slot.
	Cached int

	slot     int
	admitted bool
	place    int    // among the running streams, in order of slot; of the last Next
	flying   bool   // a decode of it is planned and not finished
	recall   bool   // the logits for its first token are kept
	started  uint64 // clock of its last planned decode
	produced int
	next     int32 // token that the next decode computes
	arrival  uint64
	branch   int // boundary up to which another content agreed; worth a snapshot
}

// Slot is the job's sequence id; valid once it is admitted.
func (j *Job) Slot() int { return j.slot }

// Admitted tells whether the job has a slot.
func (j *Job) Admitted() bool { return j.admitted }

// Produced is the number of tokens made so far.
func (j *Job) Produced() int { return j.produced }
