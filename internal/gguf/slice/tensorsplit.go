package slice

import (
	"fmt"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/slice/rank"
)

// apply keeps what a rank holds of a tensor, which must have its bytes in one
// run.
func (t Tensor) apply(cut rank.Cut) (Tensor, error) {
	if cut.Zero {
		return t.zero()
	}
	dim, spans := cut.Dim, cut.Spans
	if dim < 0 {
		return t, nil
	}
	if dim >= t.Dims || len(t.Source) != 1 || t.Source[0].Count != 1 {
		return Tensor{}, fmt.Errorf("tensor %q of %d dimensions can't be cut in dimension %d", t.Name, t.Dims, dim+1)
	}
	// A step is what one element of the dimension takes: a block of a row, a
	// row, or a matrix.
	per, step := t.Type.Block()
	if per == 0 {
		return Tensor{}, fmt.Errorf("tensor %q has the unknown type %s", t.Name, t.Type)
	}
	if dim > 0 {
		step = t.Type.RowBytes(t.Shape[0])
		per = 1
		for _, n := range t.Shape[1:dim] {
			step *= n
		}
	}
	outer := uint64(1)
	for _, n := range t.Shape[dim+1 : t.Dims] {
		outer *= n
	}
	var total uint64
	for _, s := range spans {
		if s.First%per != 0 || s.Count%per != 0 {
			return Tensor{}, fmt.Errorf("tensor %q of %s is in blocks of %d columns and can't be cut at %d or %d", t.Name, t.Type, per, s.First, s.First+s.Count)
		}
		if s.Count == 0 || s.First+s.Count > t.Shape[dim] {
			return Tensor{}, fmt.Errorf("tensor %q has %d elements in dimension %d; [%d, %d) is not a part of them", t.Name, t.Shape[dim], dim+1, s.First, s.First+s.Count)
		}
		total += s.Count
	}
	all := t.Shape[dim] / per * step
	source := t.Source[0]
	piece := func(s rank.Span) Range {
		r := source
		r.Offset += int64(s.First / per * step)
		r.Length = int64(s.Count / per * step)
		return r
	}
	t.Source = nil
	switch {
	case outer == 1:
		for _, s := range spans {
			t.Source = append(t.Source, piece(s))
		}
	case even(spans, t.Shape[dim]):
		r := piece(spans[0])
		r.Count = int64(outer) * int64(len(spans))
		r.Stride = int64(all) / int64(len(spans))
		t.Source = []Range{r}
	default:
		for o := range outer {
			for _, s := range spans {
				r := piece(s)
				r.Offset += int64(o * all)
				t.Source = append(t.Source, r)
			}
		}
	}
	t.Shape[dim] = total
	t.Bytes = 0
	for _, r := range t.Source {
		t.Bytes += r.Bytes()
	}
	return t, nil
}

// even tells whether the spans lie at the same place of equal parts of the
// dimension, so that one stride leads through all of them.
func even(spans []rank.Span, all uint64) bool {
	n := uint64(len(spans))
	if all%n != 0 {
		return false
	}
	for i, s := range spans {
		if s.Count != spans[0].Count || s.First != spans[0].First+uint64(i)*(all/n) {
			return false
		}
	}
	return true
}

// zero gives a tensor of the same shape that is all zeros. The type must be
// one whose zero is zero bytes.
func (t Tensor) zero() (Tensor, error) {
	switch t.Type {
	case gguf.F32, gguf.F16, gguf.BF16:
		t.Source = []Range{{Part: -1, Length: t.Bytes, Count: 1, Fill: []byte{0}}}
		return t, nil
	}
	return Tensor{}, fmt.Errorf("tensor %q of %s can't be made zero", t.Name, t.Type)
}
