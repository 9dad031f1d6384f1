// Package mcp is the Model Context Protocol's form of the API: POST /mcp
// (streamable HTTP), by which agents use a cluster without a program of ours.
// The tools are those of package agent; each of their calls is a request to
// this node's own API, made inside the process with the caller's key, so that
// checks, roles and words are the same on every way.
//
// There are no sessions: each request stands alone, so any node of the cluster
// may answer the next one, and nothing is kept for clients that do not come
// back. A client that hangs up ends its call.
//
// It imports agent, client and its parent httpapi, whose guards (Host, Origin,
// key, size of the body) are passed before anything here runs.
package mcp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/skein-run/skein/client"
	"github.com/skein-run/skein/internal/agent"
	"github.com/skein-run/skein/internal/httpapi"
)

// JSON-RPC's codes of errors before there is a request.
const (
	codeParse          = -32700
	codeInvalidRequest = -32600
)

// writeTimeout is how long a client may leave an answer unread.
const writeTimeout = time.Minute

// Options configure the dialect.
type Options struct {
	// API is the node's whole API, guards included.
	API     http.Handler
	Version string
	Log     *slog.Logger
}

// Dialect is the protocol over HTTP.
type Dialect struct {
	api            http.Handler
	events, single *sdk.StreamableHTTPHandler // answers as a stream, or as one document
	closed         context.Context
	close          context.CancelCauseFunc
}

// New makes the dialect.
func New(o Options) (*Dialect, error) {
	if o.API == nil {
		return nil, errors.New("mcp: no API given")
	}
	d := &Dialect{api: o.API}
	d.closed, d.close = context.WithCancelCause(context.Background())
	server, err := agent.New(agent.Options{Connect: d.connect, Within: within, InProcess: true, Version: o.Version, Log: o.Log})
	if err != nil {
		return nil, err
	}
	get := func(*http.Request) *sdk.Server { return server }
	// Host, origin and size were checked before.
	handler := sdk.StreamableHTTPOptions{Stateless: true, Logger: o.Log, DisableLocalhostProtection: true, MaxRequestBodyBytes: -1, PropagateRequestCancellation: true}
	d.events = sdk.NewStreamableHTTPHandler(get, &handler)
	handler.JSONResponse = true
	d.single = sdk.NewStreamableHTTPHandler(get, &handler)
	return d, nil
}

// Register mounts the route. Other methods are refused: there is no stream
// without a request, and no session to end.
func (d *Dialect) Register(mux httpapi.Mux) { mux.HandleFunc("POST /mcp", d.serve) }

// Close ends what clients only listen to, so that the server can stop without
// waiting for them. Calls of tools may end.
func (d *Dialect) Close() { d.close(httpapi.ErrStopping) }

// caller is who sent the request that a call of a tool came with.
type caller struct {
	gone    context.Context // ends with the request
	request *http.Request
	id      string
}

type callerKey struct{}

func (d *Dialect) serve(w http.ResponseWriter, r *http.Request) {
	body, err := httpapi.ReadBody(w, r)
	if err != nil {
		httpapi.WriteError(w, err)
		return
	}
	var message json.RawMessage
	if err := json.Unmarshal(body, &message); err != nil {
		refuse(w, http.StatusBadRequest, codeParse, agent.ParseError(err))
		return
	}
	// A batch would be many calls that count as one against the limits of a key,
	// and many large answers for one small message. The protocol has none since
	// its version of 2025-06-18.
	var batch []json.RawMessage
	if err := json.Unmarshal(body, &batch); err == nil && len(batch) > 1 {
		refuse(w, http.StatusBadRequest, codeInvalidRequest, fmt.Sprintf("this is a batch of %d messages; send one message with each request", len(batch)))
		return
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	if !callsTool(body) {
		defer context.AfterFunc(d.closed, func() { cancel(context.Cause(d.closed)) })()
	}
	c := &caller{gone: ctx, request: r, id: w.Header().Get("X-Request-Id")}
	inner := r.WithContext(context.WithValue(ctx, callerKey{}, c))
	inner.Header = r.Header.Clone()
	inner.Body = io.NopCloser(bytes.NewReader(body))
	inner.Header.Set("Content-Type", "application/json") // as everywhere in this API, whatever was said
	handler := d.events
	if accept := strings.Join(r.Header.Values("Accept"), ","); accept != "" && !strings.Contains(accept, "text/event-stream") && !strings.Contains(accept, "*/*") {
		handler = d.single
	}
	inner.Header.Set("Accept", "application/json, text/event-stream")
	handler.ServeHTTP(&writer{ResponseWriter: w, control: http.NewResponseController(w)}, inner)
}

// callsTool tells whether a message is a tool's call, alone or among others.
func callsTool(body []byte) bool {
	type method struct {
		Method string `json:"method"`
	}
	var one method
	var many []method
	if json.Unmarshal(body, &one) != nil {
		// What is neither is refused later.
		_ = json.Unmarshal(body, &many)
	}
	for _, m := range append(many, one) {
		if m.Method == "tools/call" {
			return true
		}
	}
	return false
}

// within ends a call of a tool with the HTTP request that it came with: the
// library keeps it running, for streams that can be resumed, which ours can't.
func within(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := func() bool { return true }
	if c, ok := ctx.Value(callerKey{}).(*caller); ok {
		stop = context.AfterFunc(c.gone, func() { cancel(context.Cause(c.gone)) })
	}
	return ctx, func() { stop(); cancel(nil) }
}

// connect gives a client of this node that acts for the caller.
func (d *Dialect) connect(ctx context.Context) (*client.Client, error) {
	c, ok := ctx.Value(callerKey{}).(*caller)
	if !ok {
		return nil, errors.New("a tool was called without a request")
	}
	return client.New(client.Options{
		BaseURL: "http://127.0.0.1", HTTP: &http.Client{Transport: &inside{d.api, c}}, UserAgent: "skein-mcp", Patience: patience,
	})
}

// patience is how long a command waits for the cluster to have a master.
const patience = 5 * time.Second

// refuse answers in the protocol's shape.
func refuse(w http.ResponseWriter, status, code int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A client that hung up needs no answer.
	_, _ = w.Write(append(agent.Malformed(code, message), '\n'))
}

// writer gives each write of an answer a time limit, and puts the library's
// plain refusals in the protocol's shape.
type writer struct {
	http.ResponseWriter
	control *http.ResponseController
	plain   int // status of a refusal that is being written
}

func (w *writer) WriteHeader(status int) {
	if status >= http.StatusBadRequest && strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") {
		w.plain = status
		return
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *writer) Write(b []byte) (int, error) {
	if w.plain != 0 {
		refuse(w.ResponseWriter, w.plain, codeInvalidRequest, strings.TrimSpace(string(b)))
		w.plain = 0
		return len(b), nil
	}
	// A writer without deadlines (a test's recorder) cannot block either.
	_ = w.control.SetWriteDeadline(time.Now().Add(writeTimeout))
	n, err := w.ResponseWriter.Write(b)
	_ = w.control.SetWriteDeadline(time.Time{})
	if err != nil {
		err = fmt.Errorf("%w: %w", httpapi.ErrClientGone, err)
	}
	return n, err
}

// Flush sends what was written.
func (w *writer) Flush() {
	// A client that is gone is found by the next write.
	_ = w.control.Flush()
}

// Unwrap lets http.ResponseController reach the connection.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }
