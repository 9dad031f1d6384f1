package schedule

import (
	"cmp"
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
	cfg       Config
	slots     []slot
	pending   []*Job
	cache     cache
	clock     uint64    // counts arrivals and batches; orders uses
	turn      bool      // whose turn it is: the oldest prompt or the shortest
	lastChunk uint64    // clock of the last planned chunk
	flights   []*flight // planned and not finished, in order
	spare     []*flight // reused
	plan      *flight   // in the making
	ready     []*Job    // reused
	admitted  []*Job    // of the last Next; reused
}

// flight is a batch between Next and Finished.
type flight struct {
	Batch
	jobs []*Job // one for each item of a decode
}

// slot is what will be in a sequence when all planned batches are done.
type slot struct {
	content
	job  *Job // nil: free
	used uint64
	// restoring: the outcome of a planned OpRestore is not known yet. Nothing
	// of the slot is planned.
	restoring bool
	// unclean: a restore failed and left nobody knows what.
	unclean bool
}

// open tells that a job may get the slot.
func (s *slot) open() bool { return s.job == nil && !s.restoring }

// New returns a scheduler with empty slots.
func New(cfg Config) (*Scheduler, error) {
	if cfg.Slots < 1 || cfg.Context < 2 || cfg.Chunk < 1 || cfg.Pending < 0 || cfg.CacheBytes < 0 || cfg.Tile < 0 {
		return nil, fmt.Errorf("schedule: slots %d, context %d, chunk %d, pending %d, cache %d, tile %d: all must be positive", cfg.Slots, cfg.Context, cfg.Chunk, cfg.Pending, cfg.CacheBytes, cfg.Tile)
	}
	cfg.Stages = max(cfg.Stages, 1)
	cfg.Depth = max(cfg.Depth, cfg.Stages)
	cfg.KeepRows = cfg.KeepRows && cfg.Rewindable
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
		if s.slots[i].open() {
			n++
		}
	}
	return n
}

// Remove ends a job, waiting or running; its slot is free at once and keeps
// what was computed. What is in flight of it is computed and comes to nothing.
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

// Holder is the job that has a slot; nil: it is free.
func (s *Scheduler) Holder(slot int) *Job { return s.slots[slot].job }

// Pending is the number of jobs that wait for a slot.
func (s *Scheduler) Pending() int { return len(s.pending) }

// Cache gives the size of the kept snapshots.
func (s *Scheduler) Cache() (entries int, bytes int64) { return len(s.cache.entries), s.cache.bytes }

// Next gives waiting jobs free slots and plans the next batch; nil: there is
// nothing to do before a batch in flight is finished, or nothing at all. The
// batch is valid until it is finished.
func (s *Scheduler) Next() *Batch {
	s.admitted = s.admitted[:0]
	if len(s.flights) >= s.cfg.Depth {
		return nil
	}
	s.clock++
	s.plan = s.blank()
	for i := range s.slots {
		if s.slots[i].unclean {
			s.edit(Op{Kind: OpRemove, Slot: i, From: 0})
			s.slots[i].unclean = false
		}
	}
	for len(s.pending) > 0 && s.free() > 0 {
		j := s.pending[0]
		s.pending = s.pending[1:]
		s.admit(j)
		s.admitted = append(s.admitted, j)
	}
	b := &s.plan.Batch
	if !restores(b.Before) {
		s.fill()
	}
	// Drops wait for company, unless nothing else goes on.
	if len(b.Before)+len(b.Items) == 0 && (len(s.flights) > 0 || len(s.cache.dropped) == 0) {
		s.spare = append(s.spare, s.plan)
		return nil
	}
	for _, snap := range s.cache.dropped {
		s.edit(Op{Kind: OpDrop, Snapshot: snap})
	}
	s.cache.dropped = s.cache.dropped[:0]
	s.flights = append(s.flights, s.plan)
	return b
}

// Admitted lists the jobs to which the last Next gave a slot.
func (s *Scheduler) Admitted() []*Job { return s.admitted }

