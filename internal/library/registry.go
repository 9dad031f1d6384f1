package library

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/gofrs/flock"
)

// registryVersion grows with every incompatible change.
//
//	1  2026-11-22  first version
const registryVersion = 1

// record is the registry file.
type record struct {
	Version int        `json:"version"`
	Models  []recorded `json:"models"`
}

type recorded struct {
	Paths []string  `json:"paths"` // absolute, all parts in order
	Added time.Time `json:"added"`
}

func (r *record) find(first string) *recorded {
	for i := range r.Models {
		if r.Models[i].Paths[0] == first {
			return &r.Models[i]
		}
	}
	return nil
}

func (r *record) remove(paths []string) bool {
	before := len(r.Models)
	r.Models = slices.DeleteFunc(r.Models, func(m recorded) bool { return m.Paths[0] == paths[0] })
	return len(r.Models) != before
}

// registry reads and replaces the registry file.
type registry struct {
	path string
	// write fills and syncs the new file; a field so that a test can be the
	// full disk.
	write func(f *os.File, data []byte) error
}

func newRegistry(path string) registry {
	return registry{path: path, write: func(f *os.File, data []byte) error {
		if _, err := f.Write(data); err != nil {
			return err
		}
		return f.Sync()
	}}
}

// mark identifies the present state of the file; nil: there is none.
func (g registry) mark() os.FileInfo {
	info, err := os.Stat(g.path)
	if err != nil {
		return nil
	}
	return info
}

// sameFile tells whether two marks mean the same contents. Every update makes a
// new file, so identity tells even where times are coarse.
func sameFile(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// read gives the registry, empty if there is none.
func (g registry) read() (record, error) {
	empty := record{Version: registryVersion}
	data, err := os.ReadFile(g.path)
	if errors.Is(err, fs.ErrNotExist) {
		return empty, nil
	}
	if err != nil {
		return empty, fmt.Errorf("read model registry: %w; check the permissions", err)
	}
	var r record
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		// A newer version may have fields that are unknown here: say that first.
		var v struct{ Version int }
		if json.Unmarshal(data, &v) != nil || v.Version <= registryVersion {
			return empty, g.corrupt(err)
		}
		r.Version = v.Version
	}
	if r.Version > registryVersion {
		return empty, fmt.Errorf("model registry %s has version %d, this skein knows %d; update skein", g.path, r.Version, registryVersion)
	}
	if r.Version < 1 {
		return empty, g.corrupt(errors.New("it has no version"))
	}
	if d.More() {
		return empty, g.corrupt(errors.New("there is something after its end"))
	}
	for _, m := range r.Models {
		if len(m.Paths) == 0 || slices.ContainsFunc(m.Paths, func(p string) bool { return !filepath.IsAbs(p) }) {
			return empty, g.corrupt(errors.New("a model has no absolute path"))
		}
	}
	return r, nil
}

func (g registry) corrupt(err error) error {
	return fmt.Errorf("model registry %s is damaged (%w); repair it, or move it away and add your models again with `skein models add`", g.path, err)
}

// update changes the registry under a lock that other processes honour. A
// registry that cannot be read is left as it is.
func (g registry) update(change func(*record) bool) error {
	if err := os.MkdirAll(filepath.Dir(g.path), 0o700); err != nil {
		return fmt.Errorf("create the folder of the model registry: %w; set SKEIN_HOME to a folder you may write to", err)
	}
	lock := flock.New(g.path + ".lock")
	if err := lock.Lock(); err != nil {
		return fmt.Errorf("lock model registry: %w; set SKEIN_HOME to a folder you may write to", err)
	}
	// Unlocking by closing: it cannot undo what was written.
	defer lock.Close()
	r, err := g.read()
	if err != nil {
		return err
	}
	if !change(&r) {
		return nil
	}
	r.Version = registryVersion
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write model registry: %w", err)
	}
	return g.replace(append(data, '\n'))
}

// replace writes a new file beside the old one and renames it, so that at no
// moment and after no crash there is half a registry.
func (g registry) replace(data []byte) error {
	dir := filepath.Dir(g.path)
	f, err := os.CreateTemp(dir, ".models-*.json")
	if err != nil {
		return fmt.Errorf("write model registry: %w; set SKEIN_HOME to a folder you may write to", err)
	}
	defer os.Remove(f.Name()) // fails, as it should, once renamed
	if err := errors.Join(g.write(f, data), f.Close()); err != nil {
		if errors.Is(err, syscall.ENOSPC) {
			return fmt.Errorf("write model registry: %w; free some space on the disk of %s, the old registry is unchanged", err, dir)
		}
		return fmt.Errorf("write model registry: %w; the old registry is unchanged", err)
	}
	if err := os.Rename(f.Name(), g.path); err != nil {
		return fmt.Errorf("write model registry: %w; the old registry is unchanged", err)
	}
	return syncDir(dir)
}

// syncDir makes a rename durable. Windows has no such call and needs none.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
