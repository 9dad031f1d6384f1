package manage

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/cluster/view"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/httpapi"
	inference "github.com/skein-run/skein/internal/httpapi/openai/document"
	"github.com/skein-run/skein/internal/ids"
)

const gb = int64(1) << 30

var now = time.UnixMilli(1700000000250).UTC()

// fake is a cluster of two nodes with a loaded model, and what a test puts
// into it.
type fake struct {
	entries []api.LibraryEntry
	err     error // of whatever is asked
	// libraryOnly: err is not the cluster's.
	libraryOnly bool
	asked       []string // names of Show and Remove
	added       []string
	context     int
	slots       int

	mu      sync.Mutex
	in      view.Inputs   // guarded by mu
	changed chan struct{} // guarded by mu

	// What the commands were given, and how they answer.
	id     string
	load   command.Load
	swap   Swap
	key    cluster.Key
	model  string
	drain  time.Duration
	node   ids.Node
	dryRun bool
	resume bool
	refuse error
	again  bool // the command came before: no plans
}

func newFake() *fake {
	node := func(id ids.Node, name string) cluster.Node {
		return cluster.Node{ID: id, Name: name, Worker: true, Candidate: true, API: true, Online: true, Since: now.Add(-time.Hour), Version: "v1", Devices: []placement.Device{{Total: 64 * gb}}}
	}
	model := func(name string) cluster.Model {
		return cluster.Model{Name: name, Files: []cluster.File{{Name: "f", Size: 18 * gb}}, Profile: placement.Model{Layers: make([]placement.Layer, 2)}, Holders: []ids.Node{"n1"}}
	}
	percent := 12.5
	return &fake{
		changed: make(chan struct{}),
		in: view.Inputs{
			Now: now, Master: "n1", Uptime: time.Minute, Live: map[ids.Node]bool{"n1": true, "n2": true},
			State: cluster.State{
				Index: 9, At: now,
				Nodes:  map[ids.Node]cluster.Node{"n1": node("n1", "studio"), "n2": node("n2", "Mini")},
				Models: map[string]cluster.Model{"org/Ready-GGUF": model("org/Ready-GGUF"), "org/New-GGUF": model("org/New-GGUF"), "other/New-GGUF": model("other/New-GGUF"), "m": model("m")},
				Wanted: map[string]cluster.Wanted{"w1": {ID: "w1", Model: "org/Ready-GGUF", Context: 8192, Slots: 4}},
				Instances: map[string]cluster.Instance{"i1": {
					ID: "i1", Wanted: "w1", Model: "org/Ready-GGUF", Way: placement.WayWhole, Context: 8192, Slots: 4, Placed: now,
					Shards: []cluster.Shard{{Node: "n1", Spec: slice.Spec{End: 2}, Reserve: 20 * gb, Phase: cluster.Ready, Incarnation: 1}},
				}},
				Downloads: map[cluster.DownloadKey]cluster.Download{{Node: "n2", Model: "m"}: {Node: "n2", Model: "m", From: "n1", Bytes: 4 * gb, Since: now}},
			},
			Vitals: map[ids.Node]cluster.Vitals{
				"n1": {At: now, Chip: "chip", OS: "os 1", FastCores: &percent, Devices: []cluster.DeviceVitals{{Total: 64 * gb, Available: 40 * gb}}, Instances: []cluster.InstanceVitals{{Instance: "i1", Running: 1, Stream: 36.91, Now: 36.91}},
					Tasks: []cluster.Task{{ID: "t1", Type: "chat", Status: "running", Model: "org/Ready-GGUF", Instance: "i1", Age: 1}}},
				"n2": {At: now, Devices: []cluster.DeviceVitals{{Total: 64 * gb, Available: 60 * gb}}, Downloads: []cluster.DownloadVitals{{Model: "m", Done: gb, Total: 4 * gb, Speed: 100 << 20}}},
			},
		},
	}
}

