package shard

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/skein-run/skein/internal/runner/sample"
	"github.com/skein-run/skein/internal/runner/schedule"
)

func examplePlan() *Plan {
	return &Plan{
		Seq:    9,
		Before: []Edit{{Kind: EditRemove, Slot: 3, From: 70}, {Kind: EditCopy, Slot: 1, Source: 2}, {Kind: EditRestore, Slot: 1, ID: 1 << 40}, {Kind: EditDrop, ID: 4}},
		Items:  []schedule.Item{{Token: 70000, Slot: 2, Position: 1 << 20, Output: true}, {Token: -1, Slot: 3}},
		After:  []Edit{{Kind: EditSave, Slot: 2, ID: 5}},
		Needs:  []sample.Need{{Top: 40, Named: []int32{1, 5}, Mass: true, Warm: 0.5}},
	}
}

func TestPlanRoundTrip(t *testing.T) {
	var got Plan
	for range 2 { // the second time into used slices
		if err := DecodePlan(AppendPlan(nil, examplePlan()), &got); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(examplePlan(), &got); d != "" {
			t.Error(d)
		}
	}
}

func TestPartsRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		logits := rapid.SliceOfN(rapid.Float32Range(-30, 30), 1, 40).Draw(rt, "logits")
		need := sample.Need{Top: rapid.IntRange(0, 50).Draw(rt, "top"), Mass: rapid.Bool().Draw(rt, "mass"), Named: []int32{102, 120}}
		if rapid.Bool().Draw(rt, "full") {
			need = sample.Need{Full: true}
		}
		want := []part{extract(&need, 100, logits)}
		got, err := decodeParts(appendParts(nil, want), []sample.Need{need}, 100, len(logits))
		if err != nil {
			rt.Fatal(err)
		}
		opt := cmp.AllowUnexported(part{}, sample.Mass{})
		if d := cmp.Diff(appendParts(nil, want), appendParts(nil, got), opt); d != "" {
			rt.Error(d)
		}
		// A rank can't speak for another's tokens.
		if len(want[0].Top)+len(want[0].Named) > 0 {
			if _, err := decodeParts(appendParts(nil, want), []sample.Need{need}, 200, len(logits)); err == nil {
				rt.Error("candidates of another part are taken")
			}
		}
	})
}

// FuzzDecode gives every decoder any bytes: an error, or something that is
// written again to the same meaning.
func FuzzDecode(f *testing.F) {
	f.Add(AppendPlan(nil, examplePlan()))
	need := []sample.Need{{Top: 3, Mass: true}}
	row := []float32{1, 2, 3, 4}
	f.Add(appendParts(nil, []part{extract(&need[0], 0, row)}))
	f.Add(appendOutcomes(nil, []outcome{{ok: true, bytes: 1 << 30}, {cause: "no memory"}}))
	f.Add(appendWanted(nil, 4, 1))
	f.Add(appendWhole(nil, row))
	f.Add([]byte{planVersion, tagPlan, 1, 2, 3})
	f.Fuzz(func(t *testing.T, data []byte) {
		var p, again Plan
		if err := DecodePlan(data, &p); err == nil {
			if err := DecodePlan(AppendPlan(nil, &p), &again); err != nil {
				t.Fatal(err)
			}
			if a, b := AppendPlan(nil, &p), AppendPlan(nil, &again); !cmp.Equal(a, b) {
				t.Fatalf("%x came back as %x", a, b)
			}
		}
		if parts, err := decodeParts(data, need, 0, len(row)); err == nil {
			if _, err := decodeParts(appendParts(nil, parts), need, 0, len(row)); err != nil {
				t.Fatal(err)
			}
		}
		if out, err := decodeOutcomes(data, 2); err == nil {
			if _, err := decodeOutcomes(appendOutcomes(nil, out), 2); err != nil {
				t.Fatal(err)
			}
		}
		if seq, i, err := decodeWanted(data); err == nil {
			if s, k, err := decodeWanted(appendWanted(nil, seq, i)); err != nil || s != seq || k != i {
				t.Fatal(err)
			}
		}
		if r, err := decodeWhole(nil, data, len(row)); err == nil && len(r) != len(row) {
			t.Fatalf("%d logits", len(r))
		}
	})
}
