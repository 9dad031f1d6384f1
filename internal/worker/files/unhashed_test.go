package files

import (
	"bytes"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/gguf/gguftest"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/ids"
)

// held makes a node whose models are all slow, and that reads them when told.
func held(w *world, id ids.Node) (n *node, read func()) {
	gate := make(chan struct{})
	n = w.node(id, func(o *Options) {
		o.Quick = 1
		o.reading = func(string) {
			select {
			case <-gate:
			case <-w.t.Context().Done():
			}
		}
	})
	done := false
	read = func() {
		if !done {
			done = true
			close(gate)
		}
	}
	w.t.Cleanup(read) // before the node's Stop
	return n, read
}

// TestToldBeforeItIsHashed: a large file is a model of the cluster at once, and
// its node can run it. Who must fetch it waits for its hashes.
func TestToldBeforeItIsHashed(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, read := held(w, "a")
	path := a.add(t, "big", gguftest.Tiny{Context: 512})
	w.waitHolders("big", "a")
	m := w.State().Models["big"]
	if m.Hashed() || len(m.Profile.Layers) == 0 || m.Files[0].Size == 0 {
		t.Fatalf("told as %+v", m)
	}
	if h := a.Hashing(); h == nil || h.Model != "big" || h.Total != m.Files[0].Size {
		t.Errorf("it is being hashed: %+v", h)
	}
	paths, release, err := bring(t, w, a, "big", &slice.Spec{End: 1})
	if err != nil || !slices.Equal(paths, []string{path}) {
		t.Fatalf("its own node gets %v, %v", paths, err)
	}
	release()
	b := w.node("b", nil)
	type got struct {
		paths []string
		err   error
	}
	fetched := make(chan got, 1)
	go func() {
		paths, release, err := b.Bring(t.Context(), m, nil, func(int64, int64) {})
		if err == nil {
			release()
		}
		fetched <- got{paths, err}
	}()
	// Another model comes and goes meanwhile.
	b.add(t, "other", gguftest.Tiny{Context: 256})
	w.waitHolders("other", "b")
	select {
	case g := <-fetched:
		t.Fatalf("fetched before there were hashes: %+v", g)
	default:
	}
	read()
	g := <-fetched
	if g.err != nil {
		t.Fatal(g.err)
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if have, err := os.ReadFile(g.paths[0]); err != nil || !bytes.Equal(have, want) {
		t.Errorf("what was fetched is not the file: %v", err)
	}
	w.waitHolders("big", "a", "b")
	if !w.State().Models["big"].Hashed() {
		t.Error("its hashes were never told")
	}
}

// TestSameNameBeforeHashes: what another node has under that name is the same
// model when both are hashed, and not before.
func TestSameNameBeforeHashes(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, read := held(w, "a")
	a.add(t, "big", gguftest.Tiny{Context: 512})
	w.waitHolders("big", "a")
	b := w.node("b", nil)
	b.add(t, "big", gguftest.Tiny{Context: 512})
	b.add(t, "other", gguftest.Tiny{Context: 256}) // is hashed after it, so b knows both
	w.waitHolders("other", "b")
	if m := w.State().Models["big"]; m.Hashed() || !slices.Equal(m.Holders, []ids.Node{"a"}) {
		t.Errorf("told as %+v", m)
	}
	read()
	w.waitHolders("big", "a", "b")
}

// TestGoneBeforeItIsHashed: the name is free again for a node that has such a
// model, and who waits for its files is told.
func TestGoneBeforeItIsHashed(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	a, _ := held(w, "a")
	a.add(t, "big", gguftest.Tiny{Context: 512})
	w.waitHolders("big", "a")
	c := w.node("c", nil)
	failed := make(chan error, 1)
	m := w.State().Models["big"]
	go func() {
		_, _, err := c.Bring(t.Context(), m, nil, func(int64, int64) {})
		failed <- err
	}()
	w.must(cluster.NodeGone{Node: "a", Cause: "cable"})
	select {
	case err := <-failed:
		if err == nil {
			t.Error("fetched from a node that is gone")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it waits for a node that is gone")
	}
	w.node("b", nil).add(t, "big", gguftest.Tiny{Context: 1024})
	w.waitHolders("big", "b")
	if !w.State().Models["big"].Hashed() {
		t.Errorf("%+v", w.State().Models["big"])
	}
}

// TestAppearsBesideALargeOne: a file that is put here while another one is read
// for minutes is known at once.
func TestAppearsBesideALargeOne(t *testing.T) {
	w := newWorld(t, "a")
	a, read := held(w, "a")
	a.add(t, "big", gguftest.Tiny{Context: 512})
	w.waitHolders("big", "a")
	path := a.add(t, "second", gguftest.Tiny{Context: 256})
	w.waitHolders("second", "a")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	a.Rescan()
	w.waitHolders("second")
	read()
	w.wait("the hash", func(s cluster.State) bool { return s.Models["big"].Hashed() })
}
