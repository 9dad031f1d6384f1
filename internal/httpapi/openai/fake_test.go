package openai_test

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

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/httpapi"
	"github.com/skein-run/skein/internal/httpapi/openai"
)

// fakeEngine answers every request with scripted events.
type fakeEngine struct {
	models []openai.Model
	// generate runs a request; nil: hello.
	generate func(ctx context.Context, req generation.Request, emit func(generation.Event) error) error

	mu       sync.Mutex
	requests []generation.Request // guarded by mu: all that were made
}

func newFake() *fakeEngine {
	return &fakeEngine{models: []openai.Model{
		{ID: "demo", Created: 1700000000, OwnedBy: "skein", Loaded: true, ContextLength: 2048},
		{ID: "org/Thinker-GGUF", Created: 1700000001, OwnedBy: "org", TemplateVariables: []string{"enable_thinking"}},
		{ID: "harmony", Created: 1700000002, OwnedBy: "org", TemplateVariables: []string{"reasoning_effort"}},
	}}
}

func (f *fakeEngine) Models(context.Context) ([]openai.Model, error) { return f.models, nil }

func (f *fakeEngine) Model(_ context.Context, name string) (openai.Model, error) {
	for _, m := range f.models {
		if strings.EqualFold(m.ID, name) {
			return m, nil
		}
	}
	return openai.Model{}, &generation.Error{Kind: generation.KindModelNotFound, Message: "no model " + name + "; the nearest is demo"}
}

func (f *fakeEngine) Generate(ctx context.Context, req generation.Request, emit func(generation.Event) error) error {
	f.mu.Lock()
	f.requests = append(f.requests, req)
	f.mu.Unlock()
	if f.generate == nil {
		return hello(ctx, req, emit)
	}
	return f.generate(ctx, req, emit)
}

// last is the only request made.
func (f *fakeEngine) last(t *testing.T) generation.Request {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.requests) != 1 {
		t.Fatalf("%d requests reached the engine, want 1", len(f.requests))
	}
	return f.requests[0]
}

func (f *fakeEngine) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.requests)
}

// hello says "Hello, world" in three events a choice.
func hello(_ context.Context, req generation.Request, emit func(generation.Event) error) error {
	for choice := range req.Choices {
		for _, text := range []string{"Hello", ", ", "world"} {
			if err := emit(generation.Event{Choice: choice, Text: text}); err != nil {
				return err
			}
		}
		ev := generation.Event{Choice: choice, FinishReason: generation.FinishStop}
		if choice == req.Choices-1 {
			ev.Usage = &generation.Usage{
				PromptTokens: 10, CompletionTokens: 3 * req.Choices, CachedTokens: 4,
				QueueSeconds: 0.001, PrefillSeconds: 0.06, DecodeSeconds: 0.04,
			}
		}
		if err := emit(ev); err != nil {
			return err
		}
	}
	return nil
}

// script plays events as they are.
func script(events ...generation.Event) func(context.Context, generation.Request, func(generation.Event) error) error {
	return func(_ context.Context, _ generation.Request, emit func(generation.Event) error) error {
		for _, ev := range events {
			if err := emit(ev); err != nil {
				return err
			}
		}
		return nil
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// newHandler is the whole server, as clients meet it, around an engine.
func newHandler(t testing.TB, engine openai.Engine, change ...func(*openai.Options)) http.Handler {
	t.Helper()
	return newServer(t, engine, change...).Handler()
}

func newServer(t testing.TB, engine openai.Engine, change ...func(*openai.Options)) *httpapi.Server {
	t.Helper()
	o := openai.Options{
		Engine: engine, Log: quiet(), Fingerprint: "skein-test",
		Now:   func() time.Time { return time.Unix(1800000000, 0) },
		NewID: func() string { return "ID" },
	}
	for _, f := range change {
		f(&o)
	}
	api, err := openai.New(o)
	if err != nil {
		t.Fatal(err)
	}
	server, err := httpapi.New(httpapi.Options{Address: "127.0.0.1:0", Log: o.Log})
	if err != nil {
		t.Fatal(err)
	}
	server.Mount(api)
	server.Ready()
	return server
}

func call(h http.Handler, method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func post(h http.Handler, path, body string) *httptest.ResponseRecorder {
	return call(h, http.MethodPost, path, body)
}

func readAll(t *testing.T, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
