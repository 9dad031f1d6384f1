package files

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/gguf/gguftest"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/library"
	"github.com/skein-run/skein/internal/slicestore"
	"github.com/skein-run/skein/internal/slicestore/piece"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a cluster's state in one place, and the servers of its nodes.
type world struct {
	t *testing.T

	mu      sync.Mutex
	state   cluster.State
	changed chan struct{}
	deny    error
	events  []cluster.Change
	servers map[ids.Node]string
}

func newWorld(t *testing.T, nodes ...ids.Node) *world {
	w := &world{t: t, changed: make(chan struct{}), servers: map[ids.Node]string{}}
	for _, id := range nodes {
		w.must(cluster.NodeSeen{Node: cluster.Node{ID: id, Worker: true, Downloads: true, Devices: []placement.Device{{Total: 1 << 40}}}})
	}
	return w
}

func (w *world) must(c cluster.Change) {
	w.t.Helper()
	cmd, err := command.Of("", c)
	if err == nil {
		_, err = w.Submit(w.t.Context(), cmd)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) State() cluster.State {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state
}

func (w *world) Changes() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

func (w *world) Submit(_ context.Context, c command.Command) (uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.deny != nil {
		return 0, w.deny
	}
	events, _, err := command.Decide(w.state, c, ids.Session{Master: "a", Clock: 1}, time.Unix(int64(w.state.Index), 0))
	if err != nil {
		return 0, err
	}
	for _, e := range events {
		w.state = w.state.Apply(e)
		w.events = append(w.events, e.Change)
	}
	if len(events) > 0 {
		close(w.changed)
		w.changed = make(chan struct{})
	}
	return w.state.Index, nil
}

func (w *world) wait(what string, ok func(cluster.State) bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute) // far beyond what it takes
	defer cancel()
	for {
		changed := w.Changes()
		if ok(w.State()) {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			w.t.Fatalf("%s never came: %+v", what, w.State().Models)
		}
	}
}

func (w *world) waitHolders(model string, want ...ids.Node) {
	w.t.Helper()
	w.wait(model+" held", func(s cluster.State) bool { return slices.Equal(s.Models[model].Holders, want) })
}

// node is one node's files.
type node struct {
	*Files
	library *library.Library
	dir     string // watched by the library
	home    string
	server  *httptest.Server
	spoil   http.Handler // answers block requests instead; nil: none does
}

func (w *world) node(id ids.Node, change func(*Options)) *node {
	w.t.Helper()
	n := &node{dir: w.t.TempDir(), home: w.t.TempDir()}
	return w.restart(id, n, change)
}

// restart makes a new Files of what a node has on its disk.
func (w *world) restart(id ids.Node, n *node, change func(*Options)) *node {
	w.t.Helper()
	var err error
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if n.library, err = library.Open(library.Options{Registry: filepath.Join(n.home, "models.json"), Dirs: []string{n.dir}, Logger: log}); err != nil {
		w.t.Fatal(err)
	}
	if n.server == nil {
		n.server = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if n.spoil != nil && strings.HasSuffix(r.URL.Path, "/block") {
				n.spoil.ServeHTTP(rw, r)
				return
			}
			mux := http.NewServeMux()
			mux.Handle(slicestore.ShelfPattern, n.Handler())
			mux.ServeHTTP(rw, r)
		}))
		n.server.EnableHTTP2 = true
		n.server.StartTLS()
		w.t.Cleanup(n.server.Close)
	}
	w.mu.Lock()
	w.servers[id] = n.server.URL
	w.mu.Unlock()
	client := n.server.Client() // of this test's one authority
	client.Transport = caller{id, client.Transport}
	if c, ok := client.Transport.(caller).RoundTripper.(caller); ok {
		client.Transport = c // a restart
	}
	o := Options{
		Self: id, Cluster: w, Library: n.library, Store: &slicestore.Store{Dir: filepath.Join(n.home, "slices")}, Hashes: filepath.Join(n.home, "hashes.json"), Logger: log,
		Client: client,
		Peer: func(p ids.Node) string {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.servers[p]
		},
		Caller: func(r *http.Request) ids.Node { return ids.Node(r.Header.Get("Caller")) },
	}
	if change != nil {
		change(&o)
	}
	if n.Files, err = Start(o); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(n.Files.Stop)
	return n
}

// caller says who calls, as a certificate does.
type caller struct {
	id ids.Node
	http.RoundTripper
}

func (c caller) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Caller", string(c.id))
	return c.RoundTripper.RoundTrip(r)
}

