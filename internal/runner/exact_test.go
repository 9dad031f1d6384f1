package runner

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/runner/llama"
	"github.com/skein-run/skein/internal/runner/wire"
)

// sharedModels lists the tiny random models beside the repository, if there.
func sharedModels(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(repo(t), "..", "shared", "models", "archs", "*.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Skip("NOT RUN: no ../shared/models/archs beside the repository; the demo model alone was tried")
	}
	return files
}

func ids(n, seed, vocabulary int) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = int32((i*31 + seed*17 + i*i*seed) % (vocabulary - 8))
	}
	return out
}

// checkExact runs prompts that share prefixes, alone, one after another, some
// of them again, and compares each with a runner that caches nothing.
func checkExact(t *testing.T, path string, chunk int) {
	req := wire.LoadRequest{Paths: []string{path}, Slots: 2, Context: 256, Threads: 1, ChunkTokens: chunk, PendingLimit: 8, CacheBytes: 256 << 20}
	c := startChild(t)
	var ei wire.EngineInfo
	if err := c.call(wire.TypeEngine, engineSpec(t), &ei); err != nil {
		t.Fatal(err)
	}
	var info wire.ModelInfo
	if err := c.call(wire.TypeLoad, req, &info); err != nil {
		var f *wire.Failure
		if errors.As(err, &f) && f.Code == wire.CodeModel {
			t.Skipf("the library refuses it: %v", err)
		}
		t.Fatal(err)
	}
	req.PrefixReuse = "off"
	plain := startChild(t)
	plain.load(req)
	base := ids(70, 1, info.Vocabulary)
	prompts := [][]int32{
		base, base, // again at once
		append(slices.Clone(base[:50]), ids(30, 2, info.Vocabulary)...), // parts in the middle
		ids(60, 3, info.Vocabulary),                                     // another
		ids(61, 4, info.Vocabulary),                                     // and another: evicts
		base,                                                            // from host memory or a slot
		append(slices.Clone(base), ids(20, 5, info.Vocabulary)...), // longer
		base[:40], // shorter
	}
	cached := 0
	for i, p := range prompts {
		gen := wire.GenerateRequest{ID: uint64(i + 1), Prompt: p, Sampling: greedy(), MaxTokens: 12, IgnoreEnd: true, Logprobs: true}
		got := c.generate(gen)[gen.ID]
		cached += got.done.CachedTokens
		want := plain.generate(gen)[gen.ID]
		if !slices.Equal(got.tokens, want.tokens) {
			t.Errorf("prompt %d (%d of %d tokens cached): %v, without cache %v", i, got.done.CachedTokens, len(p), got.tokens, want.tokens)
		}
		if !slices.Equal(got.logprobs, want.logprobs) {
			t.Errorf("prompt %d (%d of %d tokens cached): other log-probabilities than without cache", i, got.done.CachedTokens, len(p))
		}
		if i == 1 && info.Memory == llama.MemoryAttention && got.done.CachedTokens != len(p) {
			t.Errorf("the same prompt at once again: %d of %d tokens cached, want all and nothing computed", got.done.CachedTokens, len(p))
		}
	}
	if cached == 0 {
		t.Error("no prefix was ever reused")
	}
}

func TestReuseIsExact(t *testing.T) {
	t.Run("demo", func(t *testing.T) { checkExact(t, demoModel(t), 16) })
	t.Run("shared", func(t *testing.T) {
		for _, f := range sharedModels(t) {
			t.Run(strings.TrimSuffix(filepath.Base(f), ".gguf"), func(t *testing.T) { checkExact(t, f, 16) })
		}
	})
}

// A file that the library refuses, or that makes it abort, gives a sentence
// or a dead child, never a hang.
func TestBadModels(t *testing.T) {
	demo, err := os.ReadFile(demoModel(t))
	if err != nil {
		t.Fatal(err)
	}
	unknown := slices.Clone(demo)
	if i := strings.Index(string(unknown), "llama"); i < 0 {
		t.Fatal("no architecture in the demo model")
	} else {
		copy(unknown[i:], "lIama")
	}
	for name, data := range map[string][]byte{
		"truncated": demo[:len(demo)/2],
		"header":    demo[:100],
		"empty":     nil,
		"zeros":     make([]byte, 4096),
		"unknown":   unknown,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), name+".gguf")
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			c := startChild(t)
			var ei wire.EngineInfo
			if err := c.call(wire.TypeEngine, engineSpec(t), &ei); err != nil {
				t.Fatal(err)
			}
			var info wire.ModelInfo
			err := c.call(wire.TypeLoad, wire.LoadRequest{Paths: []string{path}, Slots: 1, Context: 64}, &info)
			var f *wire.Failure
			if !errors.As(err, &f) || f.Code != wire.CodeModel || !strings.Contains(f.Message, path) {
				t.Errorf("%v, want a failure of the model that names the file", err)
			}
		})
	}
}

// TestUnknownDevice: a GPU that is not there any more is named, with what is.
func TestUnknownDevice(t *testing.T) {
	c := startChild(t)
	var ei wire.EngineInfo
	if err := c.call(wire.TypeEngine, engineSpec(t), &ei); err != nil {
		t.Fatal(err)
	}
	var info wire.ModelInfo
	err := c.call(wire.TypeLoad, wire.LoadRequest{Paths: []string{demoModel(t)}, Slots: 1, Context: 64, GPULayers: -1, Device: "CUDA7"}, &info)
	var f *wire.Failure
	if !errors.As(err, &f) || !strings.Contains(f.Message, "no device CUDA7 in this process, only CPU") {
		t.Errorf("%v", err)
	}
}
