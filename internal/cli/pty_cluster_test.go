//go:build unix

package cli_test

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"github.com/creack/pty"
)

// clusterAt starts a fake cluster of three for a home of its own, with models
// that are loaded.
func clusterAt(t *testing.T, loaded ...string) (where string, fleet *fakeCluster) {
	t.Helper()
	o := fakeOptions{three: true, loaded: loaded, known: []string{"new", "broken", "endless"}, edit: func(f *fakeCluster) { fleet = f }}
	return homeOfNode(t, o), fleet
}

// onTerminal runs skein to its end on a terminal of a width, and gives what
// that showed.
func onTerminal(t *testing.T, where string, width int, env []string, args ...string) (shown string, code int) {
	t.Helper()
	s, cmd := startTerminalOf(t, where, pty.Winsize{Rows: 30, Cols: uint16(width)}, env, args...)
	shown = s.rest()
	_ = cmd.Wait() // the code tells
	return shown, cmd.ProcessState.ExitCode()
}

// rest reads to the end.
func (s *terminal) rest() string {
	s.t.Helper()
	for {
		b, err := s.r.ReadByte()
		if err != nil { // a terminal whose program is gone gives EIO, not EOF
			return s.seen.String()
		}
		s.seen.WriteByte(b)
	}
}

// plain is a terminal without colours.
var plain = []string{"NO_COLOR=1"}

// sentence is a text as if it stood on one line.
func sentence(shown string) string { return strings.Join(strings.Fields(shown), " ") }

// --wait draws the progress of each stage over and over, keeps within the
// terminal, and leaves the last state standing.
func TestWaitIsDrawnOnATerminal(t *testing.T) {
	where, _ := clusterAt(t)
	for _, width := range []int{40, 80} {
		shown, code := onTerminal(t, where, width, plain, "models", "load", "new", "--wait")
		if code != 0 {
			t.Fatalf("exit code %d: %q", code, shown)
		}
		frames := strings.Split(shown, "\x1b[3A\x1b[J")
		if len(frames) < 4 {
			t.Fatalf("%d frames: %q", len(frames), shown)
		}
		for _, want := range []string{"fetching", "loading", "ready"} {
			if !strings.Contains(shown, want) {
				t.Errorf("width %d lacks %q: %q", width, want, shown)
			}
		}
		for _, f := range frames {
			lines := strings.Split(strings.TrimSuffix(f, "\r\n"), "\r\n")
			if len(lines) < 3 {
				t.Fatalf("a frame of %d lines: %q", len(lines), f)
			}
			for _, l := range lines {
				if n := utf8.RuneCountInString(l); n > width {
					t.Errorf("%d characters on a terminal of %d: %q", n, width, l)
				}
			}
		}
		last := frames[len(frames)-1]
		if !strings.Contains(last, "here stage") || !strings.Contains(last, "studio") || !strings.HasSuffix(last, "new is ready\r\n") {
			t.Errorf("it ends with %q", last)
		}
		if width == 80 && (!strings.Contains(shown, "fetching 2.0/8.0 GB (25%)") || !strings.Contains(shown, "studio stage 2/2, layers 12-23  [###-------]  fetching 1.0/4.0 GB (25%)") || !strings.Contains(shown, "loading layer 12/24 (50%)")) {
			t.Errorf("the steps of each stage are missing: %q", shown)
		}
		if shown, code := onTerminal(t, where, width, plain, "models", "unload", "new"); code != 0 {
			t.Fatalf("exit code %d: %q", code, shown)
		}
	}
}

// How --wait ends is told by the exit code, on a terminal too, and Ctrl-C ends
// the waiting alone.
func TestWaitEndsOnATerminal(t *testing.T) {
	where, _ := clusterAt(t)
	if shown, code := onTerminal(t, where, 80, plain, "models", "load", "broken", "--wait"); code != 1 || !strings.Contains(sentence(shown), "'skein models unload broken'") || strings.Contains(shown, "\x1b[31m are") {
		t.Errorf("exit code %d: %q", code, shown)
	}
	if shown, code := onTerminal(t, where, 80, plain, "models", "load", "endless", "--wait", "--timeout", "0.3"); code != 124 || !strings.Contains(sentence(shown), "see 'skein models status endless'") {
		t.Errorf("exit code %d: %q", code, shown)
	}
	where, fleet := clusterAt(t)
	s, cmd := startTerminal(t, where, "models", "load", "endless", "--wait")
	s.expect("loading layer")
	s.send("\x03")
	s.rest()
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("Ctrl-C gave exit code %d", code)
	}
	fleet.mu.Lock()
	defer fleet.mu.Unlock()
	if n := len(fleet.in.State.Instances); n != 1 {
		t.Errorf("%d instances are left, want 1: the waiting ended, not the loading", n)
	}
}

