package schedule

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// nextToken is a model without rounding: the token depends on the text alone.
func nextToken(text []int32) int32 {
	h := uint32(2166136261)
	for _, t := range text {
		h = (h ^ uint32(t)) * 16777619
	}
	return int32(h % 997)
}

// reference is what a job must be told.
func reference(j *Job, context int) []int32 {
	text := slices.Clone(j.Prompt)
	var out []int32
	for len(out) < j.Max && len(text) <= context {
		t := nextToken(text)
		text, out = append(text, t), append(out, t)
	}
	return out
}

// Whatever is in flight, is cancelled or fails: every stream gets its tokens,
// each once and in order, and everything comes to an end.
func TestFlightsGiveEveryStreamItsTokens(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		stages := rapid.IntRange(1, 4).Draw(rt, "stages")
		cfg := Config{
			Slots: rapid.IntRange(1, 6).Draw(rt, "slots"), Context: 200, Chunk: rapid.SampledFrom([]int{4, 16, 64}).Draw(rt, "chunk"),
			Stages: stages, Depth: stages + rapid.IntRange(0, 2).Draw(rt, "more"),
			Pending: 20, Rewindable: rapid.Bool().Draw(rt, "rewindable"), CacheBytes: int64(rapid.SampledFrom([]int{0, 400, 4000}).Draw(rt, "cache")),
			KeepRows: rapid.Bool().Draw(rt, "keep rows"),
			Tile:     rapid.SampledFrom([]int{0, 4, 16}).Draw(rt, "tile"),
			Reuse:    rapid.SampledFrom([]Reuse{ReuseExact, ReuseLongest, ReuseOff}).Draw(rt, "reuse"),
		}
		s := mustNew(t, cfg)
		m := newMachine(t, cfg.Slots, cfg.Chunk, cfg.Rewindable)
		m.stages, m.depth, m.sampled = cfg.Stages, cfg.Depth, nextToken
		if rapid.Bool().Draw(rt, "failures") {
			m.fails = func() bool { return rapid.IntRange(0, 3).Draw(rt, "fails") == 0 }
		}
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
		var open, cancelled []*Job
		for range rapid.IntRange(0, 40).Draw(rt, "traffic") {
			switch rapid.IntRange(0, 5).Draw(rt, "what") {
			case 0, 1:
				j := &Job{ID: uint64(len(open) + len(cancelled)), Prompt: draw("prompt"), Max: rapid.IntRange(1, 30).Draw(rt, "max")}
				if err := s.Add(j); err == nil {
					open = append(open, j)
				}
			case 2:
				if len(open) > 0 {
					i := rapid.IntRange(0, len(open)-1).Draw(rt, "cancel")
					s.Remove(open[i])
					cancelled = append(cancelled, open[i])
					open = slices.Delete(open, i, i+1)
				}
			case 3:
				m.fill(s)
			default:
				for range rapid.IntRange(1, 8).Draw(rt, "steps") {
					m.step(s)
				}
			}
		}
		m.drain(s)
		if len(s.Running()) != 0 || s.Pending() != 0 || s.InFlight() != 0 {
			rt.Fatalf("%d running, %d waiting and %d in flight after the end", len(s.Running()), s.Pending(), s.InFlight())
		}
		for _, j := range open {
			if want := reference(j, cfg.Context); !slices.Equal(m.told[j], want) {
				rt.Fatalf("job %d was told %v, want %v", j.ID, m.told[j], want)
			}
		}
		for _, j := range cancelled {
			if want := reference(j, cfg.Context); len(m.told[j]) > len(want) || !slices.Equal(m.told[j], want[:len(m.told[j])]) {
				rt.Fatalf("cancelled job %d was told %v, want the beginning of %v", j.ID, m.told[j], want)
			}
		}
		if m.worst > cfg.Stages {
			rt.Fatalf("%d chunks were planned between two tokens of a stream, at most %d may be", m.worst, cfg.Stages)
		}
		if n, bytes := s.Cache(); n != len(m.kept) || bytes > cfg.CacheBytes {
			rt.Fatalf("%d snapshots of %d bytes, the shards hold %d; the limit is %d bytes", n, bytes, len(m.kept), cfg.CacheBytes)
		}
	})
}

