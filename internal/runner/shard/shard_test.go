package shard

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/runner/sample"
	"github.com/skein-run/skein/internal/runner/schedule"
)

// run carries out batches with as many in flight as the group takes, and gives
// each one's outcome and rows. Whole rows are asked for on the way.
func (g *fakeGroup) run(t *rapid.T, batches []*schedule.Batch, needs [][]sample.Need) (outs []schedule.Outcome, rows [][]sample.Row, whole [][]float32) {
	next := 0
	for len(outs) < len(batches) {
		for next < len(batches) && next-len(outs) < g.head.Depth() {
			if err := g.head.Start(batches[next], needs[next]); err != nil {
				t.Fatal(err)
			}
			next++
		}
		out, r, err := g.head.Finish()
		if err != nil {
			t.Fatal(err)
		}
		for i := range r {
			row, err := g.head.Row(i)
			if err != nil {
				t.Fatal(err)
			}
			whole = append(whole, append([]float32(nil), row...))
			if n := needs[len(outs)][i]; r[i].Full != nil {
				r[i] = sample.Row{Full: append([]float32(nil), r[i].Full...)}
				if !n.Full { // a head without other ranks has the whole row anyway
					r[i] = sample.Row{Part: sample.Extract(n, 0, r[i].Full)}
				}
			}
		}
		outs, rows = append(outs, out), append(rows, r)
	}
	return outs, rows, whole
}

// plans draws batches as a scheduler could plan them: positions follow each
// other, snapshots exist.
func plans(t *rapid.T) (batches []*schedule.Batch, needs [][]sample.Need) {
	const slots = 3
	length := map[int]int{}
	kept := map[uint64]int{}
	var ids []uint64
	for id := uint64(1); id <= uint64(rapid.IntRange(1, 12).Draw(t, "batches")); id++ {
		b := &schedule.Batch{}
		slot := rapid.IntRange(0, slots-1).Draw(t, "slot")
		switch rapid.SampledFrom([]string{"none", "remove", "copy", "save", "restore", "drop"}).Draw(t, "edit") {
		case "remove":
			length[slot] = rapid.IntRange(0, length[slot]).Draw(t, "from")
			b.Before = append(b.Before, schedule.Op{Kind: schedule.OpRemove, Slot: slot, From: length[slot]})
		case "copy":
			to := (slot + 1) % slots
			length[to] = length[slot]
			b.Before = append(b.Before, schedule.Op{Kind: schedule.OpCopy, Slot: to, Source: slot})
		case "save":
			if length[slot] > 0 {
				b.Before = append(b.Before, schedule.Op{Kind: schedule.OpSave, Slot: slot, Snapshot: &schedule.Snapshot{ID: id}})
				kept[id] = length[slot]
				ids = append(ids, id)
			}
		case "restore":
			if len(ids) > 0 {
				from := rapid.SampledFrom(ids).Draw(t, "snapshot")
				b.Before = append(b.Before, schedule.Op{Kind: schedule.OpRestore, Slot: slot, Snapshot: &schedule.Snapshot{ID: from}})
				if n, ok := kept[from]; ok {
					length[slot] = n
				} else {
					length[slot] = 0 // it was dropped: what was there is gone
				}
				batches, needs = append(batches, b), append(needs, nil)
				continue
			}
		case "drop":
			if len(ids) > 0 {
				from := rapid.SampledFrom(ids).Draw(t, "snapshot")
				b.Before = append(b.Before, schedule.Op{Kind: schedule.OpDrop, Snapshot: &schedule.Snapshot{ID: from}})
				delete(kept, from)
			}
		}
		var n []sample.Need
		token := rapid.Int32Range(0, 90)
		if rapid.Bool().Draw(t, "decode") {
			for s := range slots {
				if rapid.Bool().Draw(t, "runs") {
					b.Items = append(b.Items, schedule.Item{Token: token.Draw(t, "token"), Slot: s, Position: length[s], Output: true})
					length[s]++
					n = append(n, rapid.SampledFrom([]sample.Need{{Full: true}, {Top: 5}, {Top: 3, Mass: true}, {Top: 2, Warm: 0.7}, {Named: []int32{0, 11, 12, 23}}}).Draw(t, "need"))
				}
			}
		} else {
			for range rapid.IntRange(0, 5).Draw(t, "chunk") {
				b.Items = append(b.Items, schedule.Item{Token: token.Draw(t, "token"), Slot: slot, Position: length[slot]})
				length[slot]++
			}
		}
		batches, needs = append(batches, b), append(needs, n)
	}
	return batches, needs
}

