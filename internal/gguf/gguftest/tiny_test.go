package gguftest_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/gguftest"
)

func parse(t *testing.T, b []byte) *gguf.File {
	t.Helper()
	f, err := gguf.Parse(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestSplitEqualsWhole joins the parts and finds the whole model's tensors and
// bytes again.
func TestSplitEqualsWhole(t *testing.T) {
	tiny := gguftest.Tiny{Seed: 7, Template: "{{ messages }}"}
	whole, err := gguf.Join(parse(t, tiny.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	var parts []*gguf.File
	for _, b := range tiny.Split(3) {
		parts = append(parts, parse(t, b))
	}
	joined, err := gguf.Join(parts[2], parts[0], parts[1])
	if err != nil {
		t.Fatal(err)
	}
	if len(joined.Tensors()) != len(whole.Tensors()) || joined.ChatTemplate() != whole.ChatTemplate() || joined.Parameters() != whole.Parameters() {
		t.Fatalf("joined has %d tensors and template %q", len(joined.Tensors()), joined.ChatTemplate())
	}
	for _, want := range whole.Tensors() {
		got, ok := joined.Tensor(want.Name)
		if !ok {
			t.Fatalf("%s is missing", want.Name)
		}
		a, b := make([]byte, want.Bytes), make([]byte, got.Bytes)
		if _, err := whole.Data(want).ReadAt(a, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := joined.Data(got).ReadAt(b, 0); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(a, b); diff != "" {
			t.Errorf("%s differs", want.Name)
		}
	}
}
