package schedule

import (
	"errors"
	"fmt"
	"slices"
)

// Kept is a snapshot of the cache, as another scheduler can adopt it.
type Kept struct {
	ID     uint64
	Tokens []int32 // whose state it is
	Full   int     // of these, computed in whole chunks
	Tail   int     // 0, or the end of a shorter chunk after those
	Bytes  int64
}

// KeepAll plans a batch that saves what the slots hold and the cache does not;
// nil: nothing is to be done. The slots are empty afterwards. It must not be
// called with batches in flight; the batch is finished as any other.
func (s *Scheduler) KeepAll() *Batch {
	s.clock++
	s.plan = s.blank()
	for i := range s.slots {
		if s.slots[i].open() {
			s.spill(i, 0)
		}
	}
	if len(s.plan.Before) == 0 {
		s.spare = append(s.spare, s.plan)
		return nil
	}
	s.flights = append(s.flights, s.plan)
	return &s.plan.Batch
}

// Kept lists the cache's snapshots.
func (s *Scheduler) Kept() []Kept {
	out := make([]Kept, len(s.cache.entries))
	for i, e := range s.cache.entries {
		out[i] = Kept{ID: e.ID, Tokens: slices.Clone(e.tokens), Full: e.full, Tail: e.tail, Bytes: e.bytes}
	}
	return out
}

// Adopt puts snapshots into the cache whose bytes are held under their IDs. Those
// that don't fit the cache drop out as any other. An error refuses all of them.
func (s *Scheduler) Adopt(kept []Kept) error {
	taken := map[uint64]bool{}
	for _, list := range [3][]*Snapshot{s.cache.entries, s.cache.saving, s.cache.dropped} {
		for _, e := range list {
			taken[e.ID] = true
		}
	}
	for _, k := range kept {
		switch {
		case k.ID == 0 || taken[k.ID]:
			return fmt.Errorf("snapshot %d: there is one of this number", k.ID)
		case len(k.Tokens) == 0 || len(k.Tokens) >= s.cfg.Context:
			return fmt.Errorf("snapshot %d has %d tokens, the context holds %d", k.ID, len(k.Tokens), s.cfg.Context)
		case k.Full < 0 || k.Full > len(k.Tokens) || k.Full%s.cfg.Chunk != 0:
			return fmt.Errorf("snapshot %d has %d tokens in chunks of %d", k.ID, k.Full, s.cfg.Chunk)
		case k.Tail != 0 && (k.Tail <= k.Full || k.Tail > len(k.Tokens)):
			return fmt.Errorf("snapshot %d has a last chunk from %d to %d", k.ID, k.Full, k.Tail)
		case k.Bytes < 1:
			return fmt.Errorf("snapshot %d has %d bytes", k.ID, k.Bytes)
		case s.cfg.CacheBytes == 0:
			return errors.New("there is no cache to put snapshots in")
		}
		taken[k.ID] = true
	}
	for _, k := range kept {
		s.clock++
		s.cache.ids = max(s.cache.ids, k.ID) // never used twice
		s.cache.finish(&Snapshot{ID: k.ID, content: content{tokens: slices.Clone(k.Tokens), full: k.Full, tail: k.Tail}, used: s.clock}, k.Bytes)
	}
	return nil
}
