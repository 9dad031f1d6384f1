package slice_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/gguftest"
	"github.com/skein-run/skein/internal/gguf/slice"
)

// parse parses a whole model of one or more files.
func parse(t *testing.T, files ...[]byte) (*gguf.Model, []io.ReaderAt) {
	t.Helper()
	var parts []*gguf.File
	var readers []io.ReaderAt
	for _, b := range files {
		f, err := gguf.Parse(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, f)
		readers = append(readers, bytes.NewReader(b))
	}
	m, err := gguf.Join(parts...)
	if err != nil {
		t.Fatal(err)
	}
	return m, readers
}

func TestStageIsAModel(t *testing.T) {
	m, parts := parse(t, gguftest.Tiny{Layers: 3}.Bytes())
	f, err := slice.Cut(m, slice.Spec{First: 1, End: 3})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := f.WriteTo(&b, parts); err != nil {
		t.Fatal(err)
	}
	if int64(b.Len()) != f.Size {
		t.Errorf("the shard has %d bytes, Size says %d", b.Len(), f.Size)
	}
	stage, _ := parse(t, b.Bytes())
	if n, _ := stage.Uint("llama.block_count"); n != 2 {
		t.Errorf("block_count is %d, want 2", n)
	}
	got, ok := stage.Tensor("blk.0.attn_q.weight")
	if !ok {
		t.Fatal("the stage has no first layer")
	}
	want, _ := m.Tensor("blk.1.attn_q.weight")
	g, _ := io.ReadAll(stage.Data(got))
	w, _ := io.ReadAll(m.Data(want))
	if !bytes.Equal(g, w) {
		t.Error("the stage's first layer is not the model's second")
	}
}
