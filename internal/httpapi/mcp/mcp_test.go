package mcp_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/httpapi"
	"github.com/skein-run/skein/internal/httpapi/access"
	"github.com/skein-run/skein/internal/httpapi/mcp"
)

// api is as much of a node's API as these tests ask for.
type api struct {
	keys    chan string   // the key of each request for the overview
	blocked chan struct{} // told that a request for the health has come
	ended   chan error    // why its context ended
}

func (a *api) Register(mux httpapi.Mux) {
	mux.HandleFunc("GET /v1/cluster", func(w http.ResponseWriter, r *http.Request) {
		a.keys <- r.Header.Get("Authorization") + r.Header.Get("X-Api-Key")
		_, _ = io.WriteString(w, `{"node_count":1,"nodes":[],"models":[],"tasks":[],"downloads":[]}`)
	})
	mux.HandleFunc("GET /v1/cluster/health", func(_ http.ResponseWriter, r *http.Request) {
		a.blocked <- struct{}{}
		<-r.Context().Done()
		a.ended <- context.Cause(r.Context())
	})
	mux.HandleFunc("DELETE /v1/cluster/models/{name}", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /v1/cluster/nodes", func(http.ResponseWriter, *http.Request) { panic("on purpose") })
	mux.HandleFunc("GET /v1/cluster/nodes/{id}", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "{")
		panic(http.ErrAbortHandler)
	})
}

