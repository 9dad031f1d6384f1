package texts

import (
	"errors"
	"testing"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/library"
)

func TestLibraryErrorsHaveKinds(t *testing.T) {
	for kind, err := range map[generation.Kind]error{
		generation.KindModelNotFound:  &library.NotFoundError{Name: "x"},
		generation.KindAmbiguousModel: &library.AmbiguousError{Name: "x"},
		generation.KindInvalid:        &library.BrokenError{Entry: library.Entry{Name: "x", Problem: "cut"}},
		generation.KindFailed:         errors.New("disk"),
	} {
		var e *generation.Error
		if !errors.As(resolveError(err), &e) || e.Kind != kind || e.Message == "" {
			t.Errorf("%T: %+v, want kind %s", err, e, kind)
		}
	}
}
