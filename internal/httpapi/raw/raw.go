// Package raw is the dialect of exo's own clients: its dashboard, its bench
// and scripts that were written for it find the routes and shapes that they
// know. docs/exo-api.md is its contract, and says what differs. Errors have
// the shape and the true status of all others here; what exo takes and then
// drops in silence is refused with the reason.
//
// It imports the cluster's core, generation and its parent httpapi, and knows no
// store, network or runner: internal/node hands them in as the small interfaces
// below. Handlers run on net/http's goroutines, so those must be safe for
// concurrent use. Shapes are made by the package shape.
package raw

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/cluster/view"
	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/httpapi"
	"github.com/skein-run/skein/internal/httpapi/raw/shape"
	"github.com/skein-run/skein/internal/ids"
)

// Cluster tells what the node knows.
type Cluster interface {
	Snapshot(ctx context.Context) (view.Inputs, error)
	// Changes is closed with the next change of the snapshot's State.
	Changes() <-chan struct{}
	// Events gives what is still kept of the cluster's log, oldest first.
	Events(ctx context.Context, each func(cluster.Event) error) error
}

// Commands change the cluster. Names are full, nodes are ids that exist, id
// names the command. Errors are those that Options.Explain knows.
type Commands interface {
	// Plan says where a load would go, on at most so many nodes; 0: any number.
	// Nothing changes.
	Plan(ctx context.Context, l command.Load, most int) (placement.Plan, error)
	// Place gives the instance its place, exactly as its shards say, or refuses.
	Place(ctx context.Context, id string, l command.Load, i cluster.Instance) error
	Remove(ctx context.Context, id, instance string) error

	// Fetch begins to bring a whole model to a node, Pause ends that, Discard
	// deletes what was fetched.
	Fetch(ctx context.Context, node ids.Node, model string) error
	Pause(ctx context.Context, node ids.Node, model string) error
	Discard(ctx context.Context, node ids.Node, model string) error

	// Cancel ends an open request of a client of any node, if it is of the key
	// that ctx came with, or that key may manage. silent counts the nodes that
	// did not answer.
	Cancel(ctx context.Context, request string) (found bool, silent int)
}

// Chat makes and runs requests for text.
type Chat interface {
	// ReadChat makes a request of an OpenAI body. Errors are *httpapi.Error and
	// *generation.Error, also of Generate.
	ReadChat(ctx context.Context, body []byte) (req generation.Request, stream bool, err error)
	Generate(ctx context.Context, req generation.Request, emit func(generation.Event) error) error
}

// Onboarding remembers whether a person has been shown around.
type Onboarding interface {
	Done() (bool, error)
	Finish() error
}

// Options configure the dialect.
type Options struct {
	Cluster    Cluster
	Commands   Commands
	Chat       Chat
	Models     Models
	Onboarding Onboarding
	Node       ids.Node // this one
	Log        *slog.Logger
	// Explain puts an error in the API's words; param is the field that an error
	// about a name is about.
	Explain func(err error, param string) *httpapi.Error

	Name      func() string    // of commands, instances and answers; nil: random
	Now       func() time.Time // nil: time.Now
	KeepAlive time.Duration    // longest silence of a stream; 10 s
	// Patience is how long a placement waits for memory that is being given
	// back; 10 s.
	Patience time.Duration
}

func (o *Options) validate() error {
	if o.Cluster == nil || o.Commands == nil || o.Chat == nil || o.Models == nil || o.Onboarding == nil || o.Node == "" || o.Log == nil || o.Explain == nil {
		return errors.New("exo's API: an option is missing")
	}
	if o.Name == nil {
		o.Name = func() string { return strings.ToLower(rand.Text()) }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.KeepAlive == 0 {
		o.KeepAlive = 10 * time.Second
	}
	if o.Patience == 0 {
		o.Patience = 10 * time.Second
	}
	return nil
}

// Dialect is exo's API.
type Dialect struct {
	o      Options
	closed chan struct{}
	close  sync.Once
}

// New makes the dialect.
func New(o Options) (*Dialect, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	return &Dialect{o: o, closed: make(chan struct{})}, nil
}

// Close ends the requests that wait for an instance, so that the server can
// stop without waiting for them.
func (d *Dialect) Close() { d.close.Do(func() { close(d.closed) }) }

var _ httpapi.Dialect = (*Dialect)(nil)

// Register mounts the routes.
func (d *Dialect) Register(mux httpapi.Mux) {
	for pattern, handler := range map[string]func(w http.ResponseWriter, r *http.Request) error{
		"GET /state":           d.state,
		"GET /state/{path...}": d.state,
		"GET /events":          d.events,

		"POST /place_instance":    d.placeInstance,
		"POST /instance":          d.createInstance,
		"GET /instance/{id}":      d.getInstance,
		"DELETE /instance/{id}":   d.deleteInstance,
		"GET /instance/placement": d.placement,
		"GET /instance/previews":  d.previews,
		"GET /instance/await":     d.await,

		"POST /download/start":               d.startDownload,
		"POST /download/cancel":              d.cancelDownload,
		"DELETE /download/{node}/{model...}": d.deleteDownload,
		"POST /models/add":                   d.addModel,
		"GET /models/search":                 d.searchModels,
		"GET /models/custom":                 d.customModels,
		"DELETE /models/custom/{model...}":   d.deleteCustom,
		"POST /v1/cancel/{id}":               d.cancel,
		"POST /bench/chat/completions":       d.bench,
		"GET /onboarding":                    d.onboarding,
		"POST /onboarding":                   d.onboarding,
		"GET /v1/feature-flags":              d.featureFlags,
		"GET /v1/instance-links":             d.links,
		"POST /v1/instance-links":            d.noLinks,
		"PUT /v1/instance-links/{link}":      d.noLinks,
		"DELETE /v1/instance-links/{link}":   d.noLinks,
		"GET /images":                        d.images,
		"GET /v1/traces":                     d.traces,
		"GET /v1/traces/{task}":              d.noTrace,
		"GET /v1/traces/{task}/{part}":       d.noTrace,
		"POST /v1/traces/delete":             d.deleteTraces,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := handler(w, r); err != nil {
				d.refuse(w, r, err)
			}
		})
	}
}