// node serves the protocol over an API, as a node does.
func node(t *testing.T, keys ...access.Key) (url string, a *api, d *mcp.Dialect) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	few := cluster.Key{ID: "few", Name: "few", Role: cluster.RoleRead, Hash: sha256.Sum256([]byte("few")), PerMinute: 3, Concurrent: 1}
	o := access.Options{Keys: keys}
	if len(keys) > 0 {
		o.Cluster = func() map[string]cluster.Key { return map[string]cluster.Key{"few": few} }
	}
	server, err := httpapi.New(httpapi.Options{Listener: listener, Access: o, MaxBody: 4096, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	d, err = mcp.New(mcp.Options{API: server.Handler(), Version: "test", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	a = &api{make(chan string, 1), make(chan struct{}, 1), make(chan error, 1)}
	server.Mount(a)
	server.Mount(d)
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.Close()
		if err := server.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return "http://" + listener.Addr().String() + "/mcp", a, d
}

// headers are added to each request of a client.
type headers http.Header

func (h headers) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	for name, v := range h {
		r.Header[name] = v
	}
	return http.DefaultTransport.RoundTrip(r)
}

func connect(t *testing.T, url string, h headers) (*sdk.ClientSession, error) {
	t.Helper()
	c := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, nil)
	s, err := c.Connect(t.Context(), &sdk.StreamableClientTransport{Endpoint: url, HTTPClient: &http.Client{Transport: h}, MaxRetries: -1}, nil)
	if err == nil {
		t.Cleanup(func() { _ = s.Close() })
	}
	return s, err
}

// What a tool does is done with the key of the one who called it, and so no
// more than that key may do.
func TestCallerKey(t *testing.T) {
	url, a, _ := node(t, access.Key{Role: cluster.RoleManage, Secret: "right"}, access.Key{Role: cluster.RoleRead, Secret: "other"}, access.Key{Role: cluster.RoleChat, Secret: "chat"})
	for _, h := range []headers{{"Authorization": {"Bearer right"}}, {"X-Api-Key": {"other"}}} {
		s, err := connect(t, url, h)
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.CallTool(t.Context(), &sdk.CallToolParams{Name: "cluster_overview"})
		if err != nil || r.IsError {
			t.Fatalf("%v, %+v", err, r)
		}
		if got, want := <-a.keys, h["Authorization"]; got != strings.Join(append(want, h["X-Api-Key"]...), "") {
			t.Errorf("the API was asked with %q", got)
		}
	}
	for tool, key := range map[string]string{"unload_model": "other", "cluster_overview": "chat"} {
		s, err := connect(t, url, headers{"X-Api-Key": {key}})
		if err != nil {
			t.Fatal(err)
		}
		arguments := map[string]any{}
		if tool == "unload_model" {
			arguments["model_id"] = "m"
		}
		r, err := s.CallTool(t.Context(), &sdk.CallToolParams{Name: tool, Arguments: arguments})
		if err != nil || !r.IsError || !strings.Contains(r.Content[0].(*sdk.TextContent).Text, "needs a key with the role") {
			t.Errorf("%s with the key %s: %v, %+v", tool, key, err, r)
		}
	}
	if _, err := connect(t, url, headers{"Authorization": {"Bearer wrong"}}); err == nil {
		t.Error("a wrong key was let in")
	}
}

// A call counts once against the limits of its key, though it makes a request
// of its own.
func TestLimitsCountACallOnce(t *testing.T) {
	url, a, _ := node(t, access.Key{Role: cluster.RoleManage, Secret: "right"})
	call := func() (int, string) {
		status, _, body := post(t, url, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"cluster_overview"}}`, func(r *http.Request) { r.Header.Set("X-Api-Key", "few") })
		return status, body
	}
	for range 3 {
		if status, body := call(); status != http.StatusOK || strings.Contains(body, `"isError":true`) {
			t.Fatalf("within the limits: %d %s", status, body)
		}
		<-a.keys
	}
	if status, body := call(); status != http.StatusTooManyRequests || !strings.Contains(body, "requests_per_minute") {
		t.Errorf("beyond them: %d %s", status, body)
	}
}

// post sends one message and gives status, type and body.
func post(t *testing.T, url, body string, change func(*http.Request)) (int, string, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(r)
	}
	res, err := (&http.Client{}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header.Get("Content-Type"), string(data)
}

func TestGuardsAndMalformed(t *testing.T) {
	url, _, _ := node(t)
	const list = `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	for name, c := range map[string]struct {
		body   string
		change func(*http.Request)
		status int
		kind   string
		want   string
	}{
		"a stream":                {list, nil, 200, "text/event-stream", "data: {"},
		"one document":            {list, set("Accept", "application/json"), 200, "application/json", `{"jsonrpc":"2.0","id":1,"result":`},
		"another page":            {list, set("Origin", "http://evil.example"), 403, "application/json", "origin_not_allowed"},
		"a rebound name":          {list, func(r *http.Request) { r.Host = "evil.example" }, 403, "application/json", "host_not_allowed"},
		"too large":               {`"` + strings.Repeat("x", 5000) + `"`, nil, 413, "application/json", "request_too_large"},
		"no JSON":                 {`{"jsonrpc"`, nil, 400, "application/json", `"code":-32700,"message":"the message is not JSON (unexpected end of JSON input)`},
		"empty":                   {"", nil, 400, "application/json", `"code":-32700`},
		"no message":              {`{"a":1}`, nil, 400, "application/json", `"code":-32600`},
		"a batch":                 {`[` + list + `,` + list + `]`, nil, 400, "application/json", `"code":-32600,"message":"this is a batch of 2 messages`},
		"no such method":          {`{"jsonrpc":"2.0","id":1,"method":"nope"}`, nil, 400, "application/json", `\"nope\" unsupported`},
		"no such tool":            {`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"nope"}}`, set("Accept", "application/json"), 200, "application/json", `unknown tool \"nope\"`},
		"a version of the future": {list, set("Mcp-Protocol-Version", "1999-01-01"), 400, "application/json", "supported versions"},
	} {
		status, kind, body := post(t, url, c.body, c.change)
		if status != c.status || !strings.HasPrefix(kind, c.kind) || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %s %.300s", name, status, kind, body)
		}
		if kind == "application/json" && !json.Valid([]byte(body)) {
			t.Errorf("%s: no JSON: %s", name, body)
		}
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := (&http.Client{}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusMethodNotAllowed || res.Header.Get("Allow") != "POST" {
		t.Errorf("GET: %d, Allow %q", res.StatusCode, res.Header.Get("Allow"))
	}
}

// A handler that panics, or breaks its answer off, is an error of the tool.
func TestHandlerThatFails(t *testing.T) {
	url, _, _ := node(t)
	s, err := connect(t, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for tool, want := range map[string]string{"list_nodes": "internal error", "get_node": "the answer broke off"} {
		r, err := s.CallTool(t.Context(), &sdk.CallToolParams{Name: tool, Arguments: map[string]any{"node": "x"}})
		if tool == "list_nodes" {
			r, err = s.CallTool(t.Context(), &sdk.CallToolParams{Name: tool})
		}
		if err != nil || !r.IsError || !strings.Contains(r.Content[0].(*sdk.TextContent).Text, want) {
			t.Errorf("%s: %v, %+v", tool, err, r)
		}
	}
}

// A client that hangs up ends what its call does, under every version of the
// protocol.
func TestHangUp(t *testing.T) {
	url, a, _ := node(t)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"cluster_health"}}`))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		res, err := (&http.Client{}).Do(r)
		if err == nil {
			_, err = io.ReadAll(res.Body)
			res.Body.Close()
		}
		done <- err
	}()
	<-a.blocked
	cancel()
	if err := <-done; err == nil {
		t.Error("the client was answered")
	}
	if err := <-a.ended; err == nil {
		t.Error("the call did not end")
	}
}

// Closing ends those who read, so that the server can stop.
func TestClose(t *testing.T) {
	url, a, d := node(t)
	answered := make(chan string)
	go func() {
		_, _, body := post(t, url, `{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"skein://health"}}`, nil)
		answered <- body
	}()
	<-a.blocked
	d.Close()
	if err := <-a.ended; err == nil {
		t.Error("the read did not end")
	}
	<-answered
}

// The tests above go through a network; a handler without one has no address.
func TestWithoutNetwork(t *testing.T) {
	d, err := mcp.New(mcp.Options{API: http.NotFoundHandler(), Version: "test", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	d.Register(mux)
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, "/mcp", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"cluster_health"}}`))
	mux.ServeHTTP(w, r)
	if !strings.Contains(w.Body.String(), `"isError":true`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for _, o := range []mcp.Options{{}, {API: mux, Version: "x"}} {
		if _, err := mcp.New(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}