// group starts n endless streams on a pipeline and lets them get going.
func group(t *testing.T, stages, slots, n int) (*Scheduler, *machine, []*Job) {
	s := mustNew(t, Config{Slots: slots, Context: 1 << 16, Chunk: 16, Rewindable: true, Stages: stages, Depth: stages + 1})
	m := newMachine(t, slots, 16, true)
	m.stages, m.depth = stages, stages+1
	var jobs []*Job
	for i := range n {
		j := &Job{ID: uint64(i), Prompt: tokens(10, i)}
		jobs = append(jobs, j)
		if err := s.Add(j); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 * n {
		m.step(s)
	}
	return s, m, jobs
}

func TestStreamsAreDividedEvenly(t *testing.T) {
	for _, c := range []struct{ stages, streams, most int }{
		{2, 4, 2}, {2, 1, 1}, {2, 5, 3}, {3, 4, 2}, {3, 9, 3}, {1, 6, 6}, {4, 3, 1},
	} {
		s, m, jobs := group(t, c.stages, 12, c.streams)
		m.fill(s)
		if want := min(c.stages, c.streams); len(m.queue) != want {
			t.Errorf("%d streams on %d stages: %d batches in flight, want %d", c.streams, c.stages, len(m.queue), want)
		}
		m.sizes = nil
		before := make([]int, len(jobs))
		for i, j := range jobs {
			before[i] = j.Produced()
		}
		for range 24 * c.stages {
			m.step(s)
		}
		if got := slices.Max(m.sizes); got > c.most {
			t.Errorf("%d streams on %d stages: a batch of %d", c.streams, c.stages, got)
		}
		for i, j := range jobs {
			made, first := j.Produced()-before[i], jobs[0].Produced()-before[0]
			if made == 0 || made < first-1 || made > first+1 {
				t.Errorf("%d streams on %d stages: one made %d tokens, another %d", c.streams, c.stages, made, first)
			}
		}
	}
}

// Streams that stand side by side go together, however they came.
func TestGroupsAreNeighbours(t *testing.T) {
	for _, c := range []struct{ stages, streams int }{{2, 4}, {2, 8}, {3, 7}, {4, 8}} {
		s, m, _ := group(t, c.stages, c.streams, c.streams)
		for range 10 * c.stages {
			m.fill(s)
			items := m.queue[0].b.Items
			for i, it := range items {
				if it.Slot != items[0].Slot+i {
					t.Fatalf("%d streams on %d stages: a batch of %+v", c.streams, c.stages, items)
				}
			}
			m.step(s)
		}
	}
}

func TestGroupsRebalance(t *testing.T) {
	s, m, jobs := group(t, 2, 8, 6)
	// Those of one batch end; the others must not go on as one large batch.
	m.fill(s)
	for _, it := range m.queue[0].b.Items[:2] {
		s.Remove(s.Holder(it.Slot))
	}
	for range 6 {
		m.step(s)
	}
	m.sizes = nil
	for range 10 {
		m.step(s)
	}
	if slices.Max(m.sizes) > 2 || slices.Min(m.sizes) < 2 {
		t.Errorf("four streams on two stages go in batches of %v", m.sizes)
	}
	for i := range 3 {
		if err := s.Add(&Job{ID: uint64(10 + i), Prompt: tokens(10, 10+i)}); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		m.step(s)
	}
	m.sizes = nil
	for range 10 {
		m.step(s)
	}
	if slices.Max(m.sizes) > 4 || slices.Min(m.sizes) < 3 {
		t.Errorf("seven streams on two stages go in batches of %v", m.sizes)
	}
	if len(jobs) != 6 {
		t.Fatal("six streams were started")
	}
}

// Chunks of a prompt follow each other without waiting, and the first decode
// follows the last chunk.
func TestChunksFollowEachOther(t *testing.T) {
	s := mustNew(t, Config{Slots: 1, Context: 4096, Chunk: 16, Rewindable: true, Stages: 3, Depth: 4})
	m := newMachine(t, 1, 16, true)
	m.stages, m.depth = 3, 4
	j := &Job{Prompt: tokens(16*7+1, 1), Max: 2}
	if err := s.Add(j); err != nil {
		t.Fatal(err)
	}
	for m.fill(s); m.chunks < 5; m.fill(s) {
		if len(m.queue) < 4 && m.chunks < 4 {
			t.Fatalf("%d batches in flight after %d chunks, want 4", len(m.queue), m.chunks)
		}
		m.finish(s)
	}
	if last := m.queue[len(m.queue)-1]; len(last.jobs) != 1 || len(m.queue) != 3 {
		t.Errorf("after the last chunk: %d batches in flight, the last with %d decodes", len(m.queue), len(last.jobs))
	}
	m.drain(s)
}
