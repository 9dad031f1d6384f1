package openai_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/httpapi"
	"github.com/skein-run/skein/internal/httpapi/openai"
)

const streamed = `{"model":"demo","messages":[{"role":"user","content":"Hi"}],"stream":true}`

// listen serves an engine on a free port until the test ends.
func listen(t *testing.T, engine openai.Engine, change ...func(*openai.Options)) (*httpapi.Server, string) {
	t.Helper()
	server := newServer(t, engine, change...)
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // at once
		if err := server.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return server, "http://" + server.Addr().String()
}

func send(t *testing.T, ctx context.Context, url, body string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// Each event arrives when it is made, not when the answer is whole.
func TestStreamIsFlushed(t *testing.T) {
	next := make(chan string)
	engine := newFake()
	engine.generate = func(ctx context.Context, _ generation.Request, emit func(generation.Event) error) error {
		for text := range next {
			if err := emit(generation.Event{Text: text}); err != nil {
				return err
			}
		}
		return emit(generation.Event{FinishReason: generation.FinishStop, Usage: &generation.Usage{}})
	}
	_, url := listen(t, engine)
	type answer struct {
		resp *http.Response
		err  error
	}
	got := make(chan answer, 1)
	go func() {
		resp, err := http.Post(url+"/v1/chat/completions", "application/json", strings.NewReader(streamed))
		got <- answer{resp, err}
	}()
	next <- "one"
	a := <-got
	if a.err != nil {
		t.Fatal(a.err)
	}
	defer a.resp.Body.Close()
	lines := bufio.NewScanner(a.resp.Body)
	until := func(part string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), part) {
				return
			}
		}
		t.Fatalf("the stream ended before %q: %v", part, lines.Err())
	}
	until(`"content":"one"`)
	next <- "two" // sent only after "one" was read
	until(`"content":"two"`)
	close(next)
	until("data: [DONE]")
}

// While nothing is said (the model loads, a long prompt is read) comments keep
// the connection alive, and an error then comes as an event.
func TestKeepAlive(t *testing.T) {
	for _, fail := range []bool{false, true} {
		release := make(chan struct{})
		engine := newFake()
		engine.generate = func(ctx context.Context, req generation.Request, emit func(generation.Event) error) error {
			select {
			case <-release:
			case <-ctx.Done():
				return ctx.Err()
			}
			if fail {
				return &generation.Error{Kind: generation.KindNoMemory, Message: "need 45.0 GB, have 30.0 GB"}
			}
			return hello(ctx, req, emit)
		}
		_, url := listen(t, engine, func(o *openai.Options) { o.KeepAlive = time.Millisecond })
		resp := send(t, t.Context(), url+"/v1/chat/completions", streamed)
		if resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
			t.Fatalf("status %d, %s", resp.StatusCode, resp.Header.Get("Content-Type"))
		}
		body := bufio.NewReader(resp.Body)
		for range 3 {
			for _, want := range []string{": keep-alive\n", "\n"} {
				if line, err := body.ReadString('\n'); err != nil || line != want {
					t.Fatalf("read %q, %v; want %q", line, err, want)
				}
			}
		}
		close(release)
		rest := readAll(t, body)
		if fail {
			if !strings.Contains(rest, `data: {"error":{"message":"need 45.0 GB, have 30.0 GB","type":"server_error","param":null,"code":"insufficient_memory"}}`) || strings.Contains(rest, "[DONE]") {
				t.Errorf("the stream ends with %q", rest)
			}
		} else if !strings.HasSuffix(rest, "data: [DONE]\n\n") {
			t.Errorf("the stream ends with %q", rest)
		}
	}
}

// A client that goes away cancels its generation, streamed or not.
func TestClientGone(t *testing.T) {
	for name, body := range map[string]string{
		"streamed": streamed,
		"whole":    strings.Replace(streamed, "true", "false", 1),
		"text":     `{"model":"demo","prompt":["a","b","c","d","e","f"],"stream":true}`,
	} {
		t.Run(name, func(t *testing.T) {
			begun := make(chan struct{}, 10)
			ended := make(chan error, 10)
			engine := newFake()
			engine.generate = func(ctx context.Context, _ generation.Request, emit func(generation.Event) error) error {
				err := emit(generation.Event{Text: "Hello"})
				begun <- struct{}{}
				<-ctx.Done()
				ended <- err
				return ctx.Err()
			}
			_, url := listen(t, engine)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+map[bool]string{true: "/v1/completions", false: "/v1/chat/completions"}[name == "text"], strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				if resp, err := http.DefaultClient.Do(r); err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
			}()
			<-begun
			cancel()
			<-ended // the engine's context was cancelled
			<-done
		})
	}
}

