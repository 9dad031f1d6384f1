package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/client"
)

// fakeNode answers as a node does, and notes what it was asked.
type fakeNode struct {
	*httptest.Server
	mu     sync.Mutex
	asked  []string // "METHOD path?query body", guarded by mu
	answer map[string]any
	stream []api.Event // what follows the snapshot of /v1/cluster/events
	hold   bool        // a stream stays open
}

// refused is an answer that is an error.
type refused struct{ *api.Error }

func newFakeNode(t *testing.T) *fakeNode {
	t.Helper()
	n := &fakeNode{answer: map[string]any{}, hold: true}
	n.Server = httptest.NewServer(http.HandlerFunc(n.serve))
	t.Cleanup(n.Close)
	return n
}

func (n *fakeNode) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	n.mu.Lock()
	n.asked = append(n.asked, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+string(body)))
	n.mu.Unlock()
	if r.URL.Path == "/v1/cluster/events" {
		n.events(w, r)
		return
	}
	v, ok := n.answer[r.Method+" "+r.URL.Path]
	if !ok {
		v = refused{api.NewError(404, "unknown_url", "", "there is no "+r.URL.Path)}
	}
	switch v := v.(type) {
	case refused:
		if v.RetryAfter > 0 {
			w.Header().Set("Retry-After", fmt.Sprint(v.RetryAfter))
		}
		w.WriteHeader(v.Status)
		_ = json.NewEncoder(w).Encode(api.ErrorResponse{Error: *v.Error})
	case string: // a stream of chunks
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, v)
	default:
		_ = json.NewEncoder(w).Encode(v)
	}
}

func (n *fakeNode) events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	send := func(e api.Event) {
		data, err := json.Marshal(e)
		if err == nil {
			fmt.Fprintf(w, "data: %s\n\n", data)
		}
	}
	if r.Header.Get("Last-Event-ID") == "" {
		send(api.Event{ID: "e.0", Type: api.EventSnapshot, Cluster: &api.Overview{}})
	}
	for _, e := range n.stream {
		send(e)
	}
	_ = http.NewResponseController(w).Flush()
	if n.hold {
		<-r.Context().Done()
	}
}

// session is a client of the protocol that is joined with the tools over n.
func (n *fakeNode) session(t *testing.T, progress func(string)) *sdk.ClientSession {
	t.Helper()
	server, err := New(Options{
		Version: "test", Log: slog.New(slog.DiscardHandler),
		Connect: func(context.Context) (*client.Client, error) { return client.New(client.Options{BaseURL: n.URL}) },
	})
	if err != nil {
		t.Fatal(err)
	}
	here, there := sdk.NewInMemoryTransports()
	if _, err := server.Connect(t.Context(), there, nil); err != nil {
		t.Fatal(err)
	}
	c := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, &sdk.ClientOptions{
		ProgressNotificationHandler: func(_ context.Context, r *sdk.ProgressNotificationClientRequest) {
			if progress != nil {
				progress(r.Params.Message)
			}
		},
	})
	s, err := c.Connect(t.Context(), here, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// ask calls a tool with arguments in JSON and gives its text.
func ask(t *testing.T, s *sdk.ClientSession, tool, arguments string) (text string, r *sdk.CallToolResult) {
	t.Helper()
	params := &sdk.CallToolParams{Name: tool}
	if arguments != "" {
		params.Arguments = json.RawMessage(arguments)
	}
	r, err := s.CallTool(t.Context(), params)
	if err != nil {
		t.Fatalf("%s %s: %v", tool, arguments, err)
	}
	for _, c := range r.Content {
		text += c.(*sdk.TextContent).Text
	}
	return text, r
}
