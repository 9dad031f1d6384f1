//go:build unix

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestExposure(t *testing.T) {
	home := t.TempDir()
	skein(t, home, "", "serve", "--api-host", "0.0.0.0", "--api-port", "0").
		want(t, 1, "--api-key", "--insecure-no-auth", "0.0.0.0")

	open := start(t, options{args: []string{"--api-host", "0.0.0.0", "--insecure-no-auth"}})
	if r := open.get("/v1/models"); r.status != http.StatusOK {
		t.Errorf("without auth: status %d", r.status)
	}

	n := start(t, options{args: []string{"--api-host", "0.0.0.0", "--api-key", "first", "--api-key", "second"}})
	n.get("/v1/models").want(t, http.StatusUnauthorized, "invalid_api_key", "Authorization")
	n.post("/v1/chat/completions", ask(demo, "Hello")).want(t, http.StatusUnauthorized, "invalid_api_key")
	n.key = "third"
	n.get("/v1/models").want(t, http.StatusUnauthorized, "invalid_api_key", "--api-key")
	for _, key := range []string{"first", "second"} {
		n.key = key
		if r := n.get("/v1/models"); r.status != http.StatusOK {
			t.Errorf("with key %s: status %d: %s", key, r.status, r.body)
		}
	}
	// Probes need no key, and the commands of this home find one.
	n.key = ""
	if r := n.get("/readyz"); r.status != http.StatusOK {
		t.Errorf("/readyz: status %d: %s", r.status, r.body)
	}
	skein(t, n.home, "", "models").want(t, 0, "No model is loaded")
}

// freePort gives a port that was free a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func TestPrecedence(t *testing.T) {
	fromFile, fromEnv, fromFlag := freePort(t), freePort(t), freePort(t)
	file := filepath.Join(t.TempDir(), "skein.yaml")
	text := fmt.Sprintf("api-port: %d\nslots: 2\nload:\n  - %s\n", fromFile, demo)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{fmt.Sprintf("SKEIN_API_PORT=%d", fromEnv)}
	for _, tt := range []struct {
		name string
		o    options
		port int
	}{
		{"file", options{args: []string{"--config", file}, env: []string{"SKEIN_API_PORT="}}, fromFile},
		{"environment", options{args: []string{"--config", file}, env: env}, fromEnv},
		{"flag", options{args: []string{"--config", file, "--api-port", fmt.Sprint(fromFlag)}, env: env}, fromFlag},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := start(t, tt.o)
			if want := fmt.Sprintf("http://127.0.0.1:%d", tt.port); n.url != want {
				t.Errorf("the node is at %s, want %s", n.url, want)
			}
			contains(t, n.stdout.String(), demo, "2 slots")
			n.stop()
		})
	}
}

func TestDefaultConfigFile(t *testing.T) {
	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, "config.yaml"), []byte("slots: 3\napi-port: 0\nload: "+demo+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := start(t, options{home: home, env: []string{"SKEIN_API_PORT="}})
	contains(t, n.stdout.String(), "3 slots", "slots=3")
}

func TestBadSettings(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "skein.yaml")
	if err := os.WriteFile(file, []byte("slots: 4\nmodel-dir: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		env  []string
		args []string
		code int
		want []string
	}{
		{"file", nil, []string{"--config", file}, 1, []string{file + ":2", "model-dir", "models-dir"}},
		{"missing file", nil, []string{"--config", filepath.Join(dir, "none")}, 1, []string{"no such file"}},
		{"variable", []string{"SKEIN_SLOTS=many"}, nil, 1, []string{"SKEIN_SLOTS", "whole number"}},
		{"flag", nil, []string{"--slots", "-1"}, 2, []string{"--slots", "whole number", "--help"}},
		{"no such flag", nil, []string{"--slot", "1"}, 2, []string{"--slots"}},
		{"unknown model", nil, []string{"--load", "skein-demo", "--api-port", "0"}, 1, []string{"skein-demo", demo}},
		{"address", nil, []string{"--api-host", "203.0.113.7", "--api-key", "k", "--api-port", "0"}, 1, []string{"--api-host"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			skeinEnv(t, t.TempDir(), tt.env, "", append([]string{"serve"}, tt.args...)...).want(t, tt.code, tt.want...)
		})
	}
}

func TestEngineFolder(t *testing.T) {
	text := t.TempDir() // files with the right names and the wrong content
	for _, name := range []string{"libllama", "libggml", "libggml-base", "libggml-cpu"} {
		for _, ext := range []string{".so", ".dylib"} {
			if err := os.WriteFile(filepath.Join(text, name+ext), []byte("not a library\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name, dir string
		want      []string
	}{
		{"missing", filepath.Join(text, "none"), []string{"does not exist"}},
		{"empty", t.TempDir(), []string{"holds no libllama"}},
		{"text file", text, []string{"libllama", "is not a library"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wants := append(tt.want, "llama.cpp 0.5.0", tt.dir, "skein engine install", "--engine-dir")
			skein(t, t.TempDir(), "", "serve", "--engine-dir", tt.dir, "--api-port", "0").want(t, 1, wants...)
		})
	}
}

// A library that loads but is another one stops at the gate of the runner.
func TestForeignLibrary(t *testing.T) {
	lib := filepath.Join(filepath.Dir(program), "lib")
	names, err := os.ReadDir(lib)
	if err != nil {
		t.Fatal(err)
	}
	dir, base, llama := t.TempDir(), "", ""
	for _, e := range names {
		from := filepath.Join(lib, e.Name())
		switch {
		case e.Name() == "engine.json":
			continue // it would vouch for the files
		case matchLib(e.Name(), "libllama"):
			llama = e.Name()
			continue
		case matchLib(e.Name(), "libggml-base"):
			base = from
		}
		if err := os.Symlink(from, filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	if base == "" || llama == "" {
		t.Fatalf("no libggml-base or libllama in %s", lib)
	}
	if err := os.Symlink(base, filepath.Join(dir, llama)); err != nil {
		t.Fatal(err)
	}
	r := skein(t, t.TempDir(), "", "serve", "--engine-dir", dir, "--api-port", "0", "--load", demo)
	r.want(t, 1, "llama", "0.5.0", "skein engine install")
}

// matchLib tells whether a file is the library of that name: "libllama.so",
// "libllama.v0.5.0.so", and not "libllama-other.so".
func matchLib(file, name string) bool {
	rest, ok := strings.CutPrefix(file, name)
	return ok && strings.HasPrefix(rest, ".")
}