// TestGroupEqualsOne: whatever is planned, a group of any shape gives what one
// shard gives, with several steps in flight.
func TestGroupEqualsOne(t *testing.T) {
	for _, ranks := range []int{1, 2, 3} {
		for _, stages := range []int{1, 2, 3} {
			t.Run(fmt.Sprintf("%dx%d", stages, ranks), func(t *testing.T) {
				rapid.Check(t, func(rt *rapid.T) {
					batches, needs := plans(rt)
					one := startFake(t, stages, 1) // the same layers, no ranks
					group := startFake(t, stages, ranks)
					wantOut, want, wantWhole := one.run(rt, batches, needs)
					gotOut, got, gotWhole := group.run(rt, batches, needs)
					if d := cmp.Diff(want, got, cmp.AllowUnexported(sample.Mass{})); d != "" {
						rt.Errorf("rows: %s", d)
					}
					if d := cmp.Diff(wantWhole, gotWhole); d != "" {
						rt.Errorf("whole rows: %s", d)
					}
					for i := range wantOut {
						if len(wantOut[i].Saved) != len(gotOut[i].Saved) || !cmp.Equal(wantOut[i].Lost, gotOut[i].Lost) {
							rt.Errorf("outcome %d: %+v, want %+v", i, gotOut[i], wantOut[i])
						}
						for k, n := range wantOut[i].Saved {
							if gotOut[i].Saved[k] != n*int64(ranks) {
								rt.Errorf("snapshot of %d bytes, want %d times %d", gotOut[i].Saved[k], ranks, n)
							}
						}
					}
					one.stop(t)
					group.stop(t)
				})
			})
		}
	}
}

// decodeOne is a step of one token in slot 0.
func decodeOne(position int) (*schedule.Batch, []sample.Need) {
	return &schedule.Batch{Items: []schedule.Item{{Token: 7, Position: position, Output: true}}}, []sample.Need{{Top: 1}}
}

// step carries out one step; its error may come from Start or Finish.
func (g *fakeGroup) step(position int) error {
	b, n := decodeOne(position)
	if err := g.head.Start(b, n); err != nil {
		return err
	}
	_, _, err := g.head.Finish()
	return err
}

// TestOutOfStep: a plan that is missed, repeated or damaged ends the epoch on
// all shards with a LostError; nobody guesses and nobody hangs.
func TestOutOfStep(t *testing.T) {
	for name, meddle := range map[string]func(n int, l letter) []letter{
		"missed": func(n int, l letter) []letter {
			if n == 1 {
				return nil
			}
			return []letter{l}
		},
		"repeated": func(n int, l letter) []letter {
			if n == 1 {
				return []letter{l, l}
			}
			return []letter{l}
		},
		"damaged": func(n int, l letter) []letter {
			if n == 1 {
				l.body = append([]byte{l.body[0] + 1}, l.body[1:]...)
			}
			return []letter{l}
		},
		"cut off": func(n int, l letter) []letter {
			if n == 1 {
				l.body = l.body[:len(l.body)-1]
			}
			return []letter{l}
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := startFake(t, 3, 1)
			g.net.meddle = func(_, to int, k Kind, n int, l letter) []letter {
				if k != KindPlan || to != 1 {
					return []letter{l}
				}
				return meddle(n, l)
			}
			if err := g.step(0); err != nil {
				t.Fatal(err)
			}
			var err error
			for position := 1; err == nil && position < 4; position++ {
				b, n := decodeOne(position)
				if err = g.head.Start(b, n); err == nil && name == "missed" && position == 1 {
					continue // nobody but shard 1 could tell before the next plan
				}
				if err == nil {
					_, _, err = g.head.Finish()
				}
			}
			var l *LostError
			if !errors.As(err, &l) {
				t.Fatalf("the head says %v, want a LostError", err)
			}
			if _, _, again := g.head.Finish(); again != err {
				t.Errorf("then it says %v, want the same", again)
			}
			for i, err := range g.stop(t) {
				if g.done[i] != nil && !errors.As(err, &l) {
					t.Errorf("shard %d ended with %v, want a LostError", i, err)
				}
			}
		})
	}
}

