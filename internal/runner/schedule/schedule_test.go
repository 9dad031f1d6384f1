package schedule

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func mustNew(t testing.TB, cfg Config) *Scheduler {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func tokens(n, seed int) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = int32((i*31 + seed*7919) % 1000)
	}
	return out
}

// generate runs a job to its end, alone, and returns the state of its slot:
// every cell's provenance.
func generate(m *machine, s *Scheduler, prompt []int32, n int) []uint64 {
	j := &Job{Prompt: prompt, Max: n}
	if err := s.Add(j); err != nil {
		m.t.Fatal(err)
	}
	m.drain(s)
	return slices.Clone(m.seqs[j.Slot()][:len(prompt)+n-1])
}

func TestSamePromptAgainComputesOnlyItsLastToken(t *testing.T) {
	for _, rewindable := range []bool{true, false} {
		s := mustNew(t, Config{Slots: 2, Context: 256, Chunk: 16, Rewindable: rewindable, CacheBytes: 1 << 20})
		m := newMachine(t, 2, 16, rewindable)
		prompt := tokens(53, 1)
		first := generate(m, s, prompt, 5)
		j := &Job{Prompt: prompt, Max: 5}
		if err := s.Add(j); err != nil {
			t.Fatal(err)
		}
		m.drain(s)
		if j.Cached != 52 {
			t.Errorf("rewindable %v: %d of 53 tokens came from the cache, want 52", rewindable, j.Cached)
		}
		if got := m.seqs[j.Slot()]; !slices.Equal(got, first) {
			t.Errorf("rewindable %v: the repeated request was computed in other shapes", rewindable)
		}
	}
}

// With the logits of its last token a repeated prompt computes nothing for its
// first token, and goes on as if it had.
func TestSamePromptAgainComputesNothing(t *testing.T) {
	for _, length := range []int{53, 49, 5, 2} { // on the grid and off it, and shorter than a chunk
		for _, reuse := range []Reuse{ReuseExact, ReuseLongest} {
			s := mustNew(t, Config{Slots: 2, Context: 256, Chunk: 16, Rewindable: true, Reuse: reuse, KeepRows: true})
			m := newMachine(t, 2, 16, true)
			prompt := tokens(length, 1)
			first := generate(m, s, prompt, 5)
			for again := range 3 {
				j := &Job{Prompt: prompt, Max: 5}
				if err := s.Add(j); err != nil {
					t.Fatal(err)
				}
				decodes := len(m.sizes)
				m.drain(s)
				if j.Cached != length || m.recalled != again+1 || len(m.sizes)-decodes != 5 || m.chunks != (length-1+15)/16 {
					t.Errorf("%d tokens, reuse %d: %d cached, recalled %d times, %d decodes, %d chunks", length, reuse, j.Cached, m.recalled, len(m.sizes)-decodes, m.chunks)
				}
				if got := m.seqs[j.Slot()]; !slices.Equal(got, first) {
					t.Errorf("%d tokens: another state than the first time", length)
				}
			}
		}
	}
}

// What another stream's company may have rounded otherwise is not kept.
func TestRowsOfCompanyAreNotKept(t *testing.T) {
	s := mustNew(t, Config{Slots: 2, Context: 256, Chunk: 16, Rewindable: true, KeepRows: true})
	m := newMachine(t, 2, 16, true)
	prompt := tokens(20, 1)
	if err := s.Add(&Job{Prompt: tokens(20, 2), Max: 50}); err != nil {
		t.Fatal(err)
	}
	for s.Running() == nil || s.Running()[0].Produced() < 2 {
		m.step(s)
	}
	if err := s.Add(&Job{Prompt: prompt, Max: 5}); err != nil {
		t.Fatal(err)
	}
	m.drain(s)
	again := &Job{Prompt: prompt, Max: 5}
	if err := s.Add(again); err != nil {
		t.Fatal(err)
	}
	m.drain(s)
	if m.recalled != 0 || again.Cached != 19 {
		t.Errorf("recalled %d times, %d tokens cached", m.recalled, again.Cached)
	}
	if err := s.Add(&Job{Prompt: prompt, Max: 5}); err != nil {
		t.Fatal(err)
	}
	if m.drain(s); m.recalled != 1 {
		t.Errorf("computed alone meanwhile, but recalled %d times", m.recalled)
	}
}

