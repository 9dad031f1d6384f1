package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise/child"
)

// What a fake runner does with a generation is told by its first prompt token.
const (
	promptCount   = iota + 1 // MaxTokens tokens, then Done
	promptWait               // one token, then nothing until Cancel
	promptAbort              // one token, then the program aborts
	promptSilent             // nothing at all, not even beats
	promptStuck              // beats without a step
	promptGarbage            // bytes that are no frame
	promptFailure            // a Failure instead of a Done
	promptFlood              // more tokens than asked for
	promptSlow               // beats with steps for ten minutes, then Done
	promptEOF                // closes its output and lives on
)

// script is what a fake runner does besides generating.
type script struct {
	version       int           // 0: wire.Version
	refuseEngine  *wire.Failure // answer to Engine
	refuseLoad    *wire.Failure // answer to Load
	progress      []float64
	dieAtLoad     bool // abort before ModelInfo
	hangAtLoad    bool
	holdLoad      chan struct{} // the load ends when it is closed
	hangAtHello   bool
	ignoreClose   bool // lives on after Close and the end of stdin
	dieAfterReady time.Duration
	info          wire.ModelInfo
}

// fakeRunner speaks the child's side of the protocol until its input ends or
// die is closed, and returns its exit status.
type fakeRunner struct {
	script script
	conn   *wire.Conn
	out    io.Writer
	close  func() // closes the program's output
	real   bool   // a process that takes its goroutines along
	stderr io.Writer
	die    chan struct{} // closed: exit at once
	dead   sync.Once
	status atomic.Pointer[string]
	jobs   sync.WaitGroup

	mu      sync.Mutex
	cancels map[uint64]chan struct{}
}

func (f *fakeRunner) exit(status string) {
	f.dead.Do(func() {
		f.status.Store(&status)
		close(f.die)
	})
}

func (f *fakeRunner) abort() {
	fmt.Fprintln(f.stderr, "fake.cpp:1: GGML_ASSERT(x != 0) failed")
	fmt.Fprintln(f.stderr, "a line of backtrace")
	f.exit("signal: aborted")
}

// run returns when the program ends by itself or was told to.
func (f *fakeRunner) run(in io.Reader, out, stderr io.Writer) {
	f.conn, f.out, f.stderr = wire.NewConn(in, out), out, stderr
	f.cancels = make(map[uint64]chan struct{})
	looped := make(chan struct{})
	go func() {
		defer close(looped)
		f.loop()
		if !f.script.ignoreClose {
			f.exit("exit status 0")
		}
	}()
	<-f.die
	if !f.real {
		<-looped // its pipes are broken by now
		f.jobs.Wait()
	}
}

func (f *fakeRunner) loop() {
	if f.script.hangAtHello {
		<-f.die
		return
	}
	if v := f.script.version; v != 0 {
		if f.conn.SendJSON(wire.TypeHello, 0, wire.Hello{Version: v, Build: "other"}) == nil {
			_, _ = f.conn.Read()
		}
		return
	}
	if _, err := f.conn.Handshake("test"); err != nil {
		return
	}
	for {
		m, err := f.conn.Read()
		if err != nil || f.handle(m) != nil {
			return
		}
	}
}

var errClosed = errors.New("closed")

func (f *fakeRunner) handle(m wire.Frame) error {
	switch m.Type {
	case wire.TypeEngine:
		if f.script.refuseEngine != nil {
			return f.conn.SendJSON(wire.TypeFailure, m.Ref, f.script.refuseEngine)
		}
		return f.conn.SendJSON(wire.TypeResult, m.Ref, wire.EngineInfo{Version: "0.5.0-dev"})
	case wire.TypeLoad:
		for _, p := range f.script.progress {
			if err := f.conn.SendJSON(wire.TypeProgress, m.Ref, wire.Progress{Done: p}); err != nil {
				return err
			}
		}
		if f.script.holdLoad != nil {
			<-f.script.holdLoad
		}
		switch {
		case f.script.dieAtLoad:
			f.abort()
			return errClosed
		case f.script.hangAtLoad:
			<-f.die
			return errClosed
		case f.script.refuseLoad != nil:
			fmt.Fprintln(f.stderr, "llama_model_load: something about the file")
			return f.conn.SendJSON(wire.TypeFailure, m.Ref, f.script.refuseLoad)
		}
		if d := f.script.dieAfterReady; d > 0 {
			time.AfterFunc(d, f.abort)
		}
		return f.conn.SendJSON(wire.TypeResult, m.Ref, f.script.info)
	case wire.TypeTokenize:
		req, err := wire.DecodeTokenize(m.Body)
		if err != nil {
			return err
		}
		switch req.Text {
		case "refuse":
			return f.conn.SendJSON(wire.TypeFailure, m.Ref, wire.Failure{Code: wire.CodeInvalid, Message: "no such text"})
		case "abort":
			f.abort()
			return errClosed
		}
		var ids []int32
		for _, b := range []byte(req.Text) {
			ids = append(ids, int32(b))
		}
		return f.conn.Send(wire.TypeTokens, m.Ref, wire.AppendIDs(nil, ids))
	case wire.TypeText:
		ids, err := wire.DecodeIDs(m.Body)
		if err != nil {
			return err
		}
		text := make([]byte, len(ids))
		for i, id := range ids {
			text[i] = byte(id)
		}
		return f.conn.Send(wire.TypeText, m.Ref, text)
	case wire.TypeStats:
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.conn.SendJSON(wire.TypeResult, m.Ref, wire.Stats{SlotsBusy: len(f.cancels)})
	case wire.TypeGenerate:
		var req wire.GenerateRequest
		if err := m.Decode(&req); err != nil {
			return err
		}
		cancel := make(chan struct{})
		f.mu.Lock()
		f.cancels[req.ID] = cancel
		f.mu.Unlock()
		f.jobs.Go(func() { f.generate(req, cancel) })
		return nil
	case wire.TypeCancel:
		f.mu.Lock()
		if c := f.cancels[m.Ref]; c != nil {
			delete(f.cancels, m.Ref)
			close(c)
		}
		f.mu.Unlock()
		return nil
	case wire.TypeClose:
		return errClosed
	default:
		return fmt.Errorf("unexpected type %d", m.Type)
	}
}

