package wire

// Snapshots are states of sequences that a runner keeps in host memory: its
// prefix cache. A node may take them out, to give them to another process: one
// that takes over a shard, or the next one of the same model. The scheduler's
// side of a snapshot (which tokens, how computed) is with the whole model or
// the head; the bytes are with every shard, each its own part under the same
// ID.
//
// Out: Snapshots to the head, then StateGet to every shard for each ID.
// In: StatePut to every shard, then Adopt to the head. A snapshot whose bytes
// are missing in a shard is not wrong, only useless: its prompt is computed.

// StateVersion is the version of a snapshot's bytes. It grows with every
// change of what this build or the library writes.
//
//	1  2026-11-22  llama.cpp v0.5.0, one sequence
const StateVersion = 1

// Snapshot is one kept state, as the scheduler sees it.
type Snapshot struct {
	ID     uint64  `json:"id"`
	Tokens []int32 `json:"tokens"` // whose state it is, from position 0
	// Full tokens were computed in whole chunks of Snapshots.Chunk; Tail is 0 or
	// the end of a shorter chunk after those.
	Full  int   `json:"full"`
	Tail  int   `json:"tail"`
	Bytes int64 `json:"bytes"` // all shards together
}

// Snapshots answers a Snapshots frame, whose body is empty. It is refused while
// generations run.
type Snapshots struct {
	Model   string     `json:"model"` // names the weights; of equal models only
	Chunk   int        `json:"chunk"`
	Entries []Snapshot `json:"entries"`
}

// AdoptRequest makes snapshots known to the scheduler whose bytes are there.
// It is refused while generations run, and as a whole if one of them is.
type AdoptRequest Snapshots

// StateRequest asks for a snapshot's bytes.
type StateRequest struct {
	ID uint64 `json:"id"`
}

// StateInfo describes a snapshot's bytes. It is the Result of a StateGet, after
// the State frames with the bytes, and the body of a StatePut, before them.
type StateInfo struct {
	ID      uint64 `json:"id"`
	Version int    `json:"version"` // StateVersion
	Shard   string `json:"shard"`   // names the weights and the part of them that it belongs to
	Bytes   int64  `json:"bytes"`
	Sum     uint32 `json:"sum"` // CRC-32C
}

// StatePiece is how many bytes of a snapshot one State frame carries at most.
const StatePiece = 16 << 20
