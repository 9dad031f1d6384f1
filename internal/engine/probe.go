package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/runner/wire"
)

// probeTimeout bounds the child that loads the library to ask for its devices:
// a broken GPU driver may hang.
const probeTimeout = time.Minute

// Probe loads the library in a short-lived child, which a broken library
// or driver may take down, and gives what it reports.
func Probe(ctx context.Context, executable string, e *Engine) (wire.EngineInfo, error) {
	var info wire.EngineInfo
	spec, err := json.Marshal(e.Spec())
	if err != nil {
		return info, fmt.Errorf("ask the engine: %w", err)
	}
	limited, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	child := exec.CommandContext(limited, executable, "runner", "--probe")
	// A grandchild of a driver may keep the pipes open after a kill.
	child.WaitDelay = time.Second
	child.Stdin = bytes.NewReader(spec)
	var stdout, stderr bytes.Buffer
	child.Stdout, child.Stderr = &stdout, &stderr
	err = child.Run()
	switch {
	case ctx.Err() != nil:
		return info, context.Cause(ctx)
	case limited.Err() != nil:
		return info, fmt.Errorf("ask the engine: the library in %s did not come up within %v; a GPU driver may hang: try `skein engine install --backend cpu`", e.Dir, probeTimeout)
	case err != nil:
		return info, fmt.Errorf("ask the engine in %s: %s", e.Dir, LastWords(stderr.String(), err))
	}
	if err := json.Unmarshal(stdout.Bytes(), &info); err != nil {
		return info, fmt.Errorf("ask the engine: its child's answer: %w", err)
	}
	for i, p := range info.Problems {
		info.Problems[i] = p + said(stderr.String(), p)
	}
	return info, nil
}

// said is what a backend printed about itself, behind the sentence that it shows no
// device; "" if it printed nothing.
func said(stderr, problem string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(problem, "the "), " backend")
	last := ""
	for line := range strings.Lines(stderr) {
		if _, words, ok := strings.Cut(line, "ggml_"+name+": "); ok {
			last = " (it says: " + strings.TrimSpace(words) + ")"
		}
	}
	return last
}

// Spec tells a runner which libraries to load.
func (e *Engine) Spec() wire.EngineSpec {
	return wire.EngineSpec{Dir: e.Dir, Llama: e.Libllama, GGML: e.Libggml, GGMLBase: e.Base}
}

// LastWords gives the first line that a runner marked as an error; else how it
// crashed, which a long trace follows; else its last line, or how it ended.
func LastWords(stderr string, ended error) string {
	last, crash := "", ""
	for line := range strings.Lines(stderr) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		last = line
		if said, ok := strings.CutPrefix(line, "E "); ok {
			return said
		}
		if crash == "" && (strings.HasPrefix(line, "SIG") && strings.Contains(line, ": ") || strings.HasPrefix(line, "fatal error: ") || strings.HasPrefix(line, "panic: ") ||
			strings.HasPrefix(line, "terminate called") || strings.Contains(line, "GGML_ASSERT")) {
			crash = line
		}
	}
	var exit *exec.ExitError
	killed := errors.As(ended, &exit) && exit.ExitCode() < 0
	how := crash
	switch {
	case killed && crash == "":
		how = strings.TrimSpace(ended.Error() + " " + last)
	case killed:
		how = ended.Error() + " " + crash
	case crash == "" && last == "":
		return ended.Error()
	case crash == "":
		return last
	}
	for _, fault := range []string{"SIGSEGV", "SIGBUS", "SIGILL", "segmentation fault", "bus error", "illegal instruction"} {
		if strings.Contains(how, fault) {
			return "it crashed (" + how + "); a library there is damaged, or a driver is: install them again, or try `skein engine install --backend cpu`"
		}
	}
	return "it crashed (" + how + ")"
}
