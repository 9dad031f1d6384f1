package library_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/gguftest"
	"github.com/skein-run/skein/internal/gguf/hyper"
	"github.com/skein-run/skein/internal/library"
)

// place is a machine's folders: a registry, a models dir, some files elsewhere
// and a bundled model.
type place struct{ registry, dir, elsewhere, bundled string }

func newPlace(t *testing.T) place {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p := place{registry: filepath.Join(root, "home", "models.json"), dir: filepath.Join(root, "models"), elsewhere: filepath.Join(root, "elsewhere")}
	for _, d := range []string{p.dir, p.elsewhere} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	p.bundled = gguftest.Tiny{}.WriteFile(t, filepath.Join(root, "bin"), "demo.gguf")
	return p
}

func (p place) open(t *testing.T) *library.Library {
	t.Helper()
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	l, err := library.Open(library.Options{Registry: p.registry, Dirs: []string{p.dir}, Bundled: p.bundled,
		Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// list gives "name source" of every model, and "!" for one with a problem.
func list(t *testing.T, l *library.Library) []string {
	t.Helper()
	entries, err := l.List()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		line := e.Name + " " + string(e.Source)
		if e.Problem != "" {
			line += " !"
		}
		out = append(out, line)
	}
	return out
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one that says %q", parts)
		return
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not say %q", err, p)
		}
	}
}

