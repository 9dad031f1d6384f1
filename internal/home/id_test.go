package home

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestNodeIDIsKept(t *testing.T) {
	h, err := Locate(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	first, err := h.NodeID()
	if err != nil {
		t.Fatal(err)
	}
	again, err := h.NodeID()
	if err != nil || again != first {
		t.Errorf("second id %q, %v; the first was %q", again, err, first)
	}
	file := filepath.Join(h.Dir(), "node_id")
	if err := os.WriteFile(file, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.NodeID(); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a damaged id: %v, want an error that names %s", err, file)
	}
}
