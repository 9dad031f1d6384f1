package executor

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/library"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/slicestore"
	"github.com/skein-run/skein/internal/supervise"
	"github.com/skein-run/skein/internal/worker/files"
)

const demo = "skein-demo-4m-q8_0"

// realNode is an executor with real runners, and the files behind it.
type realNode struct {
	*Executor
	files *files.Files
	home  string
}

// as says who calls, as a certificate does.
type as struct {
	id ids.Node
	http.RoundTripper
}

func (a as) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Caller", string(a.id))
	return a.RoundTripper.RoundTrip(r)
}

func startReal(t *testing.T, w *world, self ids.Node, models string, urls map[ids.Node]string) *realNode {
	t.Helper()
	program, err := filepath.Abs(filepath.Join("..", "..", "..", "bin", "skein"))
	if err == nil {
		_, err = os.Stat(program)
	}
	if err != nil {
		t.Fatalf("this test needs the program; run 'make build' first: %v", err)
	}
	n := &realNode{home: t.TempDir()}
	found, err := engine.Find(engine.Options{Executable: program, Home: n.home})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(w, nil))
	own, err := library.Open(library.Options{Registry: filepath.Join(n.home, "models.json"), Bundled: models, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mux := http.NewServeMux()
		mux.Handle(slicestore.ShelfPattern, n.files.Handler())
		mux.ServeHTTP(rw, r)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	urls[self] = server.URL
	client := server.Client()
	client.Transport = as{self, client.Transport}
	if n.files, err = files.Start(files.Options{
		Self: self, Cluster: w, Library: own, Store: &slicestore.Store{Dir: filepath.Join(n.home, "slices")}, Hashes: filepath.Join(n.home, "hashes.json"), Logger: log,
		Client: client, Peer: func(id ids.Node) string { return urls[id] }, Caller: func(r *http.Request) ids.Node { return ids.Node(r.Header.Get("Caller")) },
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.files.Stop)
	o := w.options(self)
	o.Files, o.Load.Threads = n.files, 1
	o.Runner = supervise.Options{
		Executable: program, Build: "test", Env: append(os.Environ(), "GGML_NO_BACKTRACE=1"),
		Engine: found.Spec(),
	}
	if n.Executor, err = Start(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Stop(context.Background()) })
	return n
}

// placeReal loads the demo model in one shard for each node, of equal layers.
func placeReal(t *testing.T, w *world, id string, nodes ...ids.Node) {
	t.Helper()
	layers := len(w.State().Models[demo].Profile.Layers)
	i := cluster.Instance{ID: id, Context: 512, Slots: 2, Head: len(nodes) - 1}
	for k, n := range nodes {
		i.Shards = append(i.Shards, cluster.Shard{Node: n, Reserve: 1 << 30, Spec: slice.Spec{First: k * layers / len(nodes), End: (k + 1) * layers / len(nodes)}})
	}
	c, err := command.Load{Model: demo, Context: 512, Slots: 2, Replicas: len(w.State().Wanted) + 1, Instances: []cluster.Instance{i}}.Command("load " + id)
	if err == nil {
		_, err = w.apply(c)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// tokens generates greedily.
func tokens(t *testing.T, m generation.Model) ([]int32, error) {
	t.Helper()
	req := wire.GenerateRequest{Prompt: []int32{5, 6, 7, 8}, MaxTokens: 24, IgnoreEnd: true, Sampling: wire.NeutralSampling()}
	req.Sampling.Temperature = 0
	s, err := m.Generate(t.Context(), req)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	var out []int32
	for {
		part, done, err := s.Next(t.Context())
		for _, x := range part {
			out = append(out, x.Token)
		}
		if err != nil || done != nil {
			return out, err
		}
	}
}

// Two nodes of which one has the file serve the demo model in two stages, with
// the same answer as the whole model; the other's stage is fetched; a killed
// runner comes back.
func TestRealShards(t *testing.T) {
	path, err := filepath.Abs(filepath.Join("..", "..", "..", "models", "demo", demo+".gguf"))
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, "a", "b")
	urls := map[ids.Node]string{}
	a, b := startReal(t, w, "a", path, urls), startReal(t, w, "b", "", urls)
	w.wait("the model", func(s cluster.State) bool { return len(s.Models[demo].Holders) == 1 })
	placeReal(t, w, "whole", "a")
	placeReal(t, w, "stages", "a", "b")
	w.waitStatus("whole", "ready")
	w.waitStatus("stages", "ready")
	want, err := tokens(t, serving(t, a.Executor, "whole"))
	if err != nil || len(want) != 24 {
		t.Fatalf("%d tokens, %v", len(want), err)
	}
	check := func() {
		t.Helper()
		if got, err := tokens(t, serving(t, b.Executor, "stages")); err != nil || !slices.Equal(got, want) {
			t.Errorf("%v (%v), want %v", got, err, want)
		}
	}
	check()
	kept, err := filepath.Glob(filepath.Join(b.home, "slices", "*", "model.gguf"))
	if err != nil || len(kept) != 1 {
		t.Errorf("slices on b: %v, %v", kept, err)
	}
	if kept, err := filepath.Glob(filepath.Join(a.home, "slices", "*")); err != nil || len(kept) != 0 {
		t.Errorf("slices on a, which has the file: %v, %v", kept, err)
	}

	began := time.Now()
	a.mu.Lock()
	for k, s := range a.shards {
		if k.Instance == "stages" {
			s.member.Kill("killed by the test")
		}
	}
	a.mu.Unlock()
	w.wait("the next epoch", func(s cluster.State) bool { i := s.Instances["stages"]; return i.Epoch() > 2 && i.Status() == "ready" })
	t.Logf("connected again after %v", time.Since(began))
	check()

	// A whole instance on the node without the file.
	placeReal(t, w, "copy", "b")
	w.waitStatus("copy", "ready")
	if got, err := tokens(t, serving(t, b.Executor, "copy")); err != nil || !slices.Equal(got, want) {
		t.Errorf("the copy: %v (%v)", got, err)
	}
	w.wait("the copy's node to be a holder", func(s cluster.State) bool { return slices.Equal(s.Models[demo].Holders, []ids.Node{"a", "b"}) })
	w.unload(demo)
	for _, id := range []string{"whole", "stages", "copy"} {
		w.waitStatus(id, "")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for line := range strings.Lines(w.logs.String()) {
		if strings.Contains(line, "level=ERROR") {
			t.Error(line)
		}
	}
}