func TestLongerPromptReusesWholeChunks(t *testing.T) {
	s := mustNew(t, Config{Slots: 1, Context: 256, Chunk: 16, Rewindable: true})
	m := newMachine(t, 1, 16, true)
	a := tokens(40, 1)
	generate(m, s, a, 3)
	j := &Job{Prompt: append(slices.Clone(a), tokens(30, 2)...), Max: 2}
	if err := s.Add(j); err != nil {
		t.Fatal(err)
	}
	m.drain(s)
	if j.Cached != 32 {
		t.Errorf("%d tokens reused, want the two whole chunks of the shorter prompt (32)", j.Cached)
	}
}

func TestLongestReuseTakesTheAnswerToo(t *testing.T) {
	s := mustNew(t, Config{Slots: 1, Context: 256, Chunk: 16, Rewindable: true, Reuse: ReuseLongest})
	m := newMachine(t, 1, 16, true)
	a := tokens(40, 1)
	j := &Job{Prompt: a, Max: 8}
	if err := s.Add(j); err != nil {
		t.Fatal(err)
	}
	m.drain(s)
	held := slices.Clone(s.slots[0].tokens)
	k := &Job{Prompt: append(held, tokens(9, 3)...), Max: 1}
	if err := s.Add(k); err != nil {
		t.Fatal(err)
	}
	m.drain(s)
	if k.Cached != len(held) {
		t.Errorf("%d tokens reused, want all %d", k.Cached, len(held))
	}
}

func TestBusySlotSharesItsPrefix(t *testing.T) {
	s := mustNew(t, Config{Slots: 2, Context: 512, Chunk: 16, Rewindable: true})
	m := newMachine(t, 2, 16, true)
	shared := tokens(100, 1)
	a := &Job{Prompt: append(slices.Clone(shared), 1), Max: 100}
	if err := s.Add(a); err != nil {
		t.Fatal(err)
	}
	for a.Produced() < 3 {
		m.step(s)
	}
	b := &Job{Prompt: append(slices.Clone(shared), 2, 3), Max: 3}
	if err := s.Add(b); err != nil {
		t.Fatal(err)
	}
	m.drain(s)
	if b.Cached != 96 {
		t.Errorf("%d tokens shared with the running stream, want 96", b.Cached)
	}
}

// A last chunk that lacks a token of a tile is filled up, and nothing of that is
// left in the memory or counted.
func TestLastChunkIsFilledUp(t *testing.T) {
	for _, c := range []struct {
		length, context int
		rewindable      bool
		fill            int
	}{
		{48, 256, true, 1},  // 47 = 32 + 15
		{47, 256, true, 0},  // 14: two are too many
		{49, 256, true, 0},  // whole tiles
		{33, 256, true, 0},  // whole chunks
		{2, 256, true, 0},   // 1
		{48, 256, false, 0}, // can't be forgotten
		{48, 49, true, 1},   // fills the context
		{64, 256, true, 1},  // to a whole chunk
		{1, 256, true, 0},   // no chunk at all
	} {
		s := mustNew(t, Config{Slots: 1, Context: c.context, Chunk: 32, Tile: 16, Rewindable: c.rewindable})
		m := newMachine(t, 1, 32, c.rewindable)
		j := &Job{Prompt: tokens(c.length, 1), Max: 1}
		if err := s.Add(j); err != nil {
			t.Fatal(err)
		}
		computed, fill := 0, 0
		for b := s.Next(); b != nil; b = s.Next() {
			computed, fill = computed+len(b.Items)-b.Fill, fill+b.Fill
			m.start(s, b)
			m.finish(s)
		}
		if fill != c.fill || computed != c.length || !slices.Equal(m.texts[0], j.Prompt) {
			t.Errorf("%+v: filled up by %d, %d tokens computed, the memory holds %d", c, fill, computed, len(m.texts[0]))
		}
	}
}

