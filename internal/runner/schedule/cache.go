package schedule

import "slices"

// content is what a slot or a snapshot holds, and how it came about.
type content struct {
	tokens []int32 // tokens whose state is there, in order of position
	// full tokens were computed in whole chunks from position 0.
	full int
	// tail is 0, or the end of the shorter last chunk that started at full:
	// the state of a prompt of tail+1 tokens, ready for its last token.
	tail int
	// row is 0, or the length of a prompt that the slot holds, the logits of
	// whose last token are kept. Copies and snapshots have none.
	row int
}

// canonical is the length of the part that a repeated computation would
// reproduce bit by bit.
func (c *content) canonical() int { return max(c.full, c.tail) }

// valuable is the length that is worth keeping under mode r.
func (c *content) valuable(r Reuse) int {
	if r == ReuseLongest {
		return len(c.tokens)
	}
	return c.canonical()
}

// reusable is how many tokens of prompt can be taken from c. The last prompt
// token is always computed, since its logits are wanted.
func (c *content) reusable(prompt []int32, r Reuse, chunk int) int {
	limit := len(prompt) - 1
	switch r {
	case ReuseOff:
		return 0
	case ReuseLongest:
		return common(c.tokens, prompt[:limit])
	}
	if c.tail == limit && c.tail > 0 && common(c.tokens[:c.tail], prompt) == c.tail {
		return c.tail
	}
	return common(c.tokens[:c.full], prompt[:limit]) / chunk * chunk
}

// cut forgets positions >= n.
func (c *content) cut(n int) {
	if n >= len(c.tokens) {
		return
	}
	c.tokens = c.tokens[:n]
	if c.tail > n {
		c.tail = 0
	}
	c.full = min(c.full, n)
	if c.row > n {
		c.row = 0
	}
}

func (c *content) clone() content {
	return content{tokens: append([]int32(nil), c.tokens...), full: c.full, tail: c.tail}
}

// common is the length of the longest common prefix.
func common(a, b []int32) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// Snapshot is a sequence's state in host memory. Who carries out OpSave holds
// its bytes under ID until an OpDrop.
type Snapshot struct {
	ID uint64 // never used twice
	content
	bytes int64
	used  uint64 // clock of the last use
}

// Len is the number of tokens whose state it holds.
func (s *Snapshot) Len() int { return len(s.tokens) }

// cache is the host memory for snapshots, least recently used out first.
type cache struct {
	limit   int64
	bytes   int64
	ids     uint64
	entries []*Snapshot
	saving  []*Snapshot // planned, not known to be kept yet
	dropped []*Snapshot // bytes may be held of them; to be told
}

// start names a snapshot that is going to be saved.
func (c *cache) start(of content, clock uint64) *Snapshot {
	c.ids++
	s := &Snapshot{ID: c.ids, content: of, used: clock}
	c.saving = append(c.saving, s)
	return s
}

// finish records what became of it: it is kept with size bytes (0: it is not),
// unless it is larger than the whole cache, and what no longer fits is dropped.
// A snapshot whose tokens begin a longer kept one is not dropped for it: on a
// memory that can't go back both ends are wanted.
func (c *cache) finish(s *Snapshot, size int64) {
	c.saving = slices.DeleteFunc(c.saving, func(e *Snapshot) bool { return e == s })
	if size == 0 || size > c.limit {
		c.dropped = append(c.dropped, s)
		return
	}
	c.drop(func(e *Snapshot) bool { return sameContent(&e.content, &s.content) })
	for c.bytes+size > c.limit {
		oldest := 0
		for i, e := range c.entries {
			if e.used < c.entries[oldest].used {
				oldest = i
			}
		}
		c.removeAt(oldest)
	}
	s.bytes = size
	c.entries = append(c.entries, s)
	c.bytes += size
}

func (c *cache) drop(match func(*Snapshot) bool) {
	for i := len(c.entries) - 1; i >= 0; i-- {
		if match(c.entries[i]) {
			c.removeAt(i)
		}
	}
}

func (c *cache) removeAt(i int) {
	c.bytes -= c.entries[i].bytes
	c.dropped = append(c.dropped, c.entries[i])
	c.entries = append(c.entries[:i], c.entries[i+1:]...)
}

// find gives the state of exactly these tokens that is kept, or on its way.
func (c *cache) find(want *content) *Snapshot {
	for _, list := range [2][]*Snapshot{c.entries, c.saving} {
		for _, e := range list {
			if sameContent(&e.content, want) {
				return e
			}
		}
	}
	return nil
}

func sameContent(a, b *content) bool {
	return a.full == b.full && a.tail == b.tail && len(a.tokens) == len(b.tokens) && common(a.tokens, b.tokens) == len(a.tokens)
}
