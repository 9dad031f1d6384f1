package gguf_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/skein-run/skein/internal/gguf"
)

// openModel parses a file and closes it with the test.
func openModel(t *testing.T, path string) *gguf.Model {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	p, err := gguf.Parse(f, st.Size())
	if err != nil {
		t.Fatalf("%s: %v", filepath.Base(path), err)
	}
	m, err := gguf.Join(p)
	if err != nil {
		t.Fatalf("%s: %v", filepath.Base(path), err)
	}
	return m
}

const demoModel = "../../models/demo/skein-demo-4m-q8_0.gguf"

func TestDemoModel(t *testing.T) {
	m := openModel(t, demoModel)
	h, err := m.Hyper()
	if err != nil {
		t.Fatal(err)
	}
	if m.Arch() != "llama" || m.Quantization() != "Q8_0" || h.Layers != 4 || h.Heads[0] != 8 || h.KVHeads[0] != 4 ||
		h.FFN[0] != 768 || h.Vocabulary != 2048 || m.ChatTemplate() == "" || h.Memory() != gguf.MemoryAttention {
		t.Errorf("arch %s, quantization %s, template %d bytes, hyper %+v", m.Arch(), m.Quantization(), len(m.ChatTemplate()), h)
	}
	tokens, err := m.Strings("tokenizer.ggml.tokens")
	if err != nil || len(tokens) != 2048 {
		t.Errorf("%d tokens, %v", len(tokens), err)
	}
}
