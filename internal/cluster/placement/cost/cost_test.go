package cost

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// model draws one of any layers, which may be cut into units of 8.
func model(t *rapid.T) Model {
	const mb = 1 << 20
	bytes := rapid.Int64Range(0, 64*mb)
	part := func(name string) Part {
		return Part{Shared: bytes.Draw(t, name), Cut: bytes.Draw(t, name)}
	}
	m := Model{Name: "m", Embedding: 512, Vocabulary: 1000, Window: 128, Units: 8, Whole: bytes.Draw(t, "whole"),
		Every: bytes.Draw(t, "every"), First: bytes.Draw(t, "first"), Head: part("head"), HeadRead: part("head read")}
	for range rapid.IntRange(1, 8).Draw(t, "layers") {
		l := Layer{Weights: part("weights"), Flops: rapid.Float64Range(0, 1e9).Draw(t, "flops"), Windowed: rapid.Bool().Draw(t, "windowed"),
			Cell: Part{Cut: rapid.Int64Range(1, 4096).Draw(t, "cell")}, State: Part{Shared: rapid.SampledFrom([]int64{0, mb}).Draw(t, "state")},
			Scratch: Part{Cut: rapid.Int64Range(0, 4096).Draw(t, "scratch")}, Reductions: 2}
		l.Read = l.Weights
		m.Layers = append(m.Layers, l)
	}
	return m
}

// piece draws one that is not the model as it is.
func piece(t *rapid.T, layers int) Piece {
	first := rapid.IntRange(0, layers-1).Draw(t, "first")
	p := Piece{First: first, End: rapid.IntRange(first+1, layers).Draw(t, "end"), Units: 1, All: 1}
	if rapid.Bool().Draw(t, "cut") {
		p.All = 8
		p.Units = rapid.IntRange(1, 8).Draw(t, "units")
	}
	return p
}

// The search for a split relies on it: a piece within another never takes more,
// and the bounds hold for every piece.
func TestMemoryGrowsWithThePiece(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := model(t)
		s := NewSums(m, Use{Context: rapid.IntRange(1, 4096).Draw(t, "context"), Slots: rapid.IntRange(1, 4).Draw(t, "slots"), Batch: 64})
		p := piece(t, len(m.Layers))
		own := s.Memory(p).Total
		if p.End < len(m.Layers) {
			more := p
			more.End++
			if got := s.Memory(more).Total; got < own {
				t.Fatalf("%+v takes %d, with a layer more %d", p, own, got)
			}
		}
		if p.Units < p.All {
			more := p
			more.Units++
			if got := s.Memory(more).Total; got < own {
				t.Fatalf("%+v takes %d, with a unit more %d", p, own, got)
			}
		}
		if got := s.Largest(p.End-p.First, p.End == len(m.Layers)); got < own {
			t.Fatalf("%+v takes %d, more than the largest of so many layers, %d", p, own, got)
		}
		whole := p
		whole.Units, whole.All = 1, 1
		if got := s.Smallest(); got > s.Memory(whole).Total {
			t.Fatalf("%+v takes %d, less than the smallest, %d", whole, s.Memory(whole).Total, got)
		}
	})
}

// A device is as fast as it was measured to be: what Calibrate makes of a
// measurement predicts it.
func TestCalibratedIsWhatWasMeasured(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := model(t)
		m.Layers[0].Weights, m.Layers[0].Read, m.Layers[0].Flops = Part{Shared: 1 << 20}, Part{Shared: 1 << 20}, 1e8
		got := Measured{Decode: rapid.Float64Range(1, 200).Draw(t, "decode"), Depth: rapid.IntRange(1, 512).Draw(t, "depth"), Prefill: rapid.Float64Range(1, 2000).Draw(t, "prefill")}
		v, err := Calibrate(m, got)
		if err != nil {
			t.Fatal(err)
		}
		s := NewSums(m, Use{Context: got.Depth, Slots: 1, Batch: 1})
		whole := Piece{End: len(m.Layers), Units: 1, All: 1, Whole: true}
		if tokens := 1 / s.Decode(whole, v, 1, got.Depth); math.Abs(tokens/got.Decode-1) > 1e-9 {
			t.Fatalf("decodes %g tokens/s, measured were %g", tokens, got.Decode)
		}
		if tokens := v.Compute / s.flopsOf(whole, false); math.Abs(tokens/got.Prefill-1) > 1e-9 {
			t.Fatalf("prompts %g tokens/s, measured were %g", tokens, got.Prefill)
		}
	})
	for _, bad := range []Measured{{}, {Decode: 1}, {Decode: 10, Prefill: 10, Step: 0.2}} {
		if _, err := Calibrate(Model{Name: "m", Embedding: 1, Layers: make([]Layer, 1)}, bad); err == nil {
			t.Errorf("%+v is taken for a measurement", bad)
		}
	}
}