// Colours are for terminals that want them: not with NO_COLOR, not where TERM
// says dumb, never on a pipe.
func TestColours(t *testing.T) {
	where, _ := clusterAt(t, "org/m1")
	for _, tt := range []struct {
		env      []string
		coloured bool
	}{{[]string{"NO_COLOR="}, true}, {[]string{"NO_COLOR=1"}, false}, {[]string{"NO_COLOR=", "TERM=dumb"}, false}} {
		for _, args := range [][]string{{"status"}, {"nodes"}, {"nodes", "here"}, {"models"}, {"models", "list"}, {"health"}} {
			shown, code := onTerminal(t, where, 80, tt.env, args...)
			if code != 0 || strings.Contains(shown, "\x1b[") != tt.coloured && (args[0] != "models" || len(args) == 1) {
				t.Errorf("%v %v: exit code %d, %q", tt.env, args, code, shown)
			}
			if !tt.coloured && strings.Contains(shown, "\x1b") {
				t.Errorf("%v %v is coloured: %q", tt.env, args, shown)
			}
		}
	}
	cmd := exec.Command(os.Args[0], "status")
	cmd.Env = append(os.Environ(), asProgram+"=1", "SKEIN_HOME="+where, "TERM=xterm", "NO_COLOR=", "SKEIN_HOST=", "SKEIN_PORT=", "SKEIN_API_KEY=", "GORACE=atexit_sleep_ms=0")
	if piped, err := cmd.Output(); err != nil || strings.ContainsAny(string(piped), "\x1b\r") {
		t.Errorf("a pipe got %q, %v", piped, err)
	}
}

// No line is wider than the terminal.
func TestTablesFitTheTerminal(t *testing.T) {
	where, _ := clusterAt(t, "org/a-long-model-name-Q4_K_M")
	for _, width := range []int{40, 80, 120} {
		for _, args := range [][]string{{"status"}, {"nodes"}, {"models"}, {"models", "list"}, {"nodes", "here"}, {"models", "load", "new", "--dry-run"}, {"models", "status", "new"}, {"models", "load", "none"}, {"health"}, {"keys"}} {
			shown, _ := onTerminal(t, where, width, plain, args...)
			if shown == "" {
				t.Errorf("%v showed nothing", args)
			}
			for _, l := range strings.Split(shown, "\r\n") {
				if n := utf8.RuneCountInString(l); n > width {
					t.Errorf("%v: %d characters on a terminal of %d: %q", args, n, width, l)
				}
			}
		}
	}
}

// top shows what changes as it changes, follows the size of the terminal, and
// leaves the screen as it was.
func TestTopOnATerminal(t *testing.T) {
	where, fleet := clusterAt(t, "org/m1")
	s, cmd := startTerminalOf(t, where, pty.Winsize{Rows: 30, Cols: 120}, plain, "top")
	s.expect("\x1b[?1049h")
	s.expect("2 nodes, master here")
	s.expect("here, studio")
	s.expect("Ctrl-C ends")

	fleet.mu.Lock()
	fleet.remove("org/m1")
	fleet.in.Master = "n2"
	fleet.tell()
	fleet.mu.Unlock()
	s.expect("master studio")
	s.expect("No model is loaded")

	if err := pty.Setsize(s.pty, &pty.Winsize{Rows: 8, Cols: 40}); err != nil {
		t.Fatal(err)
	}
	s.expect("… and ") // at the next look, two seconds later at most
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	s.expect("\x1b[?1049l")
	s.rest()
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit code %d", code)
	}
}
