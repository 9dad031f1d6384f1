// Package manage is the management dialect of the API: the cluster, its nodes
// and models, the commands that change them, the stream of changes, and the
// model files a node knows. It owns the routes below /v1/cluster, /node_id, the
// OpenAPI 3.1 description of all of them at /openapi.json, which is made from
// the Go types of package api, and the same for people at /docs.
//
// It imports api, the cluster's core (view, command, placement) and its parent
// httpapi, and knows no store, no network and no runner: internal/node hands
// them in as the small interfaces below. Handlers run on net/http's goroutines,
// so the interfaces must be safe for concurrent use.
package manage

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/httpapi"
	"github.com/skein-run/skein/internal/httpapi/manage/document"
	"github.com/skein-run/skein/internal/httpapi/manage/feed"
	"github.com/skein-run/skein/internal/ids"
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

// Cluster tells what the node knows of the cluster.
type Cluster = feed.Source

// Commands change the cluster. They return once that is decided and lies on
// as many disks as the cluster promises; the work goes on in the background.
//
// Names are full, nodes are ids that exist. id names the command: the same one
// again gives the same answer and changes nothing. Errors are those of package
// command and of placement, those that NoMaster, Unconfirmed and Refused make,
// *api.Error and *generation.Error; any other is a 500.
type Commands interface {
	// Load places what is wanted. With dryRun it only says where.
	Load(ctx context.Context, id string, l command.Load, dryRun bool) (Loaded, error)
	// Unload ends all replicas. Open generations may go on for drain.
	Unload(ctx context.Context, id, model string, drain time.Duration) (Unloaded, error)
	// Swap ends one model and loads another as one decision.
	Swap(ctx context.Context, id string, s Swap, dryRun bool) (Swapped, error)
	// Promote hands the lead over and returns when it is.
	Promote(ctx context.Context, id string, node ids.Node) error
	// Drain moves everything off a node, or with resume lets it take new work.
	Drain(ctx context.Context, id string, node ids.Node, resume bool) (copies int, err error)
}

// Loaded is what became of a load.
type Loaded struct {
	// Plans are the places, one for each replica that the command adds. A
	// command that comes again may have none; its Instances tell.
	Plans     []placement.Plan
	Instances []string // ids, in the order of Plans; none in a dry run
	Context   int      // tokens of each slot
	Slots     int
	Warning   string // "the context was lowered to ..."; may be ""
	Copies    int    // nodes on whose disks the command lies
}

// Unloaded is what became of an unload.
type Unloaded struct {
	Instances []string // ids
	Freed     int64    // bytes that will be free
	// Restored is the model that comes back, since this one was about to take
	// its place; "": none.
	Restored string
	Copies   int
}

// Swap is what to unload and what to load instead.
type Swap struct {
	Unload string        // full name
	Load   command.Load  //
	Drain  time.Duration // for open generations of the old model
}

// Swapped is what became of a swap.
type Swapped struct {
	Loaded
	UnloadID, LoadID string // the commands that it was carried out as
	Freed            int64  // bytes
}

// Options configure the dialect.
type Options struct {
	Library Library
	Cluster Cluster
	// Commands is optional: without it the routes that change the cluster are
	// left out.
	Commands Commands
	// Keys is optional in the same way.
	Keys Keys
	Node string // this node's id
	Log  *slog.Logger
	// Version is that of the binary, for the OpenAPI document.
	Version string
	// Describe is optional: it adds the operations of other dialects to the
	// document.
	Describe func(*huma.OpenAPI)
	// Name makes ids of commands that come without one; nil: random ones.
	Name func() string
	// Secret makes secrets of keys; nil: httpapi.NewSecret.
	Secret func() string
	// Now is the clock for timestamps of the library; nil: time.Now.
	Now func() time.Time
}

