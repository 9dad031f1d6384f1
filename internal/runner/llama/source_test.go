package llama

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/gguf/slice"
)

// failing is a source that ends after some bytes.
type failing struct {
	io.ReaderAt
	until int64
}

var errDisk = errors.New("disk on fire")

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.until {
		return 0, errDisk
	}
	return f.ReaderAt.ReadAt(p, off)
}

func TestLoadSliceErrors(t *testing.T) {
	lib, err := library()
	if err != nil {
		t.Fatal(err)
	}
	w := openWhole(t, demoPath)
	f, err := slice.Cut(w.model, slice.Spec{First: 0, End: 2})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lib.LoadSlice(f, []io.ReaderAt{failing{w.parts[0], 1 << 20}}, ModelOptions{}); !errors.Is(err, errDisk) {
		t.Errorf("a source that fails: %v", err)
	}
	broken := *f
	broken.Header = slices.Clone(f.Header)
	copy(broken.Header, "nope")
	var le *LoadError
	if _, err := lib.LoadSlice(&broken, w.parts, ModelOptions{}); !errors.As(err, &le) || !strings.Contains(err.Error(), "layers 0 to 1") {
		t.Errorf("a header that is none: %v", err)
	}
	for name, o := range map[string]ModelOptions{"vocabulary": {VocabOnly: true}, "mapped": {Mmap: true}} {
		if _, err := lib.LoadSlice(f, w.parts, o); err == nil {
			t.Errorf("%s: loaded", name)
		}
	}
	var seen []float64
	m, err := lib.LoadSlice(f, w.parts, ModelOptions{Progress: func(p float64) { seen = append(seen, p) }})
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
	if len(seen) == 0 || seen[len(seen)-1] != 1 {
		t.Errorf("progress %v", seen)
	}
}

// Without streams a shard goes through a temporary file, and gives the same.
func TestLoadCopy(t *testing.T) {
	lib, err := library()
	if err != nil {
		t.Fatal(err)
	}
	if lib.streams == nil {
		t.Skip("LoadSlice always does it here")
	}
	w := openWhole(t, demoPath)
	s := newShard(t, w, slice.Spec{First: 0, End: 2}, nil)
	dir := t.TempDir()
	m, err := lib.loadCopy("stage", s.file, w.parts, ModelOptions{TempDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%d files are left, %v", len(left), err)
	}
	copied := &shard{file: s.file, parts: w.parts, model: m, lib: lib}
	c := copied.open(t, nil)
	items := tokens(0, ids(8)...)
	state := s.embed(t, items)
	for _, c := range []*Context{s.ctx, c} {
		if err := c.DecodeEmbd(items, state); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(s.ctx.Captured(), c.Captured()) {
		t.Error("other hidden states")
	}
	if _, err := lib.loadCopy("stage", s.file, []io.ReaderAt{failing{w.parts[0], 1 << 20}}, ModelOptions{TempDir: dir}); !errors.Is(err, errDisk) {
		t.Errorf("a source that fails: %v", err)
	}
	if _, err := lib.loadCopy("stage", s.file, w.parts, ModelOptions{TempDir: filepath.Join(dir, "none")}); err == nil {
		t.Error("loaded by way of a folder that does not exist")
	}
}
