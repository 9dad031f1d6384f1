package e2e

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestMastersDiskIsFull: while an answer runs, the disk of the master is filled.
// Each command is done all the same, another node leads, and health names the
// folder; nobody can promote the node until it has room, which it finds out by itself.
func TestMastersDiskIsFull(t *testing.T) {
	home := t.TempDir()
	if err := syscall.Mount("tmpfs", home, "tmpfs", 0, "size=6m"); err != nil {
		t.Skipf("NOT RUN: a small disk needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(home, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	dir := saveExact(t)
	first := member(t, nil, options{home: home, args: []string{"--models-dir", dir}})
	n := []*node{first, member(t, first, options{home: t.TempDir()}), member(t, first, options{home: t.TempDir()})}
	together(t, n...)
	n[1].load(exact, n[1], n[2])
	const tokens = 500
	want := n[2].open("/v1/chat/completions", long(tokens)).whole("", tokens)
	if lead := n[1].master(); lead != first.id() {
		t.Fatalf("%s leads, want the first node %s", lead, first.id())
	}

	s := n[1].open("/v1/chat/completions", long(tokens))
	got := s.text()
	fillUp(t, filepath.Join(home, "filler"))
	path := "/v1/cluster/nodes/" + first.id()
	eventually(t, "another node to lead", func() bool { // what the file has to spare is used up first
		for _, what := range []string{"/drain", "/resume"} {
			if r := n[1].post(path+what, ""); r.status != http.StatusOK {
				t.Fatalf("%s: status %d: %s", what, r.status, r.body)
			}
		}
		return n[1].master() != first.id()
	})
	warned := func() bool {
		var h struct {
			Healthy  bool     `json:"healthy"`
			Warnings []string `json:"warnings"`
		}
		n[2].read("/v1/cluster/health", &h)
		return h.Healthy && slices.ContainsFunc(h.Warnings, func(w string) bool { return strings.Contains(w, "make room on the disk of "+home) })
	}
	eventually(t, "health to warn of the disk", warned)
	promote := `{"node_id": "` + first.id() + `"}`
	if r := n[1].post("/v1/cluster/master", promote); r.status != http.StatusConflict || !strings.Contains(r.body, "make room") {
		t.Errorf("it was promoted with a full disk: status %d: %s", r.status, r.body)
	}
	same(t, "while the master's disk was full", s.whole(got, tokens), want)

	lead := n[1].master()
	if err := os.Remove(filepath.Join(home, "filler")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the warning to go", func() bool { return !warned() })
	eventually(t, "the node to be promoted", func() bool {
		if now := n[1].master(); now != lead {
			t.Fatalf("%s took the lead from %s by itself", now, lead)
		}
		return n[1].post("/v1/cluster/master", promote).status == http.StatusOK
	})
	if r := n[2].post(path+"/drain", ""); r.status != http.StatusOK {
		t.Errorf("a command of the node with room again: status %d: %s", r.status, r.body)
	}
}

// fillUp writes a file until there is no room left.
func fillUp(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}
