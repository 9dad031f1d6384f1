package cli

import (
	"log/slog"

	"github.com/skein-run/skein/internal/catalog"
	modelfiles "github.com/skein-run/skein/internal/library"
)

// openLocalLibrary opens the library of SKEIN_HOME without a node, with the
// folders of its configuration.
func (a *app) openLocalLibrary() (library, error) {
	where, err := a.home()
	if err != nil {
		return nil, err
	}
	serve, _, err := a.resolve(where, "", nil)
	if err != nil {
		return nil, err
	}
	files, err := modelfiles.Open(modelfiles.Options{
		Registry: where.ModelRegistry(),
		Dirs:     serve.ModelsDirs,
		Bundled:  catalog.Bundled(a.resolvedExecutable()),
		Logger:   slog.New(slog.NewTextHandler(a.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return nil, err
	}
	return catalog.New(catalog.Options{Library: files, Context: serve.Context, Slots: serve.Slots, AnyPath: true})
}