// add puts a model into a node's folder.
func (n *node) add(t *testing.T, name string, tiny gguftest.Tiny) (path string) {
	t.Helper()
	path = tiny.WriteFile(t, n.dir, name+".gguf")
	n.Rescan()
	return path
}

func bring(t *testing.T, w *world, n *node, model string, spec *slice.Spec) ([]string, func(), error) {
	t.Helper()
	return n.Bring(t.Context(), w.State().Models[model], spec, func(done, total int64) {
		if done > total || total == 0 {
			t.Errorf("progress %d of %d", done, total)
		}
	})
}

func TestModelsComeAndGo(t *testing.T) {
	w := newWorld(t, "a", "b")
	a := w.node("a", nil)
	path := a.add(t, "tiny", gguftest.Tiny{Context: 512})
	w.waitHolders("tiny", "a")
	m := w.State().Models["tiny"]
	if len(m.Files) != 1 || m.Files[0].Name != "tiny.gguf" || m.Profile.Name != "tiny" || len(m.Profile.Layers) == 0 {
		t.Errorf("%+v", m)
	}
	b := w.node("b", nil)
	b.add(t, "tiny", gguftest.Tiny{Context: 512}) // the same bytes
	w.waitHolders("tiny", "a", "b")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	a.Rescan()
	w.waitHolders("tiny", "b")
}

// The cluster may be away when a model appears.
func TestAnnouncedWhenItCanBe(t *testing.T) {
	w := newWorld(t)
	w.deny = errors.New("no master")
	a := w.node("a", func(o *Options) { o.RetryMin = time.Millisecond })
	a.add(t, "tiny", gguftest.Tiny{Context: 512})
	w.mu.Lock()
	w.deny = nil
	w.mu.Unlock()
	w.must(cluster.NodeSeen{Node: cluster.Node{ID: "a"}})
	w.waitHolders("tiny", "a")
}

// Two different models of one name: the first stands, the other node's operator
// is told.
func TestConflict(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.node("a", nil).add(t, "tiny", gguftest.Tiny{Context: 512})
	w.waitHolders("tiny", "a")
	b := w.node("b", nil)
	b.add(t, "tiny", gguftest.Tiny{Context: 1024})
	b.add(t, "other", gguftest.Tiny{Context: 256})
	w.waitHolders("other", "b")
	for len(b.Problems()) == 0 {
		b.mu.Lock()
		changed, known := b.changed, len(b.trouble) > 0
		b.mu.Unlock()
		if !known {
			<-changed
		}
	}
	if got := b.Problems(); len(got) != 1 || !strings.Contains(got[0], "rename it") {
		t.Errorf("%q", got)
	}
	if got := w.State().Models["tiny"].Holders; !slices.Equal(got, []ids.Node{"a"}) {
		t.Errorf("%v", got)
	}
	// What is placed on b is the cluster's model, so it is fetched.
	paths, release, err := bring(t, w, b, "tiny", nil)
	if err != nil {
		t.Fatal(err)
	}
	release()
	if strings.HasPrefix(paths[0], b.dir) {
		t.Error("its own model of that name was taken")
	}
}

// A file may be exchanged for another one of its name: where nobody has the old
// one, the new one is the cluster's model.
func TestExchanged(t *testing.T) {
	w := newWorld(t, "a")
	a := w.node("a", nil)
	a.add(t, "tiny", gguftest.Tiny{Context: 512})
	w.waitHolders("tiny", "a")
	old := w.State().Models["tiny"].Files
	a.add(t, "tiny", gguftest.Tiny{Context: 1024})
	w.wait("the new one", func(s cluster.State) bool {
		m := s.Models["tiny"]
		return m.Hashed() && !slices.Equal(m.Files, old) && slices.Equal(m.Holders, []ids.Node{"a"})
	})
}

