package library

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/skein-run/skein/internal/gguf/gguftest"
)

func openAt(t *testing.T, registry string) *Library {
	t.Helper()
	l, err := Open(Options{Registry: registry, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func names(t *testing.T, l *Library) string {
	t.Helper()
	entries, err := l.List()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name)
	}
	return strings.Join(out, " ")
}

// TestDamagedRegistry is reported, with the fix, by everything that needs it,
// and is left as it is.
func TestDamagedRegistry(t *testing.T) {
	for name, test := range map[string]struct{ data, want string }{
		"cut short":     {`{"version":1,"models":[{"pa`, "is damaged"},
		"empty":         {``, "is damaged"},
		"null":          {`null`, "is damaged"},
		"other file":    {`{"name":"x"}`, "is damaged"},
		"more":          {`{"version":1,"models":[]}{}`, "is damaged"},
		"no paths":      {`{"version":1,"models":[{"added":"2026-11-22T12:00:00Z"}]}`, "no absolute path"},
		"relative path": {`{"version":1,"models":[{"paths":["m.gguf"],"added":"2026-11-22T12:00:00Z"}]}`, "no absolute path"},
		"newer version": {`{"version":2,"models":{}}`, "update skein"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "models.json")
			if err := os.WriteFile(path, []byte(test.data), 0o600); err != nil {
				t.Fatal(err)
			}
			l := openAt(t, path)
			model := gguftest.Tiny{}.WriteFile(t, dir, "m.gguf")
			_, listErr := l.List()
			_, addErr := l.Add(model)
			for what, err := range map[string]error{"list": listErr, "add": addErr, "refresh": l.Refresh()} {
				if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
					t.Errorf("%s: error %v does not say %q", what, err, test.want)
				}
			}
			if _, err := l.Resolve(model); err != nil {
				t.Errorf("a model by its path: %v", err)
			}
			if data, err := os.ReadFile(path); err != nil || string(data) != test.data {
				t.Errorf("the registry is now %q, %v", data, err)
			}
		})
	}
}

// TestFullDisk fails while the new registry is written: the old one stays, the
// error names the fix, and nothing is left behind.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	registry := filepath.Join(dir, "home", "models.json")
	l := openAt(t, registry)
	if _, err := l.Add(gguftest.Tiny{}.WriteFile(t, dir, "old.gguf")); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(registry)
	if err != nil {
		t.Fatal(err)
	}
	l.registry.write = func(f *os.File, data []byte) error {
		if _, err := f.Write(data[:len(data)/2]); err != nil {
			return err
		}
		return &os.PathError{Op: "write", Path: f.Name(), Err: syscall.ENOSPC}
	}
	_, err = l.Add(gguftest.Tiny{Seed: 1}.WriteFile(t, dir, "new.gguf"))
	if err == nil || !strings.Contains(err.Error(), "free some space") {
		t.Errorf("error is %v", err)
	}
	after, err := os.ReadFile(registry)
	if err != nil || string(after) != string(before) {
		t.Errorf("the registry is now %q, %v", after, err)
	}
	files, err := os.ReadDir(filepath.Dir(registry))
	if err != nil || len(files) != 2 { // the registry and its lock
		t.Errorf("files are %v, %v", files, err)
	}
	if got := names(t, l); got != "old" {
		t.Errorf("listed are %q", got)
	}
}

