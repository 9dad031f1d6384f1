package schedule

import (
	"errors"
	"fmt"
	"slices"
)

// ErrBusy is returned by Add when Config.Pending requests wait already.
var ErrBusy = errors.New("too many requests wait for a slot")

// ContextError is returned by Add for a prompt that no slot can hold.
type ContextError struct{ Prompt, Context int }

func (e *ContextError) Error() string {
	return fmt.Sprintf("the prompt has %d tokens and the context holds %d, one of which is needed for the answer", e.Prompt, e.Context)
}

// Scheduler holds the slots and the waiting jobs of one runner.
type Scheduler struct {
	cfg     Config
	slots   []slot
	pending []*Job
	cache   cache
	clock   uint64 // counts admissions and steps; orders uses
	turn    bool   // whose turn it is: the oldest prompt or the shortest
	step    Step   // the planned step, until the next Plan
	chunkOf *Job   // whose prompt step.Chunk is
}

type slot struct {
	content
	job  *Job // nil: free
	used uint64
}

// New returns a scheduler with empty slots.
func New(cfg Config) (*Scheduler, error) {
	if cfg.Slots < 1 || cfg.Context < 2 || cfg.Chunk < 1 || cfg.Pending < 0 || cfg.CacheBytes < 0 {
		return nil, fmt.Errorf("schedule: slots %d, context %d, chunk %d, pending %d, cache %d: all must be positive", cfg.Slots, cfg.Context, cfg.Chunk, cfg.Pending, cfg.CacheBytes)
	}
	return &Scheduler{cfg: cfg, slots: make([]slot, cfg.Slots), cache: cache{limit: cfg.CacheBytes}}, nil
}

// Config is what the scheduler was made with.
func (s *Scheduler) Config() Config { return s.cfg }

// Add queues a job.
func (s *Scheduler) Add(j *Job) error {
	if len(j.Prompt) == 0 {
		return errors.New("the prompt has no tokens")
	}
	if len(j.Prompt)+1 > s.cfg.Context {
		return &ContextError{Prompt: len(j.Prompt), Context: s.cfg.Context}
	}
	if len(s.pending)-s.free() >= s.cfg.Pending { // some that wait get a slot with the next Plan
		return ErrBusy
	}
	s.clock++
	j.arrival = s.clock
	s.pending = append(s.pending, j)
	return nil
}

func (s *Scheduler) free() int {
	n := 0
	for i := range s.slots {
		if s.slots[i].job == nil {
			n++
		}
	}
	return n
}

// Remove ends a job, waiting or running; its slot is free at once and keeps
// what was computed. Between Plan and Chunked it may be called only for jobs
// of the step's Decode, after Decoded.
func (s *Scheduler) Remove(j *Job) {
	if i := slices.Index(s.pending, j); i >= 0 {
		s.pending = slices.Delete(s.pending, i, i+1)
		return
	}
	if j.admitted && s.slots[j.slot].job == j {
		s.slots[j.slot].job = nil
	}
}

// Running lists the jobs that have slots, in order of slot.
func (s *Scheduler) Running() []*Job {
	var out []*Job
	for i := range s.slots {
		if j := s.slots[i].job; j != nil {
			out = append(out, j)
		}
	}
	return out
}

// Pending is the number of jobs that wait for a slot.
func (s *Scheduler) Pending() int { return len(s.pending) }

// Cache gives the size of the kept snapshots.
func (s *Scheduler) Cache() (entries int, bytes int64) { return len(s.cache.entries), s.cache.bytes }

// Plan gives waiting jobs free slots and returns the next step. The Step's
// slices are reused: they are valid until the next Plan.
func (s *Scheduler) Plan() *Step {
	s.clock++
	st := &s.step
	st.Before, st.Decode, st.Chunk, st.After = st.Before[:0], st.Decode[:0], st.Chunk[:0], st.After[:0]
	s.chunkOf = nil
	for len(s.pending) > 0 && s.free() > 0 {
		j := s.pending[0]
		s.pending = s.pending[1:]
		s.admit(j)
	}
	for i := range s.slots {
		if j := s.slots[i].job; j != nil && s.decoding(j) {
			st.Decode = append(st.Decode, Item{Token: j.next, Slot: i, Position: len(s.slots[i].tokens), Output: true})
		}
	}
	if j := s.nextPrompt(); j != nil {
		s.planChunk(j)
	}
	return st
}

