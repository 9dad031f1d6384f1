package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/api"
)

// node serves handler and gives a client of it.
func node(t *testing.T, key string, handler http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	c, err := New(Options{BaseURL: server.URL + "/", APIKey: key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestNewRefuses(t *testing.T) {
	for _, address := range []string{"", "127.0.0.1:52415", "ftp://host", "http://", "http://a b", "://"} {
		if _, err := New(Options{BaseURL: address}); err == nil || !strings.Contains(err.Error(), "http://127.0.0.1:52415") {
			t.Errorf("New(%q): %v", address, err)
		}
	}
}

// Every call sends what the API expects and reads what it answers.
func TestCalls(t *testing.T) {
	var got string
	var answer any
	c := node(t, "k", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got = strings.TrimSpace(r.Method + " " + r.URL.RequestURI() + " " + string(body))
		if r.Header.Get("Authorization") != "Bearer k" {
			t.Errorf("authorization is %q", r.Header.Get("Authorization"))
		}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	})
	ctx := t.Context()
	entry := api.LibraryEntry{Name: "m", Paths: []string{"/m.gguf"}, SizeBytes: 5}
	tests := []struct {
		want   string
		answer any
		call   func() (any, error)
		result any
	}{
		{"GET /v1/cluster/models", api.ClusterModels{Timestamp: 1}, func() (any, error) { return c.ClusterModels(ctx) }, api.ClusterModels{Timestamp: 1}},
		{"GET /v1/cluster/library", api.LibraryList{Models: []api.LibraryEntry{entry}}, func() (any, error) { return c.Library().List(ctx) }, []api.LibraryEntry{entry}},
		{`POST /v1/cluster/library {"paths":["/a b"]}`, api.AddAnswer{Models: []api.LibraryEntry{entry}}, func() (any, error) { return c.Library().Add(ctx, []string{"/a b"}) }, []api.LibraryEntry{entry}},
		{"GET /v1/cluster/library/org/m%25%20x?context_length=9&slots=2", api.LibraryModel{LibraryEntry: entry}, func() (any, error) { return c.Library().Show(ctx, "org/m% x", 9, 2) }, api.LibraryModel{LibraryEntry: entry}},
		{"GET /v1/cluster/library/m", api.LibraryModel{LibraryEntry: entry}, func() (any, error) { return c.Library().Show(ctx, "m", 0, 0) }, api.LibraryModel{LibraryEntry: entry}},
		{"DELETE /v1/cluster/library/m%3F", api.RemoveAnswer{Model: entry}, func() (any, error) { return c.Library().Remove(ctx, "m?") }, entry},
		{`POST /v1/cluster/models/load {"model_id":"m","slots":2}`, api.LoadAnswer{ModelID: "m"}, func() (any, error) {
			return c.Load(ctx, api.LoadRequest{ModelID: "m", LoadOptions: api.LoadOptions{Slots: 2}})
		}, api.LoadAnswer{ModelID: "m"}},
		{"DELETE /v1/cluster/models/m", api.UnloadAnswer{ModelID: "m"}, func() (any, error) { return c.Unload(ctx, "m", DefaultDrain) }, api.UnloadAnswer{ModelID: "m"}},
		{"GET /v1/cluster", api.Overview{NodeCount: 2}, func() (any, error) { return c.Overview(ctx) }, api.Overview{NodeCount: 2}},
		{"GET /v1/cluster/health", api.Health{Healthy: true}, func() (any, error) { return c.Health(ctx) }, api.Health{Healthy: true}},
		{"GET /v1/cluster/nodes", api.NodeList{NodeCount: 2}, func() (any, error) { return c.Nodes(ctx) }, api.NodeList{NodeCount: 2}},
		{"GET /v1/cluster/nodes/a%2Fb", api.Node{NodeID: "n"}, func() (any, error) { return c.Node(ctx, "a/b") }, api.Node{NodeID: "n"}},
		{"GET /node_id", "n", func() (any, error) { return c.NodeID(ctx) }, "n"},
		{"GET /v1/cluster/models/org/m%20x/status", api.ModelStatus{Found: true}, func() (any, error) { return c.ModelStatus(ctx, "org/m x") }, api.ModelStatus{Found: true}},
		{`POST /v1/cluster/models/swap {"unload_model_id":"a","load_model_id":"b"}`, api.SwapAnswer{LoadedModel: "b"}, func() (any, error) {
			return c.Swap(ctx, api.SwapRequest{UnloadModelID: "a", LoadModelID: "b"})
		}, api.SwapAnswer{LoadedModel: "b"}},
		{"DELETE /v1/cluster/models/m?drain_seconds=1.5", api.UnloadAnswer{ModelID: "m"}, func() (any, error) { return c.Unload(ctx, "m", 1500*time.Millisecond) }, api.UnloadAnswer{ModelID: "m"}},
		{`POST /v1/cluster/master {"node_id":"n"}`, api.PromoteAnswer{MasterNodeID: "n"}, func() (any, error) { return c.Promote(ctx, "n") }, api.PromoteAnswer{MasterNodeID: "n"}},
		{"POST /v1/cluster/nodes/n/drain", api.DrainAnswer{Draining: true}, func() (any, error) { return c.Drain(ctx, "n") }, api.DrainAnswer{Draining: true}},
		{"POST /v1/cluster/nodes/n/resume", api.DrainAnswer{NodeID: "n"}, func() (any, error) { return c.Resume(ctx, "n") }, api.DrainAnswer{NodeID: "n"}},
		{"GET /healthz", "ok", func() (any, error) { return nil, c.Alive(ctx) }, nil},
	}
	for _, tt := range tests {
		answer = tt.answer
		result, err := tt.call()
		if err != nil {
			t.Errorf("%s: %v", tt.want, err)
			continue
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("request (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(tt.result, result); diff != "" {
			t.Errorf("%s: result (-want +got):\n%s", tt.want, diff)
		}
	}
}

func TestErrorAnswers(t *testing.T) {
	tests := []struct {
		name, body, retry string
		status            int
		want              *api.Error
	}{
		{"ours", `{"error":{"message":"no","type":"t","param":"p","code":"c"}}`, "7", 503, func() *api.Error {
			e := api.NewError(503, "c", "p", "no")
			e.Type, e.RetryAfter = "t", 7
			return e
		}()},
		{"not ours", `<html>`, "", 502, api.NewError(502, "", "", "status 502: <html>")},
		{"empty", ``, "", 404, api.NewError(404, "", "", "status 404: Not Found")},
		{"long", strings.Repeat("x", 1000), "", 500, api.NewError(500, "", "", "status 500: Internal Server Error")},
		{"JSON of others", `{"detail":"x"}`, "", 422, api.NewError(422, "", "", `status 422: {"detail":"x"}`)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := node(t, "", func(w http.ResponseWriter, _ *http.Request) {
				if tt.retry != "" {
					w.Header().Set("Retry-After", tt.retry)
				}
				w.WriteHeader(tt.status)
				fmt.Fprint(w, tt.body)
			})
			_, err := c.ClusterModels(t.Context())
			var got *api.Error
			if !errors.As(err, &got) {
				t.Fatalf("got %v", err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	// A port that was free a moment ago and that nobody listens on.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := "http://" + l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := New(Options{BaseURL: address})
	if err != nil {
		t.Fatal(err)
	}
	var unreachable *UnreachableError
	if err := c.Alive(t.Context()); !errors.As(err, &unreachable) || unreachable.Address != address {
		t.Errorf("got %v", err)
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if err := c.Alive(ctx); !errors.Is(err, cause) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestNoJSON(t *testing.T) {
	c := node(t, "", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })
	if _, err := c.ClusterModels(t.Context()); err == nil || !strings.Contains(err.Error(), "not a skein node") {
		t.Errorf("got %v", err)
	}
}
