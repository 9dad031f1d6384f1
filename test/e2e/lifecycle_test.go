//go:build unix

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/gguf/gguftest"
)

// patient is the demo model with a long context, so that an answer without
// end takes long enough for everything that is done to it.
const patient = "patient"

// savePatient writes it into a folder of its own and gives its path.
func savePatient(t *testing.T) string {
	t.Helper()
	return save(t, t.TempDir(), patient, changed(t, gguftest.KV("llama.context_length", uint32(1<<15))))
}

// startPatient starts a node with that model loaded.
func startPatient(t *testing.T, args ...string) *node {
	t.Helper()
	return start(t, options{args: append([]string{"--models-dir", filepath.Dir(savePatient(t)), "--load", patient, "--context", fmt.Sprint(1 << 15)}, args...)})
}

// endless is a streamed request for patient: end tokens mean nothing, so
// that the answer goes on to the end of the context.
func endless() string {
	return ask(patient, "What is Skein?", "stream", true, "max_tokens", 30000, "ignore_eos", true)
}

// freeze stops the only runner, so that what runs stays running, until the
// returned function or the end of the test.
func (n *node) freeze() (thaw func()) {
	n.t.Helper()
	pid := n.runner()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		n.t.Fatalf("stop runner %d: %v", pid, err)
	}
	return func() {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			n.t.Errorf("continue runner %d: %v", pid, err)
		}
	}
}

// status is what the management API says of a model.
func (n *node) status(model string) string {
	n.t.Helper()
	r := n.get("/v1/cluster/models")
	var models struct {
		Loaded []struct {
			ModelName string `json:"model_name"`
			Status    string `json:"status"`
		} `json:"loaded"`
	}
	if err := json.Unmarshal([]byte(r.body), &models); err != nil {
		n.t.Fatalf("%v: %s", err, r.body)
	}
	for _, m := range models.Loaded {
		if m.ModelName == model {
			return m.Status
		}
	}
	return ""
}

func TestStartAndStop(t *testing.T) {
	n := startDemo(t)
	greeting := n.stdout.String()
	if lines := strings.Count(greeting, "\n"); lines > 6 {
		t.Errorf("the greeting has %d lines, want at most 6:\n%s", lines, greeting)
	}
	contains(t, greeting, n.url+"/v1", "curl "+n.url, demo, "run\n")
	if a := n.address(); a.PID != n.pid || !strings.HasPrefix(a.API, "http://127.0.0.1:") {
		t.Errorf("the address file says %+v, the node is process %d", a, n.pid)
	}
	if info, err := os.Stat(n.addressFile()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the address file: %v, %v", info.Mode(), err)
	}
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/v1/models": 200, "/v1/models/" + demo: 200, "/nowhere": 404} {
		if r := n.get(path); r.status != want {
			t.Errorf("%s: status %d, want %d: %s", path, r.status, want, r.body)
		}
	}
	n.works()
	n.stop()
	if _, err := n.try(http.MethodGet, "/healthz", ""); err == nil {
		t.Error("the port still answers after the stop")
	}
}

func TestTerminate(t *testing.T) {
	n := start(t, options{}) // nothing loaded
	n.signal(syscall.SIGTERM)
	if code := n.exit(); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0\n%s", code, n.stderr)
	}
	if _, err := os.Stat(n.addressFile()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the address file is still there: %v", err)
	}
}

// A signal during the start ends it in order too.
func TestStopWhileStarting(t *testing.T) {
	n := launch(t, options{args: []string{"--load", demo}})
	n.runner() // the model is being loaded, or is already
	n.signal(os.Interrupt)
	if code := n.exit(); code != 0 {
		t.Errorf("exit code %d, want 0\n%s", code, n.stderr)
	}
	if _, err := os.Stat(n.addressFile()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the address file is still there: %v", err)
	}
}