// decoding tells that only the last prompt token, or a produced one, is to be
// computed.
func (s *Scheduler) decoding(j *Job) bool {
	return len(s.slots[j.slot].tokens) >= len(j.Prompt)-1
}

// nextPrompt picks whose chunk is computed: in turns the oldest, so that none
// starves, and the one with the least left, so that a short one need not wait
// for a long one.
func (s *Scheduler) nextPrompt() *Job {
	var oldest, shortest *Job
	left := func(j *Job) int { return len(j.Prompt) - len(s.slots[j.slot].tokens) }
	for i := range s.slots {
		j := s.slots[i].job
		if j == nil || s.decoding(j) {
			continue
		}
		if oldest == nil || j.arrival < oldest.arrival {
			oldest = j
		}
		if shortest == nil || left(j) < left(shortest) || left(j) == left(shortest) && j.arrival < shortest.arrival {
			shortest = j
		}
	}
	s.turn = !s.turn
	if s.turn {
		return shortest
	}
	return oldest
}

func (s *Scheduler) planChunk(j *Job) {
	sl := &s.slots[j.slot]
	done := len(sl.tokens)
	// After a reuse off the grid (ReuseLongest) the first chunk leads back to it.
	n := min(s.cfg.Chunk-done%s.cfg.Chunk, len(j.Prompt)-1-done)
	for k := range n {
		s.step.Chunk = append(s.step.Chunk, Item{Token: j.Prompt[done+k], Slot: j.slot, Position: done + k})
	}
	s.chunkOf = j
	if s.cfg.Rewindable || s.cache.limit == 0 || s.cfg.Reuse == ReuseOff {
		return
	}
	// A memory that can't go back is saved where it may be wanted again: at
	// the end of the prompt, at its last whole chunk, and where another
	// prompt is known to have parted.
	end, last := done+n, len(j.Prompt)-1
	if end == last || end == last/s.cfg.Chunk*s.cfg.Chunk || end == j.branch {
		after := s.after(sl, j, end)
		if e := s.cache.find(&after); e != nil {
			e.used = s.clock
			return
		}
		after.tokens = append([]int32(nil), after.tokens...)
		s.step.After = append(s.step.After, Op{Kind: OpSave, Slot: j.slot, Snapshot: &Snapshot{content: after, used: s.clock}})
	}
}

// after is the content of sl once j's prompt is computed up to end.
func (s *Scheduler) after(sl *slot, j *Job, end int) content {
	c := content{tokens: j.Prompt[:end], full: sl.full, tail: sl.tail}
	onGrid := sl.full == len(sl.tokens) // computed in whole chunks so far
	switch {
	case onGrid && end%s.cfg.Chunk == 0:
		c.full, c.tail = end, 0
	case onGrid && end == len(j.Prompt)-1:
		c.tail = end
	}
	return c
}

// Decoded records that the step's Decode was carried out. tokens holds the
// token sampled for each item, in order.
func (s *Scheduler) Decoded(tokens []int32) {
	for k, it := range s.step.Decode {
		sl := &s.slots[it.Slot]
		sl.tokens = append(sl.tokens, it.Token)
		sl.used = s.clock
		sl.job.next = tokens[k]
		sl.job.produced++
	}
}

// Chunked records that the step's Chunk was carried out.
func (s *Scheduler) Chunked() {
	j := s.chunkOf
	sl := &s.slots[j.slot]
	end := len(sl.tokens) + len(s.step.Chunk)
	c := s.after(sl, j, end)
	sl.tokens, sl.full, sl.tail = append(sl.tokens, j.Prompt[len(sl.tokens):end]...), c.full, c.tail
	sl.used = s.clock
	s.chunkOf = nil
}

// Saved hands a carried-out OpSave to the cache.
func (s *Scheduler) Saved(snap *Snapshot) { s.cache.add(snap) }

// Lost tells that a slot's state is unknown, since an edit or a batch failed:
// its job, if any, starts its prompt again from nothing.
func (s *Scheduler) Lost(slotID int, snap *Snapshot) {
	sl := &s.slots[slotID]
	sl.content = content{}
	if sl.job != nil {
		sl.job.Cached = 0
	}
	if snap != nil {
		s.cache.drop(func(e *Snapshot) bool { return e == snap })
	}
}

// Full tells that a job can produce no further token: its limit or its
// context is used up.
func (s *Scheduler) Full(j *Job) bool {
	return j.Max > 0 && j.produced >= j.Max || len(s.slots[j.slot].tokens)+1 > s.cfg.Context
}