func TestSpilledPrefixComesBack(t *testing.T) {
	s := mustNew(t, Config{Slots: 1, Context: 256, Chunk: 16, Rewindable: true, CacheBytes: 1 << 20})
	m := newMachine(t, 1, 16, true)
	a, b := tokens(60, 1), tokens(70, 2)
	first := generate(m, s, a, 4)
	generate(m, s, b, 4)
	again := &Job{Prompt: a, Max: 4}
	if err := s.Add(again); err != nil {
		t.Fatal(err)
	}
	m.drain(s)
	if again.Cached != 59 {
		t.Errorf("%d tokens came back from host memory, want 59", again.Cached)
	}
	if !slices.Equal(first, m.seqs[0]) {
		t.Error("the restored prefix led to another state")
	}
}

func TestCacheKeepsItsLimit(t *testing.T) {
	const limit = 8 * 130 // bytes: two prompts of 60 tokens, not three
	s := mustNew(t, Config{Slots: 1, Context: 256, Chunk: 16, Rewindable: true, CacheBytes: limit})
	m := newMachine(t, 1, 16, true)
	for seed := range 6 {
		generate(m, s, tokens(60, seed), 4)
		if n, bytes := s.Cache(); bytes > limit || n > 2 {
			t.Fatalf("%d snapshots of %d bytes, the limit is %d", n, bytes, limit)
		}
	}
	if n, _ := s.Cache(); n == 0 {
		t.Error("nothing was spilled")
	}
}

func TestStreamsStandSideBySide(t *testing.T) {
	s := mustNew(t, Config{Slots: 8, Context: 256, Chunk: 16, Rewindable: true, CacheBytes: 1 << 20})
	m := newMachine(t, 8, 16, true)
	// Use all slots, and let them end in another order than they began.
	for i := range 8 {
		if err := s.Add(&Job{Prompt: tokens(40, i), Max: 1 + (i*5)%8}); err != nil {
			t.Fatal(err)
		}
	}
	m.drain(s)
	var jobs []*Job
	for i := range 4 {
		j := &Job{Prompt: tokens(40, 20+i), Max: 10}
		jobs = append(jobs, j)
		if err := s.Add(j); err != nil {
			t.Fatal(err)
		}
	}
	m.step(s)
	lo, hi := 8, 0
	for _, j := range jobs {
		lo, hi = min(lo, j.Slot()), max(hi, j.Slot())
	}
	if hi-lo != 3 {
		t.Errorf("four streams lie in slots %d to %d", lo, hi)
	}
	m.drain(s)
}

func TestRefusals(t *testing.T) {
	s := mustNew(t, Config{Slots: 1, Context: 32, Chunk: 8, Pending: 1, Rewindable: true})
	var ce *ContextError
	if err := s.Add(&Job{Prompt: tokens(32, 0)}); !errors.As(err, &ce) || ce.Prompt != 32 || ce.Context != 32 {
		t.Errorf("a prompt that fills the context: %v", err)
	}
	if err := s.Add(&Job{}); err == nil {
		t.Error("an empty prompt was accepted")
	}
	m := newMachine(t, 1, 8, true)
	if err := s.Add(&Job{Prompt: tokens(4, 0), Max: 20}); err != nil {
		t.Fatal(err)
	}
	m.step(s)
	if err := s.Add(&Job{Prompt: tokens(4, 1), Max: 1}); err != nil {
		t.Fatalf("one may wait: %v", err)
	}
	if err := s.Add(&Job{Prompt: tokens(4, 2), Max: 1}); !errors.Is(err, ErrBusy) {
		t.Errorf("the second waiting one: %v, want ErrBusy", err)
	}
	m.drain(s)
	for _, cfg := range []Config{{}, {Slots: 1, Context: 1, Chunk: 1}, {Slots: 1, Context: 8}, {Slots: 1, Context: 8, Chunk: 1, Pending: -1}, {Slots: 1, Context: 8, Chunk: 1, Tile: -1}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("New accepted %+v", cfg)
		}
	}
}

