//go:build unix

package cli_test

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/skein-run/skein/internal/gguf/gguftest"
)

// terminal is a person in front of skein: it types when it has read what it
// waits for.
type terminal struct {
	t    *testing.T
	pty  *os.File
	r    *bufio.Reader
	seen strings.Builder
}

// expect reads on until the text stands there.
func (s *terminal) expect(text string) {
	s.t.Helper()
	var since strings.Builder
	for !strings.Contains(since.String(), text) {
		b, err := s.r.ReadByte()
		if err != nil {
			s.t.Fatalf("the terminal closed (%v) before %q; it showed\n%q", err, text, s.seen.String())
		}
		since.WriteByte(b)
		s.seen.WriteByte(b)
	}
}

func (s *terminal) send(keys string) {
	s.t.Helper()
	if _, err := s.pty.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

// startTerminal runs skein on a pseudo-terminal of a fixed size, without colours.
func startTerminal(t *testing.T, home string, args ...string) (*terminal, *exec.Cmd) {
	t.Helper()
	return startTerminalOf(t, home, pty.Winsize{Rows: 40, Cols: 200}, []string{"NO_COLOR=1"}, args...)
}

// startTerminalOf runs skein on a pseudo-terminal, with colours unless env says
// otherwise.
func startTerminalOf(t *testing.T, home string, size pty.Winsize, env []string, args ...string) (*terminal, *exec.Cmd) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asProgram+"=1", "SKEIN_HOME="+home, "TERM=xterm", "NO_COLOR=",
		"GORACE=atexit_sleep_ms=0", "SKEIN_HOST=", "SKEIN_PORT=", "SKEIN_API_KEY=")
	cmd.Env = append(cmd.Env, env...)
	f, err := pty.StartWithSize(cmd, &size)
	if err != nil {
		t.Fatal(err)
	}
	// Nobody waits for ever for what does not come.
	overdue := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() {
		overdue.Stop()
		_ = f.Close()
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return &terminal{t: t, pty: f, r: bufio.NewReader(f)}, cmd
}

// prompt is how the line editor shows that it waits for input.
const promptText = ">>> "

func TestChatOnTerminal(t *testing.T) {
	dir := t.TempDir()
	model := gguftest.Tiny{}.WriteFile(t, dir, "tiny.gguf")
	home := filepath.Join(dir, "home")
	s, cmd := startTerminal(t, home, "run", model)
	s.expect("no node is running")
	s.expect("tiny. /help shows the commands")
	s.expect(promptText)

	s.send("hello\r")
	s.expect("user=hello")
	s.expect(promptText)

	// Line editing: back by two letters, and on from there.
	s.send("wxld\x1b[D\x1b[D\x7for\r")
	s.expect("user=hello | assistant=")
	s.expect("| user=world")
	s.expect(promptText)

	// Ctrl-C stops the answer and not the program.
	s.send("hang\r")
	s.expect("waiting")
	s.send("\x03")
	s.expect("Stopped; the conversation goes on from here.")
	s.expect(promptText)

	// At the prompt it says how to end.
	s.send("\x03")
	s.expect("Press Ctrl-D or type /bye to end.")
	s.expect(promptText)

	// History: the arrow brings the last entry back.
	s.send("/clear\r")
	s.expect("forgotten")
	s.expect(promptText)
	s.send("again\r")
	s.expect("user=again")
	s.expect(promptText)
	s.send("\x1b[A\r")
	s.expect("| user=again")
	s.expect(promptText)

	// Several lines.
	s.send("\"\"\"\r")
	s.expect("... ")
	s.send("a\r")
	s.expect("... ")
	s.send("b\"\"\"\r")
	s.expect("| user=a\r\nb")
	s.expect(promptText)

	// What a model says cannot control the terminal.
	s.send("escape\r")
	s.expect("a]0;titleb")
	s.expect(promptText)

	s.send("\x04")
	s.expect("(node stopped)")
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v; the terminal showed\n%q", err, s.seen.String())
	}
	history, err := os.ReadFile(filepath.Join(home, "history"))
	if err != nil || !strings.HasPrefix(string(history), "hello\nworld\nhang\n/clear\nagain\n") {
		t.Errorf("history %q, %v", history, err)
	}
	if info, err := os.Stat(filepath.Join(home, "history")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("history file: %v, %v", info, err)
	}
}

// SIGTERM ends a chat that waits at its prompt, and one that is answering.
func TestChatTerminated(t *testing.T) {
	for _, busy := range []bool{false, true} {
		dir := t.TempDir()
		model := gguftest.Tiny{}.WriteFile(t, dir, "tiny.gguf")
		s, cmd := startTerminal(t, filepath.Join(dir, "home"), "run", model)
		s.expect(promptText)
		if busy {
			s.send("hang\r")
			s.expect("waiting")
		}
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		s.expect("(node stopped)")
		err := cmd.Wait()
		if cmd.ProcessState.ExitCode() != 130 {
			t.Errorf("busy=%v: ended with %v, want exit code 130", busy, err)
		}
	}
}

// Ctrl-C ends a single question with the exit code of an interrupt.
func TestQuestionInterrupted(t *testing.T) {
	dir := t.TempDir()
	model := gguftest.Tiny{}.WriteFile(t, dir, "tiny.gguf")
	s, cmd := startTerminal(t, filepath.Join(dir, "home"), "run", model, "please", "hang")
	s.expect("waiting")
	s.send("\x03")
	s.expect("(node stopped)")
	err := cmd.Wait()
	if cmd.ProcessState.ExitCode() != 130 {
		t.Errorf("ended with %v, want exit code 130", err)
	}
}