func (o *Options) validate() error {
	switch {
	case o.Library == nil:
		return errors.New("management API: no library given")
	case o.Cluster == nil:
		return errors.New("management API: no cluster given")
	case o.Node == "":
		return errors.New("management API: no node id given")
	case o.Version == "":
		return errors.New("management API: no version given")
	case o.Log == nil:
		return errors.New("management API: no logger given")
	}
	if o.Name == nil {
		o.Name = rand.Text
	}
	if o.Secret == nil {
		o.Secret = httpapi.NewSecret
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return nil
}

// Dialect is the management API.
type Dialect struct {
	o    Options
	feed *feed.Feed
}

// New makes the dialect.
func New(o Options) (*Dialect, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	f, err := feed.New(feed.Options{Source: o.Cluster, Log: o.Log, Epoch: strings.ToLower(rand.Text()[:12])})
	if err != nil {
		return nil, err
	}
	return &Dialect{o: o, feed: f}, nil
}

// Close ends the streams of changes, so that the server can stop without
// waiting for those who read them.
func (d *Dialect) Close() { d.feed.Close() }

// Register mounts the routes.
func (d *Dialect) Register(mux httpapi.Mux) {
	config := huma.DefaultConfig("skein", d.o.Version)
	config.Info.Description = "The management API of a skein cluster. Any node answers for the whole cluster. " +
		"Sizes in *_gb fields are GB of 2^30 bytes rounded to one decimal; times are Unix seconds. " +
		"A POST body is read as JSON whatever its Content-Type says."
	config.Components.Schemas = document.Schemas()
	// The pages would load scripts from elsewhere, and the document is served
	// below, rendered once.
	config.DocsPath, config.SchemasPath, config.OpenAPIPath = "", "", ""
	config.CreateHooks = nil // no $schema members in answers
	config.Transformers = []huma.Transformer{reshapeError}
	// Every body is JSON, whatever a client asks for; there is no other form.
	config.NoFormatFallback = false
	config.Formats = maps.Clone(config.Formats)
	for name, f := range config.Formats {
		f.Unmarshal = document.Unmarshal
		config.Formats[name] = f
	}

	r := &routes{mux}
	m := mount{API: humago.New(r, config), dialect: d}
	m.errors = m.OpenAPI().Components.Schemas.Schema(errorBody, true, "Error")
	m.UseMiddleware(m.single)
	d.registerCluster(m)
	d.registerCommands(m)
	d.registerEvents(m, r)
	d.registerKeys(m)
	d.registerLibrary(m)
	if d.o.Describe != nil {
		d.o.Describe(m.OpenAPI())
	}
	d.serveDocument(mux, m)
}

// serveDocument mounts the OpenAPI document and the page made of it. They are
// written when somebody first asks: it takes longer than the rest of a node's
// start, and most nodes are never asked.
func (d *Dialect) serveDocument(mux httpapi.Mux, m mount) {
	document.Complete(m.OpenAPI(), m.errors)
	serve := func(pattern, contentType string, write func(*huma.OpenAPI) ([]byte, error)) {
		once := sync.OnceValues(func() ([]byte, error) { return write(m.OpenAPI()) })
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
			body, err := once()
			if err != nil {
				d.o.Log.Error("the API cannot describe itself; please report this", "error", err)
				httpapi.WriteError(w, err)
				return
			}
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
			_, _ = w.Write(body) // a client that hung up needs no answer
		})
	}
	serve("GET /openapi.json", "application/json", document.JSON)
	serve("GET /openapi-3.0.json", "application/json", document.JSON30)
	serve("GET /docs", "text/html; charset=utf-8", document.Page)
	mux.HandleFunc("GET /metrics", d.metrics)
	serve("GET /{$}", "text/plain; charset=utf-8", func(*huma.OpenAPI) ([]byte, error) { return []byte(welcome), nil })
}

// welcome is for who opens the node's address in a browser, or asks it whether
// somebody is there.
const welcome = `skein is running.

  /v1           base URL for OpenAI clients, at this address
  /docs         the management API, a page to read; /openapi.json for programs
  /v1/cluster   the cluster as it is now
  /mcp          the same for AI agents
  /metrics      the same for Prometheus

"skein run" chats, "skein status" shows the cluster.
`

// mount is where the routes are described and registered.
type mount struct {
	huma.API
	dialect *Dialect
	errors  *huma.Schema
}

