package gguf_test

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/gguftest"
)

func TestEditMetadata(t *testing.T) {
	kv := gguftest.KV
	b := gguftest.Tiny{Extra: []gguf.KV{kv("llama.list", []uint32{5, 6, 7, 8}), kv("llama.flags", []bool{true, false, true})}}.Bytes()
	f, err := gguf.Parse(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	list, _ := f.Pair("llama.list")
	flags, _ := f.Pair("llama.flags")
	picked, err := list.Pick([]int{3, 0, 0})
	if err != nil {
		t.Fatal(err)
	}
	none, err := flags.Pick(nil)
	if err != nil {
		t.Fatal(err)
	}
	m := f.With(picked, none, kv("llama.new", "x")).Without(func(key string) bool { return key == "llama.context_length" })
	got, err := m.Uints("llama.list")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]uint64{8, 5, 5}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got, err := m.Uints("llama.flags"); err != nil || len(got) != 0 {
		t.Errorf("no elements picked: %v, %v", got, err)
	}
	if s, _ := m.String("llama.new"); s != "x" {
		t.Errorf("the added entry is %q", s)
	}
	if _, ok := m.Pair("llama.context_length"); ok {
		t.Error("the dropped entry is still there")
	}
	if want := len(f.Pairs()); len(m.Pairs()) != want {
		t.Errorf("%d entries, want %d: one more, one less", len(m.Pairs()), want)
	}
	// The original is as it was.
	if got, _ := f.Uints("llama.list"); len(got) != 4 {
		t.Errorf("the file's list became %v", got)
	}
	name, _ := f.Pair("general.name")
	if _, err := name.Pick([]int{0}); err == nil {
		t.Error("a string was picked from")
	}
	if _, err := list.Pick([]int{4}); err == nil {
		t.Error("an element behind the end was picked")
	}
}
