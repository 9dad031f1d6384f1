package library

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

func isModelFile(path string) bool { return strings.EqualFold(filepath.Ext(path), ".gguf") }

// splitName takes the name of a part apart: "x-00001-of-00003.gguf".
type splitName struct {
	base      string // "x"
	ext       string // ".gguf", as written
	part, all int    // 1-based
}

// parseSplit reads the name from its end: extension, "NNNNN-of-NNNNN", base.
func parseSplit(file string) (splitName, bool) {
	const numbers = len("-00001-of-00003")
	if !isModelFile(file) || len(file) <= numbers+len(".gguf") {
		return splitName{}, false
	}
	stem := file[:len(file)-len(".gguf")]
	base, tail := stem[:len(stem)-numbers], stem[len(stem)-numbers:]
	if tail[0] != '-' || tail[6:10] != "-of-" {
		return splitName{}, false
	}
	part, err1 := strconv.ParseUint(tail[1:6], 10, 32)
	all, err2 := strconv.ParseUint(tail[10:], 10, 32)
	if err1 != nil || err2 != nil || part < 1 || part > all {
		return splitName{}, false
	}
	return splitName{base: base, ext: file[len(stem):], part: int(part), all: int(all)}, true
}

// file is the name of another part of the same model.
func (s splitName) file(part int) string {
	return fmt.Sprintf("%s-%05d-of-%05d%s", s.base, part, s.all, s.ext)
}

// modelName is the name of the model in a file, from a path or a name.
func modelName(ref string) string {
	base := filepath.Base(filepath.FromSlash(ref))
	if s, ok := parseSplit(base); ok {
		return s.base
	}
	if s, ok := parseSplit(base + ".gguf"); ok {
		return s.base
	}
	if isModelFile(base) {
		return base[:len(base)-len(".gguf")]
	}
	return base
}

// partsOf gives all files of the model that path belongs to, present or not.
func partsOf(path string) []string {
	s, ok := parseSplit(filepath.Base(path))
	if !ok {
		return []string{path}
	}
	paths := make([]string, s.all)
	for i := range paths {
		paths[i] = filepath.Join(filepath.Dir(path), s.file(i+1))
	}
	return paths
}

// scan looks at all sources. The caller holds l.scanning.
func (l *Library) scan() *snapshot {
	start := l.o.Now()
	s := &snapshot{}
	c := collector{library: l, files: map[string]bool{}, headers: map[string]head{}}
	var problems []error
	s.mark = l.registry.mark() // before reading: a later change shows as a difference
	r, err := l.registry.read()
	if err != nil {
		problems = append(problems, err)
	}
	for _, m := range r.Models {
		c.add(m.Paths, SourceAdded, m.Added)
	}
	for _, dir := range l.o.Dirs {
		problems = append(problems, c.walk(dir)...)
	}
	if l.o.Bundled != "" {
		if _, err := os.Stat(l.o.Bundled); err == nil {
			c.add([]string{l.o.Bundled}, SourceBundled, time.Time{})
		} else if !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, fmt.Errorf("read the bundled model: %w", err))
		}
	}
	for _, file := range l.o.Files {
		c.add(partsOf(file), SourcePath, time.Time{})
	}
	l.headers = c.headers
	slices.SortFunc(c.entries, func(a, b Entry) int {
		if d := strings.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name)); d != 0 {
			return d
		}
		if d := strings.Compare(a.Name, b.Name); d != 0 {
			return d
		}
		return strings.Compare(a.Paths[0], b.Paths[0])
	})
	s.entries, s.problem = c.entries, errors.Join(problems...)
	l.o.Logger.Debug("model files scanned", "models", len(s.entries), "problems", len(problems), "took", l.o.Now().Sub(start))
	return s
}

// collector gathers the entries of one scan.
type collector struct {
	library *Library
	entries []Entry
	files   map[string]bool // real path of a model's first file: it is listed
	headers map[string]head // what this scan read or took from the last one
}

// add lists a model unless an earlier source has it.
func (c *collector) add(paths []string, source Source, added time.Time) {
	real, err := filepath.EvalSymlinks(paths[0])
	if err != nil {
		real = paths[0]
	}
	if c.files[real] {
		return
	}
	c.files[real] = true
	e := entryOf(paths, func(key string) (head, bool) {
		h, ok := c.library.headers[key]
		return h, ok
	}, func(key string, h head) { c.headers[key] = h })
	e.Source, e.Added = source, added
	c.entries = append(c.entries, e)
}

// walk lists the models in a folder and all below it.
func (c *collector) walk(dir string) []error {
	root, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return []error{fmt.Errorf("models dir %s does not exist; create it, or correct --models-dir", dir)}
	}
	if err != nil {
		return []error{fmt.Errorf("models dir %s cannot be read: %w; check its permissions", dir, err)}
	}
	if info, err := os.Stat(root); err == nil && !info.IsDir() {
		return []error{fmt.Errorf("models dir %s is a file, not a folder; register it with `skein models add %s`, or correct --models-dir", dir, dir)}
	}
	var problems []error
	// Always nil: the function below never returns anything but SkipDir.
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			problems = append(problems, fmt.Errorf("models dir %s cannot be read: %w; check its permissions", path, err))
			return fs.SkipDir
		case d.IsDir():
			if path != root && strings.HasPrefix(d.Name(), ".") {
				return fs.SkipDir
			}
		case isModelFile(path) && !strings.HasPrefix(d.Name(), "."):
			// Links lead to files elsewhere, as in other programs' caches.
			if info, err := os.Stat(path); err != nil || info.Mode().IsRegular() {
				c.add(partsOf(path), SourceDir, time.Time{})
			}
		}
		return nil
	})
	return problems
}

// entryAt reads one model that need not be listed.
func (l *Library) entryAt(path string) Entry {
	return entryOf(partsOf(path), func(string) (head, bool) { return head{}, false }, func(string, head) {})
}
