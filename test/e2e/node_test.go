//go:build unix

package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shirou/gopsutil/v4/process"

	"github.com/skein-run/skein/internal/nettest"
)

// patience bounds every wait: far longer than anything takes on a busy
// machine, so that reaching it means that it never happens.
const patience = 60 * time.Second

// output collects what a process writes and tells waiters of it.
type output struct {
	mu      sync.Mutex // guards all below
	text    bytes.Buffer
	ended   bool
	changed chan struct{}
}

func newOutput() *output { return &output{changed: make(chan struct{})} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(p)
	o.notify()
	return len(p), nil
}

func (o *output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	o.notify()
}

// notify needs mu.
func (o *output) notify() {
	close(o.changed)
	o.changed = make(chan struct{})
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// wait returns once the output contains want; false when it ended without.
func (o *output) wait(t *testing.T, want string) bool {
	t.Helper()
	deadline := time.After(patience)
	for {
		o.mu.Lock()
		found, ended, changed := strings.Contains(o.text.String(), want), o.ended, o.changed
		o.mu.Unlock()
		if found || ended {
			return found
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("waited %v for %q in:\n%s", patience, want, o)
		}
	}
}

// options say how to start the program.
type options struct {
	args []string
	env  []string // on top of a small clean environment
	home string   // SKEIN_HOME; a new folder when ""
	on   *host    // where it runs; nil: on this machine
	// ports for peers and for gossip, as of a node that starts again; 0: any free ones.
	ports [2]string
}

// host is a machine of a test's own network.
type host struct {
	net   *nettest.Network
	index int
}

// node is a `skein serve` that a test started.
type node struct {
	t              *testing.T
	home           string
	url            string // of the API; "" before it is up
	pid            int
	key            string   // sent with requests; ""
	headers        []string // sent with them too, as pairs
	stdout, stderr *output
	cmd            *exec.Cmd
	done           chan struct{} // closed when the process was reaped
	err            error         // of Wait; valid after done
	on             *host
}

// launch starts `skein serve` on a free port and does not wait.
func launch(t *testing.T, o options) *node {
	t.Helper()
	if o.home == "" {
		o.home = t.TempDir()
	}
	n := &node{t: t, home: o.home, stdout: newOutput(), stderr: newOutput(), done: make(chan struct{}), on: o.on}
	args := append([]string{"serve", "--threads", "1"}, o.args...)
	if !strings.Contains(strings.Join(o.args, " "), "--join") {
		// On a network of its own: tests run side by side.
		args = append(args, o.alone()...)
	}
	if !strings.Contains(strings.Join(o.args, " "), "--api-port") && !strings.Contains(strings.Join(o.env, " "), "SKEIN_API_PORT") {
		args = append(args, "--api-port", "0")
	}
	n.cmd = o.on.command(o.home, o.env, args...)
	n.cmd.Stdout, n.cmd.Stderr = n.stdout, n.stderr
	// A runner that outlived its node would hold no pipe of ours, but a test
	// must end in any case.
	n.cmd.WaitDelay = 5 * time.Second
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n.pid = n.cmd.Process.Pid
	go func() {
		n.err = n.cmd.Wait()
		n.stdout.end()
		n.stderr.end()
		close(n.done)
	}()
	t.Cleanup(n.cleanup)
	return n
}

// start is launch, and waits until the node takes requests.
func start(t *testing.T, o options) *node {
	t.Helper()
	n := launch(t, o)
	n.awaitUp()
	return n
}

// startDemo starts a node with the demo model loaded.
func startDemo(t *testing.T, args ...string) *node {
	t.Helper()
	return start(t, options{args: append([]string{"--load", demo}, args...)})
}

// awaitUp waits for the greeting, whose last line of the common part is the
// stop line.
func (n *node) awaitUp() {
	n.t.Helper()
	if !n.stdout.wait(n.t, "stop: Ctrl-C") {
		<-n.done
		n.t.Fatalf("the node ended before it was up: %v\n%s", n.err, n.stderr)
	}
	n.url = n.address().API
}

// address reads the address file.
func (n *node) address() (a struct {
	PID    int    `json:"pid"`
	API    string `json:"api"`
	APIKey string `json:"api_key"`
}) {
	n.t.Helper()
	data, err := os.ReadFile(n.addressFile())
	if err != nil {
		n.t.Fatal(err)
	}
	if err := json.Unmarshal(data, &a); err != nil {
		n.t.Fatal(err)
	}
	return a
}

func (n *node) addressFile() string { return filepath.Join(n.home, "node.json") }

// signal sends one to the node.
func (n *node) signal(s os.Signal) {
	n.t.Helper()
	if err := n.cmd.Process.Signal(s); err != nil {
		n.t.Fatalf("send %v: %v", s, err)
	}
}

// exit waits for the process to end and gives its exit code; -1: a signal.
func (n *node) exit() int {
	n.t.Helper()
	select {
	case <-n.done:
	case <-time.After(patience):
		n.t.Fatalf("the node did not end within %v\n%s", patience, n.stderr)
	}
	var status *exec.ExitError
	if n.err != nil && !errors.As(n.err, &status) {
		n.t.Fatalf("wait for the node: %v", n.err)
	}
	return n.cmd.ProcessState.ExitCode()
}

// stop ends the node as Ctrl-C does, and checks that it went in order.
func (n *node) stop() {
	n.t.Helper()
	kids := n.children()
	n.signal(os.Interrupt)
	if code := n.exit(); code != 0 {
		n.t.Errorf("exit code %d after an interrupt, want 0\n%s", code, n.stderr)
	}
	if _, err := os.Stat(n.addressFile()); !errors.Is(err, os.ErrNotExist) {
		n.t.Errorf("the address file is still there after the stop: %v", err)
	}
	for _, kid := range kids {
		if alive(kid) {
			n.t.Errorf("runner %d is still there after the stop", kid)
		}
	}
}

// cleanup ends what the test left running.
func (n *node) cleanup() {
	select {
	case <-n.done:
	default:
		kids := n.children()
		// Stopped runners could not be asked to end.
		for _, kid := range kids {
			_ = syscall.Kill(kid, syscall.SIGCONT)
		}
		_ = n.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-n.done:
			if code := n.cmd.ProcessState.ExitCode(); code != 0 && !n.t.Failed() {
				n.t.Errorf("exit code %d in the end, want 0", code)
			}
		case <-time.After(patience):
			_ = n.cmd.Process.Kill()
			<-n.done
			n.t.Errorf("the node did not end on SIGTERM and was killed")
		}
	}
	if n.t.Failed() {
		n.t.Logf("stderr of node %d:\n%s", n.pid, n.stderr)
	}
}

