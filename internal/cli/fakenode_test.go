package cli_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/client"
	"github.com/skein-run/skein/internal/catalog"
	"github.com/skein-run/skein/internal/home"
	"github.com/skein-run/skein/internal/httpapi/manage"
	"github.com/skein-run/skein/internal/library"
)

// fakeNode speaks a node's API: the real management endpoints over the real
// library of a SKEIN_HOME, and a chat that repeats what it was told.
type fakeNode struct {
	catalog *catalog.Catalog
	key     string // "" asks for none
	files   []string
	fleet   *fakeCluster
}

// fakeOptions say what a fake node has.
type fakeOptions struct {
	key           string
	loaded, known []string // models
	three         bool     // it is one of three
	files         []string // listed beside the library's own
	edit          func(*fakeCluster)
}

// server is a fake node that is served.
type server struct {
	*httptest.Server
	dialect *manage.Dialect
}

// Close ends the streams first, which would hold the server.
func (s *server) Close() {
	s.dialect.Close()
	s.Server.Close()
}

// startFakeNode serves a node.
func startFakeNode(where home.Home, o fakeOptions) (*server, error) {
	lib, err := library.Open(library.Options{Registry: where.ModelRegistry(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	c, err := catalog.New(catalog.Options{Library: lib, AnyPath: true})
	if err != nil {
		return nil, err
	}
	fleet := newFakeCluster(o.three, o.loaded, o.known)
	n := &fakeNode{catalog: c, key: o.key, files: slices.Clone(o.files), fleet: fleet}
	if o.edit != nil {
		o.edit(fleet)
	}
	d, err := manage.New(manage.Options{Library: n, Cluster: fleet, Commands: fleet, Keys: fleet, Node: "n1", Log: slog.New(slog.DiscardHandler), Version: "test"})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	d.Register(mux)
	mux.HandleFunc("POST /v1/chat/completions", n.chat)
	mux.HandleFunc("GET /v1/models", n.models)
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	return &server{httptest.NewServer(n.guard(mux)), d}, nil
}

// homeOfNode starts a fake node for the time of a test, and gives the SKEIN_HOME
// whose node it is.
func homeOfNode(t *testing.T, o fakeOptions) string {
	t.Helper()
	h, err := home.Locate(filepath.Join(t.TempDir(), "home"))
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Ensure(); err != nil {
		t.Fatal(err)
	}
	server, err := startFakeNode(h, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	if err := h.WriteNode(home.Node{PID: os.Getpid(), API: server.URL, Started: time.Unix(1, 0), Version: "test"}); err != nil {
		t.Fatal(err)
	}
	return h.Dir()
}

func (n *fakeNode) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.key != "" && r.URL.Path != "/healthz" && r.Header.Get("Authorization") != "Bearer "+n.key {
			refuse(w, api.NewError(401, api.CodeInvalidAPIKey, "", "this node needs a key"))
			return
		}
		if r.URL.Path == "/v1/cluster/events" {
			w = follower{w, n.fleet}
		}
		next.ServeHTTP(w, r)
	})
}

func refuse(w http.ResponseWriter, e *api.Error) {
	w.WriteHeader(e.Status)
	_ = json.NewEncoder(w).Encode(api.ErrorResponse{Error: *e}) // a client that hung up is a test's doing
}

// List adds the files that the node was started with.
func (n *fakeNode) List(ctx context.Context) ([]api.LibraryEntry, error) {
	entries, err := n.catalog.List(ctx)
	for _, f := range n.files {
		m, showErr := n.catalog.Show(ctx, f, 0, 0)
		if showErr != nil {
			return nil, showErr
		}
		entries = append(entries, m.LibraryEntry)
	}
	return entries, err
}

func (n *fakeNode) Add(ctx context.Context, paths []string) ([]api.LibraryEntry, error) {
	return n.catalog.Add(ctx, paths)
}

func (n *fakeNode) Show(ctx context.Context, name string, contextLength, slots int) (api.LibraryModel, error) {
	return n.catalog.Show(ctx, name, contextLength, slots)
}

func (n *fakeNode) Remove(ctx context.Context, name string) (api.LibraryEntry, error) {
	return n.catalog.Remove(ctx, name)
}

// models lists those of the cluster in the form of the OpenAI API.
func (n *fakeNode) models(w http.ResponseWriter, _ *http.Request) {
	n.fleet.mu.Lock()
	defer n.fleet.mu.Unlock()
	var out struct {
		Data []client.KnownModel `json:"data"`
	}
	for _, name := range slices.Sorted(maps.Keys(n.fleet.in.State.Models)) {
		out.Data = append(out.Data, client.KnownModel{ID: name})
	}
	_ = json.NewEncoder(w).Encode(out) // a client that hung up is a test's doing
}

// chat answers in the form of the OpenAI API: with what the request was, or as
// the last word of the prompt tells it to fail.
func (n *fakeNode) chat(w http.ResponseWriter, r *http.Request) {
	var req map[string]any
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		refuse(w, api.NewError(400, api.CodeInvalidBody, "", err.Error()))
		return
	}
	var turns []string
	last := ""
	for _, m := range req["messages"].([]any) {
		message := m.(map[string]any)
		last = message["content"].(string)
		turns = append(turns, message["role"].(string)+"="+last)
	}
	w.Header().Set("Content-Type", "text/event-stream")
	send := func(v any) {
		data, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		fmt.Fprintf(w, "data: %s\n\n", data)
		w.(http.Flusher).Flush()
	}
	delta := func(field, text string) {
		send(map[string]any{"model": req["model"], "choices": []any{map[string]any{"delta": map[string]any{field: text}}}})
	}
	switch {
	case strings.HasSuffix(last, "refuse"):
		w.Header().Set("Content-Type", "application/json")
		refuse(w, api.NewError(507, api.CodeNoMemory, "", "Need 45.0 GB, have 30.0 GB. Unload a model to free memory."))
		return
	case strings.HasSuffix(last, "break"):
		delta("content", "half an ans")
		send(map[string]any{"error": api.NewError(500, "runner_failed", "", "the runner died; send the request again")})
		return
	case strings.HasSuffix(last, "hang"):
		delta("content", "waiting")
		<-r.Context().Done()
		return
	case strings.HasSuffix(last, "escape"):
		delta("content", "a\x1b]0;title\x07b")
	case strings.HasSuffix(last, "think"):
		delta("reasoning_content", "let me see")
		delta("content", "done")
	default:
		delete(req, "messages")
		delete(req, "stream")
		delete(req, "stream_options")
		settings, err := json.Marshal(req)
		if err != nil {
			panic(err)
		}
		delta("content", strings.Join(turns, " | "))
		delta("content", "\n"+string(settings))
	}
	send(map[string]any{"choices": []any{map[string]any{"delta": map[string]any{}, "finish_reason": "stop"}}})
	send(map[string]any{"choices": []any{}, "usage": map[string]any{"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": map[string]any{"cached_tokens": 4}}})
	fmt.Fprint(w, "data: [DONE]\n\n")
}
