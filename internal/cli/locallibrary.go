package cli

import (
	"log/slog"

	"github.com/skein-run/skein/internal/catalog"
	"github.com/skein-run/skein/internal/config"
	modelfiles "github.com/skein-run/skein/internal/library"
)

// openLocalLibrary opens the library of SKEIN_HOME without a node, with the
// folders of its configuration.
func (a *app) openLocalLibrary() (library, error) {
	files, serve, err := a.openModelFiles()
	if err != nil {
		return nil, err
	}
	return catalog.New(catalog.Options{Library: files, Context: serve.Context, Slots: serve.Slots, AnyPath: true})
}

// openModelFiles opens the files behind openLocalLibrary.
func (a *app) openModelFiles() (*modelfiles.Library, config.Serve, error) {
	where, err := a.home()
	if err != nil {
		return nil, config.Serve{}, err
	}
	serve, _, err := a.resolve(where, "", nil)
	if err != nil {
		return nil, serve, err
	}
	files, err := modelfiles.Open(modelfiles.Options{
		Registry: where.ModelRegistry(),
		Dirs:     serve.ModelsDirs,
		Bundled:  catalog.Bundled(a.resolvedExecutable()),
		Logger:   slog.New(slog.NewTextHandler(a.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	return files, serve, err
}

// localModel finds the files of a model on this machine.
func (a *app) localModel(ref string) (modelfiles.Entry, error) {
	files, _, err := a.openModelFiles()
	if err != nil {
		return modelfiles.Entry{}, err
	}
	return files.Resolve(ref)
}