// children gives the ids of the node's child processes: its runners.
func (n *node) children() []int {
	n.t.Helper()
	p, err := process.NewProcess(int32(n.pid))
	if err != nil {
		return nil // it is gone, and its children were reaped or are not its own
	}
	kids, err := p.Children()
	if err != nil {
		return nil
	}
	var ids []int
	for _, kid := range kids {
		ids = append(ids, int(kid.Pid))
	}
	return ids
}

// runner gives the id of the only runner.
func (n *node) runner() int {
	n.t.Helper()
	var kids []int
	eventually(n.t, "the node to have one runner", func() bool {
		kids = n.children()
		return len(kids) == 1
	})
	return kids[0]
}

// alive tells whether a process exists that is not a zombie.
func alive(pid int) bool {
	p, err := process.NewProcess(int32(pid))
	if err != nil {
		return false
	}
	status, err := p.Status()
	return err == nil && len(status) > 0 && status[0] != process.Zombie
}

// eventually asks until it is so. It is for states of other processes, which
// give no event to wait for.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// command prepares the program with a clean environment.
func command(home string, env []string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "SKEIN_HOME=" + home, "TMPDIR=" + os.TempDir()}, env...)
	return cmd
}

// command prepares the program as a process of a host; on none, here.
func (h *host) command(home string, env []string, args ...string) *exec.Cmd {
	cmd := command(home, env, args...)
	if h != nil {
		there := h.net.Command(h.index, program, args...)
		cmd.Path, cmd.Args = there.Path, there.Args
	}
	return cmd
}

// alone are the flags of a node that finds nobody by itself.
func (o options) alone() []string {
	address := "127.0.0.1"
	if o.on != nil {
		address = o.on.net.Address(o.on.index)
	}
	return []string{"--no-discovery", "--peer-host", address, "--peer-port", cmp.Or(o.ports[0], "0"), "--gossip-port", cmp.Or(o.ports[1], "0")}
}

// result is how a command ended.
type result struct {
	code           int
	stdout, stderr string
}

// skein runs a command to its end.
func skein(t *testing.T, home, stdin string, args ...string) result {
	t.Helper()
	return skeinEnv(t, home, nil, stdin, args...)
}

func skeinEnv(t *testing.T, home string, env []string, stdin string, args ...string) result {
	t.Helper()
	return finish(t, command(home, env, args...), stdin)
}

// finish runs a prepared command to its end.
func finish(t *testing.T, cmd *exec.Cmd, stdin string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	err := cmd.Wait()
	var status *exec.ExitError
	if err != nil && !errors.As(err, &status) {
		t.Fatalf("%s: %v", strings.Join(cmd.Args, " "), err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// want checks a command's exit code and that its output holds some texts.
func (r result) want(t *testing.T, code int, texts ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d\nstdout: %s\nstderr: %s", r.code, code, r.stdout, r.stderr)
	}
	contains(t, r.stdout+r.stderr, texts...)
}

// contains checks that a text holds others.
func contains(t *testing.T, text string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in:\n%s", want, text)
		}
	}
}
