// Package manage is the management dialect of the API: what is loaded on the
// cluster, and the model files a node knows. It owns the routes below
// /v1/cluster and the OpenAPI 3.1 description of them at /openapi.json, which is
// made from the Go types of package api.
//
// It imports api, generation for the kinds of errors, and its parent httpapi,
// and knows no store, no runner and no cluster: internal/node hands them in as
// the small interfaces below. Handlers run on net/http's goroutines, so the
// interfaces must be safe for concurrent use.
package manage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/httpapi"
)

// Library lists, registers and describes model files. Names are without regard
// to case. Errors are *api.Error or *generation.Error; any other is a 500.
type Library interface {
	List(ctx context.Context) ([]api.LibraryEntry, error)
	// Add returns once the entries are listed.
	Add(ctx context.Context, paths []string) ([]api.LibraryEntry, error)
	// Show estimates memory for a context and slots; 0 stands for the defaults.
	Show(ctx context.Context, name string, contextLength, slots int) (api.LibraryModel, error)
	Remove(ctx context.Context, name string) (api.LibraryEntry, error)
}

// Models tells what is loaded and what is being fetched.
type Models interface {
	Loaded(ctx context.Context) ([]api.Model, error)
	Downloading(ctx context.Context) ([]api.Download, error)
}

// Commands change what is loaded. They return once it is decided; the work
// goes on in the background.
type Commands interface {
	Load(ctx context.Context, req api.LoadRequest) (api.LoadAnswer, error)
	Unload(ctx context.Context, name string) (api.UnloadAnswer, error)
}

// Options configure the dialect.
type Options struct {
	Library Library
	Models  Models
	// Commands is optional: without it the routes that change what is loaded
	// are left out.
	Commands Commands
	// Version is that of the binary, for the OpenAPI document.
	Version string
	// Now is the clock for timestamps; nil: time.Now.
	Now func() time.Time
}

func (o Options) validate() error {
	switch {
	case o.Library == nil:
		return errors.New("management API: no library given")
	case o.Models == nil:
		return errors.New("management API: no models given")
	case o.Version == "":
		return errors.New("management API: no version given")
	}
	return nil
}

// Dialect is the management API; it is immutable.
type Dialect struct{ o Options }

// New makes the dialect.
func New(o Options) (*Dialect, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Dialect{o: o}, nil
}

// Register mounts the routes. It is called once, before the server starts.
func (d *Dialect) Register(mux httpapi.Mux) {
	config := huma.DefaultConfig("skein", d.o.Version)
	config.Info.Description = "The management API of a skein cluster. Sizes in *_gb fields are GB of 2^30 bytes; times are Unix seconds."
	// The pages would load scripts from elsewhere, and the document is served
	// below, rendered once.
	config.DocsPath, config.SchemasPath, config.OpenAPIPath = "", "", ""
	config.CreateHooks = nil // no $schema members in answers
	config.Transformers = []huma.Transformer{reshapeError}
	// Every body is JSON, whatever a client asks for; there is no other form.
	config.NoFormatFallback = false

	h := humago.New(routes{mux}, config)
	errorSchema := h.OpenAPI().Components.Schemas.Schema(errorBody, true, "Error")
	failures := func() map[string]*huma.Response {
		return map[string]*huma.Response{"default": {
			Description: "Error",
			Content:     map[string]*huma.MediaType{"application/json": {Schema: errorSchema}},
		}}
	}
	operation := func(method, path, id, tag, summary string) huma.Operation {
		return huma.Operation{
			Method: method, Path: path, OperationID: id, Summary: summary, Tags: []string{tag},
			Responses: failures(), DefaultStatus: http.StatusOK,
		}
	}
	d.registerModels(h, operation)
	d.registerLibrary(h, operation)
	d.serveDocument(mux, h)
}

// serveDocument renders the OpenAPI document and mounts it.
func (d *Dialect) serveDocument(mux httpapi.Mux, h huma.API) {
	// The framework lists its own form of errors too, which is never sent.
	schemas := h.OpenAPI().Components.Schemas.Map()
	delete(schemas, "ErrorModel")
	delete(schemas, "ErrorDetail")
	document, err := json.Marshal(h.OpenAPI())
	if err != nil {
		panic(fmt.Sprintf("manage: the API's own description cannot be written: %v", err))
	}
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(document) // a client that hung up needs no answer
	})
}

// routes lets the framework register on the server's mux, with two changes: a
// model name takes the rest of the path, slashes included, and a body is read
// as JSON whatever its Content-Type says.
type routes struct{ httpapi.Mux }

func (m routes) HandleFunc(pattern string, handler func(http.ResponseWriter, *http.Request)) {
	path := strings.TrimSuffix(pattern, "/{name}")
	named := path != pattern
	if named {
		pattern = path + "/{name...}"
	}
	m.Mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if named && r.PathValue("name") == "" {
			// "/library/" means the list, not a model without a name.
			u := *r.URL
			u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), ""
			list := r.Clone(r.Context())
			list.URL = &u
			m.Mux.ServeHTTP(w, list)
			return
		}
		r.Header.Set("Content-Type", "application/json")
		handler(w, r)
	})
}

// seconds is the clock's time as the API writes it.
func (d *Dialect) seconds() float64 {
	return float64(d.o.Now().UnixMilli()) / 1000
}
