package library

import (
	"fmt"
	"strings"

	"github.com/skein-run/skein/internal/nearest"
)

// NotFoundError means that no model has the name.
type NotFoundError struct {
	Name    string
	Known   []string // all names, sorted
	Nearest string   // the known name that is most like it; "" if none is
	// Problem is what kept the library from seeing all its sources, if anything.
	Problem error
}

func (e *NotFoundError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "model %q is not known", e.Name)
	if e.Nearest != "" {
		fmt.Fprintf(&b, "; did you mean %q?", e.Nearest)
	}
	if len(e.Known) == 0 {
		b.WriteString("; there are no models yet: add one with `skein models add FILE`, or start with --models-dir")
	} else {
		fmt.Fprintf(&b, "; known models: %s", strings.Join(e.Known, ", "))
	}
	if e.Problem != nil {
		fmt.Fprintf(&b, " (not all places could be read: %v)", e.Problem)
	}
	return b.String()
}

func notFound(name string, s *snapshot) *NotFoundError {
	known := make([]string, 0, len(s.entries))
	for _, e := range s.entries {
		if len(known) == 0 || known[len(known)-1] != e.Name {
			known = append(known, e.Name)
		}
	}
	return &NotFoundError{Name: name, Known: known, Nearest: nearest.Of(modelName(name), known), Problem: s.problem}
}

// AmbiguousError means that several models have the name.
type AmbiguousError struct {
	Name       string
	Candidates []Entry
}

func (e *AmbiguousError) Error() string {
	var paths []string
	for _, c := range e.Candidates {
		paths = append(paths, c.Paths[0])
	}
	return fmt.Sprintf("model name %q is ambiguous; name one of these by its path, or rename a file: %s", e.Name, strings.Join(paths, ", "))
}

// BrokenError means that the model is known but cannot be used.
type BrokenError struct{ Entry Entry }

func (e *BrokenError) Error() string {
	return fmt.Sprintf("model %s (%s) cannot be used: %s", e.Entry.Name, strings.Join(e.Entry.Paths, ", "), e.Entry.Problem)
}
