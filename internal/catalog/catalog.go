// Package catalog tells about a node's model files in the words of the API: it
// turns what package library finds on disk into api types, adds the estimate of
// memory, and gives library's errors their codes and status.
//
// It stands between internal/library and those who speak api: the management
// endpoints, through internal/node, and the commands that work without a node.
// It imports api, gguf/hyper and library, and keeps nothing of its own, so a Catalog
// may be used from any goroutine.
package catalog

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"path/filepath"
	"syscall"
	"time"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/bytesize"
	"github.com/skein-run/skein/internal/gguf/hyper"
	"github.com/skein-run/skein/internal/library"
)

// largestDefaultContext is what a model gets at most when nobody asks for a
// context; the same as in `skein serve --context`.
const largestDefaultContext = 8192

// defaultSlots is used when no number of slots is configured or asked for.
const defaultSlots = 4

// Options configure a Catalog.
type Options struct {
	Library *library.Library
	// Context and Slots are what the node gives a model when nobody asks for
	// something else. 0: the model's own context up to 8,192, and 4 slots.
	Context, Slots int
	// AnyPath lets Show read files that are not listed. A node that answers
	// others leaves it off.
	AnyPath bool
}

// Catalog answers questions about model files. Its errors are *api.Error.
type Catalog struct{ o Options }

// New makes a catalog of a library.
func New(o Options) (*Catalog, error) {
	if o.Library == nil {
		return nil, errors.New("make a catalog: no library given")
	}
	if o.Slots <= 0 {
		o.Slots = defaultSlots
	}
	return &Catalog{o: o}, nil
}

// List gives all models by name. Folders that cannot be read are an error only
// when nothing else is left to list.
func (c *Catalog) List(context.Context) ([]api.LibraryEntry, error) {
	found, err := c.o.Library.List()
	if err != nil && len(found) == 0 {
		return nil, explain(err, "")
	}
	return Entries(found), nil
}

// Add registers files; they are listed when it returns. Paths must be absolute.
func (c *Catalog) Add(_ context.Context, paths []string) ([]api.LibraryEntry, error) {
	for _, p := range paths {
		if !filepath.IsAbs(p) {
			return nil, api.NewError(http.StatusBadRequest, api.CodeInvalidValue, "paths",
				"\""+p+"\" is not an absolute path; the node does not know your working directory")
		}
	}
	added, err := c.o.Library.Add(paths...)
	if err != nil {
		return nil, explain(err, "paths")
	}
	return Entries(added), nil
}

// Remove takes a model off the list.
func (c *Catalog) Remove(_ context.Context, name string) (api.LibraryEntry, error) {
	removed, err := c.o.Library.Remove(name)
	if err != nil {
		return api.LibraryEntry{}, explain(err, "name")
	}
	return Entry(removed), nil
}

// Show gives metadata, template and memory. A model that cannot be used is
// shown with its problem.
func (c *Catalog) Show(_ context.Context, name string, contextLength, slots int) (api.LibraryModel, error) {
	resolve := c.o.Library.ResolveName
	if c.o.AnyPath {
		resolve = c.o.Library.Resolve
	}
	entry, err := resolve(name)
	var broken *library.BrokenError
	if errors.As(err, &broken) {
		return api.LibraryModel{LibraryEntry: Entry(broken.Entry), Metadata: []api.MetadataValue{}}, nil
	}
	if err != nil {
		return api.LibraryModel{}, explain(err, "name")
	}
	details, err := library.Describe(entry)
	if err != nil {
		return api.LibraryModel{}, explain(err, "name")
	}
	m := api.LibraryModel{
		LibraryEntry: Entry(entry),
		ChatTemplate: details.ChatTemplate,
		Metadata:     make([]api.MetadataValue, 0, len(details.Metadata)),
	}
	for _, f := range details.Metadata {
		m.Metadata = append(m.Metadata, api.MetadataValue{Key: f.Key, Type: f.Type, Value: f.Value})
	}
	spec := hyper.Spec{Context: c.contextFor(entry, contextLength), Slots: slots}
	if spec.Slots <= 0 {
		spec.Slots = c.o.Slots
	}
	estimate, err := details.Estimate(spec)
	if err != nil {
		return api.LibraryModel{}, api.NewError(http.StatusBadRequest, api.CodeInvalidValue, "context_length", err.Error())
	}
	m.Memory = &api.MemoryBreakdown{
		ContextLength:  spec.Context,
		Slots:          spec.Slots,
		WeightsBytes:   estimate.Weights,
		KVBytes:        estimate.KV,
		RecurrentBytes: estimate.Recurrent,
		ComputeBytes:   estimate.Total - estimate.Weights - estimate.KV - estimate.Recurrent,
		TotalBytes:     estimate.Total,
		TotalGB:        bytesize.ToGB(estimate.Total),
	}
	return m, nil
}

// contextFor is the context that counts when asked is wanted (0: nothing is).
func (c *Catalog) contextFor(e library.Entry, asked int) int {
	switch {
	case asked > 0:
		return asked
	case c.o.Context > 0:
		return c.o.Context
	case e.TrainedContext > 0:
		return min(e.TrainedContext, largestDefaultContext)
	}
	return largestDefaultContext
}

// Entries turns a list into api types; it is never nil.
func Entries(es []library.Entry) []api.LibraryEntry {
	out := make([]api.LibraryEntry, 0, len(es))
	for _, e := range es {
		out = append(out, Entry(e))
	}
	return out
}

// Entry turns one model into its api type.
func Entry(e library.Entry) api.LibraryEntry {
	paths := e.Paths
	if paths == nil {
		paths = []string{}
	}
	return api.LibraryEntry{
		Name:          e.Name,
		Paths:         paths,
		SizeBytes:     e.SizeBytes,
		SizeGB:        bytesize.ToGB(e.SizeBytes),
		Architecture:  e.Architecture,
		Quantization:  e.Quantization,
		Parameters:    e.Parameters,
		ContextLength: max(0, e.TrainedContext),
		Source:        string(e.Source),
		Added:         unix(e.Added),
		Modified:      unix(e.Modified),
		Problem:       e.Problem,
	}
}

// unix gives seconds with a fraction, 0 for no time.
func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// explain gives a library's error its status and code. param is the request
// field that an error of the caller is about.
func explain(err error, param string) error {
	var missing *library.NotFoundError
	var ambiguous *library.AmbiguousError
	var broken *library.BrokenError
	var path *fs.PathError
	status, code := http.StatusBadRequest, api.CodeInvalidModelFile
	switch {
	case errors.As(err, &missing):
		status, code = http.StatusNotFound, api.CodeModelNotFound
	case errors.As(err, &ambiguous):
		status, code = http.StatusConflict, api.CodeAmbiguousModel
	case errors.As(err, &broken):
	case errors.Is(err, syscall.ENOSPC):
		status, code, param = http.StatusInsufficientStorage, api.CodeDiskFull, ""
	case errors.Is(err, fs.ErrNotExist) && param == "paths":
		code = api.CodeFileNotFound
	case errors.As(err, &path):
		// The node's own files, or a folder it was told of: not the caller's
		// doing.
		status, code, param = http.StatusInternalServerError, api.CodeInternal, ""
	case param == "name":
		status, code = http.StatusConflict, api.CodeModelNotRemovable
	}
	return api.NewError(status, code, param, err.Error())
}

// Bundled is where the demo model lies beside the program: in the folder
// "models" next to it. It may be missing.
func Bundled(executable string) string {
	if executable == "" {
		return ""
	}
	return filepath.Join(filepath.Dir(executable), "models", "skein-demo-4m-q8_0.gguf")
}
