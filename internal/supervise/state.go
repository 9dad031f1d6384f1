package supervise

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/runner/wire"
)

// Phase is where a Runner is in its life.
type Phase string

// Phases. Failed and Stopped are final.
const (
	Starting   Phase = "starting"   // process started, library loading
	Loading    Phase = "loading"    // model loading, see State.Progress
	Ready      Phase = "ready"      // requests are served
	Restarting Phase = "restarting" // died; waiting for State.NextTry
	Failed     Phase = "failed"     // gave up, see State.Err
	Stopped    Phase = "stopped"    // by Stop
)

// State is a snapshot of a Runner.
type State struct {
	Phase    Phase
	Since    time.Time // of this phase
	PID      int       // of the live process; 0: none
	Progress float64   // of the load, in [0, 1]
	Attempt  int       // restarts since the runner was last stable
	NextTry  time.Time // when Restarting
	Err      error     // *Crash or *Refused; when Restarting or Failed
}

// Final tells whether the Runner will never serve again.
func (s State) Final() bool { return s.Phase == Failed || s.Phase == Stopped }

// Crash tells why a runner process is gone.
type Crash struct {
	Cause    string   // "signal: killed", "exit status 2", "made no step for 1m0s while busy", ...
	Headline string   // the line of its stderr that says most; "" if it said nothing
	Stderr   []string // last lines, oldest first
}

func (c *Crash) Error() string {
	if c.Headline == "" {
		return c.Cause
	}
	return c.Cause + ": " + c.Headline
}

// Refused tells that the library, or the runner before it, will not load this
// model. Trying again would not help, so nothing is tried again.
type Refused struct {
	Failure wire.Failure
	Stderr  []string // last lines, oldest first
}

func (r *Refused) Error() string { return r.Failure.Message }

// Unwrap gives the runner's answer.
func (r *Refused) Unwrap() error { return &r.Failure }

// CrashLoop tells that a runner died so often that it is not started again.
type CrashLoop struct {
	Crashes int
	Last    *Crash
}

func (c *CrashLoop) Error() string {
	return fmt.Sprintf("crashed %d times, last: %v", c.Crashes, c.Last)
}

// Unwrap gives the last crash.
func (c *CrashLoop) Unwrap() error { return c.Last }

const (
	tailLines = 40
	tailBytes = 16 << 10
	lineBytes = 2 << 10
)

// tail keeps the last lines of a process's stderr. It belongs to the stderr
// reader until that one is joined.
type tail struct {
	lines    []string
	bytes    int
	headline string
}

// add keeps a line and gives it back as it is kept; blank ones are dropped.
func (t *tail) add(line string) string {
	if line = strings.TrimSpace(strings.ToValidUTF8(line, "\uFFFD")); line == "" {
		return ""
	}
	t.lines = append(t.lines, line)
	t.bytes += len(line)
	for len(t.lines) > tailLines || t.bytes > tailBytes {
		t.bytes -= len(t.lines[0])
		t.lines = t.lines[1:]
	}
	// The sentence that names the cause comes first and stack traces push it
	// out of the tail, so it is kept aside.
	if t.headline == "" && isFatal(line) {
		t.headline = line
	}
	return line
}

// summary is the telling line: the fatal one, or else the last that is more
// than ordinary chatter; "" if there is none.
func (t *tail) summary() string {
	if t.headline != "" {
		return t.headline
	}
	for _, line := range slices.Backward(t.lines) {
		if !strings.HasPrefix(line, "I ") && !strings.HasPrefix(line, "D ") {
			return line
		}
	}
	return ""
}

// isFatal recognises how ggml, the C++ runtime and Go announce an abort. It
// only picks a line to show; no decision hangs on it.
func isFatal(line string) bool {
	for _, p := range []string{"panic: ", "fatal error: ", "terminate called", "SIGSEGV", "SIGABRT", "SIGILL", "SIGBUS", "SIGFPE"} {
		if strings.HasPrefix(line, p) {
			return true
		}
	}
	return strings.Contains(line, "GGML_ASSERT") || strings.Contains(line, "GGML_ABORT")
}

// isWarning tells whether a line is worth more than the debug level: the
// runner marks its own warnings and errors with a prefix.
func isWarning(line string) bool {
	// The library says it of every shard: none has a vocabulary of its own.
	if strings.HasPrefix(line, "W load: adding ") && strings.HasSuffix(line, " dummy tokens") {
		return false
	}
	for _, p := range []string{"W ", "E ", "warning:", "error:", "warn:"} {
		if strings.HasPrefix(line, p) {
			return true
		}
	}
	return isFatal(line)
}
