package files

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/library"
	"github.com/skein-run/skein/internal/slicestore"
)

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// scan looks at the library whenever it is asked to.
func (f *Files) scan() {
	hashes := loadHashes(f.opts.Hashes)
	for {
		select {
		case <-f.look:
		case <-f.life.Done():
			return
		}
		if err := f.scanOnce(hashes); err != nil && f.life.Err() == nil {
			f.opts.Logger.Warn("some models of this node are not told to the cluster", "error", err)
		}
	}
}

// scanOnce brings what is known up to what is on the disk. New files are hashed
// one after the other, the smallest first, and told one by one.
func (f *Files) scanOnce(hashes *hashes) error {
	entries, listErr := f.opts.Library.List()
	copies, copyErr := f.opts.Store.Copies()
	listed := map[string]library.Entry{}
	twice := map[string]string{}
	for _, e := range entries {
		if e.Problem != "" {
			continue
		}
		if old, ok := listed[e.Name]; ok {
			twice[e.Name] = fmt.Sprintf("two models here are named %s: %s and %s; the first is the cluster's, rename the other to share it", e.Name, old.Paths[0], e.Paths[0])
			continue
		}
		listed[e.Name] = e
	}
	f.mu.Lock()
	f.listed, f.trouble, f.broken = listed, twice, map[string]bool{}
	for name, k := range f.known {
		if e, ok := listed[name]; !ok || !slices.Equal(e.Paths, k.entry.Paths) || !fresh(k.stored) {
			delete(f.known, name)
		}
	}
	f.scanned = true
	f.reshelve(copies)
	f.mu.Unlock()

	order := slices.SortedFunc(maps.Values(listed), func(a, b library.Entry) int {
		return cmp.Or(cmp.Compare(a.SizeBytes, b.SizeBytes), cmp.Compare(a.Name, b.Name))
	})
	errs := []error{listErr, copyErr}
	for _, e := range order {
		k, err := identify(f.life, e, hashes)
		if f.life.Err() != nil {
			return context.Cause(f.life)
		}
		f.mu.Lock()
		if err != nil {
			f.trouble[e.Name] = fmt.Sprintf("%s is not told to the cluster: %v", e.Name, err)
			delete(f.listed, e.Name)
			errs = append(errs, fmt.Errorf("%s: %w", e.Name, err))
		} else {
			f.known[e.Name] = k
		}
		f.reshelve(copies)
		f.mu.Unlock()
	}
	errs = append(errs, hashes.save(listed))
	return errors.Join(errs...)
}

// reshelve makes anew what is served; mu is held.
func (f *Files) reshelve(copies []slicestore.Copy) {
	f.shelf = map[string]slicestore.Stored{}
	put := func(s slicestore.Stored) {
		if key, err := s.ID.Key(nil); err == nil { // plain values, which can be written
			f.shelf[key] = s
		}
	}
	f.copies = map[string]string{}
	for _, c := range copies {
		put(c.Stored)
		f.copies[c.Model] = c.Name
	}
	for _, name := range sortedKeys(f.known) {
		put(f.known[name].stored)
	}
	f.changes()
}

// fresh tells whether files are as they were when they were hashed.
func fresh(s slicestore.Stored) bool {
	for i, p := range s.Paths {
		info, err := os.Stat(p)
		if err != nil || info.Size() != s.ID.Parts[i].Size || !info.ModTime().Equal(s.Modified[i]) {
			return false
		}
	}
	return true
}

// identify hashes a model's files, where that is not known.
func identify(ctx context.Context, e library.Entry, hashes *hashes) (known, error) {
	k := known{entry: e, stored: slicestore.Stored{Paths: e.Paths}}
	for _, path := range e.Paths {
		h, err := hashes.of(ctx, path)
		if err != nil {
			return known{}, err
		}
		k.files = append(k.files, cluster.File{Name: filepath.Base(path), Size: h.Size, SHA256: h.SHA256})
		k.stored.ID.Parts = append(k.stored.ID.Parts, slicestore.Part{Size: h.Size, Header: h.Header, Digest: h.SHA256})
		k.stored.Modified = append(k.stored.Modified, h.Modified)
	}
	return k, nil
}

// hashed is what is kept of a file.
type hashed struct {
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
	Header   int64     `json:"header"` // bytes before the tensors' data
	SHA256   string    `json:"sha256"`
}

// hashes keeps what was computed, by path. It belongs to the scanning goroutine.
type hashes struct {
	file  string
	known map[string]hashed
	dirty bool
}

// loadHashes reads what was kept. What can't be read is computed anew.
func loadHashes(file string) *hashes {
	h := &hashes{file: file, known: map[string]hashed{}}
	b, err := os.ReadFile(file)
	if err != nil || json.Unmarshal(b, &h.known) != nil {
		h.known = map[string]hashed{}
	}
	return h
}

// of gives a file's hash, and reads all of it only if it is not known.
func (h *hashes) of(ctx context.Context, path string) (hashed, error) {
	file, err := os.Open(path)
	if err != nil {
		return hashed{}, err
	}
	defer file.Close() // only read from: nothing can be lost
	info, err := file.Stat()
	if err != nil {
		return hashed{}, err
	}
	if k, ok := h.known[path]; ok && k.Size == info.Size() && k.Modified.Equal(info.ModTime()) {
		return k, nil
	}
	part, err := gguf.Parse(file, info.Size())
	if err != nil {
		return hashed{}, err
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, &untilDone{ctx, file}); err != nil {
		return hashed{}, err
	}
	after, err := file.Stat()
	if err != nil || after.Size() != info.Size() || !after.ModTime().Equal(info.ModTime()) {
		return hashed{}, errors.New("the file changed while it was read; it is read again when the models are looked at next")
	}
	k := hashed{Size: info.Size(), Modified: info.ModTime(), Header: part.DataOffset, SHA256: hex.EncodeToString(sum.Sum(nil))}
	h.known[path], h.dirty = k, true
	return k, nil
}

// save keeps the hashes of files that are listed.
func (h *hashes) save(listed map[string]library.Entry) error {
	keep := map[string]bool{}
	for _, e := range listed {
		for _, p := range e.Paths {
			keep[p] = true
		}
	}
	for p := range h.known {
		if !keep[p] {
			delete(h.known, p)
			h.dirty = true
		}
	}
	if !h.dirty {
		return nil
	}
	b, err := json.Marshal(h.known)
	if err == nil {
		err = os.WriteFile(h.file+".new", b, 0o600)
	}
	if err == nil {
		err = os.Rename(h.file+".new", h.file)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("keep the models' hashes: %w", err), remove(h.file+".new"))
	}
	h.dirty = false
	return nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// untilDone is a reader that a context ends.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u *untilDone) Read(b []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	return u.r.Read(b)
}