func TestContextEndsAGeneration(t *testing.T) {
	s := mustNew(t, Config{Slots: 1, Context: 20, Chunk: 8, Rewindable: true})
	m := newMachine(t, 1, 8, true)
	j := &Job{Prompt: tokens(15, 0)}
	if err := s.Add(j); err != nil {
		t.Fatal(err)
	}
	m.drain(s)
	// 15 prompt tokens leave room for 5 more, and the last one sampled need
	// not be stored.
	if j.Produced() != 6 || len(m.seqs[0]) != 20 {
		t.Errorf("produced %d tokens, %d stored; want 6 and 20", j.Produced(), len(m.seqs[0]))
	}
}

func TestShortPromptPassesALongOneAndNoneStarves(t *testing.T) {
	s := mustNew(t, Config{Slots: 3, Context: 4096, Chunk: 16, Rewindable: true})
	m := newMachine(t, 3, 16, true)
	long := &Job{Prompt: tokens(1600, 1), Max: 1}
	if err := s.Add(long); err != nil {
		t.Fatal(err)
	}
	m.step(s)
	short := &Job{Prompt: tokens(33, 2), Max: 1}
	if err := s.Add(short); err != nil {
		t.Fatal(err)
	}
	steps := 0
	for short.Produced() == 0 {
		m.step(s)
		steps++
	}
	if steps > 6 {
		t.Errorf("the short prompt took %d steps beside a long one, want at most 6", steps)
	}
	// A stream of short prompts must leave the long one half of the chunks.
	m.chunks = 0
	for seed := 3; long.Produced() == 0; seed++ {
		if err := s.Add(&Job{Prompt: tokens(33, seed), Max: 1}); err != nil && !errors.Is(err, ErrBusy) {
			t.Fatal(err)
		}
		m.step(s)
	}
	if m.chunks > 2*1600/16+4 {
		t.Errorf("the long prompt took %d chunks beside short ones, want at most %d", m.chunks, 2*1600/16+4)
	}
}

func TestRunningStreamsAdvanceInEveryStep(t *testing.T) {
	s := mustNew(t, Config{Slots: 5, Context: 4096, Chunk: 32, Rewindable: true})
	m := newMachine(t, 5, 32, true)
	var running []*Job
	for i := range 4 {
		j := &Job{Prompt: tokens(3, i), Max: 2000}
		running = append(running, j)
		if err := s.Add(j); err != nil {
			t.Fatal(err)
		}
	}
	for running[3].Produced() < 1 {
		m.step(s)
	}
	if err := s.Add(&Job{Prompt: tokens(2000, 9), Max: 1}); err != nil {
		t.Fatal(err)
	}
	m.step(s) // the first chunk goes at once
	for range 60 {
		before := make([]int, 4)
		for i, j := range running {
			before[i] = j.Produced()
		}
		for n := m.chunks; m.chunks == n; {
			m.step(s)
		}
		for i, j := range running {
			if j.Produced() != before[i]+1 {
				t.Fatalf("stream %d made %d tokens between two chunks of a prompt", i, j.Produced()-before[i])
			}
		}
	}
}

