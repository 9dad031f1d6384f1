package llama

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/skein-run/skein/internal/engine"
)

// files finds the libraries that `make build` puts beside the binary.
func files(t testing.TB) Files {
	t.Helper()
	e, err := engine.Find(engine.Options{Executable: filepath.Join("..", "..", "..", "bin", "skein")})
	if err != nil {
		t.Fatalf("these tests need the engine; run 'make build' first: %v", err)
	}
	return Files{Dir: e.Dir, Llama: e.Libllama, GGML: e.Libggml, GGMLBase: e.Base}
}

var library = sync.OnceValues(func() (*Library, error) {
	e, err := engine.Find(engine.Options{Executable: filepath.Join("..", "..", "..", "bin", "skein")})
	if err != nil {
		return nil, err
	}
	return Open(Files{Dir: e.Dir, Llama: e.Libllama, GGML: e.Libggml, GGMLBase: e.Base}, nil)
})

func demo(t testing.TB) *Model {
	t.Helper()
	lib, err := library()
	if err != nil {
		t.Fatalf("these tests need the engine; run 'make build' first: %v", err)
	}
	m, err := lib.LoadModel([]string{filepath.Join("..", "..", "..", "models", "demo", "skein-demo-4m-q8_0.gguf")}, ModelOptions{GPULayers: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func TestGate(t *testing.T) {
	good := files(t)
	junk := filepath.Join(t.TempDir(), "libllama.so")
	if err := os.WriteFile(junk, []byte("not a library"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*Files)
		want   string
	}{
		"missing":       {func(f *Files) { f.Llama = filepath.Join(filepath.Dir(junk), "none.so") }, "no file"},
		"no library":    {func(f *Files) { f.Llama = junk }, "cannot load"},
		"other library": {func(f *Files) { f.Llama = f.GGMLBase }, "llama_decode"},
	} {
		f := good
		c.change(&f)
		_, err := Open(f, nil)
		var abi *ABIError
		if !errors.As(err, &abi) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "skein engine install") {
			t.Errorf("%s: %v, want an ABIError with %q and the fix", name, err, c.want)
		}
	}
}

func TestVersionGate(t *testing.T) {
	for v, ok := range map[string]bool{"0.5.0": true, "0.5.0-dev": true, "0.5.1": false, "0.5.00": false, "": false, "b9000": false} {
		if err := checkVersion(v); (err == nil) != ok {
			t.Errorf("%q: %v", v, err)
		}
	}
}

// A field that upstream inserts moves the values behind it.
func TestDefaultsGate(t *testing.T) {
	if err := checkDefaults(knownModelParams(), knownContextParams()); err != nil {
		t.Fatal(err)
	}
	m, c := knownModelParams(), knownContextParams()
	m.splitMode, m.loadMode = 0, m.splitMode
	if err := checkDefaults(m, knownContextParams()); err == nil {
		t.Error("shifted model defaults passed")
	}
	c.nBatch, c.nUbatch = c.nCtx, c.nBatch
	if err := checkDefaults(knownModelParams(), c); err == nil {
		t.Error("shifted context defaults passed")
	}
}

func TestDevices(t *testing.T) {
	lib, err := library()
	if err != nil {
		t.Fatal(err)
	}
	d := lib.Devices()
	if !slices.ContainsFunc(d, func(d Device) bool { return d.Type == "cpu" && d.MemoryTotal > 0 && d.Name != "" }) {
		t.Errorf("no CPU among %+v", d)
	}
	if lib.SystemInfo() == "" {
		t.Error("no system info")
	}
}

func TestVocabulary(t *testing.T) {
	m := demo(t)
	for _, text := range []string{"", "Hello, world", "grüß dich 🧶", "\x00\xff\xfe", strings.Repeat("long ", 3000)} {
		ids, err := m.Tokenize(text, false, false)
		if err != nil {
			t.Fatal(err)
		}
		var back []byte
		for _, id := range ids {
			back = append(back, m.Piece(id, false)...)
		}
		// The tokenizer replaces what is not UTF-8.
		if strings.ToValidUTF8(text, "") == text && string(back) != text {
			t.Errorf("%.40q came back as %.40q", text, back)
		}
	}
	plain, err := m.Tokenize("<|im_end|>", false, false)
	if err != nil {
		t.Fatal(err)
	}
	special, err := m.Tokenize("<|im_end|>", false, true)
	if err != nil || len(special) != 1 || len(plain) < 2 {
		t.Fatalf("control token: %v special, %v plain, %v", special, plain, err)
	}
	if !m.IsEnd(special[0]) || !m.IsControl(special[0]) || len(m.Piece(special[0], false)) != 0 || string(m.Piece(special[0], true)) != "<|im_end|>" {
		t.Errorf("token %d: end %v, control %v", special[0], m.IsEnd(special[0]), m.IsControl(special[0]))
	}
}

func TestLoadProgressAndErrors(t *testing.T) {
	lib, err := library()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("..", "..", "..", "models", "demo", "skein-demo-4m-q8_0.gguf")
	var seen []float64
	m, err := lib.LoadModel([]string{path}, ModelOptions{GPULayers: -1, Progress: func(p float64) { seen = append(seen, p) }})
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
	if !slices.IsSorted(seen) || len(seen) == 0 || seen[len(seen)-1] != 1 {
		t.Errorf("progress %v", seen)
	}
	var le *LoadError
	if _, err := lib.LoadModel([]string{"/no/such/file.gguf"}, ModelOptions{}); !errors.As(err, &le) || !strings.Contains(err.Error(), "/no/such/file.gguf") {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := lib.LoadModel([]string{"/no/1.gguf", "/no/2.gguf"}, ModelOptions{}); !errors.As(err, &le) {
		t.Errorf("missing parts: %v", err)
	}
	if _, err := lib.LoadModel(nil, ModelOptions{}); err == nil {
		t.Error("no file was loaded")
	}
}

func TestSequenceState(t *testing.T) {
	m := demo(t)
	c, err := m.NewContext(ContextOptions{Sequences: 3, ContextSeq: 256, BatchTokens: 32, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	prompt := make([]Item, 20)
	for i := range prompt {
		prompt[i] = Item{Token: int32(50 + i), Position: i, Output: i == 19}
	}
	if err := c.Decode(prompt); err != nil {
		t.Fatal(err)
	}
	next := func(seq int) []float32 {
		t.Helper()
		if err := c.Decode([]Item{{Token: 7, Sequence: seq, Position: 20, Output: true}}); err != nil {
			t.Fatal(err)
		}
		row, err := c.Logits(0)
		if err != nil {
			t.Fatal(err)
		}
		return slices.Clone(row)
	}
	saved, err := c.State(0)
	if err != nil || int64(len(saved)) > c.StateBytes(0) {
		t.Fatalf("%d bytes saved of %d, %v", len(saved), c.StateBytes(0), err)
	}
	c.Copy(0, 1)
	if err := c.SetState(2, saved); err != nil {
		t.Fatal(err)
	}
	want := next(0)
	if !slices.Equal(next(1), want) {
		t.Error("a copied sequence goes on otherwise")
	}
	if !slices.Equal(next(2), want) {
		t.Error("a restored sequence goes on otherwise")
	}
	if lo, hi := c.Range(2); lo != 0 || hi != 20 {
		t.Errorf("sequence 2 holds %d to %d", lo, hi)
	}
	if !c.Remove(1, 20, -1) || !slices.Equal(next(1), want) {
		t.Error("a sequence that went back goes on otherwise")
	}
	if err := c.SetState(1, []byte("junk")); err == nil {
		t.Error("junk was restored")
	}
	if err := c.Decode(make([]Item, 33)); err == nil {
		t.Error("more items than a batch holds")
	}
	if _, err := c.Logits(99); err == nil {
		t.Error("logits that were not computed")
	}
}

func TestLogRing(t *testing.T) {
	var lines []string
	r := newLogRing(func(_ int, line string) { lines = append(lines, line) })
	r.write(logLevelWarn, "just a ")
	r.write(logLevelContinued, "warning\n")
	if got := r.cause(); got != "just a warning" {
		t.Errorf("cause %q", got)
	}
	r.write(logLevelError, "real reason\nand more\n")
	if got := r.cause(); got != "real reason; and more" {
		t.Errorf("cause %q", got)
	}
	r.reset()
	if got := r.cause(); got != "the library gave no reason" {
		t.Errorf("cause %q", got)
	}
	if !slices.Equal(lines, []string{"just a warning", "real reason", "and more"}) {
		t.Errorf("forwarded %q", lines)
	}
}
