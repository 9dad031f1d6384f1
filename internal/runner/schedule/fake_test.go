package schedule

import (
	"fmt"
	"hash/fnv"
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
}

func newMachine(t testing.TB, slots, chunk int, rewindable bool) *machine {
	return &machine{t: t, rewindable: rewindable, seqs: make([][]uint64, slots), maxChunk: chunk}
}

func (m *machine) apply(s *Scheduler, ops []Op) {
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
			for _, h := range m.seqs[op.Slot] {
				for k := range 8 {
					op.Snapshot.Data = append(op.Snapshot.Data, byte(h>>(8*k)))
				}
			}
			s.Saved(op.Snapshot)
		case OpRestore:
			seq := make([]uint64, len(op.Snapshot.Data)/8)
			for i := range seq {
				for k := range 8 {
					seq[i] |= uint64(op.Snapshot.Data[8*i+k]) << (8 * k)
				}
			}
			m.seqs[op.Slot] = seq
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

// step plans and carries out one step; false when there was nothing to do.
func (m *machine) step(s *Scheduler) bool {
	st := s.Plan()
	if st.Empty() {
		return false
	}
	m.apply(s, st.Before)
	if len(st.Chunk) > m.maxChunk {
		m.t.Fatalf("chunk of %d tokens, at most %d are allowed", len(st.Chunk), m.maxChunk)
	}
	running := map[int]*Job{}
	for _, j := range s.Running() {
		running[j.Slot()] = j
	}
	if len(st.Decode) > 0 {
		picked := m.compute(st.Decode)
		s.Decoded(picked)
		for _, it := range st.Decode {
			if j := running[it.Slot]; s.Full(j) {
				s.Remove(j)
			}
		}
	}
	if len(st.Chunk) > 0 {
		for _, it := range st.Chunk {
			if it.Slot != st.Chunk[0].Slot {
				m.t.Fatal("a chunk mixes two prompts")
			}
		}
		m.compute(st.Chunk)
		s.Chunked()
	}
	m.apply(s, st.After)
	for i := range s.slots {
		if len(s.slots[i].tokens) != len(m.seqs[i]) {
			m.t.Fatalf("slot %d: the scheduler counts %d tokens, the memory %d", i, len(s.slots[i].tokens), len(m.seqs[i]))
		}
	}
	return true
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