// single refuses a parameter that is given more than once, since whichever the
// framework takes, it may be another one than the client means; and an empty one
// that is to be a number, which the framework takes as left out.
func (m mount) single(ctx huma.Context, next func(huma.Context)) {
	u := ctx.URL()
	q := u.Query()
	for _, p := range ctx.Operation().Parameters {
		values := q[p.Name]
		var wrong string
		switch {
		case p.In != "query":
			continue
		case len(values) > 1:
			wrong = fmt.Sprintf("is given %d times; give it once", len(values))
		case len(values) == 1 && values[0] == "" && p.Schema.Type != huma.TypeString:
			wrong = fmt.Sprintf("is empty; give a value of type %s, or leave it out", p.Schema.Type)
		default:
			continue
		}
		detail := &huma.ErrorDetail{Location: "query." + p.Name, Message: wrong}
		if err := huma.WriteErr(m, ctx, http.StatusUnprocessableEntity, "validation failed", detail); err != nil {
			m.dialect.o.Log.Debug("a client hung up", "error", err)
		}
		return
	}
	next(ctx)
}

// operation describes a route; statuses are the errors that it may answer with,
// beside those that follow from what it takes. Package document fills them in.
func (m mount) operation(method, path, id, tag, summary string, statuses ...int) huma.Operation {
	o := huma.Operation{
		Method: method, Path: path, OperationID: id, Summary: summary, Tags: []string{tag},
		Responses: map[string]*huma.Response{}, DefaultStatus: http.StatusOK,
	}
	// The framework checks parameters and bodies.
	if method != http.MethodGet || strings.Contains(path, "{") {
		statuses = append(statuses, http.StatusUnprocessableEntity)
	}
	for _, s := range statuses {
		o.Responses[statusKey(s)] = &huma.Response{}
	}
	o.Responses["default"] = &huma.Response{}
	return o
}

// routes lets the framework register on the server's mux, with two changes: a
// model name takes the rest of the path, slashes included, and a body is read
// as JSON whatever its Content-Type says.
type routes struct{ httpapi.Mux }

// wildcard is how a model's name stands in a path.
const wildcard = "/{name}"

func (m *routes) HandleFunc(pattern string, handler func(http.ResponseWriter, *http.Request)) {
	before, after, ok := strings.Cut(pattern, wildcard)
	if !ok {
		m.Mux.HandleFunc(pattern, asJSON(handler))
		return
	}
	_, above, _ := strings.Cut(before, " ")
	m.Mux.Handle(before+"/{name...}", &named{above: above + "/", after: after, handler: asJSON(handler)})
}

func asJSON(handler http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("Content-Type", "application/json")
		handler(w, r)
	}
}

// named is the handler of a path with a model's name in it.
type named struct {
	above, after string // what stands before and behind the name
	handler      http.Handler
}

// ServeHTTP lets the framework see the name alone.
func (n *named) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, ok := strings.CutSuffix(strings.TrimRight(r.PathValue("name"), "/"), n.after)
	if !ok || name == "" {
		http.NotFound(w, r) // under a mux that did not ask Takes
		return
	}
	r.SetPathValue("name", name)
	n.handler.ServeHTTP(w, r)
}

// Takes tells whether there is a name in the path; a list is none.
func (n *named) Takes(path string) (ok bool, instead string) {
	path = strings.TrimRight(path, "/")
	rest, ok := strings.CutPrefix(path, n.above)
	if !ok || rest == "" {
		return false, ""
	}
	if name, ok := strings.CutSuffix(rest, n.after); !ok || name == "" {
		return false, path + n.after
	}
	return true, ""
}

// seconds is the clock's time as the API writes it.
func (d *Dialect) seconds() float64 {
	return float64(d.o.Now().UnixMilli()) / 1000
}

// answer carries a body as the framework wants it.
type answer[T any] struct{ Body T }

// Named is the input of routes about one model.
type Named struct {
	Name string `path:"name" minLength:"1" doc:"Model name, full or its last part, without regard to case; may contain slashes" example:"org/Qwen3-30B-GGUF"`
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
