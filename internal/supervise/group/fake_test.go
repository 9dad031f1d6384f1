package group

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"strings"
	"sync"
	"testing"

	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise"
	"github.com/skein-run/skein/internal/supervise/child"
)

// world is the shards that a test's group has started.
type world struct {
	mu       sync.Mutex
	log      strings.Builder
	lives    [][]*fake             // by shard
	connects []wire.ConnectRequest // as the head got them
	refuse   map[int]*wire.Failure // answer of a shard to Load
	crash    map[int]bool          // abort at Load
	deaf     map[int]bool          // the next Connect of the shard gets no answer
	apart    bool                  // every Connect is refused
	loads    map[int]chan struct{} // Load waits for it
	started  map[int][]wire.LoadRequest
}

// Write collects the group's log.
func (w *world) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(b)
}

// fake is one life of a shard.
type fake struct {
	w      *world
	index  int
	conn   *wire.Conn
	stderr io.Writer
	die    chan struct{}
	once   sync.Once
	status string
	frozen chan struct{} // closed: it takes frames and answers none

	mu    sync.Mutex
	open  map[uint64]bool // generations
	epoch uint64
}

func (f *fake) exit(status string) {
	f.once.Do(func() {
		f.status = status
		close(f.die)
	})
}

// launch makes the Launch function of shard i.
func (w *world) launch(i int) supervise.Launch {
	return func(context.Context, child.Command) (*child.Child, error) {
		inR, inW := io.Pipe()
		outR, outW := io.Pipe()
		errR, errW := io.Pipe()
		f := &fake{w: w, index: i, conn: wire.NewConn(inR, outW), stderr: errW, die: make(chan struct{}), frozen: make(chan struct{}), open: map[uint64]bool{}}
		w.mu.Lock()
		for len(w.lives) <= i {
			w.lives = append(w.lives, nil)
		}
		w.lives[i] = append(w.lives[i], f)
		pid := 1000*(i+1) + len(w.lives[i])
		w.mu.Unlock()
		looped := make(chan struct{})
		go func() {
			defer close(looped)
			f.loop()
			f.exit("exit status 0")
		}()
		gone := make(chan struct{})
		go func() {
			<-f.die
			inR.Close()
			outW.Close()
			errW.Close()
			<-looped
			close(gone)
		}()
		return &child.Child{
			Stdin: inW, Stdout: outR, Stderr: errR, PID: pid,
			Wait: func() string { <-gone; return f.status },
			Kill: func() error { f.exit("signal: killed"); return nil },
		}, nil
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

var errClosed = errors.New("closed")

func (f *fake) handle(m wire.Frame) error {
	switch m.Type {
	case wire.TypeEngine:
		return f.conn.SendJSON(wire.TypeResult, m.Ref, wire.EngineInfo{Version: "fake"})
	case wire.TypeLoad:
		var req wire.LoadRequest
		if err := m.Decode(&req); err != nil {
			return err
		}
		f.w.mu.Lock()
		refuse, crash, wait := f.w.refuse[f.index], f.w.crash[f.index], f.w.loads[f.index]
		if f.w.started == nil {
			f.w.started = map[int][]wire.LoadRequest{}
		}
		f.w.started[f.index] = append(f.w.started[f.index], req)
		f.w.mu.Unlock()
		if wait != nil {
			if err := f.conn.SendJSON(wire.TypeProgress, m.Ref, wire.Progress{Done: 0.5}); err != nil {
				return err
			}
			select {
			case <-wait:
			case <-f.die:
				return errClosed
			}
		}
		if crash {
			fmt.Fprintln(f.stderr, "shard.cpp:1: GGML_ASSERT(rows > 0) failed")
			f.exit("signal: aborted")
			return errClosed
		}
		if refuse != nil {
			return f.conn.SendJSON(wire.TypeFailure, m.Ref, refuse)
		}
		return f.conn.SendJSON(wire.TypeResult, m.Ref, wire.ModelInfo{
			Description: "fake", Context: req.Context, Slots: req.Slots, Bytes: 100, Link: fmt.Sprintf("link-%d-%d", f.index, f.w.births(f.index)),
		})
	case wire.TypeConnect:
		return f.connect(m)
	case wire.TypeStats:
		return f.conn.SendJSON(wire.TypeResult, m.Ref, wire.Stats{})
	case wire.TypeTokenize:
		return f.conn.Send(wire.TypeTokens, m.Ref, wire.AppendIDs(nil, []int32{int32(f.index)}))
	case wire.TypeText:
		return f.conn.Send(wire.TypeText, m.Ref, fmt.Appendf(nil, "shard %d", f.index))
	case wire.TypeGenerate:
		return f.generate(m)
	case wire.TypeEval:
		return f.eval(m)
	case wire.TypeCancel:
		return f.conn.SendJSON(wire.TypeDone, m.Ref, wire.Done{ID: m.Ref, Reason: wire.ReasonCancelled})
	case wire.TypeClose:
		return errClosed
	}
	return fmt.Errorf("unexpected type %d", m.Type)
}

func (f *fake) connect(m wire.Frame) error {
	var req wire.ConnectRequest
	if err := m.Decode(&req); err != nil {
		return err
	}
	f.w.mu.Lock()
	deaf, apart := f.w.deaf[f.index], f.w.apart
	delete(f.w.deaf, f.index)
	if f.index == len(f.w.lives)-1 {
		f.w.connects = append(f.w.connects, req)
	}
	f.w.mu.Unlock()
	if deaf {
		return nil
	}
	if apart {
		return f.conn.SendJSON(wire.TypeFailure, m.Ref, wire.Failure{Code: wire.CodeShard, Message: "no route to shard 0"})
	}
	f.mu.Lock()
	f.epoch = req.Epoch
	f.mu.Unlock()
	return f.conn.Send(wire.TypeResult, m.Ref, []byte("{}"))
}

// generate sends MaxTokens tokens that name the shard; without MaxTokens the
// generation stays open after the first one.
func (f *fake) generate(m wire.Frame) error {
	var req wire.GenerateRequest
	if err := m.Decode(&req); err != nil {
		return err
	}
	f.mu.Lock()
	f.open[req.ID] = req.MaxTokens == 0
	f.mu.Unlock()
	for n := range max(1, req.MaxTokens) {
		t := wire.Token{ID: req.ID, Token: int32(n), Piece: fmt.Appendf(nil, "%d ", f.index)}
		if err := f.conn.Send(wire.TypeStep, 0, wire.AppendToken(nil, &t)); err != nil {
			return err
		}
	}
	if req.MaxTokens == 0 {
		return nil
	}
	return f.conn.SendJSON(wire.TypeDone, req.ID, wire.Done{ID: req.ID, Reason: wire.ReasonLength, Generated: req.MaxTokens})
}

func (f *fake) eval(m wire.Frame) error {
	var req wire.EvalRequest
	if err := m.Decode(&req); err != nil {
		return err
	}
	for _, t := range req.Tokens[req.Prompt-1:] {
		body := wire.AppendIDs(nil, []int32{t})
		body = binary.LittleEndian.AppendUint32(body, math.Float32bits(float32(t)/2))
		if err := f.conn.Send(wire.TypeLogits, m.Ref, body); err != nil {
			return err
		}
	}
	return f.conn.Send(wire.TypeResult, m.Ref, []byte("{}"))
}

// lose is what a surviving shard does when another one is gone: it ends its
// generations and tells.
func (f *fake) lose(shard int, cause string) {
	f.end(cause)
	f.tell(shard, cause)
}

// end is the first half of lose.
func (f *fake) end(cause string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, open := range f.open {
		if open {
			_ = f.conn.SendJSON(wire.TypeDone, id, wire.Done{ID: id, Reason: wire.ReasonError, Code: wire.CodeShard, Error: cause})
		}
	}
	f.open = map[uint64]bool{}
}

// tell is the second.
func (f *fake) tell(shard int, cause string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, err := json.Marshal(wire.Broken{Epoch: f.epoch, Shard: shard, Cause: cause})
	if err == nil {
		_ = f.conn.Send(wire.TypeBroken, 0, b) // the test sees what comes of it
	}
}

// live is the present life of a shard.
func (w *world) live(i int) *fake {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lives[i][len(w.lives[i])-1]
}

func (w *world) births(i int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if i >= len(w.lives) {
		return 0
	}
	return len(w.lives[i])
}

func (w *world) joins() []wire.ConnectRequest {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]wire.ConnectRequest(nil), w.connects...)
}

// options makes a group of stages x ranks fakes, two layers a stage.
func (w *world) options(stages, ranks int) Options {
	o := Options{
		Name: "demo", Build: "test", Executable: "fake", Logger: slog.New(slog.NewTextHandler(w, nil)),
		Load: wire.LoadRequest{Paths: []string{"demo.gguf"}, Slots: 2, Context: 512},
	}
	var parts []int
	if ranks > 1 {
		for range ranks {
			parts = append(parts, 1)
		}
	}
	for s := range stages {
		for r := range ranks {
			o.Shards = append(o.Shards, Shard{Spec: slice.Spec{First: 2 * s, End: 2*s + 2, Rank: r, Parts: parts}, Launch: w.launch(len(o.Shards))})
		}
	}
	return o
}

func (w *world) start(t *testing.T, o Options) *Group {
	t.Helper()
	g, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	return g
}
