package supervise

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise/child"
)

// realOptions run this test binary as the runner program.
func realOptions(t *testing.T, mode string) Options {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Options{
		Executable: self, Args: []string{"runner"}, Env: append(os.Environ(), fakeEnv+"="+mode),
		Name: "demo", Build: "test", Logger: slog.New(slog.DiscardHandler),
		Load: wire.LoadRequest{Paths: []string{"demo.gguf"}},
	}
}

func TestChildServes(t *testing.T) {
	r := start(t, realOptions(t, "serve"))
	var wg sync.WaitGroup
	for range 8 {
		s := generate(t, r, promptCount, 500)
		wg.Go(func() {
			if ids, _, _, err := drain(t.Context(), s); err != nil || len(ids) != 500 {
				t.Errorf("%d tokens, %v", len(ids), err)
			}
		})
	}
	wg.Wait()
	pid := r.State().PID
	r.Stop(t.Context())
	wantDead(t, pid)
}

func TestChildKilledInTheMiddle(t *testing.T) {
	r := start(t, realOptions(t, "serve"))
	s := generate(t, r, promptWait, 10)
	if _, _, err := s.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	kill(t, r.State().PID)
	_, _, _, err := drain(t.Context(), s)
	wantKind(t, err, generation.KindFailed, "died")
	if runtime.GOOS != "windows" {
		wantKind(t, err, generation.KindFailed, "signal: killed")
	}
	if ids, _, _, err := drain(t.Context(), generate(t, r, promptCount, 3)); err != nil || len(ids) != 3 {
		t.Errorf("after the restart: %v, %v", ids, err)
	}
}

func TestChildAborts(t *testing.T) {
	r := start(t, realOptions(t, "abort-at-load"))
	<-r.Done()
	var loop *CrashLoop
	if !errors.As(r.Err(), &loop) || !strings.Contains(loop.Last.Headline, "GGML_ASSERT") {
		t.Errorf("error %v", r.Err())
	}
}

func TestChildThatIgnoresEverythingIsKilled(t *testing.T) {
	r := start(t, realOptions(t, "stubborn"))
	if err := r.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	pid := r.State().PID
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r.Stop(ctx)
	wantDead(t, pid)
}

func TestMissingExecutable(t *testing.T) {
	o := realOptions(t, "serve")
	o.Executable += "-that-is-not-there"
	r := start(t, o)
	<-r.Done()
	if err := r.Err(); err == nil || !strings.Contains(err.Error(), "-that-is-not-there") {
		t.Errorf("error %v", err)
	}
}

// parentMain is a node that starts a runner, tells its pid and then waits to
// be killed.
func parentMain() {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	r, err := Start(Options{
		Executable: self, Env: append(os.Environ(), fakeEnv+"="+os.Getenv(fakeEnv+"_CHILD")),
		Name: "demo", Logger: slog.New(slog.DiscardHandler), Load: wire.LoadRequest{Paths: []string{"demo.gguf"}},
	})
	if err != nil {
		panic(err)
	}
	if err := r.Wait(context.Background()); err != nil {
		panic(err)
	}
	fmt.Println(r.State().PID)
	select {}
}

// A node that is killed takes its runners along, even one that does not look
// at its stdin where the system can see to that.
func TestNoOrphans(t *testing.T) {
	modes := []string{"serve"}
	if runtime.GOOS == "linux" || runtime.GOOS == "windows" {
		modes = append(modes, "stubborn")
	}
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(self)
			cmd.Env = append(os.Environ(), fakeEnv+"=parent", fakeEnv+"_CHILD="+mode)
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var pid int
			if _, err := fmt.Fscan(bufio.NewReader(out), &pid); err != nil {
				t.Error(err)
			}
			// The runner is a stranger to this test, so its end is seen by a
			// watch opened while it lives.
			gone := watchExit(t, pid)
			if err := cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
			_ = cmd.Wait() // killed
			if pid != 0 {
				gone()
			}
		})
	}
}

func TestStderr(t *testing.T) {
	var log bytes.Buffer
	p := &process{name: "demo", log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	var in strings.Builder
	in.WriteString("panic: the cause\n\n  \n")
	for i := range 100 {
		fmt.Fprintf(&in, "line %d \xff\n", i)
	}
	in.WriteString("warning: look\n" + strings.Repeat("x", 3*lineBytes) + "\nno newline")
	p.kid = &child.Child{Stderr: io.NopCloser(strings.NewReader(in.String()))}
	p.readStderr()
	if n := len(p.tail.lines); n != tailLines {
		t.Errorf("%d lines", n)
	}
	if got := p.tail.summary(); got != "panic: the cause" {
		t.Errorf("summary %q", got)
	}
	if got := p.tail.lines[tailLines-1]; got != "no newline" {
		t.Errorf("last line %q", got)
	}
	if got := p.tail.lines[0]; !strings.HasSuffix(got, "\uFFFD") {
		t.Errorf("first line %q", got)
	}
	if got := log.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, "warning: look") {
		t.Errorf("log %q", got)
	}
	quiet := tail{lines: []string{"E it matters", "I it does not"}}
	if got := quiet.summary(); got != "E it matters" {
		t.Errorf("summary %q", got)
	}
	var big tail
	for range 20 {
		big.add(strings.Repeat("y", lineBytes))
	}
	if big.bytes > tailBytes {
		t.Errorf("%d bytes kept", big.bytes)
	}
}
