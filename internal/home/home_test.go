package home

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestLocate(t *testing.T) {
	h, err := Locate("")
	if err != nil {
		t.Fatal(err)
	}
	if !filepath.IsAbs(h.Dir()) || filepath.Base(h.Dir()) != "skein" {
		t.Errorf("default home is %q", h.Dir())
	}
	h, err = Locate("some/where")
	if err != nil {
		t.Fatal(err)
	}
	if !filepath.IsAbs(h.Dir()) || !strings.HasSuffix(h.ConfigFile(), filepath.Join("some", "where", "config.yaml")) {
		t.Errorf("relative home gives %q", h.ConfigFile())
	}
}

func newHome(t *testing.T) Home {
	t.Helper()
	h, err := Locate(filepath.Join(t.TempDir(), "home"))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestNodeFileLifecycle(t *testing.T) {
	h := newHome(t)
	if _, err := h.ReadNode(); !errors.Is(err, ErrNoNode) {
		t.Fatalf("fresh home: %v, want ErrNoNode", err)
	}
	want := Node{PID: os.Getpid(), API: "http://127.0.0.1:52415", Started: time.Unix(1700000000, 0).UTC(), Version: "v1", APIKey: "k"}
	if err := h.WriteNode(want); err != nil {
		t.Fatal(err)
	}
	got, err := h.ReadNode()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
	if runtime.GOOS != "windows" {
		for path, mode := range map[string]os.FileMode{h.Dir(): 0o700, h.NodeFile(): 0o600} {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode().Perm() != mode {
				t.Errorf("%s has mode %o, want %o", path, info.Mode().Perm(), mode)
			}
		}
	}
	if err := h.WriteNode(Node{PID: os.Getpid() + 1, API: "http://x"}); err == nil || !strings.Contains(err.Error(), "already running") {
		t.Errorf("second node: %v, want a refusal", err)
	}
	if err := h.RemoveNode(os.Getpid() + 1); err != nil {
		t.Fatal(err)
	}
	if _, err := h.ReadNode(); err != nil {
		t.Errorf("another process's RemoveNode took the file away: %v", err)
	}
	if err := h.RemoveNode(os.Getpid()); err != nil {
		t.Fatal(err)
	}
	if _, err := h.ReadNode(); !errors.Is(err, ErrNoNode) {
		t.Errorf("after removal: %v", err)
	}
	if err := h.RemoveNode(os.Getpid()); err != nil {
		t.Errorf("second removal: %v", err)
	}
	left, err := os.ReadDir(h.Dir())
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// deadPID gives the id of a process that has just ended.
func deadPID(t *testing.T) int {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

func TestStaleNodeFile(t *testing.T) {
	h := newHome(t)
	dead := Node{PID: deadPID(t), API: "http://127.0.0.1:1"}
	if err := h.WriteNode(dead); err != nil {
		t.Fatal(err)
	}
	var stale *StaleError
	if _, err := h.ReadNode(); !errors.As(err, &stale) || stale.Node.PID != dead.PID {
		t.Fatalf("got %v, want a StaleError for %d", err, dead.PID)
	}
	if err := h.WriteNode(Node{PID: os.Getpid(), API: "http://127.0.0.1:2"}); err != nil {
		t.Errorf("a stale file stops a new node: %v", err)
	}
}

func TestBrokenNodeFile(t *testing.T) {
	h := newHome(t)
	if err := h.Ensure(); err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"", "{", "[]", `{"pid":-1,"api":"x"}`, `{"pid":1}`} {
		if err := os.WriteFile(h.NodeFile(), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := h.ReadNode(); err == nil || !strings.Contains(err.Error(), "remove it") {
			t.Errorf("content %q: %v, want an error with the fix", content, err)
		}
	}
}
