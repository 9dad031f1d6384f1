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
// rounding would. It carries batches out in order, as late as their Finish, and
// checks what must hold while they are in flight.
type machine struct {
	t          testing.TB
	rewindable bool
	seqs       [][]uint64
	texts      [][]int32 // the tokens of seqs
	maxChunk   int
	stages     int
	depth      int
	queue      []started
	chunks     int               // carried out
	sizes      []int             // of the decodes carried out
	kept       map[uint64]memory // by Snapshot.ID
	rows       map[int]row       // by slot
	recalled   int
	fails      func() bool // tells that the next save or restore fails; nil: none
	sampled    func(text []int32) int32
	gap        map[*Job]int // chunks planned since the job's last decode
	worst      int          // of gap
	told       map[*Job][]int32
}

type memory struct {
	seq  []uint64
	text []int32
}

// row stands for the logits of a cell, which they are a function of.
type row struct {
	cell  uint64
	token int32 // drawn from them
}

type started struct {
	b    *Batch
	jobs []*Job
}

func newMachine(t testing.TB, slots, chunk int, rewindable bool) *machine {
	return &machine{
		t: t, rewindable: rewindable, seqs: make([][]uint64, slots), texts: make([][]int32, slots), maxChunk: chunk,
		stages: 1, depth: 1, kept: map[uint64]memory{}, rows: map[int]row{}, gap: map[*Job]int{}, told: map[*Job][]int32{},
	}
}

func (m *machine) failing() bool { return m.fails != nil && m.fails() }

func (m *machine) apply(ops []Op, out *Outcome) {
	for _, op := range ops {
		switch op.Kind {
		case OpRemove:
			if slices.Contains(out.Lost, op.Slot) {
				continue
			}
			if m.seqs[op.Slot] == nil {
				m.seqs[op.Slot], m.texts[op.Slot] = []uint64{}, []int32{}
			}
			if op.From > len(m.seqs[op.Slot]) {
				m.t.Fatalf("remove from %d of a sequence of %d", op.From, len(m.seqs[op.Slot]))
			}
			if !m.rewindable && op.From != 0 && op.From != len(m.seqs[op.Slot]) {
				m.t.Fatalf("a memory that can't go back was asked to go from %d to %d", len(m.seqs[op.Slot]), op.From)
			}
			m.seqs[op.Slot] = m.seqs[op.Slot][:op.From:op.From]
			m.texts[op.Slot] = m.texts[op.Slot][:op.From:op.From]
		case OpCopy:
			if len(m.seqs[op.Slot]) != 0 {
				m.t.Fatalf("copy onto slot %d, which holds %d tokens", op.Slot, len(m.seqs[op.Slot]))
			}
			m.seqs[op.Slot] = slices.Clone(m.seqs[op.Source])
			m.texts[op.Slot] = slices.Clone(m.texts[op.Source])
		case OpSave:
			if !slices.Equal(m.texts[op.Slot], op.Snapshot.tokens) {
				m.t.Fatalf("a snapshot of %d tokens is taken from a sequence of %d others", op.Snapshot.Len(), len(m.seqs[op.Slot]))
			}
			// A failed save may have been kept by some shards.
			m.kept[op.Snapshot.ID] = memory{slices.Clone(m.seqs[op.Slot]), slices.Clone(m.texts[op.Slot])}
			size := int64(8 * len(m.seqs[op.Slot]))
			if m.failing() {
				size = 0
			}
			out.Saved = append(out.Saved, size)
		case OpRestore:
			kept, ok := m.kept[op.Snapshot.ID]
			if !ok {
				m.t.Fatalf("restore of snapshot %d, which is not kept", op.Snapshot.ID)
			}
			m.seqs[op.Slot], m.texts[op.Slot] = slices.Clone(kept.seq), slices.Clone(kept.text)
			if m.failing() {
				// Whatever is there now, it is not what was to be.
				m.seqs[op.Slot], m.texts[op.Slot] = []uint64{1, 2, 3}, []int32{-1, -2, -3}
				out.Lost = append(out.Lost, op.Slot)
			}
		case OpDrop:
			delete(m.kept, op.Snapshot.ID)
		}
	}
}

