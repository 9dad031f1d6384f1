package supervise

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/skein-run/skein/internal/runner/wire"
)

// The test binary is its own runner program when this variable is set.
const fakeEnv = "SKEIN_SUPERVISE_FAKE"

func TestMain(m *testing.M) {
	switch mode := os.Getenv(fakeEnv); {
	case mode == "":
		goleak.VerifyTestMain(m)
	case mode == "parent":
		parentMain()
	default:
		fakeMain(mode)
	}
}

// fakeMain is a real process that plays the runner.
func fakeMain(mode string) {
	f := &fakeRunner{real: true, die: make(chan struct{}), script: script{info: wire.ModelInfo{Description: "fake", Context: 1 << 20}}}
	f.close = func() { os.Stdout.Close() }
	switch mode {
	case "serve":
	case "abort-at-load":
		f.script.dieAtLoad = true
	case "stubborn":
		f.script.ignoreClose = true
	default:
		fmt.Fprintln(os.Stderr, "unknown mode", mode)
		os.Exit(2)
	}
	if mode == "stubborn" {
		// Somebody must be waiting for the system, or the Go runtime ends a
		// program in which nothing can happen any more.
		r, w, err := os.Pipe()
		if err != nil {
			panic(err)
		}
		go func() {
			_, _ = r.Read(make([]byte, 1)) // never returns: w stays open
			runtime.KeepAlive(w)
		}()
	}
	f.run(os.Stdin, os.Stdout, os.Stderr)
	status := *f.status.Load()
	if code, ok := strings.CutPrefix(status, "exit status "); ok {
		n, err := strconv.Atoi(code)
		if err != nil {
			panic(err)
		}
		os.Exit(n)
	}
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = self.Kill()
	}
	if err != nil {
		panic(err)
	}
	select {}
}

// kill ends a process as kill -9 does.
func kill(t *testing.T, pid int) {
	t.Helper()
	p, err := os.FindProcess(pid)
	if err == nil {
		err = p.Kill()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// wantDead fails when a process that was reaped is still there.
func wantDead(t *testing.T, pid int) {
	t.Helper()
	if pid == 0 {
		t.Fatal("no pid")
	}
	p, err := os.FindProcess(pid)
	if err == nil && p.Signal(syscall.Signal(0)) == nil {
		t.Errorf("process %d is alive", pid)
	}
}
