//go:build unix

package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// listed gives the names that `models list` knows.
func listed(t *testing.T, home string) []string {
	t.Helper()
	r := skein(t, home, "", "models", "list", "--json")
	if r.code != 0 {
		t.Fatalf("models list: exit code %d: %s", r.code, r.stderr)
	}
	var entries []struct{ Name string }
	if err := json.Unmarshal([]byte(r.stdout), &entries); err != nil {
		t.Fatalf("%v: %s", err, r.stdout)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name)
	}
	return names
}

// add, list, show, remove, with a node and without: the same words.
func TestModelsCommands(t *testing.T) {
	for _, mode := range []string{"without a node", "with a node"} {
		t.Run(mode, func(t *testing.T) {
			home, dir := t.TempDir(), t.TempDir()
			var n *node
			if mode == "with a node" {
				n = start(t, options{home: home})
			}
			file := save(t, dir, "mine", demoBytes(t))
			parts := saveSplit(t, dir, "halves", 2)
			skein(t, home, "", "models", "add", file, parts[1]).want(t, 0, "added mine", "added halves")
			if names := listed(t, home); !slices.Contains(names, "mine") || !slices.Contains(names, "halves") || !slices.Contains(names, demo) || len(names) != 3 {
				t.Errorf("listed: %q", names)
			}
			skein(t, home, "", "models", "show", "MINE.gguf").want(t, 0, "llama", "Q8_0", "Memory for", "im_start", file)
			skein(t, home, "", "models", "show", "halves").want(t, 0, parts[0], parts[1])
			if n != nil {
				for _, name := range []string{"mine", "Halves.gguf"} {
					if got := n.answer(name, "What is Skein?"); !strings.Contains(got, "cluster") {
						t.Errorf("%s answers %q", name, got)
					}
				}
			}
			skein(t, home, "", "models", "remove", "nothing").want(t, 1, "nothing")
			skein(t, home, "", "models", "remove", demo).want(t, 1, "demo model")
			skein(t, home, "", "models", "remove", "halves").want(t, 0, "stays")
			if names := listed(t, home); slices.Contains(names, "halves") || !slices.Contains(names, "mine") {
				t.Errorf("listed after the removal: %q", names)
			}
			for _, path := range append(parts, file) {
				if _, err := os.Stat(path); err != nil {
					t.Errorf("the file went too: %v", err)
				}
			}
		})
	}
}

func TestSplitModelWithMissingPart(t *testing.T) {
	dir := t.TempDir()
	parts := saveSplit(t, dir, "thirds", 3)
	if err := os.Remove(parts[1]); err != nil {
		t.Fatal(err)
	}
	n := start(t, options{args: []string{"--models-dir", dir}})
	want := filepath.Base(parts[1])
	n.post("/v1/chat/completions", ask("thirds", "Hi")).want(t, http.StatusBadRequest, "invalid_value", "missing", want)
	skein(t, n.home, "", "models", "list").want(t, 0, "1 of 3 parts", want)
	skein(t, t.TempDir(), "", "models", "add", parts[0]).want(t, 1, "1 of 3 parts", want)
	n.works()
}

func TestRunPiped(t *testing.T) {
	home := t.TempDir()
	// Alone, it runs a node for itself and says so on stderr only.
	r := skein(t, home, "What is Skein?", "run", "--temperature", "0")
	r.want(t, 0)
	contains(t, r.stdout, "cluster")
	contains(t, r.stderr, "no node is running")
	if strings.Contains(r.stdout, "node") {
		t.Errorf("stdout holds more than the answer: %q", r.stdout)
	}
	if _, err := os.Stat(filepath.Join(home, "node.json")); err == nil {
		t.Error("an address file is left")
	}
	n := start(t, options{home: home})
	again := skein(t, home, "", "run", demo, "What is Skein?", "--temperature", "0")
	again.want(t, 0)
	if again.stdout != r.stdout {
		t.Errorf("with a node %q, without %q", again.stdout, r.stdout)
	}
	if got := n.status(demo); got != "ready" {
		t.Errorf("the running node was not asked: the model is %q there", got)
	}
	skein(t, home, "", "run", "no-such-model", "Hi").want(t, 1, "no-such-model", demo)
	skein(t, home, "\xff\xfe", "run", demo).want(t, 1, "UTF-8")
}

// The registry does not fit: the old one stays.
func TestModelsAddOnAFullDisk(t *testing.T) {
	home := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", home).CombinedOutput(); err != nil {
		t.Skipf("NOT RUN: a small file system cannot be mounted here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", home).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	dir := t.TempDir()
	first := save(t, dir, "first", demoBytes(t))
	second := save(t, dir, "second", demoBytes(t))
	skein(t, home, "", "models", "add", first).want(t, 0, "added first")
	fill(t, home)
	skein(t, home, "", "models", "add", second).want(t, 1, "no space left", "free some space")
	if names := listed(t, home); !slices.Contains(names, "first") || slices.Contains(names, "second") {
		t.Errorf("listed: %q", names)
	}
}

// fill takes the rest of a small file system.
func fill(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 4096)
	for err == nil {
		_, err = f.Write(block)
	}
}

func TestDoctorAndVersion(t *testing.T) {
	home := t.TempDir()
	skein(t, home, "", "version").want(t, 0, "skein ", "llama.cpp 0.5.0")
	skein(t, home, "", "engine", "status").want(t, 0, "llama.cpp 0.5.0", "beside the binary")
	n := start(t, options{home: home})
	skein(t, home, "", "doctor").want(t, 0, "engine", "llama.cpp 0.5.0", "memory", "disk")
	n.stop()
	skein(t, home, "", "models").want(t, 1, "no node is running", "skein serve")
	skein(t, home, "", "modles").want(t, 2, "models")
}
