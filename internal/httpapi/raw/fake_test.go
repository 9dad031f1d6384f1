package raw_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/cluster/reconcile"
	"github.com/skein-run/skein/internal/cluster/view"
	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/httpapi"
	"github.com/skein-run/skein/internal/httpapi/manage"
	"github.com/skein-run/skein/internal/httpapi/openai"
	"github.com/skein-run/skein/internal/httpapi/raw"
	"github.com/skein-run/skein/internal/httpapi/raw/shape"
	"github.com/skein-run/skein/internal/ids"
)

var (
	now     = time.Date(2026, 11, 22, 4, 20, 0, 0, time.UTC)
	session = ids.Session{Master: "n1", Clock: 1}
)

const gb = int64(1) << 30

// smol is the model of all tests: 30 layers, three KV heads.
const smol = "local/smol-Q4_1"

// world is a cluster in one place: its state is made by the same decisions and
// events as a real one's, and its places by the same planner.
type world struct {
	t testing.TB

	mu      sync.Mutex
	state   cluster.State               // guarded by mu, as all below
	vitals  map[ids.Node]cluster.Vitals //
	changed chan struct{}               //
	log     []cluster.Event             //
	errands []string                    // downloads and cancels, as they were asked for
	refuse  error                       // of errands
	asked   []generation.Request        //
	answer  func(generation.Request, func(generation.Event) error) error
}

func profile() placement.Model {
	m := placement.Model{Layers: make([]placement.Layer, 30), Embedding: 576, Vocabulary: 49152, Trained: 8192, Whole: 30e6, Every: 1e6, Units: 3, Head: placement.Part{Cut: 28e6}, HeadRead: placement.Part{Cut: 28e6}}
	for i := range m.Layers {
		m.Layers[i] = placement.Layer{Weights: placement.Part{Cut: 2e6}, Read: placement.Part{Cut: 2e6}, Flops: 4e6, Cell: placement.Part{Cut: 768}, Reductions: 2}
	}
	return m
}

// newWorld has so many nodes, of which the first has the model's files.
func newWorld(t testing.TB, nodes int) *world {
	w := &world{t: t, vitals: map[ids.Node]cluster.Vitals{}, changed: make(chan struct{})}
	for i := 1; i <= nodes; i++ {
		id := ids.Node(fmt.Sprintf("n%d", i))
		w.must(cluster.NodeSeen{Node: cluster.Node{
			ID: id, Name: fmt.Sprintf("node %d", i), Host: "host " + string(id), Worker: true, Candidate: true, API: true, Downloads: true, Address: fmt.Sprintf("10.77.%d.%d:52414", i/250, i%250+1),
			Devices: []placement.Device{{Total: 24 * gb, Speed: placement.Speed{Bandwidth: 2e10, Compute: 1e11, Step: 1e-3}}},
		}})
		w.vitals[id] = cluster.Vitals{
			At: now, Chip: "chip", OS: "debian 12", Disk: &cluster.Space{Total: 250 * gb, Free: 70 * gb}, Addresses: []string{fmt.Sprintf("10.77.%d.%d", i/250, i%250+1)},
			Devices: []cluster.DeviceVitals{{Kind: "cpu", Total: 24 * gb, Available: 20 * gb}},
		}
	}
	w.must(cluster.ModelKnown{Model: cluster.Model{Name: smol, Profile: profile(), Files: []cluster.File{{Name: "smol.gguf", Size: 101e6, SHA256: "aa"}}, Holders: []ids.Node{"n1"}}})
	return w
}

