package library

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/hyper"
)

// head is what a model's header says about it.
type head struct {
	architecture, quantization string
	parameters                 uint64
	trainedContext             int
	problem                    string
}

// entryOf describes a model from its files. Headers are taken from cached,
// where path, size and time of every file are the same, and handed to keep.
func entryOf(paths []string, cached func(key string) (head, bool), keep func(key string, h head)) Entry {
	e := Entry{Name: modelName(paths[0]), Paths: paths}
	var key strings.Builder
	var missing []string
	for _, p := range paths {
		info, err := os.Stat(p)
		if errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, filepath.Base(p))
			continue
		}
		if err != nil {
			e.Problem = fmt.Sprintf("%v; check the permissions", err)
			return e
		}
		e.SizeBytes += info.Size()
		if info.ModTime().After(e.Modified) {
			e.Modified = info.ModTime()
		}
		fmt.Fprintf(&key, "%s\x00%d\x00%d\x00", p, info.Size(), info.ModTime().UnixNano())
	}
	if len(missing) > 0 {
		e.Problem = missingFiles(paths, missing)
		return e
	}
	h, ok := cached(key.String())
	if !ok {
		h = readHead(paths)
	}
	keep(key.String(), h)
	e.Architecture, e.Quantization, e.Parameters, e.TrainedContext, e.Problem =
		h.architecture, h.quantization, h.parameters, h.trainedContext, h.problem
	return e
}

func missingFiles(paths, missing []string) string {
	dir := filepath.Dir(paths[0])
	if len(paths) == 1 {
		return fmt.Sprintf("the file is gone: put it back into %s, or `skein models remove` it", dir)
	}
	const most = 5
	names := strings.Join(missing[:min(len(missing), most)], ", ")
	if len(missing) > most {
		names += fmt.Sprintf(" and %d more", len(missing)-most)
	}
	return fmt.Sprintf("%d of %d parts are missing in %s: %s; download them into that folder", len(missing), len(paths), dir, names)
}

func readHead(paths []string) head {
	m, err := OpenModel(paths...)
	if err != nil {
		return head{problem: err.Error()}
	}
	defer m.Close()
	h := head{architecture: m.Arch(), quantization: m.Quantization(), parameters: m.Parameters()}
	p, err := hyper.Read(m.Model)
	if err != nil {
		h.problem = err.Error()
		return h
	}
	h.trainedContext = p.Context
	return h
}

// Model is a model whose files are open for reading.
type Model struct {
	*gguf.Model
	files []*os.File
}

// Close closes the files.
func (m *Model) Close() error {
	var errs []error
	for _, f := range m.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// OpenModel opens a model's files, all parts of a split one, and reads the
// headers. The caller closes it.
func OpenModel(paths ...string) (*Model, error) {
	m := &Model{}
	var parts []*gguf.File
	for _, p := range paths {
		part, err := m.open(p)
		if err != nil {
			// The reason is what matters; closing files read from cannot lose anything.
			_ = m.Close()
			return nil, err
		}
		parts = append(parts, part)
	}
	var err error
	if m.Model, err = gguf.Join(parts...); err != nil {
		_ = m.Close()
		return nil, err
	}
	return m, nil
}

func (m *Model) open(path string) (*gguf.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w; check the file and its permissions", err)
	}
	m.files = append(m.files, f)
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	part, err := gguf.Parse(f, info.Size())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return part, nil
}

// Details is all that Show tells about a model.
type Details struct {
	Entry        Entry
	Params       hyper.Params
	Title        string // general.name
	ChatTemplate string // "" if it has none
	Templates    map[string]string
	Metadata     []Field // in the order of the file
	Tensors      int
	// Estimate gives the memory for a context; see hyper.For.
	Estimate func(hyper.Spec) (hyper.Estimate, error)
	// FitContext gives the largest context for a limit; see hyper.FitContext.
	FitContext func(limit int64, spec hyper.Spec) (context int, e hyper.Estimate, fits bool, err error)
}

// Field is one metadata entry as text; arrays are given by length and type.
type Field struct{ Key, Type, Value string }

// Show reads everything about a model; ref as for Resolve.
func (l *Library) Show(ref string) (*Details, error) {
	e, err := l.Resolve(ref)
	if err != nil {
		return nil, err
	}
	return Describe(e)
}

// Describe reads everything about a resolved model.
func Describe(e Entry) (*Details, error) {
	m, err := OpenModel(e.Paths...)
	if err != nil {
		return nil, fmt.Errorf("show %s: %w", e.Name, err)
	}
	defer m.Close()
	p, err := hyper.Read(m.Model)
	if err != nil {
		return nil, fmt.Errorf("show %s: %w", e.Name, err)
	}
	d := &Details{Entry: e, Params: *p, Title: m.Name(), ChatTemplate: m.ChatTemplate(), Templates: m.ChatTemplates(),
		Tensors: len(m.Tensors()), Estimate: func(spec hyper.Spec) (hyper.Estimate, error) { return hyper.For(m.Model, spec) },
		FitContext: func(limit int64, spec hyper.Spec) (int, hyper.Estimate, bool, error) {
			return hyper.FitContext(m.Model, limit, spec)
		}}
	for _, kv := range m.Pairs() {
		text, err := kv.Summary()
		if err != nil {
			return nil, fmt.Errorf("show %s: %w", e.Name, err)
		}
		d.Metadata = append(d.Metadata, Field{Key: kv.Key, Type: kv.Type.String(), Value: text})
	}
	return d, nil
}
