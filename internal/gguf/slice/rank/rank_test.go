package rank_test

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/skein-run/skein/internal/gguf/slice/rank"
)

// TestRowsAreSharedOut checks that every row of an output head is on one rank,
// and that a rank has about what its part says.
func TestRowsAreSharedOut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOfN(rapid.IntRange(1, 9), 1, 6).Draw(t, "parts")
		rows := rapid.IntRange(1, 300_000).Draw(t, "rows")
		var next, total uint64
		for _, p := range parts {
			total += uint64(p)
		}
		for r, p := range parts {
			s, err := rank.Rows(rows, parts, r)
			if err != nil {
				if rows < len(parts) {
					return
				}
				t.Fatal(err)
			}
			if s.First != next || s.Count == 0 {
				t.Fatalf("rank %d has %+v, want it to begin at %d", r, s, next)
			}
			next += s.Count
			// A row for each rank beside, and the rounding to what kernels take.
			if off := math.Abs(float64(s.Count) - float64(rows)*float64(p)/float64(total)); off > 32+float64(len(parts)) {
				t.Errorf("rank %d of %v has %d of %d rows", r, parts, s.Count, rows)
			}
		}
		if next != uint64(rows) {
			t.Errorf("the ranks have %d rows of %d", next, rows)
		}
	})
}

// TestReasons checks that what is refused or whole says why.
func TestReasons(t *testing.T) {
	for arch, want := range map[string]struct{ refused, whole bool }{
		"llama": {}, "qwen2": {}, "phi3": {whole: true}, "bloom": {whole: true}, "deepseek2": {whole: true},
		"mamba": {refused: true}, "": {refused: true}, "of tomorrow": {refused: true},
	} {
		whole, err := rank.Reason(arch)
		if (err != nil) != want.refused || (whole != "") != want.whole {
			t.Errorf("%q: %q, %v; want %+v", arch, whole, err, want)
		}
	}
}
