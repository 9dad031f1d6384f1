package member

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise"
	"github.com/skein-run/skein/internal/supervise/child"
)

// process answers what a member asks; mute, it answers nothing once loaded.
type process struct {
	die  chan struct{}
	load wire.LoadRequest
}

func launch(started chan<- *process, mute bool) supervise.Launch {
	return func(context.Context, child.Command) (*child.Child, error) {
		inR, inW := io.Pipe()
		outR, outW := io.Pipe()
		errR, errW := io.Pipe()
		p := &process{die: make(chan struct{})}
		conn := wire.NewConn(inR, outW)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if _, err := conn.Handshake("test"); err != nil {
				return
			}
			for {
				m, err := conn.Read()
				if err != nil || m.Type == wire.TypeClose {
					return
				}
				switch m.Type {
				case wire.TypeEngine:
					err = conn.SendJSON(wire.TypeResult, m.Ref, wire.EngineInfo{})
				case wire.TypeLoad:
					if err = m.Decode(&p.load); err == nil {
						err = conn.SendJSON(wire.TypeResult, m.Ref, wire.ModelInfo{Link: "here:1"})
					}
				default:
					if !mute {
						err = conn.Send(wire.TypeResult, m.Ref, []byte("{}"))
					}
				}
				if err != nil {
					return
				}
			}
		}()
		stop := func() { inR.Close(); outW.Close(); errW.Close() }
		started <- p
		return &child.Child{
			Stdin: inW, Stdout: outR, Stderr: errR,
			Wait: func() string {
				select {
				case <-p.die:
				case <-ended:
				}
				stop()
				<-ended
				return "exit status 1"
			},
			Kill: func() error { stop(); return nil },
		}, nil
	}
}

func start(t *testing.T, mute bool) (*Member, chan *process) {
	t.Helper()
	started := make(chan *process, 10)
	m, err := Start(Options{
		Runner: supervise.Options{Name: "m", Build: "test", Load: wire.LoadRequest{Paths: []string{"m.gguf"}}, Launch: launch(started, mute), Logger: slog.New(slog.DiscardHandler)},
		Group:  "g", Index: 1, Specs: []slice.Spec{{First: 0, End: 2}, {First: 2, End: 4}}, StepSeconds: 0.5,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Stop(context.Background()) })
	return m, started
}

// Each process has its number, and what Now says is of one of them.
func TestLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, started := start(t, false)
		for life := 1; life <= 3; life++ {
			if err := m.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			now, _ := m.Now()
			if now.Life != life || now.State.Phase != supervise.Ready || now.Info.Link != "here:1" {
				t.Errorf("life %d: %+v", life, now)
			}
			p := <-started
			if s := p.load.Shard; s.Group != "g" || s.Index != 1 || s.Head != 1 || s.Listen != "127.0.0.1:0" || s.StepSeconds != 0.5 {
				t.Errorf("%+v", s)
			}
			if err := errors.Join(m.Ping(t.Context()), m.Connect(t.Context(), wire.ConnectRequest{Epoch: 1})); err != nil {
				t.Error(err)
			}
			close(p.die)
			synctest.Wait()
			if now, _ := m.Now(); now.Life != life || now.State.Phase != supervise.Restarting {
				t.Errorf("after the death of %d: %+v", life, now)
			}
		}
	})
}

// Who gives no answer is killed, and the error is a death already seen.
func TestMute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := start(t, true)
		if err := m.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		err := m.Ping(t.Context())
		if !Died(err) || !strings.Contains(err.Error(), "gave no sign of life for 3s") || time.Since(began) != 3*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		// Killing it takes a moment; its state tells by now or is about to.
		if err := m.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if now, _ := m.Now(); now.Life != 2 {
			t.Errorf("%+v", now)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := m.Ping(ctx); err == nil || Died(err) {
			t.Errorf("a caller who gives up kills nobody: %v", err)
		}
	})
}

func TestBreaks(t *testing.T) {
	b := Breaks{StableAfter: time.Minute, BackoffMin: 100 * time.Millisecond, Limit: 3}
	for i, want := range []time.Duration{100 * time.Millisecond, 200 * time.Millisecond} {
		if wait, over := b.Add(); wait != want || over {
			t.Errorf("break %d: %v, %v", i, wait, over)
		}
	}
	b.Held(time.Second)
	if _, over := b.Add(); !over {
		t.Error("a short connection cleaned the record")
	}
	b.Held(time.Minute)
	if wait, over := b.Add(); wait != 100*time.Millisecond || over {
		t.Errorf("after a long one: %v, %v", wait, over)
	}
}

func TestWithin(t *testing.T) {
	life, end := context.WithCancelCause(t.Context())
	cause := &generation.Error{Kind: generation.KindFailed, Message: "lost"}
	ctx, told := Within(t.Context(), life)
	end(cause)
	<-ctx.Done()
	if err := told(ctx.Err()); !errors.Is(err, cause) {
		t.Errorf("error %v", err)
	}
	if err := told(nil); err != nil {
		t.Errorf("what went well: %v", err)
	}
	own, cancel := context.WithCancel(t.Context())
	ctx, told = Within(own, t.Context())
	cancel()
	<-ctx.Done()
	if err := told(ctx.Err()); !errors.Is(err, context.Canceled) {
		t.Errorf("the caller's own end: %v", err)
	}
}

func TestStartRefuses(t *testing.T) {
	r := supervise.Options{Name: "m", Build: "test", Executable: "x", Load: wire.LoadRequest{Paths: []string{"m.gguf"}}, Logger: slog.New(slog.DiscardHandler)}
	for name, o := range map[string]Options{
		"index": {Runner: r, Index: 2, Specs: []slice.Spec{{First: 0, End: 2}, {First: 2, End: 4}}},
		"gap":   {Runner: r, Specs: []slice.Spec{{First: 0, End: 2}, {First: 3, End: 4}}},
		"empty": {Runner: r, Specs: []slice.Spec{}},
		"none":  {Runner: supervise.Options{Name: "m", Logger: r.Logger}},
	} {
		if m, err := Start(o); err == nil {
			m.Stop(context.Background())
			t.Errorf("%s: no error", name)
		}
	}
}
