package supervise

import (
	"bytes"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise/child"
)

// Whatever a runner sends, the reader does not panic or hang, and every open
// stream and call ends.
func FuzzReader(f *testing.F) {
	frame := func(t wire.Type, ref uint64, body string) []byte {
		var b bytes.Buffer
		if err := wire.NewConn(nil, &b).Send(t, ref, []byte(body)); err != nil {
			f.Fatal(err)
		}
		return b.Bytes()
	}
	token := string(wire.AppendToken(nil, &wire.Token{ID: 2, Token: 5, Piece: []byte("x")}))
	f.Add([]byte{})
	f.Add([]byte("llama_model_load: hello"))
	f.Add(frame(wire.TypeStep, 0, token))
	f.Add(frame(wire.TypeStep, 0, strings.Repeat(token, 5)))
	f.Add(append(frame(wire.TypeStep, 0, token), frame(wire.TypeDone, 2, `{"id":2,"reason":"stop"}`)...))
	f.Add(frame(wire.TypeDone, 2, `{"id":`))
	f.Add(append(frame(wire.TypeResult, 1, "{}"), frame(wire.TypeResult, 1, "{}")...))
	f.Add(frame(wire.TypeFailure, 1, "null"))
	f.Add(frame(wire.TypeFailure, 2, `{"code":"busy"}`))
	f.Add(frame(wire.TypeTokens, 2, "abc"))
	f.Add(frame(wire.TypeProgress, 1, `{"done":1e300}`))
	f.Add(frame(wire.TypeBeat, 9, `{"steps":-1}`))
	f.Add(frame(wire.TypeGenerate, 9, `{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var in bytes.Buffer
		if err := wire.NewConn(nil, &in).SendJSON(wire.TypeHello, 0, wire.Hello{Version: wire.Version}); err != nil {
			t.Fatal(err)
		}
		hello := in.Len()
		in.Write(data)
		// The bytes after the Hello come when stream and call are open; the
		// program ends when all was read or it is killed.
		outR, outW := io.Pipe()
		opened, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			_, err := outW.Write(in.Bytes()[:hello])
			<-opened
			if err == nil {
				_, _ = outW.Write(in.Bytes()[hello:]) // fails when it was killed
			}
			outW.Close()
		}()
		o := Options{Name: "m", Logger: slog.New(slog.DiscardHandler), StopGrace: time.Minute, StartLimit: time.Minute, BeatLimit: time.Minute}
		p := newProcess(&o, &child.Child{
			Stdin: discard{}, Stdout: outR, Stderr: io.NopCloser(strings.NewReader("")),
			Wait: func() string { <-ended; return "exit status 1" },
			Kill: func() error { return outR.Close() },
		})
		if err := <-p.greeted; err != nil {
			t.Fatal(err)
		}
		called := make(chan struct{})
		p.mu.Lock()
		p.lastRef = 1
		c := &call{reply: make(chan wire.Frame, 1), before: func(wire.Frame) error { return nil }}
		p.calls[1] = c
		p.mu.Unlock()
		go func() {
			defer close(called)
			select {
			case <-c.reply:
			case <-p.exited:
			}
		}()
		s, err := p.generate(t.Context(), wire.GenerateRequest{Prompt: []int32{1}, MaxTokens: 3}, 3)
		if err != nil {
			t.Fatal(err)
		}
		close(opened)
		ids, _, done, err := drain(t.Context(), s)
		if len(ids) > 3 {
			t.Errorf("%d tokens of 3", len(ids))
		}
		if (done == nil) == (err == nil) {
			t.Errorf("ended with %v and %v", done, err)
		}
		<-called
		<-p.exited
	})
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) Close() error                { return nil }
