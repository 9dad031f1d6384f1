package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/runner/llama"
	"github.com/skein-run/skein/internal/runner/loop"
	"github.com/skein-run/skein/internal/runner/schedule"
	"github.com/skein-run/skein/internal/runner/wire"
)

// Main runs the child: it speaks wire on its standard input and output until
// the input ends, and returns the exit code. Standard output carries frames
// only: what C code prints there is sent to standard error.
func Main(build string) int {
	out, err := claimStdout()
	if err != nil {
		logLine(logError, err.Error())
		return 1
	}
	r := &process{conn: wire.NewConn(os.Stdin, out), build: build}
	err = r.run()
	if err != nil {
		logLine(logError, err.Error())
		return 1
	}
	return 0
}

// Probe loads the library, writes what it found to out as JSON, and returns
// the exit code. The node runs it in a child of its own: probing a broken
// driver may crash.
func Probe(spec wire.EngineSpec, out io.Writer) int {
	frames, err := claimStdout()
	if err != nil {
		logLine(logError, err.Error())
		return 1
	}
	if out == os.Stdout {
		out = frames
	}
	lib, info, err := openLibrary(spec)
	if err != nil {
		logLine(logError, err.Error())
		return 1
	}
	info.Problems = lib.Idle()
	if err := json.NewEncoder(out).Encode(info); err != nil {
		logLine(logError, err.Error())
		return 1
	}
	return 0
}

// process is the child's state between frames.
type process struct {
	conn  *wire.Conn
	build string

	lib     *llama.Library
	devices []wire.Device
	model   *loaded
	put     *arrival // a snapshot whose bytes are coming; nil: none

	mu   sync.Mutex // guards loop, and that nothing is posted to one that ended
	loop *loop.Loop // nil: nothing can be generated now
}

func (r *process) setLoop(l *loop.Loop) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loop = l
}

// withLoop tells the loop that runs something; false: there is none.
func (r *process) withLoop(tell func(*loop.Loop)) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.loop == nil {
		return false
	}
	tell(r.loop)
	return true
}

// newLoop makes the loop of a model that is loaded.
func (r *process) newLoop(model loop.Backend, vocab loop.Vocabulary, sched *schedule.Scheduler) *loop.Loop {
	return loop.New(loop.Options{
		Model: model, Vocab: vocab, Out: r.conn, Scheduler: sched, Now: time.Now, Code: faultCode,
		Warn: func(line string) { logLine(logWarn, line) },
	})
}

// run answers frames until the node closes or the loop fails.
func (r *process) run() error {
	if _, err := r.conn.Handshake(r.build); err != nil {
		return err
	}
	frames := make(chan wire.Frame)
	ended := make(chan error, 1)
	go func() {
		for {
			f, err := r.conn.Read()
			if err != nil {
				ended <- err
				// The main goroutine may be deep in the library. Without a node
				// there is nobody to work for, so leave at once.
				if !errors.Is(err, io.EOF) {
					logLine(logError, err.Error())
				}
				os.Exit(0)
			}
			frames <- f
		}
	}()
	failed := make(chan error, 1)
	for {
		select {
		case err := <-failed:
			return err
		case f := <-frames:
			stop, err := r.handle(f, failed)
			if err != nil || stop {
				return err
			}
		}
	}
}

