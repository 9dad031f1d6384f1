package prefix

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// What was computed matches as far as a prompt agrees, at whole chunks.
func TestMatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		chunk := rapid.IntRange(1, 8).Draw(t, "chunk")
		old := rapid.SliceOfN(rapid.Int32Range(0, 1<<17), 0, 60).Draw(t, "old")
		same := rapid.IntRange(0, len(old)).Draw(t, "same")
		prompt := append(slices.Clone(old[:same]), rapid.SliceOfN(rapid.Int32Range(1<<18, 1<<19), 0, 20).Draw(t, "new")...)
		r := NewRecord(100)
		r.Add(Chain(old, chunk))
		if got, want := Match(Chain(prompt, chunk), r.Known()), same/chunk; got != want {
			t.Errorf("%d chunks match, want %d", got, want)
		}
		r.Clear()
		if got := Match(Chain(prompt, chunk), r.Known()); got != 0 {
			t.Errorf("%d chunks match nothing", got)
		}
	})
}

// Fingerprints go between nodes: they must not change from build to build.
func TestChainIsStable(t *testing.T) {
	if got := Chain([]int32{1, 2, 3, -4, 5}, 2); !slices.Equal(got, []uint32{0x54e1ff, 0x1843b1e8}) {
		t.Errorf("%#x", got)
	}
	if got := Chain([]int32{1}, 0); len(got) != 0 {
		t.Errorf("without chunks: %v", got)
	}
}

// The limit holds, and the longest unused goes first, of one chain its end.
func TestLimit(t *testing.T) {
	r := NewRecord(3)
	r.Add([]uint32{1, 2, 3})
	r.Add([]uint32{1, 4})
	if got := r.Known(); !slices.Equal(got, []uint32{1, 2, 4}) {
		t.Errorf("%v", got)
	}
	r.Add([]uint32{9, 8, 7, 6, 5})
	if got := r.Known(); !slices.Equal(got, []uint32{7, 8, 9}) {
		t.Errorf("%v", got)
	}
}