func TestSources(t *testing.T) {
	p := newPlace(t)
	gguftest.Tiny{}.WriteFile(t, filepath.Join(p.dir, "deep", "er"), "Beta.GGUF")
	gguftest.Tiny{}.WriteSplit(t, p.dir, "gamma", 3)
	gguftest.Tiny{}.WriteFile(t, filepath.Join(p.dir, ".hidden"), "no.gguf")
	if err := os.WriteFile(filepath.Join(p.dir, "broken.gguf"), []byte("<html>"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.dir, "readme.txt"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	alpha := gguftest.Tiny{Context: 512}.WriteFile(t, p.elsewhere, "alpha.gguf")
	l := p.open(t)
	added, err := l.Add(alpha)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"alpha added", "Beta dir", "broken dir !", "demo bundled", "gamma dir"}
	if diff := cmp.Diff(want, list(t, l)); diff != "" {
		t.Error(diff)
	}
	info, err := os.Stat(alpha)
	if err != nil {
		t.Fatal(err)
	}
	entry := library.Entry{Name: "alpha", Paths: []string{alpha}, SizeBytes: info.Size(), Architecture: "llama", Quantization: "F32",
		Parameters: added[0].Parameters, TrainedContext: 512, Source: library.SourceAdded,
		Added: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC), Modified: info.ModTime()}
	if diff := cmp.Diff([]library.Entry{entry}, added); diff != "" || entry.Parameters < 50_000 {
		t.Error(diff)
	}
	got, err := l.Resolve("ALPHA.gguf")
	if diff := cmp.Diff(entry, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	gamma, err := l.Resolve("gamma")
	if err != nil || len(gamma.Paths) != 3 || gamma.Parameters != entry.Parameters {
		t.Errorf("split model is %+v, %v", gamma, err)
	}
}

func TestResolve(t *testing.T) {
	p := newPlace(t)
	gguftest.Tiny{}.WriteFile(t, p.dir, "Llama-Small.gguf")
	gguftest.Tiny{}.WriteFile(t, filepath.Join(p.dir, "a"), "twin.gguf")
	gguftest.Tiny{Seed: 1}.WriteFile(t, filepath.Join(p.dir, "b"), "Twin.gguf")
	same1 := gguftest.Tiny{}.WriteFile(t, filepath.Join(p.dir, "c"), "same.gguf")
	same2 := gguftest.Tiny{Seed: 1}.WriteFile(t, filepath.Join(p.dir, "d"), "same.gguf")
	gguftest.Tiny{}.WriteSplit(t, p.dir, "parts", 2)
	loose := gguftest.Tiny{}.WriteFile(t, p.elsewhere, "loose.gguf")
	loosePart := gguftest.Tiny{}.WriteSplit(t, p.elsewhere, "loose", 2)[1]
	l := p.open(t)
	for ref, want := range map[string]string{
		"llama-small": "Llama-Small", "LLAMA-SMALL.GGUF": "Llama-Small", "twin": "twin", "Twin": "Twin", "parts": "parts",
		"parts-00002-of-00002.gguf": "parts", "parts-00001-of-00002": "parts", loose: "loose", loosePart: "loose",
		same2: "same", filepath.Join(p.dir, "Llama-Small.gguf"): "Llama-Small",
	} {
		e, err := l.Resolve(ref)
		if err != nil || e.Name != want {
			t.Errorf("%s is resolved as %q, %v", ref, e.Name, err)
		}
	}
	if e, err := l.Resolve(same2); err != nil || e.Paths[0] != same2 || e.Source != library.SourceDir {
		t.Errorf("path of a listed model gives %+v, %v", e, err)
	}
	if e, err := l.Resolve(loosePart); err != nil || len(e.Paths) != 2 || e.Source != library.SourcePath {
		t.Errorf("part of a model that is not listed gives %+v, %v", e, err)
	}

	_, err := l.Resolve("TWIN")
	var ambiguous *library.AmbiguousError
	if !errors.As(err, &ambiguous) || len(ambiguous.Candidates) != 2 {
		t.Errorf("error is %v", err)
	}
	_, err = l.Resolve("same")
	wantError(t, err, `"same" is ambiguous`, same1, same2)

	_, err = l.Resolve("lama-smal")
	var missing *library.NotFoundError
	if !errors.As(err, &missing) || missing.Nearest != "Llama-Small" {
		t.Fatalf("error is %v", err)
	}
	if diff := cmp.Diff([]string{"demo", "Llama-Small", "parts", "same", "Twin", "twin"}, missing.Known); diff != "" {
		t.Error(diff)
	}
	wantError(t, err, `"lama-smal" is not known`, `did you mean "Llama-Small"?`, "known models: demo, Llama-Small")

	_, err = l.Resolve(filepath.Join(p.elsewhere, "nothing.gguf"))
	wantError(t, err, "is not known")
	_, err = l.ResolveName(loose)
	wantError(t, err, "is not known")
	folder := filepath.Join(p.elsewhere, "folder")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = l.Resolve(folder)
	wantError(t, err, "this is a folder", "--models-dir")
	text := filepath.Join(p.elsewhere, "text.gguf")
	if err := os.WriteFile(text, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = l.Resolve(text)
	wantError(t, err, "cannot be used", "not a GGUF file")
}

func TestNoModels(t *testing.T) {
	p := newPlace(t)
	p.bundled = ""
	_, err := p.open(t).Resolve("x")
	wantError(t, err, "no models yet", "skein models add")
}

// TestFilesChange replaces, adds and deletes files under an open library.
func TestFilesChange(t *testing.T) {
	p := newPlace(t)
	l := p.open(t)
	path := gguftest.Tiny{Context: 64}.WriteFile(t, p.dir, "m.gguf")
	if e, err := l.Resolve("m"); err != nil || e.TrainedContext != 64 {
		t.Errorf("new file gives %+v, %v", e, err)
	}
	gguftest.Tiny{Context: 128, Layers: 3}.WriteFile(t, p.dir, "m.gguf")
	if e, err := l.Resolve("m"); err != nil || e.TrainedContext != 128 {
		t.Errorf("replaced file gives %+v, %v", e, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	_, err := l.Resolve("m")
	wantError(t, err, "is not known")
}

func TestSplitWithMissingParts(t *testing.T) {
	p := newPlace(t)
	paths := gguftest.Tiny{}.WriteSplit(t, p.elsewhere, "big", 4)
	l := p.open(t)
	for _, i := range []int{1, 3} {
		if err := os.Remove(paths[i]); err != nil {
			t.Fatal(err)
		}
	}
	_, err := l.Add(paths[2])
	wantError(t, err, "2 of 4 parts are missing", "big-00002-of-00004.gguf, big-00004-of-00004.gguf", "download them into that folder")
	if _, err := os.Stat(p.registry); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a registry was written: %v", err)
	}
	gguftest.Tiny{}.WriteSplit(t, p.elsewhere, "big", 4)
	added, err := l.Add(paths[2])
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(paths, added[0].Paths); diff != "" {
		t.Error(diff)
	}
	if err := os.Remove(paths[0]); err != nil {
		t.Fatal(err)
	}
	_, err = l.Resolve("big")
	var broken *library.BrokenError
	if !errors.As(err, &broken) {
		t.Errorf("error is %v", err)
	}
	wantError(t, err, "1 of 4 parts are missing", "big-00001-of-00004.gguf")
	if diff := cmp.Diff([]string{"big added !", "demo bundled"}, list(t, l)); diff != "" {
		t.Error(diff)
	}
}

func TestAddRefuses(t *testing.T) {
	p := newPlace(t)
	l := p.open(t)
	good := gguftest.Tiny{}.WriteFile(t, p.elsewhere, "good.gguf")
	write := func(name, data string) string {
		path := filepath.Join(p.elsewhere, name)
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for path, want := range map[string][]string{
		filepath.Join(p.elsewhere, "none.gguf"):           {"no such file", "check the path"},
		p.elsewhere:                                       {"this is a folder", "--models-dir"},
		write("model.bin", "GGUF"):                        {"does not end in .gguf"},
		write("cut.gguf", "GGUF\x03\x00\x00\x00"):         {"ends at byte 8", "download"},
		write("old.gguf", "GGUF\x01\x00\x00\x00\x00\x00"): {"version 1", "convert the model again"},
	} {
		_, err := l.Add(good, path)
		wantError(t, err, append(want, "add "+path)...)
	}
	if diff := cmp.Diff([]string{"demo bundled"}, list(t, l)); diff != "" {
		t.Errorf("the good file was added with a bad one: %s", diff)
	}
}

func TestAddTwiceAndRemove(t *testing.T) {
	p := newPlace(t)
	path := gguftest.Tiny{}.WriteFile(t, p.elsewhere, "m.gguf")
	inDir := gguftest.Tiny{}.WriteFile(t, p.dir, "listed.gguf")
	l := p.open(t)
	for range 2 {
		if _, err := l.Add(path, path); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"demo bundled", "listed dir", "m added"}, list(t, l)); diff != "" {
		t.Error(diff)
	}
	_, err := l.Remove("demo")
	wantError(t, err, "comes with skein", p.bundled)
	_, err = l.Remove("listed")
	wantError(t, err, "models dir", inDir)
	_, err = l.Remove("liste")
	wantError(t, err, "did you mean")
	removed, err := l.Remove("M")
	if err != nil || removed.Paths[0] != path {
		t.Errorf("removed %+v, %v", removed, err)
	}
	if diff := cmp.Diff([]string{"demo bundled", "listed dir"}, list(t, l)); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the user's file: %v", err)
	}
}

// TestFileGone keeps a registered model listed, with its problem, and lets it
// be removed.
func TestFileGone(t *testing.T) {
	p := newPlace(t)
	path := gguftest.Tiny{}.WriteFile(t, p.elsewhere, "m.gguf")
	l := p.open(t)
	if _, err := l.Add(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	_, err := l.Resolve("m")
	wantError(t, err, "the file is gone", "skein models remove")
	if _, err := l.Remove("m"); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"demo bundled"}, list(t, l)); diff != "" {
		t.Error(diff)
	}
}

// TestLinks lists a file once, however many ways lead to it.
func TestLinks(t *testing.T) {
	p := newPlace(t)
	path := gguftest.Tiny{}.WriteFile(t, p.elsewhere, "blob.gguf")
	for _, name := range []string{"one.gguf", "two.gguf"} {
		if err := os.Symlink(path, filepath.Join(p.dir, name)); err != nil {
			t.Skipf("NOT RUN: this system makes no symbolic links: %v", err)
		}
	}
	if err := os.Symlink(filepath.Join(p.elsewhere, "gone"), filepath.Join(p.dir, "dangling.gguf")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"dangling dir !", "demo bundled", "one dir"}, list(t, p.open(t))); diff != "" {
		t.Error(diff)
	}
}

