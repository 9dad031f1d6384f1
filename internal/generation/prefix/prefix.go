// Package prefix tells cheaply which prompts begin with what a model has
// computed lately, so that a request goes where its beginning is cached. A
// prefix that ends at a chunk boundary has a fingerprint; a node remembers those
// of what it computed, and who routes compares.
//
// Fingerprints can collide, and what is remembered may have been evicted: they
// are good for a choice, never for correctness. The package is pure. A Record
// belongs to one goroutine at a time.
package prefix

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"maps"
	"slices"
)

// Chain gives the fingerprints of the prefixes of tokens that end at multiples
// of chunk, the shortest first. It is the same on all nodes.
func Chain(tokens []int32, chunk int) []uint32 {
	if chunk < 1 {
		return nil
	}
	h := fnv.New64a()
	out := make([]uint32, 0, len(tokens)/chunk)
	var b [4]byte
	for i, t := range tokens {
		binary.LittleEndian.PutUint32(b[:], uint32(t))
		_, _ = h.Write(b[:]) // never fails, by its documentation
		if (i+1)%chunk == 0 {
			sum := h.Sum64()
			out = append(out, uint32(sum^sum>>32))
		}
	}
	return out
}

// Match tells how many of a chain's prefixes are known in a row: times chunk,
// the tokens that need not be computed again.
func Match(chain, known []uint32) int {
	for i, p := range slices.Backward(chain) {
		if slices.Contains(known, p) {
			return i + 1
		}
	}
	return 0
}

// Record remembers the newest fingerprints.
type Record struct {
	limit int
	clock uint64
	seen  map[uint32]uint64 // when it was used last; longer prefixes count as older
}

// NewRecord remembers up to limit fingerprints.
func NewRecord(limit int) *Record { return &Record{limit: limit, seen: map[uint32]uint64{}} }

// Add remembers a chain as just used. Of one that is too long the beginning is
// kept: what the beginning of a prompt was computed for.
func (r *Record) Add(chain []uint32) {
	chain = chain[:min(len(chain), r.limit)]
	r.clock += uint64(len(chain))
	for i, p := range chain {
		r.seen[p] = max(r.seen[p], r.clock-uint64(i))
	}
	if len(r.seen) <= r.limit {
		return
	}
	oldest := slices.SortedFunc(maps.Keys(r.seen), func(a, b uint32) int {
		return cmp.Or(cmp.Compare(r.seen[a], r.seen[b]), cmp.Compare(a, b))
	})
	for _, p := range oldest[:len(r.seen)-r.limit] {
		delete(r.seen, p)
	}
}

// Known lists what is remembered, in rising order.
func (r *Record) Known() []uint32 { return slices.Sorted(maps.Keys(r.seen)) }

// Clear forgets all: the process that computed it is gone.
func (r *Record) Clear() { clear(r.seen) }
