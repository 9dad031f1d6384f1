package schedule

// admit gives j the free slot that costs least, with as much of its prompt as
// the caches hold.
func (s *Scheduler) admit(j *Job) {
	src, snap, n := s.bestSource(j)
	dst := s.destination(src, n)
	sl := &s.slots[dst]
	switch {
	case snap != nil:
		s.spill(dst, 0)
		s.edit(Op{Kind: OpRestore, Slot: dst, Snapshot: snap})
		sl.restoring = true
		snap.used = s.clock
		sl.content = snap.content.clone()
	case src >= 0 && src != dst:
		s.spill(dst, 0)
		s.edit(Op{Kind: OpCopy, Slot: dst, Source: src})
		sl.content = s.slots[src].content.clone()
	case src == dst:
		s.spill(dst, n)
	default:
		s.spill(dst, 0)
	}
	if last := len(j.Prompt) - 1; n == last && n > 0 && sl.row == len(j.Prompt) && sl.tokens[last] == j.Prompt[last] {
		n, j.recall = n+1, true
	}
	if n < len(sl.tokens) {
		s.edit(Op{Kind: OpRemove, Slot: dst, From: n})
		sl.cut(n)
	}
	if s.cfg.Reuse == ReuseLongest && sl.full < n {
		// Tokens off the grid are no base for exact reuse later.
		sl.tail = 0
	}
	sl.job, sl.used = j, s.clock
	j.slot, j.admitted, j.Cached = dst, true, n
	j.next = j.Prompt[len(j.Prompt)-1]
}

// bestSource finds where the longest reusable prefix of j's prompt lies: in a
// slot (src >= 0), in a snapshot, or nowhere (src -1, snap nil, n 0).
func (s *Scheduler) bestSource(j *Job) (src int, snap *Snapshot, n int) {
	src = -1
	if j.Fresh {
		return src, nil, 0
	}
	for i := range s.slots {
		sl := &s.slots[i]
		if sl.restoring {
			continue
		}
		r := sl.reusable(j.Prompt, s.cfg.Reuse, s.cfg.Chunk)
		j.branch = max(j.branch, r)
		if !s.cfg.Rewindable && (sl.job != nil || r != len(sl.tokens)) {
			continue
		}
		// Copying from a busy slot must be worth more than a chunk.
		if sl.job != nil && r < n+2*s.cfg.Chunk {
			continue
		}
		if r > n || r == n && r > 0 && src >= 0 && s.slots[src].job != nil {
			src, n = i, r
		}
	}
	for _, e := range s.cache.entries {
		r := e.reusable(j.Prompt, s.cfg.Reuse, s.cfg.Chunk)
		j.branch = max(j.branch, r)
		if !s.cfg.Rewindable && r != len(e.tokens) {
			continue
		}
		if r > n {
			src, snap, n = -1, e, r
		}
	}
	return src, snap, n
}

// destination picks the slot for a job whose prefix comes from slot src (-1:
// from elsewhere): src itself if it is free and little is lost there, else
// the free slot that is cheapest to overwrite.
func (s *Scheduler) destination(src, n int) int {
	if src >= 0 && s.slots[src].job == nil {
		if !s.cfg.Rewindable || s.slots[src].valuable(s.cfg.Reuse)-n < s.cfg.Chunk {
			return src
		}
	}
	best := -1
	for i := range s.slots {
		if s.slots[i].open() && (best < 0 || s.cheaper(i, best)) {
			best = i
		}
	}
	return best
}

// cheaper tells that overwriting slot a costs less than overwriting slot b.
func (s *Scheduler) cheaper(a, b int) bool {
	// What can't be spilled to host memory would have to be computed again.
	if la, lb := s.cache.limit == 0 && s.holds(a), s.cache.limit == 0 && s.holds(b); la != lb {
		return lb
	}
	// The library computes neighbours in one batch and others one by one.
	if na, nb := s.besideBusy(a), s.besideBusy(b); na != nb {
		return na
	}
	if ha, hb := s.holds(a), s.holds(b); ha != hb {
		return hb
	}
	return s.slots[a].used < s.slots[b].used
}

// holds tells that slot i has something worth keeping.
func (s *Scheduler) holds(i int) bool { return s.slots[i].valuable(s.cfg.Reuse) >= s.cfg.Chunk }

func (s *Scheduler) besideBusy(i int) bool {
	return i > 0 && s.slots[i-1].job != nil || i+1 < len(s.slots) && s.slots[i+1].job != nil
}

// spill saves what slot i holds beyond its first keep tokens to host memory,
// before it is overwritten. Memories that can't go back were saved on the way.
func (s *Scheduler) spill(i, keep int) {
	sl := &s.slots[i]
	n := sl.valuable(s.cfg.Reuse)
	if !s.cfg.Rewindable || s.cache.limit == 0 || s.cfg.Reuse == ReuseOff || n-keep < s.cfg.Chunk {
		if keep == 0 && len(sl.tokens) > 0 {
			s.edit(Op{Kind: OpRemove, Slot: i, From: 0})
			sl.content = content{}
		}
		return
	}
	if n < len(sl.tokens) {
		s.edit(Op{Kind: OpRemove, Slot: i, From: n})
		sl.cut(n)
	}
	if e := s.cache.find(&sl.content); e != nil {
		e.used = s.clock
	} else {
		s.edit(Op{Kind: OpSave, Slot: i, Snapshot: s.cache.start(sl.content.clone(), s.clock)})
	}
	if keep == 0 {
		s.edit(Op{Kind: OpRemove, Slot: i, From: 0})
		sl.content = content{}
	}
}