func (f *fakeRunner) token(id uint64, n int) error {
	t := wire.Token{ID: id, Token: int32(n), Piece: fmt.Appendf(nil, "%d ", n)}
	return f.conn.Send(wire.TypeStep, 0, wire.AppendToken(nil, &t))
}

func (f *fakeRunner) end(id uint64, reason string, n int) error {
	f.mu.Lock()
	delete(f.cancels, id)
	f.mu.Unlock()
	return f.conn.SendJSON(wire.TypeDone, id, wire.Done{ID: id, Reason: reason, Generated: n})
}

// generate ends silently when the node is gone: there is nobody to tell.
func (f *fakeRunner) generate(req wire.GenerateRequest, cancel chan struct{}) {
	switch req.Prompt[0] {
	case promptCount:
		for n := range req.MaxTokens {
			select {
			case <-cancel:
				_ = f.end(req.ID, wire.ReasonCancelled, n)
				return
			default:
			}
			if f.token(req.ID, n) != nil {
				return
			}
		}
		_ = f.end(req.ID, wire.ReasonLength, req.MaxTokens)
	case promptWait:
		if f.token(req.ID, 0) != nil {
			return
		}
		select {
		case <-cancel:
			_ = f.end(req.ID, wire.ReasonCancelled, 1)
		case <-f.die:
		}
	case promptAbort:
		_ = f.token(req.ID, 0)
		f.abort()
	case promptSilent:
		<-f.die
	case promptStuck, promptSlow:
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for n := uint64(0); n < 600; n++ {
			b := wire.Beat{Steps: n, Busy: true}
			if req.Prompt[0] == promptStuck {
				b.Steps = 7
			}
			if f.conn.SendJSON(wire.TypeBeat, 0, b) != nil {
				return
			}
			select {
			case <-tick.C:
			case <-f.die:
				return
			}
		}
		_ = f.end(req.ID, wire.ReasonLength, 0)
	case promptGarbage:
		_, _ = f.out.Write([]byte("llama.cpp printed this to stdout\n"))
		<-f.die
	case promptFailure:
		_ = f.conn.SendJSON(wire.TypeFailure, req.ID, wire.Failure{Code: wire.CodeInvalid, Message: "no"})
	case promptFlood:
		for n := range req.MaxTokens + 100 {
			if f.token(req.ID, n) != nil {
				return
			}
		}
	case promptEOF:
		f.close()
		<-f.die
	}
}

// inMemory makes a launch function whose programs are fakes behind pipes;
// scripts are used one after the other, the last one again and again.
func inMemory(started *[]*fakeRunner, scripts ...script) func(context.Context, child.Command) (*child.Child, error) {
	launches := 0
	return func(context.Context, child.Command) (*child.Child, error) {
		f := &fakeRunner{script: scripts[min(launches, len(scripts)-1)], die: make(chan struct{})}
		launches++
		if started != nil {
			*started = append(*started, f)
		}
		inR, inW := io.Pipe()
		outR, outW := io.Pipe()
		errR, errW := io.Pipe()
		f.close = func() { outW.Close() }
		gone := make(chan struct{})
		go func() {
			<-f.die // a dead program's pipes break, whoever is in them
			inR.Close()
			outW.Close()
			errW.Close()
		}()
		go func() {
			defer close(gone)
			f.run(inR, outW, errW)
		}()
		return &child.Child{
			Stdin: inW, Stdout: outR, Stderr: errR, PID: 1000 + launches,
			Wait: func() string { <-gone; return *f.status.Load() },
			Kill: func() error { f.exit("signal: killed"); return nil },
		}, nil
	}
}

// drain reads a stream to its end.
func drain(ctx context.Context, s interface {
	Next(context.Context) ([]wire.Token, *wire.Done, error)
}) (ids []int32, text string, done *wire.Done, err error) {
	for {
		tokens, done, err := s.Next(ctx)
		for _, t := range tokens {
			ids = append(ids, t.Token)
			text += string(t.Piece)
		}
		if done != nil || err != nil {
			return ids, text, done, err
		}
	}
}