func (r *process) handle(f wire.Frame, failed chan<- error) (stop bool, err error) {
	switch f.Type {
	case wire.TypeEngine:
		var spec wire.EngineSpec
		if err := f.Decode(&spec); err != nil {
			return false, err
		}
		if r.lib != nil {
			return false, r.fail(f.Ref, wire.CodeInvalid, errors.New("the library is loaded already"))
		}
		lib, info, err := openLibrary(spec)
		if err != nil {
			return false, r.fail(f.Ref, wire.CodeEngine, err)
		}
		r.lib, r.devices = lib, info.Devices
		return false, r.conn.SendJSON(wire.TypeResult, f.Ref, info)
	case wire.TypeLoad:
		return false, r.load(f, failed)
	case wire.TypeTokenize:
		go r.tokenize(f) // a long text must not hold up cancels
		return false, nil
	case wire.TypeText:
		go r.detokenize(f)
		return false, nil
	case wire.TypeGenerate:
		var req wire.GenerateRequest
		if err := f.Decode(&req); err != nil {
			return false, err
		}
		if !r.withLoop(func(l *loop.Loop) { l.Start(req) }) {
			code, why := r.noLoop()
			return false, r.conn.SendJSON(wire.TypeDone, req.ID, wire.Done{ID: req.ID, Reason: wire.ReasonError, Code: code, Error: why})
		}
		return false, nil
	case wire.TypeCancel:
		r.withLoop(func(l *loop.Loop) { l.Cancel(f.Ref) }) // without a loop there is nothing to cancel
		return false, nil
	case wire.TypeStats:
		return false, r.conn.SendJSON(wire.TypeResult, f.Ref, r.stats())
	case wire.TypeConnect:
		return false, r.connect(f)
	case wire.TypeEval:
		return false, r.eval(f)
	case wire.TypeSnapshots:
		r.snapshots(f)
		return false, nil
	case wire.TypeAdopt:
		return false, r.adopt(f)
	case wire.TypeStateGet:
		return false, r.stateGet(f)
	case wire.TypeStatePut, wire.TypeState:
		return false, r.statePut(f)
	case wire.TypeClose:
		// The process ends; the system takes the memory back faster than the
		// library could free it.
		return true, nil
	}
	return false, fmt.Errorf("%w: type %d from the node", wire.ErrFrame, f.Type)
}

// noLoop says why nothing can be generated.
func (r *process) noLoop() (code, why string) {
	switch {
	case r.model == nil || r.model.member == nil:
		return wire.CodeInvalid, "no model is loaded for generation"
	case r.model.model == nil:
		return wire.CodeInvalid, "this shard is not the head of its group; ask the head"
	}
	return wire.CodeShard, "the shards of the model are not joined"
}

func (r *process) stats() wire.Stats {
	r.mu.Lock()
	l := r.loop
	r.mu.Unlock()
	if l == nil {
		return wire.Stats{GoroutinesCount: runtime.NumGoroutine()}
	}
	return l.Stats()
}

// beat is the state of what computes.
func (r *process) beat() wire.Beat {
	r.mu.Lock()
	l := r.loop
	r.mu.Unlock()
	switch {
	case l != nil:
		return l.Beat()
	case r.model.member != nil:
		return wire.Beat{Steps: r.model.member.steps.Load(), Busy: r.model.member.busy.Load()}
	}
	return wire.Beat{}
}

func (r *process) fail(ref uint64, code string, err error) error {
	f := &wire.Failure{Code: code, Message: err.Error()}
	var given *wire.Failure
	if errors.As(err, &given) {
		f = given
	}
	return r.conn.SendJSON(wire.TypeFailure, ref, f)
}

