package slicestore

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
)

// Copy is a whole model that was fetched and compared with its hashes.
type Copy struct {
	Model string // its name
	Name  string // of the slice
	Stored
}

// wholeName is the file that marks such a copy.
const wholeName = "whole.json"

// marked is what that file says.
type marked struct {
	Model    string      `json:"model"`
	ID       ID          `json:"id"`
	Modified []time.Time `json:"modified"`
}

// mark says of a slice that it is whole.
func (f *fetch) mark() error {
	m := marked{Model: f.want.Model, ID: f.id}
	for _, file := range f.files {
		info, err := file.Stat()
		if err != nil {
			return err
		}
		m.Modified = append(m.Modified, info.ModTime())
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(f.dir, wholeName), b)
}

// Copies lists the whole models in the store that were not changed since. An
// error is about some of them.
func (s *Store) Copies() ([]Copy, error) {
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list fetched models: %w", err)
	}
	var out []Copy
	var errs []error
	for _, e := range entries {
		dir := filepath.Join(s.Dir, e.Name())
		if !e.IsDir() {
			continue
		}
		c, err := readCopy(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a slice
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("fetched model in %s: %w", dir, err))
			continue
		}
		if c.unchanged() {
			out = append(out, c)
		}
	}
	return out, errors.Join(errs...)
}

// ErrInUse is what removing a copy gives while another process works on it.
var ErrInUse = errors.New("another process uses it")

// Remove deletes a slice or a copy. Nobody may use it.
func (s *Store) Remove(name string) error {
	dir := filepath.Join(s.Dir, filepath.Base(name))
	lock := flock.New(filepath.Join(dir, "lock"))
	mine, err := lock.TryLock()
	if err == nil && !mine {
		err = ErrInUse
	}
	if err != nil {
		return fmt.Errorf("remove a fetched model: %w", err)
	}
	// Windows removes no file that is open.
	if err := errors.Join(lock.Unlock(), os.RemoveAll(dir)); err != nil {
		return fmt.Errorf("remove a fetched model: %w", err)
	}
	return nil
}

// readCopy reads the mark of a slice.
func readCopy(dir string) (Copy, error) {
	b, err := os.ReadFile(filepath.Join(dir, wholeName))
	if err != nil {
		return Copy{}, err
	}
	var m marked
	if err := json.Unmarshal(b, &m); err != nil {
		return Copy{}, err
	}
	if len(m.Modified) != len(m.ID.Parts) {
		return Copy{}, errors.New("its times are missing")
	}
	c := Copy{Model: m.Model, Name: filepath.Base(dir), Stored: Stored{ID: m.ID, Modified: m.Modified}}
	for i := range m.ID.Parts {
		c.Paths = append(c.Paths, filepath.Join(dir, partName(i, len(m.ID.Parts))))
	}
	return c, nil
}

// unchanged tells whether the files are still what was hashed.
func (s *Stored) unchanged() bool {
	for i, p := range s.Paths {
		info, err := os.Stat(p)
		if err != nil || info.Size() != s.ID.Parts[i].Size || !info.ModTime().Equal(s.Modified[i]) {
			return false
		}
	}
	return true
}
