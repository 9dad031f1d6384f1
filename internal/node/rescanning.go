package node

import (
	"context"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/catalog"
	"github.com/skein-run/skein/internal/node/control"
)

// rescanning tells the cluster at once when models are added or removed here.
type rescanning struct {
	*catalog.Catalog
	control *control.Control
}

// Add implements manage.Library.
func (r rescanning) Add(ctx context.Context, paths []string) ([]api.LibraryEntry, error) {
	entries, err := r.Catalog.Add(ctx, paths)
	r.control.Rescan()
	return entries, err
}

// Remove implements manage.Library.
func (r rescanning) Remove(ctx context.Context, name string) (api.LibraryEntry, error) {
	e, err := r.Catalog.Remove(ctx, name)
	r.control.Rescan()
	return e, err
}
