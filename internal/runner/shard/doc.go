// Package shard carries out the steps of a sharded model on one shard of its
// group: what a shard computes, what it takes from and gives to the others,
// and in which order.
//
// A group has stages (some layers each) and in each stage tensor ranks (some
// heads and columns of those layers). The head is rank 0 of the last stage: it
// plans every step and sends the plan to all others, the followers. Plans are
// numbered; a shard carries them out strictly in order, and a missed or
// repeated one is an error that ends the epoch, never a guess. So all shards
// hold the same sequences, though each only its own part of their state.
//
//	head ──plan──> every follower; to the ranks of its own stage when it begins
//	               the step itself, so that they still know the last one's rows
//	stage 0: token ids -> embedding rows -> layers ──hidden──> same rank of stage 1 ──> ...
//	last stage: logits of a part of the vocabulary ──rows──> head
//
// The all-reduces among the ranks of a stage happen inside Engine.Decode, by
// hooks that the runner sets up; this package does not see them.
//
// The package is used by internal/runner alone. It does not know the library,
// sockets or the node: Engine and Link are interfaces, so that everything here
// is tested with fakes. A Follower or a Head belongs to the goroutine that owns
// the engine; a Link queues what arrives while it computes.
package shard

import (
	"errors"
	"fmt"
	"time"

	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/runner/schedule"
)

// Engine is the library's context of this shard. All calls come from the
// goroutine that owns it.
type Engine interface {
	// Decode computes one batch from hidden states, one row of the model's
	// width for each item. Where the stage has ranks it returns after the last
	// all-reduce, or with their error.
	Decode(items []schedule.Item, hidden []float32) error
	// Hidden gives the hidden states after the stage's last layer, a row for
	// each item of the last Decode; void at the next one. Not in the last stage.
	Hidden() ([]float32, error)
	// Logits gives this shard's part of the logits of item i of the last
	// Decode; void at the next one. Last stage only.
	Logits(i int) ([]float32, error)

	// Remove forgets the positions >= from of a sequence; false: it can't.
	Remove(seq, from int) bool
	Copy(src, dst int)
	State(seq int) ([]byte, error)
	StateBytes(seq int) int64 // size that State would give
	SetState(seq int, b []byte) error
	Clear() // forget everything
}

// Embedder looks up embedding rows: how token ids become hidden states.
type Embedder interface {
	// Embed fills dst, one row for each item.
	Embed(dst []float32, items []schedule.Item) error
}

// Link carries messages between the shards of one epoch, and is called on the
// engine's goroutine. Messages of one kind from one shard arrive in the order
// they were sent, each under the number it was sent with, or not at all: then
// every call returns a *LostError, from then on.
type Link interface {
	// Send queues a message; body is free for reuse when it returns.
	Send(to int, k Kind, seq uint64, body []byte) error
	// Receive waits for the next message of a kind from a shard.
	Receive(from int, k Kind, seq uint64) ([]byte, error)
	// SendFloats and ReceiveFloats carry hidden states, in the precision that
	// the group has agreed on.
	SendFloats(to int, k Kind, seq uint64, values []float32) error
	ReceiveFloats(from int, k Kind, seq uint64, values []float32) error
	// SetDeadline bounds the step that begins now, waits inside Engine.Decode
	// too; 0: no step is under way.
	SetDeadline(d time.Duration)
	// Fail ends the epoch on all shards.
	Fail(shard int, cause string)
}

// Kind is the kind of a message between shards.
type Kind uint8

// Kinds of messages. Plans are numbered 0, since a wish for a row may come in
// between; all others have the number of their step.
const (
	KindPlan   Kind = 1 // head -> follower: a step, or the wish for a whole row of the last one
	KindHidden Kind = 2 // to the same rank of the next stage: hidden states
	KindResult Kind = 3 // follower -> head: rows and outcomes of a step, a whole row
)

// LostError tells which shard a group was lost by. It ends an epoch.
type LostError struct {
	Shard int // -1: not known
	Cause error
}

func (e *LostError) Error() string {
	if e.Shard < 0 {
		return fmt.Sprintf("the model's shards are not in step: %v", e.Cause)
	}
	return fmt.Sprintf("shard %d was lost: %v", e.Shard, e.Cause)
}

func (e *LostError) Unwrap() error { return e.Cause }

// lost makes err a LostError about a shard, unless it is one already.
func lost(shard int, err error) error {
	var l *LostError
	if errors.As(err, &l) {
		return err
	}
	return &LostError{Shard: shard, Cause: err}
}

// Layout says where each shard of a group stands.
type Layout struct {
	Shards []slice.Spec // stage after stage, in a stage rank after rank
	Index  int          // this shard
	Head   int
}

// Validate tells whether the layout is one: stages that follow each other, all
// ranks of each, and the head the first of the last stage.
func (l Layout) Validate() error {
	if len(l.Shards) == 0 {
		return errors.New("shards: none are named")
	}
	if l.Index < 0 || l.Index >= len(l.Shards) {
		return fmt.Errorf("shards: number %d of %d", l.Index, len(l.Shards))
	}
	ranks, end := l.Shards[0].Ranks(), 0
	if len(l.Shards)%ranks != 0 {
		return fmt.Errorf("shards: %d of them don't make stages of %d ranks", len(l.Shards), ranks)
	}
	for i, s := range l.Shards {
		switch {
		case s.Ranks() != ranks:
			return fmt.Errorf("shard %d has %d ranks, shard 0 has %d; all stages need the same number", i, s.Ranks(), ranks)
		case s.Rank != i%ranks:
			return fmt.Errorf("shard %d is rank %d, want %d", i, s.Rank, i%ranks)
		case s.Rank == 0 && s.First != end, s.End <= s.First, s.Rank > 0 && (s.First != l.Shards[i-1].First || s.End != l.Shards[i-1].End):
			return fmt.Errorf("shard %d has the layers %d to %d, which don't follow the stage before", i, s.First, s.End)
		}
		end = s.End
	}
	if l.Head != len(l.Shards)-ranks {
		return fmt.Errorf("head %d: it must be the first rank of the last stage, shard %d", l.Head, len(l.Shards)-ranks)
	}
	return nil
}

func (l Layout) ranks() int { return l.Shards[0].Ranks() }

// Stages is the number of stages.
func (l Layout) Stages() int { return len(l.Shards) / l.ranks() }

// First tells that this shard looks up embeddings.
func (l Layout) First() bool { return l.Index < l.ranks() }

// Last tells that this shard computes logits.
func (l Layout) Last() bool { return l.Index >= len(l.Shards)-l.ranks() }

// Peers are the ranks of this shard's stage in order, itself among them.
func (l Layout) Peers() []int {
	first := l.Index / l.ranks() * l.ranks()
	out := make([]int, l.ranks())
	for i := range out {
		out[i] = first + i
	}
	return out
}

// prev and next are the same rank of the neighbouring stages.
func (l Layout) prev() int { return l.Index - l.ranks() }
func (l Layout) next() int { return l.Index + l.ranks() }