// TestFaultEndsTheEpoch: what one shard can't do, all learn of, with its name.
func TestFaultEndsTheEpoch(t *testing.T) {
	for name, c := range map[string]struct {
		break_ func(e *fakeEngine)
		op     []schedule.Op
	}{
		"decode": {break_: func(e *fakeEngine) { e.fault = errors.New("the library returned -3") }},
		"remove": {break_: func(e *fakeEngine) { e.noRemove = map[int]bool{1: true} }, op: []schedule.Op{{Kind: schedule.OpRemove, Slot: 1}}},
	} {
		for victim := range 4 {
			t.Run(fmt.Sprint(name, victim), func(t *testing.T) {
				g := startFake(t, 2, 2)
				if err := g.step(0); err != nil {
					t.Fatal(err)
				}
				c.break_(g.engines[victim])
				b, n := decodeOne(1)
				b.Before = c.op
				err := g.head.Start(b, n)
				if err == nil {
					_, _, err = g.head.Finish()
				}
				for i, err := range append(g.stop(t), err) {
					var l *LostError
					if err != nil && (!errors.As(err, &l) || l.Shard != victim) {
						t.Errorf("shard %d: %v, want shard %d as the culprit", i, err, victim)
					}
				}
				if err == nil {
					t.Error("the head saw nothing")
				}
			})
		}
	}
}