func TestBadDirs(t *testing.T) {
	p := newPlace(t)
	file := gguftest.Tiny{}.WriteFile(t, p.elsewhere, "m.gguf")
	gone := filepath.Join(p.elsewhere, "gone")
	l, err := library.Open(library.Options{Registry: p.registry, Dirs: []string{gone, file, p.dir}, Bundled: p.bundled, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	entries, err := l.List()
	wantError(t, err, gone+" does not exist", "correct --models-dir", file+" is a file", "skein models add")
	if len(entries) != 1 || entries[0].Name != "demo" {
		t.Errorf("the rest is %+v", entries)
	}
	if _, err := l.Resolve("demo"); err != nil {
		t.Errorf("a bad folder keeps a good model away: %v", err)
	}
	_, err = l.Resolve("other")
	wantError(t, err, "not all places could be read", gone)
}

// TestUnreadableDir needs permissions that bind; the superuser has none.
func TestUnreadableDir(t *testing.T) {
	if os.Geteuid() <= 0 {
		t.Skip("NOT RUN: no folder is unreadable for this user (root or Windows)")
	}
	p := newPlace(t)
	locked := filepath.Join(p.dir, "locked")
	gguftest.Tiny{}.WriteFile(t, locked, "in.gguf")
	gguftest.Tiny{}.WriteFile(t, p.dir, "out.gguf")
	if err := os.Chmod(locked, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(locked, 0o700) })
	entries, err := p.open(t).List()
	wantError(t, err, locked, "check its permissions")
	if len(entries) != 2 {
		t.Errorf("the rest is %+v", entries)
	}
}

func TestShow(t *testing.T) {
	p := newPlace(t)
	gguftest.Tiny{Template: "{{ hi }}", Extra: []gguf.KV{gguftest.KV("general.size_label", "60K")}}.WriteSplit(t, p.dir, "m", 2)
	l := p.open(t)
	d, err := l.Show("m")
	if err != nil {
		t.Fatal(err)
	}
	if d.Title != "tiny" || d.ChatTemplate != "{{ hi }}" || d.Params.Layers != 2 || d.Tensors != 21 || d.Entry.Name != "m" {
		t.Errorf("details are %+v", d)
	}
	fields := map[string]library.Field{}
	for _, f := range d.Metadata {
		fields[f.Key] = f
	}
	want := map[string]library.Field{
		"general.size_label":    {Key: "general.size_label", Type: "string", Value: "60K"},
		"llama.block_count":     {Key: "llama.block_count", Type: "uint32", Value: "2"},
		"tokenizer.ggml.tokens": {Key: "tokenizer.ggml.tokens", Type: "array", Value: "[260 x string]"},
	}
	for key, f := range want {
		if fields[key] != f {
			t.Errorf("%s is shown as %+v", key, fields[key])
		}
	}
	// The files are closed by now; memory must still be known.
	e, err := d.Estimate(hyper.Spec{Context: 256, Slots: 2})
	if err != nil || e.KV != 2*2*256*32*2*4 { // weights in f32, so its cache is too
		t.Errorf("estimate is %+v, %v", e, err)
	}
	_, err = l.Show("n")
	wantError(t, err, "is not known")
}

func TestOptions(t *testing.T) {
	for name, o := range map[string]library.Options{"no registry": {Logger: slog.New(slog.DiscardHandler)}, "no logger": {Registry: "r"}} {
		if _, err := library.Open(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