func (s *Scheduler) blank() *flight {
	if n := len(s.spare); n > 0 {
		f := s.spare[n-1]
		s.spare = s.spare[:n-1]
		f.Before, f.Items, f.Fill, f.After, f.jobs = f.Before[:0], f.Items[:0], 0, f.After[:0], f.jobs[:0]
		return f
	}
	return &flight{}
}

// edit adds an edit ahead of the batch that is being planned.
func (s *Scheduler) edit(op Op) { s.plan.Before = append(s.plan.Before, op) }

func restores(ops []Op) bool {
	return slices.ContainsFunc(ops, func(op Op) bool { return op.Kind == OpRestore })
}

// fill plans the batch's items: decodes and chunks in turns.
func (s *Scheduler) fill() {
	streams, owed := 0, false
	s.ready = s.ready[:0]
	for i := range s.slots {
		if j := s.slots[i].job; j != nil && !s.slots[i].restoring && s.decoding(j) {
			j.place = streams
			streams++
			if !j.flying {
				s.ready = append(s.ready, j)
				owed = owed || j.started <= s.lastChunk
			}
		}
	}
	decodes, chunks := s.flying()
	if decodes < s.cfg.Stages && s.planRecall() {
		return
	}
	if !owed && (streams == 0 || chunks < s.cfg.Stages) {
		if j := s.nextPrompt(); j != nil {
			s.planChunk(j)
			return
		}
	}
	if decodes < s.cfg.Stages && len(s.ready) > 0 {
		s.planDecode(streams)
	}
}

// flying counts the batches in flight.
func (s *Scheduler) flying() (decodes, chunks int) {
	for _, f := range s.flights {
		switch {
		case len(f.jobs) > 0:
			decodes++
		case len(f.Items) > 0:
			chunks++
		}
	}
	return decodes, chunks
}

// planDecode takes one token of the ready streams of one group, the one with the
// stream that has waited longest. The streams, in order of slot, are divided into
// as many groups as there are stages. So a group has neighbours, which the library
// computes in one pass over the weights, and others one by one.
func (s *Scheduler) planDecode(streams int) {
	group := func(j *Job) int { return j.place * s.cfg.Stages / streams }
	first := group(slices.MinFunc(s.ready, func(a, b *Job) int { return cmp.Compare(a.started, b.started) }))
	s.ready = slices.DeleteFunc(s.ready, func(j *Job) bool { return group(j) != first })
	for _, j := range s.ready {
		sl := &s.slots[j.slot]
		// Alone, and on what a repeated computation would reproduce.
		keep := s.cfg.KeepRows && len(s.ready) == 1 && len(sl.tokens) == len(j.Prompt)-1 && sl.canonical() == len(sl.tokens)
		s.plan.Items = append(s.plan.Items, Item{Token: j.next, Slot: j.slot, Position: len(sl.tokens), Output: true, Keep: keep})
		s.plan.jobs = append(s.plan.jobs, j)
		sl.tokens = append(sl.tokens, j.next)
		if keep {
			sl.row = len(sl.tokens)
		}
		sl.used, j.started, j.flying = s.clock, s.clock, true
	}
}