// field is an error with the name of the request's field that it is about.
type field struct {
	err  error
	name string
}

func (f *field) Error() string { return f.err.Error() }
func (f *field) Unwrap() error { return f.err }

// about names the field of an error; nil stays nil.
func about(name string, err error) error {
	if err == nil {
		return nil
	}
	return &field{err, name}
}

// refuse answers an error. A client that is gone is told nothing.
func (d *Dialect) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, httpapi.ErrClientGone) {
		return
	}
	if r.Context().Err() != nil {
		if !errors.Is(context.Cause(r.Context()), httpapi.ErrStopping) {
			return
		}
		err = httpapi.ErrStopping
	}
	e := d.explain(err)
	if e.Status >= http.StatusInternalServerError {
		d.o.Log.Warn("request failed", "path", r.URL.Path, "status", e.Status, "code", e.Code, "error", err)
	}
	httpapi.WriteError(w, e)
}

func (d *Dialect) explain(err error) *httpapi.Error {
	var own *httpapi.Error
	var bad *shape.Error
	var f *field
	name := ""
	if errors.As(err, &f) {
		name = f.name
	}
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &bad) && bad.Message == shape.JacclError:
		return &httpapi.Error{Status: http.StatusBadRequest, Type: httpapi.TypeInvalidRequest, Code: "unsupported_value", Param: bad.Field, Message: bad.Message}
	case errors.As(err, &bad):
		return &httpapi.Error{Status: http.StatusUnprocessableEntity, Type: httpapi.TypeInvalidRequest, Code: "invalid_value", Param: bad.Field, Message: bad.Message}
	}
	return d.o.Explain(err, name)
}

func notFound(message string) error {
	return &httpapi.Error{Status: http.StatusNotFound, Type: httpapi.TypeInvalidRequest, Code: "not_found", Message: message}
}

// answer sends a value in JSON.
func answer(w http.ResponseWriter, v any) error {
	var body []byte
	var err error
	if m, ok := v.(json.Marshaler); ok {
		body, err = m.MarshalJSON() // json.Marshal would read it all again
	} else {
		body, err = json.Marshal(v)
	}
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(append(body, '\n')) // a client that hung up needs no answer
	return nil
}

// maxBody bounds bodies that hold no conversation: the largest instance fits.
const maxBody = 8 << 20

// body reads a JSON object.
func body(w http.ResponseWriter, r *http.Request) (shape.Object, error) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	b, err := httpapi.ReadBody(w, r)
	if err != nil {
		return nil, err
	}
	if !json.Valid(b) {
		return nil, &httpapi.Error{Status: http.StatusUnprocessableEntity, Type: httpapi.TypeInvalidRequest, Code: "invalid_json", Message: "the request body is not valid JSON: send a JSON object"}
	}
	return shape.ParseObject("the body", b)
}

// model gives the full name of a model. One that this node lists, and the
// cluster is about to learn of, is not unknown.
func (d *Dialect) model(ctx context.Context, s cluster.State, name string) (string, error) {
	full, err := command.Resolve(s, strings.TrimSuffix(name, ".gguf"))
	var no *command.Refusal
	if errors.As(err, &no) && no.Code == command.UnknownModel {
		if _, here := d.o.Models.Model(ctx, name); here == nil {
			return "", &httpapi.Error{Status: http.StatusServiceUnavailable, Type: httpapi.TypeServer, Code: "service_unavailable", Param: "model_id", RetryAfter: 5,
				Message: quoted(name) + " is still being read for the first time (its files are hashed, so that other nodes can trust them); ask again in a while"}
		}
	}
	return full, about("model_id", err)
}

// one of the strings allowed.
func oneOf(name, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return &shape.Error{Field: name, Message: name + " must be " + strings.Join(allowed, " or ") + ", not " + quoted(value)}
}

func quoted(s string) string {
	const most = 100
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	b, err := json.Marshal(s)
	if err != nil {
		return "that"
	}
	return string(b)
}