func (f *fake) List(context.Context) ([]api.LibraryEntry, error) { return f.entries, f.err }
func (f *fake) Add(_ context.Context, paths []string) ([]api.LibraryEntry, error) {
	f.added = paths
	return []api.LibraryEntry{{Name: "new", Paths: paths}}, f.err
}
func (f *fake) Show(_ context.Context, name string, contextLength, slots int) (api.LibraryModel, error) {
	f.asked, f.context, f.slots = append(f.asked, name), contextLength, slots
	return api.LibraryModel{LibraryEntry: api.LibraryEntry{Name: name}}, f.err
}
func (f *fake) Remove(_ context.Context, name string) (api.LibraryEntry, error) {
	f.asked = append(f.asked, name)
	return api.LibraryEntry{Name: name}, f.err
}

func (f *fake) Snapshot(context.Context) (view.Inputs, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.libraryOnly {
		return f.in, nil
	}
	return f.in, f.err
}

func (f *fake) Changes() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

// change lets a test edit what the node knows, and tells of it.
func (f *fake) change(edit func(*view.Inputs)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	edit(&f.in)
	close(f.changed)
	f.changed = make(chan struct{})
}

// plan is the place of every model.
var plan = placement.Plan{
	Way: placement.WayPipeline, Stages: 2, Ranks: 1, Head: 1, Predicted: placement.Prediction{Decode: 38.24}, Explanation: "it fits no single node",
	Shards: []placement.Shard{
		{Node: "n1", Spec: slice.Spec{End: 1}, Reserve: 7 * gb}, {Node: "n2", Spec: slice.Spec{First: 1, End: 2}, Reserve: 7 * gb},
	},
	Alternatives: []placement.Alternative{{Way: placement.WayWhole, Why: "no node has 14 GB free"}},
}

func (f *fake) Load(_ context.Context, id string, l command.Load, dryRun bool) (Loaded, error) {
	f.id, f.load, f.dryRun = id, l, dryRun
	if f.again {
		return Loaded{Instances: []string{"i1"}, Context: 8192, Slots: 4, Copies: 2}, f.refuse
	}
	return Loaded{Plans: []placement.Plan{plan}, Instances: []string{"i2"}, Context: 4096, Slots: 2, Copies: 2, Warning: "the context was lowered"}, f.refuse
}

func (f *fake) Unload(_ context.Context, id, model string, drain time.Duration) (Unloaded, error) {
	f.id, f.model, f.drain = id, model, drain
	return Unloaded{Instances: []string{"i1"}, Freed: 20 * gb, Copies: 2}, f.refuse
}

func (f *fake) Swap(_ context.Context, id string, s Swap, dryRun bool) (Swapped, error) {
	f.id, f.swap, f.dryRun = id, s, dryRun
	return Swapped{Loaded: Loaded{Plans: []placement.Plan{plan}, Instances: []string{"i2"}, Copies: 2}, Freed: 20 * gb}, f.refuse
}

func (f *fake) Promote(_ context.Context, id string, node ids.Node) error {
	f.id, f.node = id, node
	return f.refuse
}

func (f *fake) Drain(_ context.Context, id string, node ids.Node, resume bool) (int, error) {
	f.id, f.node, f.resume = id, node, resume
	return 2, f.refuse
}

func (f *fake) AddKey(_ context.Context, id string, k cluster.Key) (int, error) {
	f.id, f.key = id, k
	return 2, f.refuse
}

func (f *fake) RevokeKey(_ context.Context, id, name string) (int, error) {
	f.id, f.asked = id, append(f.asked, name)
	return 2, f.refuse
}

func options(f *fake) Options {
	return Options{
		Library: f, Cluster: f, Commands: f, Keys: f, Node: "n1", Version: "v1", Log: slog.New(slog.DiscardHandler), Describe: inference.Describe,
		Now: func() time.Time { return now }, Name: func() string { return "made-up" }, Secret: func() string { return "sk-skein-made-up" },
	}
}

// serve mounts the dialect as a node does.
func serve(t *testing.T, f *fake) http.Handler {
	t.Helper()
	d, err := New(options(f))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	s, err := httpapi.New(httpapi.Options{Address: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s.Mount(d)
	return s.Handler()
}

func call(h http.Handler, method, path, body string, header ...string) *httptest.ResponseRecorder {
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req := httptest.NewRequest(method, path, r)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w
}