// TestOutcomeOfAll: a snapshot counts only if every shard has kept it.
func TestOutcomeOfAll(t *testing.T) {
	for victim := range 4 {
		t.Run(fmt.Sprint(victim), func(t *testing.T) {
			g := startFake(t, 2, 2)
			g.engines[victim].noSave = map[int]bool{0: true}
			if err := g.step(0); err != nil {
				t.Fatal(err)
			}
			finish := func(ops ...schedule.Op) schedule.Outcome {
				t.Helper()
				if err := g.head.Start(&schedule.Batch{Before: ops}, nil); err != nil {
					t.Fatal(err)
				}
				out, _, err := g.head.Finish()
				if err != nil {
					t.Fatal(err)
				}
				return out
			}
			snap := &schedule.Snapshot{ID: 5}
			if d := cmp.Diff(schedule.Outcome{Saved: []int64{0}}, finish(schedule.Op{Kind: schedule.OpSave, Snapshot: snap})); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(schedule.Outcome{Lost: []int{2}}, finish(schedule.Op{Kind: schedule.OpRestore, Slot: 2, Snapshot: snap})); d != "" {
				t.Error(d)
			}
			// The lost slot is empty everywhere: it can be filled again.
			b := &schedule.Batch{Before: []schedule.Op{{Kind: schedule.OpRemove, Slot: 2}}, Items: []schedule.Item{{Token: 1, Slot: 2}}}
			if err := g.head.Start(b, nil); err != nil {
				t.Fatal(err)
			}
			if _, _, err := g.head.Finish(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestDeadlines: each step is bounded while it runs, and only then.
func TestDeadlines(t *testing.T) {
	g := startFake(t, 2, 1)
	g.head.w.TokenSeconds = 0.5
	if err := g.step(0); err != nil {
		t.Fatal(err)
	}
	b := &schedule.Batch{}
	for i := range 8 {
		b.Items = append(b.Items, schedule.Item{Token: 1, Slot: 1, Position: i})
	}
	if err := g.head.Start(b, nil); err != nil {
		t.Fatal(err)
	}
	if _, _, err := g.head.Finish(); err != nil {
		t.Fatal(err)
	}
	// 10 times the longer of 1 s predicted and 2 stages of 0.5 s for each token.
	if d := cmp.Diff([]time.Duration{10 * time.Second, 0, 80 * time.Second, 0}, g.ends[1].bounds); d != "" {
		t.Error(d)
	}
	w := newWorker(Options{Layout: Layout{Shards: layoutOf(1, 1)}})
	if got := w.limit(&Plan{}); got != 5*time.Second {
		t.Errorf("a step of unknown length may take %v, want at least 5s", got)
	}
}

func TestLayoutValidate(t *testing.T) {
	two := layoutOf(2, 2)
	for name, c := range map[string]struct {
		layout Layout
		want   string
	}{
		"good":         {Layout{two, 1, 2}, ""},
		"one":          {Layout{layoutOf(1, 1), 0, 0}, ""},
		"none":         {Layout{}, "none are named"},
		"index":        {Layout{two, 4, 2}, "number 4 of 4"},
		"head":         {Layout{two, 0, 0}, "it must be the first rank of the last stage"},
		"gap":          {Layout{[]slice.Spec{{First: 0, End: 1}, {First: 2, End: 3}}, 0, 1}, "don't follow"},
		"no layers":    {Layout{[]slice.Spec{{First: 0, End: 0}}, 0, 0}, "don't follow"},
		"ranks":        {Layout{two[:3], 0, 2}, "don't make stages"},
		"other ranks":  {Layout{[]slice.Spec{{End: 1, Parts: []int{1, 1}}, {First: 1, End: 2}}, 0, 1}, "all stages need the same number"},
		"order":        {Layout{[]slice.Spec{two[1], two[0]}, 0, 0}, "is rank 1, want 0"},
		"other layers": {Layout{[]slice.Spec{two[0], {First: 1, End: 2, Rank: 1, Parts: []int{1, 1}}}, 0, 0}, "don't follow"},
	} {
		err := c.layout.Validate()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestMisuse: calls in the wrong order are errors, not panics.
func TestMisuse(t *testing.T) {
	g := startFake(t, 1, 1)
	if _, _, err := g.head.Finish(); err == nil {
		t.Error("Finish without a step gives no error")
	}
	if _, err := g.head.Row(0); err == nil {
		t.Error("Row without a step gives no error")
	}
	b, n := decodeOne(0)
	if err := g.head.Start(b, nil); err == nil {
		t.Error("outputs without needs are taken")
	}
	if err := g.head.Start(b, n); err != nil {
		t.Fatal(err)
	}
	if err := g.head.Start(b, n); err == nil {
		t.Error("more steps than Depth are taken")
	}
	if _, err := NewFollower(Options{}); err == nil {
		t.Error("a follower of nothing is made")
	}
	if _, err := NewHead(Options{}, nil); err == nil {
		t.Error("a head of nothing is made")
	}
}

// TestStagesOverlap: with as many steps in flight as a group takes, every stage
// computes a step of its own at the same time. The hooks make it so: no stage
// ends a step before all others have begun theirs, or nothing ends at all.
func TestStagesOverlap(t *testing.T) {
	for stages := 2; stages <= 4; stages++ {
		t.Run(fmt.Sprint(stages), func(t *testing.T) {
			g := startFake(t, stages, 1)
			const steps = 12
			begun := make([]chan struct{}, steps) // at stage 0
			for i := range begun {
				begun[i] = make(chan struct{})
			}
			n := 0
			g.engines[0].hook = func([]schedule.Item) {
				close(begun[n])
				n++
			}
			step := 0
			late := false
			g.engines[stages-1].hook = func([]schedule.Item) {
				if ahead := step + stages - 1; ahead < steps {
					select {
					case <-begun[ahead]:
					case <-time.After(10 * time.Second):
						late = true
					}
				}
				step++
			}
			started := 0
			for done := 0; done < steps && !late; done++ {
				for ; started < steps && started-done < g.head.Depth(); started++ {
					b, needs := decodeOne(started)
					if err := g.head.Start(b, needs); err != nil {
						t.Fatal(err)
					}
				}
				if _, _, err := g.head.Finish(); err != nil {
					t.Fatal(err)
				}
			}
			if late {
				t.Error("the first stage does not begin a step while the last computes an earlier one")
			}
		})
	}
}
