package catalog

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/gguf/gguftest"
	"github.com/skein-run/skein/internal/library"
)

// open makes a catalog over a registry in dir.
func open(t *testing.T, dir string, o Options) *Catalog {
	t.Helper()
	lib, err := library.Open(library.Options{
		Registry: filepath.Join(dir, "models.json"), Logger: slog.New(slog.DiscardHandler),
		Dirs: []string{filepath.Join(dir, "dir")},
		Now:  func() time.Time { return time.UnixMilli(1700000000500) },
	})
	if err != nil {
		t.Fatal(err)
	}
	o.Library = lib
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestAddListShowRemove(t *testing.T) {
	dir, ctx := folder(t), t.Context()
	path := gguftest.Tiny{Template: "T", Context: 100}.WriteFile(t, dir, "tiny.gguf")
	c := open(t, dir, Options{})

	added, err := c.Add(ctx, []string{path})
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	want := []api.LibraryEntry{{
		Name: "tiny", Paths: []string{path}, SizeBytes: info.Size(), Architecture: "llama",
		ContextLength: 100, Source: api.SourceAdded, Added: 1700000000.5, Modified: float64(info.ModTime().UnixMilli()) / 1000,
	}}
	// What the file says of its weights is the library's to test.
	content := cmpopts.IgnoreFields(api.LibraryEntry{}, "Quantization", "Parameters")
	if diff := cmp.Diff(want, added, content); diff != "" {
		t.Errorf("added (-want +got):\n%s", diff)
	}
	listed, err := c.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(added, listed); diff != "" {
		t.Errorf("listed (-added +listed):\n%s", diff)
	}
	removed, err := c.Remove(ctx, "TINY")
	if err != nil || removed.Name != "tiny" {
		t.Errorf("removed %+v, %v", removed, err)
	}
	if listed, err := c.List(ctx); err != nil || listed == nil || len(listed) != 0 {
		t.Errorf("after removal: %#v, %v", listed, err)
	}
}

func TestShow(t *testing.T) {
	dir, ctx := folder(t), t.Context()
	path := gguftest.Tiny{Template: "T", Context: 100}.WriteFile(t, filepath.Join(dir, "dir"), "tiny.gguf")
	for _, tt := range []struct {
		name                  string
		o                     Options
		context, slots        int
		wantContext, wantSlot int
	}{
		{"the model's own", Options{}, 0, 0, 100, 4},
		{"configured", Options{Context: 50, Slots: 2}, 0, 0, 50, 2},
		{"asked for", Options{Context: 50, Slots: 2}, 70, 1, 70, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := open(t, dir, tt.o).Show(ctx, "tiny", tt.context, tt.slots)
			if err != nil {
				t.Fatal(err)
			}
			if m.ChatTemplate != "T" || len(m.Metadata) == 0 || m.Source != api.SourceDir {
				t.Errorf("shown: %+v", m)
			}
			b := m.Memory
			if b == nil || b.ContextLength != tt.wantContext || b.Slots != tt.wantSlot {
				t.Fatalf("memory %+v", b)
			}
			if b.WeightsBytes <= 0 || b.KVBytes <= 0 || b.WeightsBytes+b.KVBytes+b.RecurrentBytes+b.ComputeBytes != b.TotalBytes {
				t.Errorf("the parts do not make the whole: %+v", b)
			}
		})
	}
	// By path only where that is allowed.
	other := gguftest.Tiny{}.WriteFile(t, dir, "other.gguf")
	if _, err := open(t, dir, Options{}).Show(ctx, other, 0, 0); err == nil {
		t.Error("a file that is not listed is shown")
	}
	if m, err := open(t, dir, Options{AnyPath: true}).Show(ctx, other, 0, 0); err != nil || m.Source != api.SourcePath {
		t.Errorf("by path: %v, %v", m.Source, err)
	}
	// A broken file is shown with its problem.
	if err := os.WriteFile(path, []byte("GGUF"), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := open(t, dir, Options{}).Show(ctx, "tiny", 0, 0)
	if err != nil || m.Problem == "" || m.Memory != nil || m.Metadata == nil {
		t.Errorf("broken: %+v, %v", m, err)
	}
}

func TestErrors(t *testing.T) {
	dir, ctx := folder(t), t.Context()
	gguftest.Tiny{}.WriteFile(t, filepath.Join(dir, "dir"), "tiny.gguf")
	if err := os.Mkdir(filepath.Join(dir, "dir", "b"), 0o700); err != nil {
		t.Fatal(err)
	}
	twin := gguftest.Tiny{}.WriteFile(t, filepath.Join(dir, "dir"), "Twin.gguf")
	gguftest.Tiny{}.WriteFile(t, filepath.Join(dir, "dir", "b"), "tWin.gguf")
	junk := filepath.Join(dir, "junk.gguf")
	if err := os.WriteFile(junk, []byte("<html>"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := open(t, dir, Options{})
	show := func(name string) func() error {
		return func() error { _, err := c.Show(ctx, name, 0, 0); return err }
	}
	add := func(path string) func() error {
		return func() error { _, err := c.Add(ctx, []string{path}); return err }
	}
	tests := []struct {
		name              string
		do                func() error
		status            int
		code, param, text string
	}{
		{"unknown", show("tny"), 404, api.CodeModelNotFound, "name", `"tiny"`},
		{"ambiguous", show("twin"), 409, api.CodeAmbiguousModel, "name", twin},
		{"unknown to remove", func() error { _, err := c.Remove(ctx, "x"); return err }, 404, api.CodeModelNotFound, "name", "tiny"},
		{"not ours to remove", func() error { _, err := c.Remove(ctx, "tiny"); return err }, 409, api.CodeModelNotRemovable, "name", "models dir"},
		{"no such file", add(filepath.Join(dir, "none.gguf")), 400, api.CodeFileNotFound, "paths", "check the path"},
		{"no model", add(junk), 400, api.CodeInvalidModelFile, "paths", "junk.gguf"},
		{"relative", add("tiny.gguf"), 400, api.CodeInvalidValue, "paths", "absolute"},
		{"huge context", func() error { _, err := c.Show(ctx, "tiny", 1<<40, 1); return err }, 400, api.CodeInvalidValue, "context_length", "context"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got *api.Error
			if err := tt.do(); !errors.As(err, &got) {
				t.Fatalf("got %v", err)
			}
			param := ""
			if got.Param != nil {
				param = *got.Param
			}
			if got.Status != tt.status || got.ErrorCode() != tt.code || param != tt.param || !strings.Contains(got.Message, tt.text) {
				t.Errorf("got %d %s %s: %s", got.Status, got.ErrorCode(), param, got.Message)
			}
		})
	}
}

func TestBundled(t *testing.T) {
	if got := Bundled(""); got != "" {
		t.Errorf("without a program: %q", got)
	}
	want := filepath.Join("x", "models", "skein-demo-4m-q8_0.gguf")
	if got := Bundled(filepath.Join("x", "skein")); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestOptions(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("a catalog of nothing")
	}
}