// load starts the goroutine that owns the library's context: it loads,
// answers, and then runs the step loop.
func (r *process) load(f wire.Frame, failed chan<- error) error {
	var req wire.LoadRequest
	if err := f.Decode(&req); err != nil {
		return err
	}
	if r.lib == nil || r.model != nil {
		return r.fail(f.Ref, wire.CodeInvalid, errors.New("load comes once, after the engine"))
	}
	if req.Threads <= 0 {
		req.Threads = runtime.GOMAXPROCS(0)
	}
	reuse, err := parseReuse(req.PrefixReuse)
	if err != nil {
		return r.fail(f.Ref, wire.CodeInvalid, err)
	}
	ready := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the context stays on this thread
		// A beat says that the load is alive even where the library reports
		// no progress (a large allocation, a slow disk).
		stopBeats := r.beats(func() wire.Beat { return wire.Beat{Busy: true} })
		last := -1.0
		m, err := load(r.lib, req, r.devices, func(done float64) {
			if done-last >= 0.01 || done == 1 {
				last = done
				if err := r.conn.SendJSON(wire.TypeProgress, f.Ref, wire.Progress{Done: done}); err != nil {
					logLine(logWarn, err.Error())
				}
			}
		})
		stopBeats()
		if err != nil {
			ready <- err
			return
		}
		r.model = m
		if m.member != nil {
			ready <- nil
			r.beats(r.beat)
			failed <- r.serveMember(m.member)
			return
		}
		if m.ctx == nil {
			ready <- nil
			return
		}
		eng := newWhole(m.ctx, req.CacheBytes)
		m.states = eng.states
		sched, err := schedule.New(schedule.Config{
			Stages: eng.Stages(), Depth: eng.Depth(),
			Slots: req.Slots, Context: m.info.Context, Chunk: m.info.ChunkTokens, Tile: schedule.TileTokens(m.info.GPULayers > 0), Pending: req.PendingLimit,
			Reuse: reuse, Rewindable: m.info.Memory == llama.MemoryAttention, CacheBytes: req.CacheBytes, KeepRows: true,
		})
		if err != nil {
			ready <- err
			return
		}
		l := r.newLoop(eng, m.model, sched)
		r.setLoop(l)
		ready <- nil
		r.beats(r.beat)
		failed <- l.Run()
	}()
	begin := time.Now()
	if err := <-ready; err != nil {
		return r.fail(f.Ref, wire.CodeInternal, err)
	}
	r.model.info.LoadSeconds = time.Since(begin).Seconds()
	return r.conn.SendJSON(wire.TypeResult, f.Ref, r.model.info)
}

// beats sends a Beat each second on a goroutine of its own, so that it goes
// on while the library computes. Idle beats are not sent.
func (r *process) beats(state func() wire.Beat) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		t := time.NewTicker(time.Second)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				if b := state(); b.Busy {
					if err := r.conn.SendJSON(wire.TypeBeat, 0, b); err != nil {
						return // the reader of stdin sees the same end
					}
				}
			}
		}
	}()
	return cancel
}

func (r *process) tokenize(f wire.Frame) {
	r.answer(f, wire.TypeTokens, func(m *loaded) ([]byte, error) {
		req, err := wire.DecodeTokenize(f.Body)
		if err != nil {
			return nil, err
		}
		ids, err := m.model.Tokenize(req.Text, req.AddSpecial, req.ParseSpecial)
		return wire.AppendIDs(nil, ids), err
	})
}

// detokenize joins the texts of tokens. Control tokens are written out: the
// text stands for exactly these tokens.
func (r *process) detokenize(f wire.Frame) {
	r.answer(f, wire.TypeText, func(m *loaded) ([]byte, error) {
		ids, err := wire.DecodeIDs(f.Body)
		if err != nil {
			return nil, err
		}
		var text []byte
		for i, id := range ids {
			if id < 0 || int(id) >= m.info.Vocabulary {
				return nil, fmt.Errorf("token %d is %d, the vocabulary has %d tokens", i, id, m.info.Vocabulary)
			}
			text = append(text, m.model.Piece(id, true)...)
		}
		return text, nil
	})
}

// answer replies to a vocabulary request with what work gives, or with the
// Failure. It runs on a goroutine of its own, so a broken pipe is only noted:
// the reader of stdin sees the node's end.
func (r *process) answer(f wire.Frame, t wire.Type, work func(*loaded) ([]byte, error)) {
	body, err := []byte(nil), errors.New("no model is loaded")
	switch {
	case r.model != nil && r.model.model == nil:
		err = errors.New("this shard has no vocabulary; ask the head of its group")
	case r.model != nil:
		body, err = work(r.model)
	}
	if err != nil {
		err = r.fail(f.Ref, wire.CodeInvalid, err)
	} else {
		err = r.conn.Send(t, f.Ref, body)
	}
	if err != nil {
		logLine(logWarn, err.Error())
	}
}

// parseReuse reads LoadRequest.PrefixReuse.
func parseReuse(s string) (schedule.Reuse, error) {
	switch s {
	case "", "exact":
		return schedule.ReuseExact, nil
	case "longest":
		return schedule.ReuseLongest, nil
	case "off":
		return schedule.ReuseOff, nil
	}
	return 0, fmt.Errorf("prefix reuse %q: it is exact, longest or off", s)
}
