package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"pgregory.net/rapid"
)

// parse reads a configuration that must be good.
func parse(t *testing.T, text string) *File {
	t.Helper()
	f, err := Parse("config.yaml", filepath.FromSlash("/etc/skein"), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func env(pairs map[string]string) func(string) string {
	return func(name string) string { return pairs[name] }
}

func TestDefaults(t *testing.T) {
	got, settings, err := Resolve(Sources{})
	if err != nil {
		t.Fatal(err)
	}
	want := Serve{Slots: 4, Queue: 64, GPULayers: -1, CacheMemory: 1 << 30, PrefixReuse: "exact",
		APIHost: "127.0.0.1", APIPort: 52415, LogFormat: "text"}
	got.Cluster = Cluster{} // TestClusterDefaults
	if diff := cmp.Diff(want, got, cmp.Comparer(sameList)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, s := range settings {
		if s.Source != "default" {
			t.Errorf("%s comes from %q", s.Name, s.Source)
		}
	}
}

// sameList treats no list and an empty one alike.
func sameList(a, b []string) bool { return strings.Join(a, "\x00") == strings.Join(b, "\x00") }

func TestPrecedence(t *testing.T) {
	file := parse(t, "slots: 2\nqueue: 5\nthreads: 7\nmodels-dir: [a, /b]\napi-key:\n  - from-file\n")
	got, settings, err := Resolve(Sources{
		File: file,
		Getenv: env(map[string]string{"SKEIN_QUEUE": "6", "SKEIN_THREADS": "8", "SKEIN_LOAD": "x, y,,z",
			"SKEIN_API_KEY": "k1,k2", "SKEIN_INSECURE_NO_AUTH": "1"}),
		Flags: map[string][]string{"threads": {"9"}, "cache-memory": {"512MB"}, "allow-origin": {"http://a,b"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := Serve{ModelsDirs: []string{filepath.FromSlash("/etc/skein/a"), filepath.FromSlash("/b")},
		Load: []string{"x", "y", "z"}, Slots: 2, Queue: 6, Threads: 9, GPULayers: -1, CacheMemory: 512 << 20,
		PrefixReuse: "exact", APIHost: "127.0.0.1", APIPort: 52415, APIKeys: []string{"k1", "k2"},
		InsecureNoAuth: true, AllowOrigins: []string{"http://a,b"}, LogFormat: "text"}
	got.Cluster = Cluster{}
	if diff := cmp.Diff(want, got, cmp.Comparer(sameList)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	sources := map[string]string{}
	for _, s := range settings {
		sources[s.Name] = s.Source
		if strings.Contains(s.Value, "k1") || strings.Contains(s.Value, "from-file") {
			t.Errorf("the secret is printed: %+v", s)
		}
	}
	for name, want := range map[string]string{"slots": "file", "queue": "environment", "threads": "flag", "context": "default"} {
		if sources[name] != want {
			t.Errorf("%s comes from %q, want %q", name, sources[name], want)
		}
	}
}

func TestFlags(t *testing.T) {
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	AddFlags(fs)
	err := fs.Parse([]string{"--models-dir", "/a,b", "--models-dir=/c", "--slots", "3", "--insecure-no-auth", "-v"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{"models-dir": {"/a,b", "/c"}, "slots": {"3"}, "insecure-no-auth": {"true"}, "verbose": {"true"}}
	if diff := cmp.Diff(want, FromFlags(fs)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, o := range Table() {
		f := fs.Lookup(o.Name)
		if f == nil || !strings.Contains(f.Usage, o.Env()) {
			t.Errorf("flag --%s is missing or does not name %s", o.Name, o.Env())
		}
	}
}

func TestBadValues(t *testing.T) {
	tests := []struct {
		name, file string
		env        map[string]string
		flags      map[string][]string
		want       string // of the error
	}{
		{"number", "", nil, map[string][]string{"slots": {"x"}}, `--slots: slots must be a whole number from 1 to 256, not "x"`},
		{"range", "\n\nslots: 0", nil, nil, `config.yaml:3: slots must be a whole number from 1 to 256, not "0"`},
		{"port", "", map[string]string{"SKEIN_API_PORT": "70000"}, nil, `SKEIN_API_PORT: api-port must be a whole number from 0 to 65535, not "70000"`},
		{"size", "cache-memory: lots", nil, nil, `config.yaml:1: cache-memory: "lots" is not a size; write a number with a unit, such as 512MB or 8GB`},
		{"bool", "insecure-no-auth: maybe", nil, nil, `config.yaml:1: insecure-no-auth must be true or false, not "maybe"`},
		{"choice", "prefix-reuse: on", nil, nil, `config.yaml:1: prefix-reuse must be one of exact, longest, off, not "on"`},
		{"empty text", "", nil, map[string][]string{"load": {" "}}, `--load: load must not be empty`},
		{"contradiction", "quiet: true", nil, map[string][]string{"verbose": {"true"}}, `config.yaml:1: quiet and verbose (--verbose) exclude each other; give one`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := Sources{Getenv: env(tt.env), Flags: tt.flags}
			if tt.file != "" {
				s.File = parse(t, tt.file)
			}
			_, _, err := Resolve(s)
			var typed *Error
			if !errors.As(err, &typed) || err.Error() != tt.want {
				t.Errorf("got %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestBadFiles(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"unknown key", "slots: 1\nmodel-dir: x", `config.yaml:2: unknown key "model-dir"; did you mean "models-dir"?`},
		{"unlike any", "zzzzzzzzz: 1", `config.yaml:1: unknown key "zzzzzzzzz"`},
		{"not YAML", "slots: [1", `config.yaml: this is not YAML: `},
		{"a list", "- slots", `config.yaml: expected one "flag: value" a line, such as "slots: 4"`},
		{"a word", "slots", `config.yaml: expected one "flag: value" a line, such as "slots: 4"`},
		{"list for one", "slots: [1, 2]", `config.yaml:1: slots takes one value, not a list`},
		{"mapping", "slots: {a: 1}", `config.yaml:1: slots must be one plain value`},
		{"nested list", "load: [[a]]", `config.yaml:1: load must be a list of plain values`},
		{"nothing", "slots:", `config.yaml:1: slots must be one plain value`},
		{"two documents", "slots: 1\n---\nslots: 2", `config.yaml: more than one YAML document; write one`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("config.yaml", "/", []byte(tt.text))
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v\nwant %s", err, tt.want)
			}
		})
	}
}

// A key given twice is refused, by the parser or by us.
func TestTwice(t *testing.T) {
	if _, err := Parse("config.yaml", "/", []byte("slots: 1\nslots: 2")); err == nil {
		t.Error("accepted")
	}
}

func TestEmptyFiles(t *testing.T) {
	for _, text := range []string{"", "\n", "# only a comment\n", "---\n", "null"} {
		if f, err := Parse("config.yaml", "/", []byte(text)); err != nil || len(f.entries) != 0 {
			t.Errorf("%q: %v, %v", text, f, err)
		}
	}
}

// The parser's own words may hold the line at fault.
func TestSyntaxErrorHidesSecrets(t *testing.T) {
	_, err := Parse("config.yaml", "/", []byte("api-key: [hunter2, \"x\nslots: 1"))
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "none.yaml")
	if f, err := Load(missing, false); f != nil || err != nil {
		t.Errorf("default file missing: %v, %v", f, err)
	}
	if _, err := Load(missing, true); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("named file missing: %v", err)
	}
	path := filepath.Join(dir, "c.yaml")
	if err := os.WriteFile(path, []byte("engine-dir: lib\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Load(path, true)
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := Resolve(Sources{File: f})
	if err != nil || got.EngineDir != filepath.Join(dir, "lib") {
		t.Errorf("engine dir %q, %v", got.EngineDir, err)
	}
	if err := os.WriteFile(path, make([]byte, maxFileBytes+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path, true); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("huge file: %v", err)
	}
}

// A flag wins over a variable, a variable over the file, whatever the option.
func TestPrecedenceOfEveryOption(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := rapid.SampledFrom(Table()).Draw(t, "option")
		value := func(label string) string {
			switch o.Kind {
			case Int:
				return rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, label)
			case Size:
				return rapid.SampledFrom([]string{"1GB", "2GB", "3MB"}).Draw(t, label)
			case Bool:
				return rapid.SampledFrom([]string{"true", "false"}).Draw(t, label)
			case Choice:
				return rapid.SampledFrom(o.Choices).Draw(t, label)
			}
			if o.Name == "named-key" {
				return "ci:chat:" + rapid.StringMatching(`[a-z]{1,8}`).Draw(t, label)
			}
			return rapid.StringMatching(`/[a-z]{1,8}`).Draw(t, label)
		}
		s, want, source := Sources{}, "", "default"
		if rapid.Bool().Draw(t, "in file") {
			want, source = value("file"), "file"
			f, err := Parse("c", "/", []byte(o.Name+": "+want))
			if err != nil {
				t.Fatal(err)
			}
			s.File = f
		}
		if rapid.Bool().Draw(t, "in env") {
			want, source = value("env"), "environment"
			s.Getenv = env(map[string]string{o.Env(): want})
		}
		if rapid.Bool().Draw(t, "as flag") {
			want, source = value("flag"), "flag"
			s.Flags = map[string][]string{o.Name: {want}}
		}
		_, settings, err := Resolve(s)
		if err != nil {
			t.Fatal(err)
		}
		for _, got := range settings {
			if got.Name != o.Name {
				continue
			}
			if got.Source != source {
				t.Fatalf("%s comes from %s, want %s", o.Name, got.Source, source)
			}
			if o.Secret && source != "default" {
				want = "(hidden)"
			}
			if source != "default" && filepath.ToSlash(got.Value) != want {
				t.Fatalf("%s is %q, want %q", o.Name, got.Value, want)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"slots: 4", "models-dir: [a, b]", "load:\n  - x\n  - y", "a: &x 1\nb: *x", "? a\n: b", "slots: |\n  4", "<<: {slots: 1}", "\xff", "{slots: 4}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("c", "/", data)
		if err != nil {
			return
		}
		_, _, _ = Resolve(Sources{File: file}) // refuses or accepts, never panics
	})
}