func TestRunningStreamFinishesWithinDrain(t *testing.T) {
	n := startPatient(t)
	s := n.open("/v1/chat/completions", ask(patient, "What is Skein?", "stream", true, "max_tokens", 600, "ignore_eos", true))
	first := s.text()
	thaw := n.freeze()
	n.signal(os.Interrupt)
	eventually(t, "the node to be not ready", func() bool {
		r, err := n.try(http.MethodGet, "/readyz", "")
		return err != nil || r.status == http.StatusServiceUnavailable
	})
	// New requests are refused meanwhile, by an answer or by a closed port.
	if r, err := n.try(http.MethodPost, "/v1/chat/completions", ask(demo, "Hello")); err == nil {
		r.want(t, http.StatusServiceUnavailable, "service_unavailable", "stopping")
	}
	thaw()
	text, refused, err := s.rest()
	if !errors.Is(err, errEnd) || refused != nil {
		t.Errorf("the running stream ended with %v, %+v after %d bytes", err, refused, len(first+text))
	}
	if code := n.exit(); code != 0 {
		t.Errorf("exit code %d, want 0\n%s", code, n.stderr)
	}
}

func TestSecondInterruptStopsAtOnce(t *testing.T) {
	n := startPatient(t)
	s := n.open("/v1/chat/completions", endless())
	s.text()
	pid := n.runner()
	n.freeze()
	n.signal(os.Interrupt)
	n.stderr.wait(t, "stopping")
	began := time.Now()
	n.signal(os.Interrupt)
	if code := n.exit(); code != 0 {
		t.Errorf("exit code %d, want 0\n%s", code, n.stderr)
	}
	// The drain alone would be 10 s, since the runner stands still.
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("it took %v", took)
	}
	if _, refused, err := s.rest(); refused == nil && errors.Is(err, errEnd) {
		t.Error("the cut stream claims to be complete")
	}
	if alive(pid) {
		t.Errorf("runner %d is still there", pid)
	}
	if _, err := os.Stat(n.addressFile()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the address file is still there: %v", err)
	}
}

func TestPortInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := fmt.Sprint(taken.Addr().(*net.TCPAddr).Port)
	r := skein(t, t.TempDir(), "", "serve", "--api-port", port)
	// This test is the program that holds it, and the platform may not tell.
	r.want(t, 1, "port is in use", "--api-port", port)
	owner := fmt.Sprintf("process %d", os.Getpid())
	if !strings.Contains(r.stderr, owner) {
		if _, err := os.Stat("/proc/self/fd"); err == nil {
			t.Errorf("%q is missing in: %s", owner, r.stderr)
		}
	}
}

func TestTwoNodesOnOneHome(t *testing.T) {
	n := start(t, options{})
	second := launch(t, options{home: n.home})
	if code := second.exit(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	contains(t, second.stderr.String(), "already running", n.url, fmt.Sprint(n.pid), "SKEIN_HOME")
	if a := n.address(); a.PID != n.pid {
		t.Errorf("the address file names process %d now", a.PID)
	}
	n.works()
}

// A node that was killed leaves its address file, which must stop nobody.
func TestStaleAddressFile(t *testing.T) {
	home := t.TempDir()
	n := start(t, options{home: home})
	n.signal(os.Kill)
	n.exit()
	if _, err := os.Stat(n.addressFile()); err != nil {
		t.Fatalf("the kill was meant to leave the address file: %v", err)
	}
	skein(t, home, "", "models").want(t, 1, "no longer running", "skein serve")
	again := start(t, options{home: home})
	again.stop()
}

func TestOrphanEndsWithItsNode(t *testing.T) {
	n := startDemo(t)
	pid := n.runner()
	n.signal(os.Kill)
	n.exit()
	eventually(t, "the orphaned runner to end", func() bool { return !alive(pid) })
}

// Even one that stands still and reads nothing.
func TestFrozenOrphanEndsWithItsNode(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("NOT RUN: only Linux kills a frozen child with its parent")
	}
	n := startDemo(t)
	pid := n.runner()
	n.freeze()
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	n.signal(os.Kill)
	n.exit()
	eventually(t, "the frozen orphan to end", func() bool { return !alive(pid) })
}
