package node

import (
	"context"
	"crypto/rand"
	"strings"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/catalog"
	"github.com/skein-run/skein/internal/node/control"
)

// rescanning tells the cluster at once when models are added or removed here.
type rescanning struct {
	*catalog.Catalog
	control *control.Control
	audits  audits
}

// Add implements manage.Library.
func (r rescanning) Add(ctx context.Context, paths []string) ([]api.LibraryEntry, error) {
	entries, err := r.Catalog.Add(ctx, paths)
	r.control.Rescan()
	r.audits.note(ctx, rand.Text(), "add to library "+strings.Join(paths, ", "), err)
	return entries, err
}

// Remove implements manage.Library.
func (r rescanning) Remove(ctx context.Context, name string) (api.LibraryEntry, error) {
	e, err := r.Catalog.Remove(ctx, name)
	r.control.Rescan()
	r.audits.note(ctx, rand.Text(), "remove from library "+name, err)
	return e, err
}
