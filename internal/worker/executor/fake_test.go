package executor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise"
	"github.com/skein-run/skein/internal/supervise/child"
)

// world is a cluster whose state is in one place, and the processes that its
// executors start.
type world struct {
	device string // of the shards that place makes

	t    *testing.T
	logs strings.Builder // guarded by mu

	mu      sync.Mutex
	state   cluster.State
	changed chan struct{}
	reports []cluster.ShardReported
	session ids.Session
	deny    error // what Submit gives
	// late gives what Submit does instead, after it let things happen.
	late   func(command.Command) (index uint64, err error, ok bool)
	tries  int // calls of Submit
	lives  map[string][]*fake
	loads  map[string][]wire.LoadRequest
	joins  map[string][]wire.ConnectRequest
	refuse map[string]*wire.Failure // answer of a shard to Load
	hold   map[string]chan struct{} // Load waits for it
	apart  bool                     // every Connect is refused
	fetch  map[string]func(ctx context.Context, progress func(done, total int64)) error
	held   int // slices in use
}

func newWorld(t *testing.T, nodes ...ids.Node) *world {
	w := &world{
		t: t, session: ids.Session{Master: "a", Clock: 1}, changed: make(chan struct{}), lives: map[string][]*fake{}, loads: map[string][]wire.LoadRequest{}, joins: map[string][]wire.ConnectRequest{},
		refuse: map[string]*wire.Failure{}, hold: map[string]chan struct{}{}, fetch: map[string]func(context.Context, func(int64, int64)) error{},
	}
	for _, id := range nodes {
		w.must(cluster.NodeSeen{Node: cluster.Node{ID: id, Worker: true, Downloads: true, Devices: []placement.Device{{Total: 1 << 40}}}})
	}
	return w
}

// Write collects the log.
func (w *world) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.logs.Write(b)
}

