// Package library knows the model files of a node: those in the folders that
// --models-dir names, those registered by hand, and the demo model beside the
// binary. It lists them, finds one by name, and keeps the registry.
//
// It owns the registry file and nothing else: no user's file is ever changed or
// deleted. It imports gguf for the headers, must not know the engine, the API
// or the cluster, and may be used from any goroutine. Several processes may
// change one registry at once; every look sees what the others wrote.
package library

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options say where model files are.
type Options struct {
	// Registry is the file that Add and Remove write, SKEIN_HOME/models.json.
	// It and its folder need not exist.
	Registry string
	Dirs     []string // searched with all their folders; hidden ones are left out
	Bundled  string   // the demo model; "" or a missing file: none
	Files    []string // models to list beside these, unregistered: of one command
	Logger   *slog.Logger
	// Now is the clock for Entry.Added; nil: time.Now.
	Now func() time.Time
}

func (o Options) validate() (Options, error) {
	if o.Registry == "" {
		return o, errors.New("open library: no registry file given")
	}
	if o.Logger == nil {
		return o, errors.New("open library: no logger given")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	var err error
	for i, dir := range o.Dirs {
		if o.Dirs[i], err = filepath.Abs(dir); err != nil {
			return o, fmt.Errorf("open library: models dir %s: %w", dir, err)
		}
	}
	for i, file := range o.Files {
		if o.Files[i], err = filepath.Abs(file); err != nil {
			return o, fmt.Errorf("open library: model %s: %w", file, err)
		}
	}
	if o.Bundled != "" {
		if o.Bundled, err = filepath.Abs(o.Bundled); err != nil {
			return o, fmt.Errorf("open library: bundled model %s: %w", o.Bundled, err)
		}
	}
	return o, nil
}

// Source tells how the library came to know a model.
type Source string

// Sources.
const (
	SourceBundled Source = "bundled" // beside the binary
	SourceDir     Source = "dir"     // found in a --models-dir
	SourceAdded   Source = "added"   // registered with Add
	SourcePath    Source = "path"    // named by its path in a request or in Options.Files
)

// Entry is one model.
type Entry struct {
	Name           string   // file name without .gguf and without the part's number
	Paths          []string // absolute; all parts of a split model in order
	SizeBytes      int64    // of all files
	Architecture   string   // general.architecture: "llama"
	Quantization   string   // "Q4_K_M"
	Parameters     uint64
	TrainedContext int // tokens
	Source         Source
	Added          time.Time // zero unless Source is SourceAdded
	Modified       time.Time // of the newest file
	// Problem says why the model cannot be used, and the fix; "" if it can.
	// The other fields are then only as far known.
	Problem string
}

// Library is the set of models. Open makes one; it holds no resources.
type Library struct {
	o        Options
	registry registry

	scanning sync.Mutex      // held by the one scan in progress
	headers  map[string]head // guarded by scanning; see headersOf

	mu   sync.Mutex
	last *snapshot // guarded by mu; its contents never change
}

// snapshot is what one scan found.
type snapshot struct {
	entries []Entry
	problem error       // folders or a registry that could not be read
	mark    os.FileInfo // the registry's state; nil: there was none
}

// Open looks at all sources once. A folder or registry that cannot be read is
// not an error here: List reports it, and the rest works.
func Open(o Options) (*Library, error) {
	o.Dirs, o.Files = slices.Clone(o.Dirs), slices.Clone(o.Files)
	o, err := o.validate()
	if err != nil {
		return nil, err
	}
	l := &Library{o: o, registry: newRegistry(o.Registry), headers: map[string]head{}}
	l.refresh()
	return l, nil
}

// List gives all models, sorted by name, as they are on disk now. The entries
// are valid even with an error, which names every folder or registry that could
// not be read, and the fix.
func (l *Library) List() ([]Entry, error) {
	s := l.refresh()
	return cloneEntries(s.entries), s.problem
}

// Refresh looks at all sources again and reports what List would.
func (l *Library) Refresh() error { return l.refresh().problem }

// refresh scans; scans run one after the other.
func (l *Library) refresh() *snapshot {
	l.scanning.Lock()
	defer l.scanning.Unlock()
	s := l.scan()
	l.mu.Lock()
	l.last = s
	l.mu.Unlock()
	return s
}

// current gives the last scan if the registry is still the same, else a new one.
func (l *Library) current() *snapshot {
	l.mu.Lock()
	s := l.last
	l.mu.Unlock()
	if sameFile(s.mark, l.registry.mark()) {
		return s
	}
	return l.refresh()
}

// Resolve finds a usable model by name, without regard to case and with or
// without .gguf, or by a path if ref has a separator or ends in .gguf and the
// file exists. Errors: *NotFoundError, *AmbiguousError, *BrokenError.
//
// A path may name any file that the process can read; for requests from a
// network use ResolveName.
func (l *Library) Resolve(ref string) (Entry, error) {
	e, err := l.ResolveName(ref)
	var missing *NotFoundError
	if !errors.As(err, &missing) || !pathLike(ref) {
		return e, err
	}
	path, absErr := filepath.Abs(ref)
	if absErr != nil {
		return Entry{}, err
	}
	info, statErr := os.Stat(path)
	switch {
	case errors.Is(statErr, os.ErrNotExist):
		return Entry{}, err
	case statErr != nil:
		return Entry{}, fmt.Errorf("open model %s: %w", path, statErr)
	case info.IsDir():
		return Entry{}, fmt.Errorf("open model %s: this is a folder; name a .gguf file in it, or start with --models-dir %s", path, path)
	}
	e = l.entryAt(path)
	e.Source = SourcePath
	return usable(e)
}

// ResolveName is Resolve without paths to files that are not listed.
func (l *Library) ResolveName(ref string) (Entry, error) {
	e, err := l.find(ref)
	if err != nil {
		return Entry{}, err
	}
	return usable(e)
}

func usable(e Entry) (Entry, error) {
	if e.Problem != "" {
		return e, &BrokenError{Entry: e}
	}
	return e, nil
}

// find looks a listed model up: in the last scan if that still holds, else in a
// new one.
func (l *Library) find(ref string) (Entry, error) {
	s := l.current()
	if found := match(s.entries, ref); len(found) == 1 && unchanged(found[0]) {
		return cloneEntry(found[0]), nil
	}
	s = l.refresh()
	found := match(s.entries, ref)
	switch len(found) {
	case 1:
		return cloneEntry(found[0]), nil
	case 0:
		return Entry{}, notFound(ref, s)
	}
	return Entry{}, &AmbiguousError{Name: ref, Candidates: cloneEntries(found)}
}

// match finds the entries that ref may mean: by path, by exact name, or by name
// without regard to case.
func match(entries []Entry, ref string) []Entry {
	if pathLike(ref) {
		if path, err := filepath.Abs(ref); err == nil {
			for _, e := range entries {
				if slices.Contains(e.Paths, path) {
					return []Entry{e}
				}
			}
		}
	}
	name := modelName(ref)
	var exact, folded []Entry
	for _, e := range entries {
		switch {
		case e.Name == name:
			exact = append(exact, e)
		case strings.EqualFold(e.Name, name):
			folded = append(folded, e)
		}
	}
	if len(exact) > 0 {
		return exact
	}
	return folded
}

// unchanged tells whether the files are still what the scan saw.
func unchanged(e Entry) bool {
	var size int64
	for _, p := range e.Paths {
		info, err := os.Stat(p)
		if err != nil || info.ModTime().After(e.Modified) {
			return false
		}
		size += info.Size()
	}
	return size == e.SizeBytes
}

// pathLike tells whether ref is meant as a path, or may be.
func pathLike(ref string) bool {
	return strings.ContainsRune(ref, '/') || strings.ContainsRune(ref, filepath.Separator) || isModelFile(ref)
}

func cloneEntry(e Entry) Entry {
	e.Paths = slices.Clone(e.Paths)
	return e
}

func cloneEntries(es []Entry) []Entry {
	out := make([]Entry, len(es))
	for i, e := range es {
		out[i] = cloneEntry(e)
	}
	return out
}

// Add registers model files by their absolute paths, without copying them. Any
// part of a split model stands for all. All are registered or none; a file that
// cannot be used is refused with the reason. One that is registered already is
// no error.
func (l *Library) Add(paths ...string) ([]Entry, error) {
	var added []Entry
	for _, p := range paths {
		abs, err := filepath.Abs(p)
		if err != nil {
			return nil, fmt.Errorf("add %s: %w", p, err)
		}
		info, err := os.Stat(abs)
		switch {
		case err != nil:
			return nil, fmt.Errorf("add %s: %w; check the path", p, errors.Unwrap(err))
		case info.IsDir():
			return nil, fmt.Errorf("add %s: this is a folder; name the .gguf files in it, or start the node with --models-dir %s", p, abs)
		case !info.Mode().IsRegular():
			return nil, fmt.Errorf("add %s: this is not a regular file", p)
		case !isModelFile(abs):
			return nil, fmt.Errorf("add %s: the name does not end in .gguf; rename the file if it is a GGUF model", p)
		}
		e := l.entryAt(abs)
		if e.Problem != "" {
			return nil, fmt.Errorf("add %s: %s", p, e.Problem)
		}
		e.Source, e.Added = SourceAdded, l.o.Now().UTC().Round(0)
		if !slices.ContainsFunc(added, func(o Entry) bool { return o.Paths[0] == e.Paths[0] }) {
			added = append(added, e)
		}
	}
	err := l.registry.update(func(r *record) bool {
		changed := false
		for i, e := range added {
			if old := r.find(e.Paths[0]); old != nil {
				added[i].Added = old.Added
				continue
			}
			r.Models = append(r.Models, recorded{Paths: e.Paths, Added: e.Added})
			changed = true
		}
		return changed
	})
	if err != nil {
		return nil, fmt.Errorf("add models: %w", err)
	}
	l.refresh()
	return added, nil
}

// Remove unregisters a model and gives its entry. The files stay. A model that
// is there by other means is refused with what to do instead.
func (l *Library) Remove(ref string) (Entry, error) {
	e, err := l.find(ref)
	if err != nil {
		return Entry{}, fmt.Errorf("remove: %w", err)
	}
	switch e.Source {
	case SourceBundled:
		return Entry{}, fmt.Errorf("remove %s: this is the demo model that comes with skein; delete %s if you do not want it", e.Name, e.Paths[0])
	case SourceDir:
		return Entry{}, fmt.Errorf("remove %s: it is listed because it lies in a models dir; move %s elsewhere, or start without that --models-dir", e.Name, e.Paths[0])
	}
	err = l.registry.update(func(r *record) bool { return r.remove(e.Paths) })
	if err != nil {
		return Entry{}, fmt.Errorf("remove %s: %w", e.Name, err)
	}
	l.refresh()
	return e, nil
}