// TestHomeIsAFile cannot be written, and says so.
func TestHomeIsAFile(t *testing.T) {
	dir := t.TempDir()
	home := filepath.Join(dir, "home")
	if err := os.WriteFile(home, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l := openAt(t, filepath.Join(home, "models.json"))
	_, err := l.Add(gguftest.Tiny{}.WriteFile(t, dir, "m.gguf"))
	if err == nil || !strings.Contains(err.Error(), "SKEIN_HOME") {
		t.Errorf("error is %v", err)
	}
}

// TestAnotherProcessWrites makes one library see what another one did, at once.
func TestAnotherProcessWrites(t *testing.T) {
	dir := t.TempDir()
	registry := filepath.Join(dir, "models.json")
	node, command := openAt(t, registry), openAt(t, registry)
	model := gguftest.Tiny{}.WriteFile(t, dir, "m.gguf")
	if _, err := command.Add(model); err != nil {
		t.Fatal(err)
	}
	if _, err := node.ResolveName("m"); err != nil {
		t.Errorf("after add: %v", err)
	}
	if got := names(t, node); got != "m" {
		t.Errorf("listed are %q", got)
	}
	if _, err := command.Remove("m"); err != nil {
		t.Fatal(err)
	}
	if _, err := node.ResolveName("m"); err == nil {
		t.Error("after remove: the model is still found")
	}
}

// TestConcurrentWriters adds from several goroutines through separate
// libraries, and from several processes: no model is lost.
func TestConcurrentWriters(t *testing.T) {
	dir := t.TempDir()
	registry := filepath.Join(dir, "models.json")
	const each = 6
	var models []string
	for i := range 4 * each {
		models = append(models, gguftest.Tiny{Layers: 1}.WriteFile(t, dir, fmt.Sprintf("m%02d.gguf", i)))
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for p := range 4 {
		mine := models[p*each : (p+1)*each]
		wg.Go(func() {
			if p%2 == 0 {
				l, err := Open(Options{Registry: registry, Logger: slog.New(slog.DiscardHandler)})
				if err != nil {
					t.Error(err)
					return
				}
				for _, m := range mine {
					if _, err := l.Add(m); err != nil {
						t.Error(err)
					}
				}
				return
			}
			cmd := exec.Command(self, "-test.run=^TestWriterProcess$")
			cmd.Env = append(os.Environ(), "SKEIN_TEST_REGISTRY="+registry, "SKEIN_TEST_MODELS="+strings.Join(mine, string(filepath.ListSeparator)))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	wg.Wait()
	l := openAt(t, registry)
	entries, err := l.List()
	if err != nil || len(entries) != len(models) {
		t.Errorf("%d of %d models are left, %v", len(entries), len(models), err)
	}
}

// TestWriterProcess is the other process of TestConcurrentWriters.
func TestWriterProcess(t *testing.T) {
	registry := os.Getenv("SKEIN_TEST_REGISTRY")
	if registry == "" {
		t.Skip("only runs as a child of TestConcurrentWriters")
	}
	l := openAt(t, registry)
	for _, m := range filepath.SplitList(os.Getenv("SKEIN_TEST_MODELS")) {
		if _, err := l.Add(m); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHeadersAreReadOnce counts what a second scan reads again.
func TestHeadersAreReadOnce(t *testing.T) {
	dir := t.TempDir()
	gguftest.Tiny{}.WriteFile(t, dir, "a.gguf")
	gguftest.Tiny{}.WriteSplit(t, dir, "b", 2)
	l, err := Open(Options{Registry: filepath.Join(dir, "home", "models.json"), Dirs: []string{dir}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	// A mark in the cache shows whether a scan took the cached header.
	for key, h := range l.headers {
		h.quantization = "cached"
		l.headers[key] = h
	}
	gguftest.Tiny{}.WriteFile(t, dir, "c.gguf")
	entries, err := l.List()
	if err != nil || len(entries) != 3 {
		t.Fatalf("%+v, %v", entries, err)
	}
	for i, want := range []string{"cached", "cached", "F32"} {
		if entries[i].Quantization != want {
			t.Errorf("%s has %q, want %q", entries[i].Name, entries[i].Quantization, want)
		}
	}
	if err := os.Remove(filepath.Join(dir, "a.gguf")); err != nil {
		t.Fatal(err)
	}
	if err := l.Refresh(); err != nil {
		t.Fatal(err)
	}
	if len(l.headers) != 2 {
		t.Errorf("%d headers are kept for 2 models", len(l.headers))
	}
}

func TestParseSplit(t *testing.T) {
	for name, want := range map[string]splitName{
		"x-00001-of-00003.gguf":                {"x", ".gguf", 1, 3},
		"x-y-00002-of-00002.GGUF":              {"x-y", ".GGUF", 2, 2},
		"x-00000-of-00003.gguf":                {},
		"x-00004-of-00003.gguf":                {},
		"x-1-of-3.gguf":                        {},
		"-00001-of-00003.gguf":                 {},
		"x-0000a-of-00003.gguf":                {},
		"x-+0001-of-00003.gguf":                {},
		"x-00001-of-00003.bin":                 {},
		"x.gguf":                               {},
		"":                                     {},
		"a-00001-of-00002-00002-of-00002.gguf": {"a-00001-of-00002", ".gguf", 2, 2},
	} {
		got, ok := parseSplit(name)
		if got != want || ok != (want != splitName{}) {
			t.Errorf("%q is taken apart as %+v, %v", name, got, ok)
		}
	}
}

func FuzzRegistry(f *testing.F) {
	f.Add([]byte(`{"version":1,"models":[{"paths":["/a/m.gguf"],"added":"2026-11-22T12:00:00Z"}]}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`[`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(dir, "models.json")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := newRegistry(path).read()
		if err != nil && len(r.Models) > 0 {
			t.Fatalf("%d models from a registry with the error %v", len(r.Models), err)
		}
		for _, m := range r.Models {
			if len(m.Paths) == 0 || !filepath.IsAbs(m.Paths[0]) {
				t.Fatalf("model without absolute path: %+v", m)
			}
		}
	})
}

func TestSentinels(t *testing.T) {
	// A caller tells the kinds apart through wrapping.
	l := openAt(t, filepath.Join(t.TempDir(), "models.json"))
	_, err := l.Remove("x")
	var missing *NotFoundError
	if !errors.As(err, &missing) {
		t.Errorf("error is %v", err)
	}
}
