package slicestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gofrs/flock"

	"github.com/skein-run/skein/internal/bytesize"
	"github.com/skein-run/skein/internal/gguf"
)

// Store keeps fetched slices below a folder.
type Store struct {
	Dir string // created when needed
	// Free tells how many bytes the disk of a folder has left; nil: not asked,
	// a full disk is noticed when it is.
	Free func(dir string) (int64, error)
	// Keep says which slices must stay when room is needed for another; nil:
	// all.
	Keep func(name string) bool
	// Stall is how long a holder may send nothing; 15 s.
	Stall time.Duration

	// writeAt replaces os.File's in tests.
	writeAt func(f *os.File, b []byte, at int64) (int, error)
}

// Want is what to fetch.
type Want struct {
	Name string // of the slice in the store, from ID.Key
	// ID is the model. Where its parts' Header is 0, holders are asked.
	ID ID
	// Pieces says, once the header is here, which ranges are needed.
	Pieces func(*gguf.Model) ([]Block, error)
	// Whole tells that these are all, and that ID has the SHA-256 of the files,
	// which are compared in the end. Model names such a copy for Copies.
	Whole bool
	Model string
	// Progress is told what is here, of what is needed, in bytes, and who gives
	// the rest, from one goroutine at a time; nil: nobody wants to know.
	Progress func(done, total int64, from string)
}

// NoSpaceError tells that the disk is full. Nothing of the slice is kept then.
type NoSpaceError struct {
	Dir        string
	Need, Free int64 // bytes; Need 0: it was noticed while writing
	Err        error
}

func (e *NoSpaceError) Error() string {
	if e.Need == 0 {
		return fmt.Sprintf("the disk of %s is full; free some space there, or set SKEIN_HOME to a larger disk", e.Dir)
	}
	return fmt.Sprintf("the disk of %s has %s left, and %s are needed; free some space there, or set SKEIN_HOME to a larger disk", e.Dir, bytesize.Format(e.Free), bytesize.Format(e.Need))
}

// Unwrap gives the system's error.
func (e *NoSpaceError) Unwrap() error { return e.Err }

// retryLock is how often a lock that another process holds is tried.
const retryLock = 100 * time.Millisecond

// Fetch brings the pieces of a model and gives the paths of the files that hold
// them. Holders are asked in their order: the next one goes on where one
// stalled, broke off, or gave what the model is not. What was fetched before is
// not fetched again. A slice that came from one holder is compared with another,
// and a *DisagreedError says that they differ.
func (s *Store) Fetch(ctx context.Context, w Want, holders ...Holder) (paths []string, err error) {
	if err := w.ID.Check(); err != nil {
		return nil, fmt.Errorf("fetch a slice: %w", err)
	}
	if w.Progress == nil {
		w.Progress = func(int64, int64, string) {}
	}
	dir := filepath.Join(s.Dir, w.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("fetch a slice: %w", s.asFull(err))
	}
	lock := flock.New(filepath.Join(dir, "lock"))
	if _, err := lock.TryLockContext(ctx, retryLock); err != nil {
		return nil, fmt.Errorf("fetch a slice: another process is at it: %w", s.asFull(err))
	}
	if w.Whole {
		if c, err := readCopy(dir); err == nil && c.ID.Is(w.ID) == nil && c.unchanged() {
			return c.Paths, lock.Unlock()
		}
	}
	f := &fetch{store: s, want: w, dir: dir, sure: map[Block]bool{}, by: map[Block]string{}}
	defer func() {
		err = errors.Join(err, f.close(), lock.Unlock())
		var space *NoSpaceError
		if errors.As(err, &space) {
			// Half a slice would only take the room that others need.
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if err := f.open(); err != nil {
		return nil, fmt.Errorf("fetch a slice: %w", s.asFull(err))
	}
	if err := f.from(ctx, holders); err != nil {
		return nil, fmt.Errorf("fetch a slice: %w", s.asFull(err))
	}
	return f.paths, nil
}

// asFull gives errors of a full disk their words.
func (s *Store) asFull(err error) error {
	var known *NoSpaceError
	if err != nil && full(err) && !errors.As(err, &known) {
		return &NoSpaceError{Dir: s.Dir, Err: err}
	}
	return err
}

// room makes sure that there is room for so many bytes, by dropping slices that
// nobody needs, the oldest first.
func (s *Store) room(need int64, own string) error {
	if s.Free == nil {
		return nil
	}
	free, err := s.Free(s.Dir)
	if err != nil {
		return fmt.Errorf("look at the disk of %s: %w", s.Dir, err)
	}
	if free >= need {
		return nil
	}
	if s.Keep != nil {
		if err := s.drop(func(name string) bool { return name == own || s.Keep(name) }, func() (enough bool, err error) {
			free, err = s.Free(s.Dir)
			return free >= need, err
		}); err != nil {
			return err
		}
	}
	if free < need {
		return &NoSpaceError{Dir: s.Dir, Need: need, Free: free}
	}
	return nil
}

// drop removes slices, the longest unused first, until it is enough.
func (s *Store) drop(keep func(string) bool, enough func() (bool, error)) error {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return fmt.Errorf("look for old slices: %w", err)
	}
	type old struct {
		name string
		used time.Time
	}
	var olds []old
	for _, e := range entries {
		if !e.IsDir() || keep(e.Name()) {
			continue
		}
		info, err := os.Stat(filepath.Join(s.Dir, e.Name(), "lock"))
		if errors.Is(err, fs.ErrNotExist) {
			continue // no slice
		}
		if err != nil {
			return fmt.Errorf("look for old slices: %w", err)
		}
		olds = append(olds, old{e.Name(), info.ModTime()})
	}
	slices.SortFunc(olds, func(a, b old) int { return a.used.Compare(b.used) })
	for _, o := range olds {
		dir := filepath.Join(s.Dir, o.name)
		lock := flock.New(filepath.Join(dir, "lock"))
		if mine, err := lock.TryLock(); err != nil || !mine {
			continue // another process uses it
		}
		// Windows removes no file that is open.
		if err := errors.Join(lock.Unlock(), os.RemoveAll(dir)); err != nil {
			return fmt.Errorf("remove an old slice: %w", err)
		}
		if done, err := enough(); done || err != nil {
			return err
		}
	}
	return nil
}
