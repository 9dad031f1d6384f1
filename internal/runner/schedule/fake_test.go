package schedule

import (
	"fmt"
	"hash/fnv"
	"slices"
	"testing"
)

// machine stands for the library: each cell of a sequence remembers how it
// was computed (token, shape of the batch, and the cells before it), so that
// two runs that compute a prefix in different shapes are told apart, as
// rounding would.
type machine struct {
	t          testing.TB
	rewindable bool
	seqs       [][]uint64
	maxChunk   int
	chunks     int                 // carried out
	kept       map[uint64][]uint64 // by Snapshot.ID
}

func newMachine(t testing.TB, slots, chunk int, rewindable bool) *machine {
	return &machine{t: t, rewindable: rewindable, seqs: make([][]uint64, slots), maxChunk: chunk, kept: map[uint64][]uint64{}}
}

func (m *machine) apply(ops []Op, out *Outcome) {
	for _, op := range ops {
		switch op.Kind {
		case OpRemove:
			if op.From > len(m.seqs[op.Slot]) {
				m.t.Fatalf("remove from %d of a sequence of %d", op.From, len(m.seqs[op.Slot]))
			}
			if !m.rewindable && op.From != 0 && op.From != len(m.seqs[op.Slot]) {
				m.t.Fatalf("a memory that can't go back was asked to go from %d to %d", len(m.seqs[op.Slot]), op.From)
			}
			m.seqs[op.Slot] = m.seqs[op.Slot][:op.From:op.From]
		case OpCopy:
			if len(m.seqs[op.Slot]) != 0 {
				m.t.Fatalf("copy onto slot %d, which holds %d tokens", op.Slot, len(m.seqs[op.Slot]))
			}
			m.seqs[op.Slot] = append([]uint64(nil), m.seqs[op.Source]...)
		case OpSave:
			if len(m.seqs[op.Slot]) != op.Snapshot.Len() {
				m.t.Fatalf("snapshot of %d tokens taken from a sequence of %d", op.Snapshot.Len(), len(m.seqs[op.Slot]))
			}
			m.kept[op.Snapshot.ID] = slices.Clone(m.seqs[op.Slot])
			out.Saved = append(out.Saved, int64(8*len(m.seqs[op.Slot])))
		case OpRestore:
			seq, ok := m.kept[op.Snapshot.ID]
			if !ok {
				m.t.Fatalf("restore of snapshot %d, which is not kept", op.Snapshot.ID)
			}
			m.seqs[op.Slot] = slices.Clone(seq)
		case OpDrop:
			delete(m.kept, op.Snapshot.ID)
		}
	}
}

// compute appends the items' cells; the shape of the batch goes into each.
func (m *machine) compute(items []Item) []int32 {
	rows := map[int]int{}
	for _, it := range items {
		rows[it.Slot]++
	}
	out := make([]int32, len(items))
	starts := map[int]int{}
	for i, it := range items {
		seq := m.seqs[it.Slot]
		if it.Position != len(seq) {
			m.t.Fatalf("slot %d holds %d tokens and gets position %d", it.Slot, len(seq), it.Position)
		}
		if _, ok := starts[it.Slot]; !ok {
			starts[it.Slot] = it.Position
		}
		h := fnv.New64a()
		prev := uint64(0)
		if len(seq) > 0 {
			prev = seq[len(seq)-1]
		}
		fmt.Fprint(h, prev, it.Token, starts[it.Slot], rows[it.Slot], len(rows))
		m.seqs[it.Slot] = append(seq, h.Sum64())
		out[i] = int32(h.Sum64() % 50)
	}
	return out
}

// step plans and carries out one batch; false when there was nothing to do.
func (m *machine) step(s *Scheduler) bool {
	b := s.Next()
	if b == nil {
		return false
	}
	m.carryOut(s, b)
	for i := range s.slots {
		if len(s.slots[i].tokens) != len(m.seqs[i]) {
			m.t.Fatalf("slot %d: the scheduler counts %d tokens, the memory %d", i, len(s.slots[i].tokens), len(m.seqs[i]))
		}
	}
	return true
}

// carryOut computes a batch and reports it.
func (m *machine) carryOut(s *Scheduler, b *Batch) {
	var out Outcome
	m.apply(b.Before, &out)
	var jobs []*Job
	var picked []int32
	if len(b.Items) > 0 {
		if restores(b.Before) {
			m.t.Fatal("a batch restores and has items")
		}
		for _, it := range b.Items {
			if it.Output {
				jobs = append(jobs, s.slots[it.Slot].job)
			} else if it.Slot != b.Items[0].Slot || len(b.Items) > m.maxChunk {
				m.t.Fatalf("a chunk of %d tokens, or of two prompts", len(b.Items))
			}
		}
		picked = m.compute(b.Items)
		if len(jobs) == 0 {
			m.chunks++
		}
	}
	m.apply(b.After, &out)
	s.Finished(out, picked)
	for _, j := range jobs {
		if s.Full(j) {
			s.Remove(j)
		}
	}
}

// drain steps until nothing is left to do.
func (m *machine) drain(s *Scheduler) {
	for range 100_000 {
		if !m.step(s) {
			return
		}
	}
	m.t.Fatal("the scheduler does not come to an end")
}