// planRecall takes the first token of a stream whose logits are kept; false:
// there is none.
func (s *Scheduler) planRecall() bool {
	for i := range s.slots {
		sl := &s.slots[i]
		if sl.job == nil || !sl.job.recall || sl.restoring {
			continue
		}
		j := sl.job
		s.plan.Items = append(s.plan.Items, Item{Token: j.next, Slot: i, Position: len(j.Prompt) - 1, Output: true, Recall: true})
		s.plan.jobs = append(s.plan.jobs, j)
		sl.used, j.started, j.flying, j.recall = s.clock, s.clock, true, false
		return true
	}
	return false
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
		if j == nil || s.slots[i].restoring || s.decoding(j) {
			continue
		}
		if oldest == nil || j.arrival < oldest.arrival {
			oldest = j
		}
		if shortest == nil || left(j) < left(shortest) || left(j) == left(shortest) && j.arrival < shortest.arrival {
			shortest = j
		}
	}
	if oldest == nil {
		return nil
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
		s.plan.Items = append(s.plan.Items, Item{Token: j.Prompt[done+k], Slot: j.slot, Position: done + k})
	}
	end := done + n
	if s.lacksOne(j, end, n) {
		s.plan.Items = append(s.plan.Items, Item{Token: j.next, Slot: j.slot, Position: end})
		s.plan.Fill = 1
		s.plan.After = append(s.plan.After, Op{Kind: OpRemove, Slot: j.slot, From: end})
	}
	after := s.after(sl, j, end)
	sl.tokens, sl.full, sl.tail = append(sl.tokens, j.Prompt[done:end]...), after.full, after.tail
	sl.used, s.lastChunk = s.clock, s.clock
	if s.cfg.Rewindable || s.cache.limit == 0 || s.cfg.Reuse == ReuseOff {
		return
	}
	// A memory that can't go back is saved where it may be wanted again: at
	// the end of the prompt, at its last whole chunk, and where another
	// prompt is known to have parted.
	last := len(j.Prompt) - 1
	if end == last || end == last/s.cfg.Chunk*s.cfg.Chunk || end == j.branch {
		if e := s.cache.find(&after); e != nil {
			e.used = s.clock
			return
		}
		after.tokens = append([]int32(nil), after.tokens...)
		s.plan.After = append(s.plan.After, Op{Kind: OpSave, Slot: j.slot, Snapshot: s.cache.start(after, s.clock)})
	}
}

// lacksOne tells that a token is computed behind the n tokens of a chunk that
// ends at end. It depends on the prompt's length alone, so the state of a prompt
// stays a function of its tokens. There is room for it: the last token of the
// prompt has yet to come.
func (s *Scheduler) lacksOne(j *Job, end, n int) bool {
	tile := s.cfg.Tile
	return tile > 0 && s.cfg.Rewindable && end == len(j.Prompt)-1 && (n+1)%tile == 0 && n < s.cfg.Chunk
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

// Finished records what became of the oldest batch in flight. tokens holds the
// token sampled for each of its items with Output, in order; those of removed
// jobs are not looked at.
func (s *Scheduler) Finished(out Outcome, tokens []int32) {
	f := s.flights[0]
	s.flights = slices.Delete(s.flights, 0, 1)
	s.spare = append(s.spare, f)
	saves := 0
	for _, ops := range [2][]Op{f.Before, f.After} {
		for _, op := range ops {
			switch op.Kind {
			case OpSave:
				s.cache.finish(op.Snapshot, out.Saved[saves])
				saves++
			case OpRestore:
				s.slots[op.Slot].restoring = false
				if slices.Contains(out.Lost, op.Slot) {
					s.lost(op.Slot, op.Snapshot)
				}
			}
		}
	}
	for k, j := range f.jobs {
		j.flying = false
		if s.slots[j.slot].job == j {
			j.next = tokens[k]
			j.produced++
		}
	}
}

// InFlight is the number of batches that are planned and not finished.
func (s *Scheduler) InFlight() int { return len(s.flights) }

// lost forgets what a slot would have been restored to: its job, if it has
// one, starts its prompt from nothing.
func (s *Scheduler) lost(slotID int, snap *Snapshot) {
	sl := &s.slots[slotID]
	sl.content, sl.unclean = content{}, true
	if sl.job != nil {
		sl.job.Cached = 0
	}
	s.cache.drop(func(e *Snapshot) bool { return e == snap })
}

// Full tells that a job can produce no further token: its limit or its
// context is used up.
func (s *Scheduler) Full(j *Job) bool {
	return j.Max > 0 && j.produced >= j.Max || len(s.slots[j.slot].tokens)+1 > s.cfg.Context
}