// Whatever ran before, was cached, copied, spilled or cancelled: a request
// that is alone gets the state that it gets on a fresh scheduler.
func TestAloneIsExact(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		stages := rapid.IntRange(1, 3).Draw(rt, "stages")
		cfg := Config{
			Stages: stages, Depth: stages + rapid.IntRange(0, 1).Draw(rt, "more"),
			Slots: rapid.IntRange(1, 4).Draw(rt, "slots"), Context: 256, Chunk: rapid.SampledFrom([]int{4, 16, 64}).Draw(rt, "chunk"),
			Pending: 8, Rewindable: rapid.Bool().Draw(rt, "rewindable"), CacheBytes: int64(rapid.SampledFrom([]int{0, 400, 4000}).Draw(rt, "cache")),
			KeepRows: rapid.Bool().Draw(rt, "keep rows"),
			Tile:     rapid.SampledFrom([]int{0, 4, 16}).Draw(rt, "tile"),
		}
		s := mustNew(t, cfg)
		machineOf := func() *machine {
			m := newMachine(t, cfg.Slots, cfg.Chunk, cfg.Rewindable)
			m.stages, m.depth = cfg.Stages, cfg.Depth
			return m
		}
		m := machineOf()
		// Few distinct beginnings, so that prefixes are shared.
		var earlier [][]int32
		draw := func(label string) []int32 {
			if len(earlier) > 0 && rapid.Bool().Draw(rt, label+" again") {
				return rapid.SampledFrom(earlier).Draw(rt, label)
			}
			p := tokens(rapid.IntRange(1, 120).Draw(rt, label), rapid.IntRange(0, 1).Draw(rt, label+" family"))
			if n := rapid.IntRange(0, 30).Draw(rt, label+" tail"); n > 0 {
				p = append(p, tokens(n, rapid.IntRange(2, 4).Draw(rt, label+" tail family"))...)
			}
			earlier = append(earlier, p)
			return p
		}
		var open []*Job
		for range rapid.IntRange(0, 25).Draw(rt, "traffic") {
			switch rapid.IntRange(0, 3).Draw(rt, "what") {
			case 0:
				j := &Job{Prompt: draw("prompt"), Max: rapid.IntRange(1, 20).Draw(rt, "max")}
				if err := s.Add(j); err == nil {
					open = append(open, j)
				}
			case 1:
				if len(open) > 0 {
					i := rapid.IntRange(0, len(open)-1).Draw(rt, "cancel")
					s.Remove(open[i])
					open = slices.Delete(open, i, i+1)
				}
			default:
				for range rapid.IntRange(1, 8).Draw(rt, "steps") {
					m.step(s)
				}
			}
		}
		m.drain(s)
		if len(s.Running()) != 0 || s.Pending() != 0 {
			rt.Fatalf("%d running and %d waiting after the end", len(s.Running()), s.Pending())
		}
		prompt := draw("probe")
		n := rapid.IntRange(1, 10).Draw(rt, "probe max")
		got := generate(m, s, prompt, n)
		want := generate(machineOf(), mustNew(t, cfg), prompt, n)
		if !slices.Equal(got, want) {
			rt.Fatalf("a request alone got another state after traffic (%d tokens cached)", s.slots[0].canonical())
		}
	})
}

// A prompt that is to be measured is computed, whatever is cached of it; the
// next one finds it.
func TestFreshPromptIsComputed(t *testing.T) {
	for _, rewindable := range []bool{true, false} {
		s := mustNew(t, Config{Slots: 2, Context: 256, Chunk: 16, Rewindable: rewindable, CacheBytes: 1 << 20})
		m := newMachine(t, 2, 16, rewindable)
		prompt := tokens(53, 1)
		first := generate(m, s, prompt, 5)
		for _, c := range []struct {
			fresh  bool
			cached int
		}{{true, 0}, {true, 0}, {false, 52}} {
			j := &Job{Prompt: prompt, Max: 5, Fresh: c.fresh}
			if err := s.Add(j); err != nil {
				t.Fatal(err)
			}
			m.drain(s)
			if j.Cached != c.cached {
				t.Errorf("rewindable %v, fresh %v: %d tokens came from the cache, want %d", rewindable, c.fresh, j.Cached, c.cached)
			}
			if got := m.seqs[j.Slot()]; !slices.Equal(got, first) {
				t.Errorf("rewindable %v, fresh %v: computed in other shapes", rewindable, c.fresh)
			}
		}
	}
}
