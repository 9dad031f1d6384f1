// Package home owns the layout of SKEIN_HOME, the folder in which a node keeps
// what is its own: the configuration, the registry of model files, installed
// engine libraries, the chat history, and the address file by which commands
// find the node that runs for this folder.
//
// It imports nothing of ours. A Home is a value without state and may be used
// from any goroutine; the files are replaced as a whole, so readers in other
// processes never see half of one.
package home

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/adrg/xdg"
)

// Env is the environment variable that names the folder.
const Env = "SKEIN_HOME"

// Home is a SKEIN_HOME. The zero value is not usable: call Locate.
type Home struct {
	dir string // absolute
}

// Locate gives the folder named by value, the content of SKEIN_HOME, or the
// platform's data folder when it is empty: $XDG_DATA_HOME/skein or
// ~/.local/share/skein on Linux, ~/Library/Application Support/skein on macOS,
// %LOCALAPPDATA%\skein on Windows. It creates nothing.
func Locate(value string) (Home, error) {
	if value == "" {
		return Home{dir: filepath.Join(xdg.DataHome, "skein")}, nil
	}
	dir, err := filepath.Abs(value)
	if err != nil {
		return Home{}, fmt.Errorf("locate %s=%s: %w", Env, value, err)
	}
	return Home{dir: dir}, nil
}

// Ensure creates the folder, readable by its owner only, when it is missing,
// and says so where nothing can be written to it: a disk that is read-only is
// told by its name at the start, and not by what fails first.
func (h Home) Ensure() error {
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return fmt.Errorf("create %s: %w; set %s to a folder you may write to", h.dir, err, Env)
	}
	f, err := os.CreateTemp(h.dir, ".writable-")
	if err != nil {
		return fmt.Errorf("%s can't be written (%w); mount it writable, or set %s to a folder you may write to", h.dir, err, Env)
	}
	if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
		return fmt.Errorf("try to write to %s: %w", h.dir, err)
	}
	return nil
}

// Dir is the folder itself.
func (h Home) Dir() string { return h.dir }

// ConfigFile is where the configuration is read from unless --config says
// otherwise.
func (h Home) ConfigFile() string { return filepath.Join(h.dir, "config.yaml") }

// NodeFile holds the address of the running node; see Node.
func (h Home) NodeFile() string { return filepath.Join(h.dir, "node.json") }

// EngineDir is where `skein engine install` puts libraries.
func (h Home) EngineDir() string { return filepath.Join(h.dir, "engine") }

// ModelRegistry lists the model files that were added by hand.
func (h Home) ModelRegistry() string { return filepath.Join(h.dir, "models.json") }

// HistoryFile holds the lines typed into `skein run`.
func (h Home) HistoryFile() string { return filepath.Join(h.dir, "history") }
