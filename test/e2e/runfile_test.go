//go:build unix

package e2e

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRunFile(t *testing.T) {
	file := save(t, t.TempDir(), "mine", demoBytes(t))
	r := skein(t, t.TempDir(), "", "run", file, "What is Skein?", "--temperature", "0")
	r.want(t, 0)
	contains(t, r.stdout, "cluster")
}

// A file that cannot be used is told about as 'models add' would.
func TestRunBrokenFile(t *testing.T) {
	dir := t.TempDir()
	for name, m := range badModels(t) {
		skein(t, t.TempDir(), "", "run", save(t, dir, name, m.data), "Hello").want(t, 1, m.want...)
	}
}

// A file lies where the home should be made.
func TestHomeCannotBeMade(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	skein(t, filepath.Join(file, "home"), "", "serve", "--api-port", "0").want(t, 1, "SKEIN_HOME", file)
}