// A stop lets running requests end; one that does not is told so at the end of
// its grace.
func TestStopWhileStreaming(t *testing.T) {
	t.Run("ends in time", func(t *testing.T) {
		release := make(chan struct{})
		begun := make(chan struct{})
		engine := newFake()
		engine.generate = func(ctx context.Context, req generation.Request, emit func(generation.Event) error) error {
			if err := emit(generation.Event{Text: "a"}); err != nil {
				return err
			}
			close(begun)
			<-release
			return hello(ctx, req, emit)
		}
		server, url := listen(t, engine)
		resp := send(t, t.Context(), url+"/v1/chat/completions", streamed)
		<-begun
		stopped := make(chan error, 1)
		go func() { stopped <- server.Stop(t.Context()) }()
		// Nobody gets in any more; then the running one goes on to its end.
		for {
			late, err := http.Post(url+"/v1/chat/completions", "application/json", strings.NewReader("{}"))
			if err != nil {
				break
			}
			_ = late.Body.Close()
		}
		close(release)
		if body := readAll(t, resp.Body); !strings.HasSuffix(body, "data: [DONE]\n\n") {
			t.Errorf("the stream ends with %q", body)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	t.Run("is cut", func(t *testing.T) {
		begun := make(chan struct{})
		engine := newFake()
		engine.generate = func(ctx context.Context, _ generation.Request, emit func(generation.Event) error) error {
			if err := emit(generation.Event{Text: "a"}); err != nil {
				return err
			}
			close(begun)
			<-ctx.Done()
			if !errors.Is(context.Cause(ctx), httpapi.ErrStopping) {
				t.Errorf("cause %v", context.Cause(ctx))
			}
			return ctx.Err()
		}
		server, url := listen(t, engine)
		resp := send(t, t.Context(), url+"/v1/chat/completions", streamed)
		<-begun
		now, cancel := context.WithCancel(t.Context())
		cancel()
		if err := server.Stop(now); err != nil {
			t.Error(err)
		}
		body := readAll(t, resp.Body)
		if !strings.Contains(body, `"code":"service_unavailable"`) || strings.Contains(body, "[DONE]") {
			t.Errorf("the stream ends with %q", body)
		}
	})
}

// Streamed chats of one choice tell how far the prompt is, in comments; nothing
// else does.
func TestProgressOfThePrompt(t *testing.T) {
	for body, want := range map[string]bool{
		`{"model":"demo","messages":[{"role":"user","content":"hi"}],"stream":true}`:       true,
		`{"model":"demo","messages":[{"role":"user","content":"hi"}],"stream":true,"n":2}`: false,
		`{"model":"demo","messages":[{"role":"user","content":"hi"}]}`:                     false,
	} {
		engine := newFake()
		var told atomic.Bool
		engine.generate = func(_ context.Context, req generation.Request, emit func(generation.Event) error) error {
			asked := req.Progress
			told.Store(asked)
			if asked {
				if err := emit(generation.Event{Prompt: &generation.PromptProgress{Done: 256, Total: 300}}); err != nil {
					return err
				}
			}
			for i := range req.Choices {
				e := generation.Event{Choice: i, Text: "Hi"}
				if asked {
					e.Prompt = &generation.PromptProgress{Done: 300, Total: 300}
				}
				if err := emit(e); err != nil {
					return err
				}
			}
			for i := range req.Choices {
				e := generation.Event{Choice: i, FinishReason: generation.FinishStop}
				if i == req.Choices-1 {
					e.Usage = &generation.Usage{}
				}
				if err := emit(e); err != nil {
					return err
				}
			}
			return nil
		}
		_, url := listen(t, engine)
		resp, err := http.Post(url+"/v1/chat/completions", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		comments := `: prefill_progress {"PrefillProgressChunk":{"model":"demo","processed_tokens":256,"total_tokens":300}}` + "\n\n" +
			`: prefill_progress {"PrefillProgressChunk":{"model":"demo","processed_tokens":300,"total_tokens":300}}` + "\n\ndata: {"
		if told.Load() != want || strings.HasPrefix(string(b), comments) != want || strings.Contains(string(b), "prefill") != want {
			t.Errorf("%s: asked %v, want %v: %s", body, told.Load(), want, b)
		}
	}
}