// compute appends the items' cells; the shape of the batch goes into each.
func (m *machine) compute(items []Item) []int32 {
	if it := items[0]; it.Recall {
		seq, kept := m.seqs[it.Slot], m.rows[it.Slot]
		if len(items) != 1 || !it.Output || it.Position != len(seq)-1 || m.texts[it.Slot][it.Position] != it.Token {
			m.t.Fatalf("recall %+v in a batch of %d, of a slot that holds %d tokens", it, len(items), len(seq))
		}
		if kept.cell != seq[it.Position] {
			m.t.Fatalf("the logits kept of slot %d are those of another state", it.Slot)
		}
		m.recalled++
		return []int32{kept.token}
	}
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
		m.texts[it.Slot] = append(m.texts[it.Slot], it.Token)
		out[i] = int32(h.Sum64() % 50)
		if m.sampled != nil {
			out[i] = m.sampled(m.texts[it.Slot])
		}
		if it.Keep {
			if len(items) != 1 {
				m.t.Fatalf("logits are kept of a batch of %d", len(items))
			}
			m.rows[it.Slot] = row{h.Sum64(), out[i]}
		}
	}
	return out
}

// step starts what can be started and finishes one batch; false when there was
// nothing to do.
func (m *machine) step(s *Scheduler) bool {
	m.fill(s)
	if len(m.queue) == 0 {
		return false
	}
	m.finish(s)
	return true
}

func (m *machine) fill(s *Scheduler) {
	for b := s.Next(); b != nil; b = s.Next() {
		m.start(s, b)
	}
}

// start checks a planned batch against those in flight.
func (m *machine) start(s *Scheduler, b *Batch) {
	st := started{b: b}
	for _, it := range b.Items {
		if it.Output {
			st.jobs = append(st.jobs, s.Holder(it.Slot))
		} else if it.Slot != b.Items[0].Slot || len(b.Items) > m.maxChunk {
			m.t.Fatalf("a chunk of %d tokens, or of two prompts", len(b.Items))
		}
	}
	if len(st.jobs) != 0 && len(st.jobs) != len(b.Items) {
		m.t.Fatal("a batch mixes decodes with a chunk")
	}
	decodes := 0
	for _, o := range m.queue {
		if len(o.jobs) > 0 {
			decodes++
		}
		for _, op := range o.b.Before {
			if op.Kind == OpRestore && slices.ContainsFunc(b.Items, func(it Item) bool { return it.Slot == op.Slot }) {
				m.t.Fatalf("slot %d is used before its restore is known", op.Slot)
			}
		}
		for _, j := range st.jobs {
			if slices.Contains(o.jobs, j) {
				m.t.Fatalf("job %d is decoded twice at once", j.ID)
			}
		}
	}
	if restores(b.Before) && len(b.Items) > 0 {
		m.t.Fatal("a batch restores and has items")
	}
	if m.queue = append(m.queue, st); len(m.queue) > m.depth || len(st.jobs) > 0 && decodes >= m.stages {
		m.t.Fatalf("%d batches in flight, %d decodes before this one", len(m.queue), decodes)
	}
	if len(st.jobs) == 0 && len(b.Items) > 0 {
		for _, j := range s.Running() {
			if s.decoding(j) && j.slot != b.Items[0].Slot && !s.slots[j.slot].restoring {
				m.gap[j]++
				m.worst = max(m.worst, m.gap[j])
			}
		}
	}
	for _, j := range st.jobs {
		m.gap[j] = 0
	}
}

// finish carries out the oldest batch and reports it.
func (m *machine) finish(s *Scheduler) {
	st := m.queue[0]
	m.queue = m.queue[1:]
	var out Outcome
	m.apply(st.b.Before, &out)
	var picked []int32
	if len(st.b.Items) > 0 {
		picked = m.compute(st.b.Items)
		if len(st.jobs) == 0 {
			m.chunks++
		} else {
			m.sizes = append(m.sizes, len(st.jobs))
		}
	}
	m.apply(st.b.After, &out)
	s.Finished(out, picked)
	for k, j := range st.jobs {
		if s.Holder(j.Slot()) != j {
			continue // cancelled meanwhile
		}
		m.told[j] = append(m.told[j], picked[k])
		if s.Full(j) {
			s.Remove(j)
		}
	}
	for i := range s.slots {
		if len(m.queue) == 0 && !s.slots[i].unclean && len(s.slots[i].tokens) != len(m.seqs[i]) {
			m.t.Fatalf("slot %d: the scheduler counts %d tokens, the memory %d", i, len(s.slots[i].tokens), len(m.seqs[i]))
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
