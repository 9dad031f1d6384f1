package texts

import (
	"fmt"
	"sync"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/gguf/hyper"
	"github.com/skein-run/skein/internal/library"
	"github.com/skein-run/skein/internal/worker"
)

// Files are the models of this node's library, for requests and for a worker.
type Files struct {
	library *library.Library
	anyPath bool

	mu        sync.Mutex // guards templates
	templates map[string]modelTemplate
}

// NewFiles makes them. anyPath: a model may be named by the path of a file that
// is in no list.
func NewFiles(l *library.Library, anyPath bool) *Files { return &Files{library: l, anyPath: anyPath} }

// modelTemplate is the chat template of a file, read before it is loaded.
type modelTemplate struct {
	text     string
	modified int64
}

// Resolve finds a model; its errors are what API clients are told.
func (f *Files) Resolve(name string) (worker.Entry, error) {
	e, err := f.entry(name)
	if err != nil {
		return worker.Entry{}, err
	}
	return worker.Entry{
		Name: e.Name, Paths: e.Paths, SizeBytes: e.SizeBytes, TrainedContext: e.TrainedContext,
		Estimate: func(context, slots int) (int64, error) {
			m, err := library.OpenModel(e.Paths...)
			if err != nil {
				return 0, err
			}
			est, err := hyper.For(m.Model, hyper.Spec{Context: context, Slots: slots})
			if closeErr := m.Close(); err == nil {
				err = closeErr
			}
			return est.Total, err
		},
	}, nil
}

func (f *Files) entry(name string) (library.Entry, error) {
	resolve := f.library.ResolveName
	if f.anyPath {
		resolve = f.library.Resolve
	}
	e, err := resolve(name)
	if err != nil {
		return library.Entry{}, resolveError(err)
	}
	return e, nil
}

// template is the chat template in a model's file, "" without one.
func (f *Files) template(e library.Entry) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key, modified := e.Paths[0], e.Modified.UnixNano()
	if t, ok := f.templates[key]; ok && t.modified == modified {
		return t.text, nil
	}
	m, err := library.OpenModel(e.Paths...)
	if err != nil {
		return "", err
	}
	text := m.ChatTemplate()
	if err := m.Close(); err != nil {
		return "", fmt.Errorf("close %s: %w", e.Name, err)
	}
	if f.templates == nil {
		f.templates = map[string]modelTemplate{}
	}
	f.templates[key] = modelTemplate{text, modified}
	return text, nil
}

// resolveError gives the library's errors their kinds.
func resolveError(err error) error {
	switch err.(type) {
	case *library.NotFoundError:
		return &generation.Error{Kind: generation.KindModelNotFound, Message: err.Error(), Param: "model", Err: err}
	case *library.AmbiguousError:
		return &generation.Error{Kind: generation.KindAmbiguousModel, Message: err.Error(), Param: "model", Err: err}
	case *library.BrokenError:
		// Not a 5xx: clients would try again, and the file stays what it is.
		return &generation.Error{Kind: generation.KindInvalid, Message: err.Error(), Param: "model", Err: err}
	}
	return &generation.Error{Kind: generation.KindFailed, Message: err.Error(), Err: err}
}
