package gguf_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/gguftest"
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
	if m.Arch() != "llama" || m.Quantization() != "Q8_0" || m.ChatTemplate() == "" || m.Parameters() < 4_000_000 {
		t.Errorf("arch %s, quantization %s, template %d bytes, %d parameters", m.Arch(), m.Quantization(), len(m.ChatTemplate()), m.Parameters())
	}
	tokens, err := m.Strings("tokenizer.ggml.tokens")
	if err != nil || len(tokens) != 2048 {
		t.Errorf("%d tokens, %v", len(tokens), err)
	}
}

func modelFrom(tb testing.TB, kvs []gguf.KV) *gguf.Model {
	tb.Helper()
	b, _, err := gguf.EncodeHeader(kvs, nil)
	if err != nil {
		tb.Fatal(err)
	}
	f, err := parseBytes(b)
	if err != nil {
		tb.Fatal(err)
	}
	m, err := gguf.Join(f)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

func TestQuantization(t *testing.T) {
	kv := gguftest.KV
	arch := kv("general.architecture", "llama")
	for want, m := range map[string]*gguf.Model{
		"Q4_K_M":  modelFrom(t, []gguf.KV{arch, kv("general.file_type", uint32(15))}),
		"Q8_0":    modelFrom(t, []gguf.KV{arch, kv("general.file_type", uint32(7|1024))}),
		"unknown": modelFrom(t, []gguf.KV{arch, kv("general.file_type", uint32(999))}),
	} {
		if got := m.Quantization(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	f, err := parseBytes(gguftest.Tiny{Extra: []gguf.KV{kv("general.file_type", uint32(999))}}.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	m, err := gguf.Join(f)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Quantization(); got != "F32" {
		t.Errorf("by bytes: got %s, want F32", got)
	}
}

func TestTemplates(t *testing.T) {
	kv := gguftest.KV
	m := modelFrom(t, []gguf.KV{kv("tokenizer.chat_template", "a"), kv("tokenizer.chat_template.tool_use", "b"),
		kv("tokenizer.chat_templates", []string{"tool_use"}), kv("tokenizer.chat_template_x", "no")})
	if diff := cmp.Diff(map[string]string{"default": "a", "tool_use": "b"}, m.ChatTemplates()); diff != "" {
		t.Error(diff)
	}
}