func (w *world) must(c cluster.Change) {
	w.t.Helper()
	cmd, err := command.Of("", c)
	if err == nil {
		_, err = w.apply(cmd)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) apply(c command.Command) (uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	events, _, err := command.Decide(w.state, c, w.session, time.Unix(int64(w.state.Index), 0))
	if err != nil {
		return 0, err
	}
	for _, e := range events {
		if err := w.state.Admit(e); err != nil {
			w.t.Error(err)
		}
		w.state = w.state.Apply(e)
		if r, ok := e.Change.(cluster.ShardReported); ok {
			w.reports = append(w.reports, r)
		}
	}
	if len(events) > 0 {
		close(w.changed)
		w.changed = make(chan struct{})
	}
	return w.state.Index, nil
}

// State implements Cluster.
func (w *world) State() cluster.State {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state
}

// Changes implements Cluster.
func (w *world) Changes() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

// Submit implements Cluster.
func (w *world) Submit(ctx context.Context, c command.Command) (uint64, error) {
	w.mu.Lock()
	w.tries++
	deny, late := w.deny, w.late
	w.mu.Unlock()
	if late != nil {
		if index, err, ok := late(c); ok {
			return index, err
		}
	}
	if deny != nil {
		return 0, deny
	}
	return w.apply(c)
}

// Bring implements Files.
func (w *world) Bring(ctx context.Context, m cluster.Model, spec *slice.Spec, progress func(done, total int64)) ([]string, func(), error) {
	w.mu.Lock()
	f := w.fetch[m.Name]
	w.mu.Unlock()
	if f != nil {
		if err := f(ctx, progress); err != nil {
			return nil, nil, err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held++
	return []string{m.Name + ".gguf"}, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.held--
	}, nil
}

func (w *world) locked(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// wait returns when the state is as wanted.
func (w *world) wait(what string, ok func(cluster.State) bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Hour) // of the bubble's time
	defer cancel()
	for {
		changed := w.Changes()
		if ok(w.State()) {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			w.t.Fatalf("%s never came: %+v", what, w.State().Instances)
		}
	}
}

func (w *world) waitStatus(id, status string) {
	w.t.Helper()
	w.wait(id+" "+status, func(s cluster.State) bool {
		i, ok := s.Instances[id]
		return !ok && status == "" || ok && i.Status() == status
	})
}

// place makes an instance of one shard a node.
func (w *world) place(id string, nodes ...ids.Node) {
	w.t.Helper()
	w.must(cluster.ModelKnown{Model: cluster.Model{Name: id, Files: []cluster.File{{Name: "f", Size: 1 << 20, SHA256: "00"}}, Holders: nodes[:1],
		Profile: placement.Model{Name: id, Layers: make([]placement.Layer, 2*len(nodes))}}})
	i := cluster.Instance{ID: id, Model: id, Context: 512, Slots: 2, Head: len(nodes) - 1, Predicted: placement.Prediction{StepSeconds: 0.25}}
	for k, n := range nodes {
		i.Shards = append(i.Shards, cluster.Shard{Node: n, Device: w.device, Reserve: 1 << 30, Spec: slice.Spec{First: 2 * k, End: 2*k + 2}})
	}
	c, err := command.Load{Model: id, Context: 512, Slots: 2, Instances: []cluster.Instance{i}}.Command("load " + id)
	if err == nil {
		_, err = w.apply(c)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) unload(id string) {
	w.t.Helper()
	w.give(command.Unload{Model: id})
}

func (w *world) give(u command.Unload) {
	w.t.Helper()
	c, err := u.Command("unload " + u.Model)
	if err == nil {
		_, err = w.apply(c)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) options(self ids.Node) Options {
	return Options{
		Self: self, Cluster: w, Files: w, Logger: slog.New(slog.NewTextHandler(w, nil)),
		Runner: supervise.Options{Build: "test", Launch: func(context.Context, child.Command) (*child.Child, error) { return w.launch(self), nil }},
		Load:   wire.LoadRequest{Threads: 8, GPULayers: -1, CacheBytes: 1 << 30, PrefixReuse: "exact"},
	}
}

func (w *world) start(self ids.Node) *Executor {
	w.t.Helper()
	e, err := Start(w.options(self))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { e.Stop(context.Background()) })
	return e
}

// fake is one process. It learns from Load which shard it is.
type fake struct {
	w      *world
	node   ids.Node
	name   string // "model/shard"
	conn   *wire.Conn
	stderr io.Writer
	die    chan struct{}
	once   sync.Once
	status string
	frozen chan struct{} // closed: it answers nothing any more

	mu    sync.Mutex
	shard *wire.ShardSpec
	epoch uint64
	open  map[uint64]bool
}

func (f *fake) exit(status string) {
	f.once.Do(func() { f.status = status; close(f.die) })
}

func (w *world) launch(node ids.Node) *child.Child {
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	errR, errW := io.Pipe()
	f := &fake{w: w, node: node, conn: wire.NewConn(inR, outW), stderr: errW, die: make(chan struct{}), frozen: make(chan struct{}), open: map[uint64]bool{}}
	looped, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(looped)
		f.loop()
		f.exit("exit status 0")
	}()
	go func() {
		<-f.die
		inR.Close()
		outW.Close()
		errW.Close()
		<-looped
		close(gone)
	}()
	return &child.Child{
		Stdin: inW, Stdout: outR, Stderr: errR,
		Wait: func() string { <-gone; return f.status },
		Kill: func() error { f.exit("signal: killed"); return nil },
	}
}

func (f *fake) loop() {
	if _, err := f.conn.Handshake("test"); err != nil {
		return
	}
	for {
		m, err := f.conn.Read()
		if err != nil {
			return
		}
		select {
		case <-f.frozen:
			continue
		default:
		}
		if f.handle(m) != nil {
			return
		}
	}
}

var errOver = errors.New("over")

func (f *fake) handle(m wire.Frame) error {
	switch m.Type {
	case wire.TypeEngine:
		return f.conn.SendJSON(wire.TypeResult, m.Ref, wire.EngineInfo{Version: "fake"})
	case wire.TypeLoad:
		return f.load(m)
	case wire.TypeConnect:
		return f.connect(m)
	case wire.TypeStats:
		return f.conn.SendJSON(wire.TypeResult, m.Ref, wire.Stats{Steps: 7})
	case wire.TypeTokenize:
		return f.conn.Send(wire.TypeTokens, m.Ref, wire.AppendIDs(nil, []int32{1, 2}))
	case wire.TypeText:
		return f.conn.Send(wire.TypeText, m.Ref, []byte(f.name))
	case wire.TypeGenerate:
		return f.generate(m)
	case wire.TypeCancel:
		return f.conn.SendJSON(wire.TypeDone, m.Ref, wire.Done{ID: m.Ref, Reason: wire.ReasonCancelled})
	case wire.TypeClose:
		return errOver
	}
	return fmt.Errorf("unexpected type %d", m.Type)
}

func (f *fake) load(m wire.Frame) error {
	var req wire.LoadRequest
	if err := m.Decode(&req); err != nil {
		return err
	}
	index := 0
	if req.Shard != nil {
		index = req.Shard.Index
	}
	name := fmt.Sprintf("%s/%d", strings.TrimSuffix(req.Paths[0], ".gguf"), index)
	var refuse *wire.Failure
	var hold chan struct{}
	var n int
	f.w.locked(func() {
		f.name, f.shard = name, req.Shard
		f.w.lives[name] = append(f.w.lives[name], f)
		f.w.loads[name] = append(f.w.loads[name], req)
		n, refuse, hold = len(f.w.lives[name]), f.w.refuse[name], f.w.hold[name]
	})
	if hold != nil {
		if err := f.conn.SendJSON(wire.TypeProgress, m.Ref, wire.Progress{Done: 0.5}); err != nil {
			return err
		}
		select {
		case <-hold:
		case <-f.die:
			return errOver
		}
	}
	if refuse != nil {
		return f.conn.SendJSON(wire.TypeFailure, m.Ref, refuse)
	}
	info := wire.ModelInfo{Context: req.Context, Slots: req.Slots, ChunkTokens: 4, BOS: -1}
	if req.Shard != nil {
		info.Link = fmt.Sprintf("%s#%d", name, n)
	}
	return f.conn.SendJSON(wire.TypeResult, m.Ref, info)
}

func (f *fake) connect(m wire.Frame) error {
	var req wire.ConnectRequest
	if err := m.Decode(&req); err != nil {
		return err
	}
	var apart bool
	f.w.locked(func() {
		f.w.joins[f.name] = append(f.w.joins[f.name], req)
		apart = f.w.apart
	})
	f.mu.Lock()
	stale := req.Epoch <= f.epoch
	f.epoch = req.Epoch
	f.mu.Unlock()
	switch {
	case stale:
		return f.conn.SendJSON(wire.TypeFailure, m.Ref, wire.Failure{Code: wire.CodeInvalid, Message: "an old epoch"})
	case apart:
		return f.conn.SendJSON(wire.TypeFailure, m.Ref, wire.Failure{Code: wire.CodeShard, Message: "no route to shard 0"})
	}
	return f.conn.Send(wire.TypeResult, m.Ref, []byte("{}"))
}

// generate gives MaxTokens tokens; without, one, and the stream stays open.
func (f *fake) generate(m wire.Frame) error {
	var req wire.GenerateRequest
	if err := m.Decode(&req); err != nil {
		return err
	}
	f.mu.Lock()
	f.open[req.ID] = req.MaxTokens == 0
	f.mu.Unlock()
	for n := range max(1, req.MaxTokens) {
		t := wire.Token{ID: req.ID, Token: int32(n), Piece: []byte(f.name)}
		if err := f.conn.Send(wire.TypeStep, 0, wire.AppendToken(nil, &t)); err != nil {
			return err
		}
	}
	if req.MaxTokens == 0 {
		return nil
	}
	return f.conn.SendJSON(wire.TypeDone, req.ID, wire.Done{ID: req.ID, Reason: wire.ReasonLength, Generated: req.MaxTokens})
}

// lose is what a shard does when its connection breaks.
func (f *fake) lose(shard int, cause string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, open := range f.open {
		if open {
			_ = f.conn.SendJSON(wire.TypeDone, id, wire.Done{ID: id, Reason: wire.ReasonError, Code: wire.CodeShard, Error: cause})
		}
	}
	f.open = map[uint64]bool{}
	b, err := json.Marshal(wire.Broken{Epoch: f.epoch, Shard: shard, Cause: cause})
	if err == nil {
		_ = f.conn.Send(wire.TypeBroken, 0, b) // the test sees what comes of it
	}
}

// live is the present process of a shard, "model/0".
func (w *world) live(name string) *fake {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.lives[name]
	if len(l) == 0 {
		w.t.Fatalf("no process of %s", name)
	}
	return l[len(l)-1]
}

func (w *world) births(name string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.lives[name])
}