// Hashes are computed once for a file that stays as it is.
func TestHashesAreKept(t *testing.T) {
	w := newWorld(t, "a")
	a := w.node("a", nil)
	path := a.add(t, "tiny", gguftest.Tiny{Context: 512})
	w.waitHolders("tiny", "a")
	a.Stop() // what it scanned is saved
	name := filepath.Join(a.home, "hashes.json")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var kept map[string]hashed
	if err := json.Unmarshal(b, &kept); err != nil {
		t.Fatal(err)
	}
	k := kept[path]
	if k.SHA256 != w.State().Models["tiny"].Files[0].SHA256 {
		t.Fatalf("%+v", kept)
	}
	k.SHA256 = strings.Repeat("0", 64)
	kept[path] = k
	if b, err = json.Marshal(kept); err == nil {
		err = os.WriteFile(name, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	w2 := newWorld(t, "a")
	a = w2.restart("a", a, nil)
	w2.waitHolders("tiny", "a")
	if got := w2.State().Models["tiny"].Files[0].SHA256; got != k.SHA256 {
		t.Errorf("it was read again: %s", got)
	}
	a.Stop()
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(path, later, later); err != nil {
		t.Fatal(err)
	}
	w3 := newWorld(t, "a")
	w3.restart("a", a, nil)
	w3.waitHolders("tiny", "a")
	if got := w3.State().Models["tiny"].Files[0].SHA256; got == k.SHA256 {
		t.Error("a changed file was not read again")
	}
}

func TestBringWhole(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	a, b := w.node("a", nil), w.node("b", nil)
	path := a.add(t, "tiny", gguftest.Tiny{Context: 512})
	w.waitHolders("tiny", "a")
	if got, release, err := bring(t, w, a, "tiny", nil); err != nil || !slices.Equal(got, []string{path}) {
		t.Errorf("the node's own: %v, %v", got, err)
	} else {
		release()
	}
	got, release, err := bring(t, w, b, "tiny", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	want, err1 := os.ReadFile(path)
	have, err2 := os.ReadFile(got[0])
	if err1 != nil || err2 != nil || !bytes.Equal(want, have) {
		t.Errorf("the copy differs (%v, %v)", err1, err2)
	}
	// A whole copy makes its node a holder, also after a restart, and others can
	// have it from there.
	w.waitHolders("tiny", "a", "b")
	w.wait("the end of the download", func(s cluster.State) bool { return len(s.Downloads) == 0 })
	w.mu.Lock()
	var downloads []cluster.Change
	for _, c := range w.events {
		switch c.(type) {
		case cluster.DownloadBegan, cluster.DownloadEnded:
			downloads = append(downloads, c)
		}
	}
	w.mu.Unlock()
	if diff := cmp.Diff([]cluster.Change{
		cluster.DownloadBegan{Download: cluster.Download{Node: "b", Model: "tiny", From: "a", Bytes: int64(len(want))}},
		cluster.DownloadEnded{Node: "b", Model: "tiny"},
	}, downloads); diff != "" {
		t.Errorf("downloads (-want +got):\n%s", diff)
	}
	b.Stop()
	w.restart("b", b, nil)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	a.Rescan()
	w.waitHolders("tiny", "b")
	c := w.node("c", nil)
	_, release, err = bring(t, w, c, "tiny", nil)
	if err != nil {
		t.Fatal(err)
	}
	release()
	w.waitHolders("tiny", "b", "c")
}

func TestBringSlice(t *testing.T) {
	w := newWorld(t, "a", "b")
	a, b := w.node("a", nil), w.node("b", nil)
	a.add(t, "tiny", gguftest.Tiny{Context: 512})
	w.waitHolders("tiny", "a")
	first, release, err := bring(t, w, b, "tiny", &slice.Spec{First: 0, End: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	second, release2, err := bring(t, w, b, "tiny", &slice.Spec{First: 1, End: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer release2()
	if first[0] == second[0] {
		t.Error("two slices in one file")
	}
	if !b.needs(filepath.Base(filepath.Dir(first[0]))) {
		t.Error("a slice in use may be dropped")
	}
	if got := w.State().Models["tiny"].Holders; !slices.Equal(got, []ids.Node{"a"}) {
		t.Errorf("a slice makes no holder: %v", got)
	}
	if d := b.Downloads(); len(d) != 0 {
		t.Errorf("%+v", d)
	}
}

// Peers that are slow to fail, broken or liars cost a try each; without a good
// one the error names them all.
func TestBadPeers(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	a, b, c := w.node("a", nil), w.node("b", nil), w.node("c", nil)
	for _, n := range []*node{a, b} {
		n.add(t, "tiny", gguftest.Tiny{Context: 512})
	}
	w.waitHolders("tiny", "a", "b")
	refuse := http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		http.Error(rw, "not today", http.StatusServiceUnavailable)
	})
	a.spoil, b.spoil = refuse, refuse
	_, _, err := bring(t, w, c, "tiny", nil)
	if err == nil || !strings.Contains(err.Error(), "tiny cannot be fetched") || !strings.Contains(err.Error(), "a: ") || !strings.Contains(err.Error(), "b: ") || !strings.Contains(err.Error(), "not today") {
		t.Errorf("error %v", err)
	}
	w.wait("the failed download", func(s cluster.State) bool {
		return strings.Contains(s.Downloads[cluster.DownloadKey{Node: "c", Model: "tiny"}].Error, "not today")
	})
	b.spoil = nil
	_, release, err := bring(t, w, c, "tiny", nil)
	if err != nil {
		t.Fatal(err)
	}
	release()
	w.waitHolders("tiny", "a", "b", "c")
}

// TestLyingPeer: a slice whose bytes another node has differently is not used:
// the whole model is fetched, which the cluster's hash is of.
func TestLyingPeer(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	a, b, c := w.node("a", nil), w.node("b", nil), w.node("c", nil)
	path := a.add(t, "tiny", gguftest.Tiny{Context: 512})
	b.add(t, "tiny", gguftest.Tiny{Context: 512})
	w.waitHolders("tiny", "a", "b")
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// Each in turn, so that whoever is asked first is one of them.
	for i, liar := range []*node{a, b} {
		honest := liar.Handler()
		liar.spoil = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			mux := http.NewServeMux()
			mux.Handle(slicestore.ShelfPattern, honest)
			rec := httptest.NewRecorder()
			mux.ServeHTTP(rec, r)
			body := rec.Body.Bytes()
			if r.URL.Query().Get("offset") != "0" {
				body[0] ^= 1
			}
			sum := sha256.Sum256(body)
			rw.Header().Set("Trailer", "Skein-Digest")
			_, _ = rw.Write(body)
			rw.Header().Set("Skein-Digest", hex.EncodeToString(sum[:]))
		})
		paths, release, err := bring(t, w, c, "tiny", &slice.Spec{End: 1 + i})
		liar.spoil = nil
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(paths[0])
		if err != nil {
			t.Fatal(err)
		}
		m, err := library.OpenModel(path)
		if err != nil {
			t.Fatal(err)
		}
		pieces, err := piece.Needs(m.Model, slice.Spec{End: 1 + i})
		m.Close()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pieces {
			for k := range p.Count {
				at := p.Offset + k*p.Stride
				if !bytes.Equal(got[at:at+p.Length], want[at:at+p.Length]) {
					t.Fatalf("bytes of the one who lies are used, at %d", at)
				}
			}
		}
		release()
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t, "a", "b")
	a := w.node("a", nil)
	b := w.node("b", func(o *Options) { o.NoDownloads = true })
	a.add(t, "tiny", gguftest.Tiny{Context: 512})
	w.waitHolders("tiny", "a")
	if _, _, err := bring(t, w, b, "tiny", nil); err == nil || !strings.Contains(err.Error(), "--no-downloads") {
		t.Errorf("error %v", err)
	}
	// A stranger gets nothing, though it knows the model's key.
	key, err := idOf(w.State().Models["tiny"].Files).Key(nil)
	if err != nil {
		t.Fatal(err)
	}
	for who, want := range map[ids.Node]int{"stranger": http.StatusForbidden, "": http.StatusForbidden, "b": http.StatusOK} {
		client := &http.Client{Transport: caller{who, b.server.Client().Transport.(caller).RoundTripper}}
		res, err := client.Get(slicestore.ShelfURL(a.server.URL, key) + "/parts")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%q: %d, want %d", who, res.StatusCode, want)
		}
	}
	w.must(cluster.NodeGone{Node: "a", Cause: "unplugged"})
	c := w.node("c", nil)
	if _, _, err := bring(t, w, c, "tiny", nil); err == nil || !strings.Contains(err.Error(), "no other node that is there has") {
		t.Errorf("error %v", err)
	}
}

func TestFullDisk(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.node("a", nil).add(t, "tiny", gguftest.Tiny{Context: 512})
	w.waitHolders("tiny", "a")
	b := w.node("b", func(o *Options) { o.Store.Free = func(string) (int64, error) { return 100, nil } })
	_, _, err := bring(t, w, b, "tiny", nil)
	if err == nil || !strings.Contains(err.Error(), "has 100 B left") || !strings.Contains(err.Error(), "free some space") {
		t.Errorf("error %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(b.home, "slices")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestOptions(t *testing.T) {
	if _, err := Start(Options{RetryMin: -1}); err == nil || !strings.Contains(err.Error(), "required") || !strings.Contains(err.Error(), "negative") {
		t.Errorf("error %v", err)
	}
}
