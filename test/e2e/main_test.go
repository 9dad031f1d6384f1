//go:build unix

// Package e2e proves the built program from outside: bin/skein as `make build`
// leaves it, started as a process on a free port, talked to over HTTP, signals
// and the command line, with the bundled demo model and the real library.
//
// It builds nothing itself. What it needs of the module are the writer of model
// files, for broken ones, and networks of namespaces (nettest); it must not
// import a package of the node, which could then not fail on its own. Each test
// owns the processes it starts, and ends them.
package e2e

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// demo is the model that comes with the program.
const demo = "skein-demo-4m-q8_0"

// program is the path of the program under test; set once, before any test.
var program string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "skein-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	if program, err = stage(dir); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	return m.Run()
}

// stage copies the program to dir, with its libraries and model beside it, so
// that a build while the tests run cannot mix two versions of node and runner.
func stage(dir string) (string, error) {
	bin, err := filepath.Abs(filepath.Join("..", "..", "bin"))
	if err != nil {
		return "", err
	}
	for _, beside := range []string{"skein", "lib/engine.json", "models/" + demo + ".gguf"} {
		if _, err := os.Stat(filepath.Join(bin, beside)); err != nil {
			return "", fmt.Errorf("%w; run make build first", err)
		}
	}
	in, err := os.Open(filepath.Join(bin, "skein"))
	if err != nil {
		return "", err
	}
	defer in.Close()
	path := filepath.Join(dir, "skein")
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return "", err
	}
	if _, err := io.Copy(out, in); err != nil {
		return "", fmt.Errorf("copy %s: %w", path, err)
	}
	if err := out.Close(); err != nil {
		return "", err
	}
	for _, folder := range []string{"lib", "models"} {
		if err := os.Symlink(filepath.Join(bin, folder), filepath.Join(dir, folder)); err != nil {
			return "", err
		}
	}
	return path, nil
}