func (w *world) must(c cluster.Change) {
	w.t.Helper()
	cmd, err := command.Of("", c)
	if err == nil {
		_, err = w.submit(cmd)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) submit(c command.Command) (command.Result, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	events, result, err := command.Decide(w.state, c, session, now)
	if err != nil {
		return result, err
	}
	for _, e := range events {
		w.state = w.state.Apply(e)
		w.log = append(w.log, e)
	}
	close(w.changed)
	w.changed = make(chan struct{})
	return result, nil
}

// edit changes what nodes tell about themselves.
func (w *world) edit(id ids.Node, change func(*cluster.Vitals)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.vitals = maps.Clone(w.vitals)
	v := w.vitals[id]
	change(&v)
	w.vitals[id] = v
}

// report brings all shards of all instances to a phase.
func (w *world) report(phase cluster.Phase) {
	w.t.Helper()
	for _, i := range w.current().Instances {
		for k, s := range i.Shards {
			if s.Incarnation == 0 {
				w.must(cluster.ShardReported{Instance: i.ID, Shard: k, Incarnation: 1, Phase: cluster.Starting})
			}
		}
		epoch := w.current().Instances[i.ID].Epoch()
		for k := range i.Shards {
			w.must(cluster.ShardReported{Instance: i.ID, Shard: k, Incarnation: 1, Phase: phase, Epoch: epoch, Error: map[bool]string{true: "it broke"}[phase == cluster.Failed]})
		}
	}
}

func (w *world) current() cluster.State {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state
}

func (w *world) Snapshot(context.Context) (view.Inputs, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	in := view.Inputs{Now: now, State: w.state, Vitals: w.vitals, Live: map[ids.Node]bool{}, Master: "n1"}
	for id := range w.vitals {
		in.Live[id] = true
	}
	return in, nil
}

func (w *world) Changes() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

func (w *world) Events(_ context.Context, each func(cluster.Event) error) error {
	w.mu.Lock()
	log := slices.Clone(w.log)
	w.mu.Unlock()
	for _, e := range log {
		if err := each(e); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) want(l command.Load) (cluster.Wanted, command.Load, error) {
	l.Context, l.Slots = 1024, 1
	missing, err := l.Missing(w.current(), "command")
	if err != nil {
		return cluster.Wanted{}, l, err
	}
	return missing[0], l, nil
}

func (w *world) Plan(_ context.Context, l command.Load, most int) (placement.Plan, error) {
	want, _, err := w.want(l)
	if err != nil {
		return placement.Plan{}, err
	}
	p, _, err := reconcile.Within(w.current(), w.vitals, nil, want, most, nil, now)
	if err != nil {
		return p, reconcile.Refusal(err)
	}
	return p, nil
}

func (w *world) Place(_ context.Context, id string, l command.Load, i cluster.Instance) error {
	want, l, err := w.want(l)
	if err != nil {
		return err
	}
	p, tokens, err := reconcile.Exactly(w.current(), w.vitals, nil, want, shape.SeatsOf(i), now)
	if err != nil {
		return reconcile.Refusal(err)
	}
	l.Instances = []cluster.Instance{want.Instance(i.ID, tokens, p)}
	cmd, err := l.Command(id)
	if err != nil {
		return err
	}
	_, err = w.submit(cmd)
	return err
}

func (w *world) Remove(_ context.Context, id, instance string) error {
	cmd, err := command.Unload{Instance: instance}.Command(id)
	if err != nil {
		return err
	}
	_, err = w.submit(cmd)
	return err
}

func (w *world) errand(what string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errands = append(w.errands, what)
	return w.refuse
}

func (w *world) Fetch(_ context.Context, n ids.Node, model string) error {
	return w.errand(fmt.Sprintf("fetch %s to %s", model, n))
}
func (w *world) Pause(_ context.Context, n ids.Node, model string) error {
	return w.errand(fmt.Sprintf("pause %s on %s", model, n))
}
func (w *world) Discard(_ context.Context, n ids.Node, model string) error {
	return w.errand(fmt.Sprintf("discard %s on %s", model, n))
}
func (w *world) Cancel(_ context.Context, id string) (bool, int) {
	return w.errand("cancel "+id) == nil && id == "open", 0
}

// The world is also the engine of the OpenAI dialect, which reads requests.

func (w *world) Models(context.Context) ([]openai.Model, error) {
	return []openai.Model{{ID: smol}}, nil
}

func (w *world) Model(_ context.Context, name string) (openai.Model, error) {
	if name != smol {
		return openai.Model{}, &generation.Error{Kind: generation.KindModelNotFound, Message: "there is no model " + name}
	}
	return openai.Model{ID: smol, Facts: openai.Facts{TrainedContext: 8192}}, nil
}

// Generate says "word" as often as it is asked to.
func (w *world) Generate(_ context.Context, req generation.Request, emit func(generation.Event) error) error {
	w.mu.Lock()
	w.asked = append(w.asked, req)
	answer := w.answer
	w.mu.Unlock()
	if answer != nil {
		return answer(req, emit)
	}
	for range req.MaxTokens - 1 {
		if err := emit(generation.Event{Text: "word "}); err != nil {
			return err
		}
	}
	return emit(generation.Event{Text: "word", FinishReason: generation.FinishLength, Usage: &generation.Usage{
		PromptTokens: 38, CompletionTokens: req.MaxTokens, PrefillSeconds: 0.5, DecodeSeconds: 2,
	}})
}

// chat joins the two as a node does.
type chat struct {
	*openai.API
	*world
}

func (c chat) Generate(ctx context.Context, req generation.Request, emit func(generation.Event) error) error {
	return c.world.Generate(ctx, req, emit)
}

// models are those of the world; n1 and n2 have smol on their lists.
type models struct {
	*openai.API
	*world
}

func (m models) Model(ctx context.Context, name string) (json.RawMessage, error) {
	return m.ModelObject(ctx, name)
}

func (w *world) Added(context.Context) (map[string][]ids.Node, int) {
	return map[string][]ids.Node{smol: {"n1", "n2"}}, 0
}

func (w *world) Unlist(_ context.Context, model string) ([]ids.Node, int, error) {
	if err := w.errand("unlist " + model); err != nil || model != smol {
		return nil, 1, err
	}
	return []ids.Node{"n1", "n2"}, 0, nil
}

func (w *world) Done() (bool, error) { return len(w.errands) > 0, nil }
func (w *world) Finish() error       { return w.errand("finish onboarding") }

// serve mounts the dialect as a node does.
func serve(t testing.TB, w *world, change ...func(*raw.Options)) http.Handler {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	api, err := openai.New(openai.Options{Engine: w, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	o := raw.Options{Cluster: w, Commands: w, Chat: chat{api, w}, Models: models{api, w}, Onboarding: w, Node: "n1", Log: log, Explain: manage.Explain,
		Name: func() string { n++; return fmt.Sprintf("id-%d", n) }, Now: func() time.Time { return now }, Patience: time.Millisecond}
	for _, c := range change {
		c(&o)
	}
	d, err := raw.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	s, err := httpapi.New(httpapi.Options{Address: "127.0.0.1:0", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	s.Mount(d)
	return s.Handler()
}

func call(h http.Handler, method, path, body string) *httptest.ResponseRecorder {
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, r))
	return w
}
