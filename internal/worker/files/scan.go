package files

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/library"
	"github.com/skein-run/skein/internal/slicestore"
)

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// scan looks at the library whenever it is asked to.
func (f *Files) scan(hashes *hashes) {
	for {
		select {
		case <-f.look:
		case <-f.life.Done():
			return
		}
		if err := f.list(hashes); err != nil {
			f.opts.Logger.Warn("some models of this node are not told to the cluster", "error", err)
		}
	}
}

// list brings what is known up to what is on the disk, without reading it: what
// is not hashed yet waits for hash.
func (f *Files) list(hashes *hashes) error {
	entries, listErr := f.opts.Library.List()
	copies, copyErr := f.opts.Store.Copies()
	errs := []error{listErr, copyErr}
	all := map[string]listed{}
	trouble := map[string]string{}
	for _, e := range entries {
		if e.Problem != "" {
			continue
		}
		if old, ok := all[e.Name]; ok {
			trouble[e.Name] = fmt.Sprintf("two models here are named %s: %s and %s; the first is the cluster's, rename the other to share it", e.Name, old.entry.Paths[0], e.Paths[0])
			continue
		}
		files, err := sized(e)
		if err != nil {
			trouble[e.Name] = untold(e.Name, err)
			errs = append(errs, fmt.Errorf("%s: %w", e.Name, err))
			continue
		}
		all[e.Name] = listed{e, files}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listed, f.trouble, f.broken, f.inStore = all, trouble, map[string]bool{}, copies
	for name, k := range f.known {
		if e, ok := all[name]; !ok || !slices.Equal(e.entry.Paths, k.entry.Paths) || !fresh(k.stored) {
			delete(f.known, name)
		}
	}
	for name, e := range all {
		if _, ok := f.known[name]; !ok {
			if k, ok := hashes.kept(e.entry); ok {
				f.known[name] = k
			}
		}
	}
	f.scanned = true
	f.reshelve()
	poke(f.todo)
	return errors.Join(errs...)
}

func untold(model string, err error) string {
	return fmt.Sprintf("%s is not told to the cluster: %v", model, err)
}

// sized are the files of a model before they are hashed.
func sized(e library.Entry) ([]cluster.File, error) {
	var out []cluster.File
	for _, path := range e.Paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		out = append(out, cluster.File{Name: filepath.Base(path), Size: info.Size()})
	}
	return out, nil
}

// hash reads what is listed and not hashed, one model after the other, the
// smallest first: another one that appears meanwhile is listed beside it.
func (f *Files) hash(hashes *hashes) {
	for {
		e, ok := f.next()
		if !ok {
			select {
			case <-f.todo:
				continue
			case <-f.life.Done():
				return
			}
		}
		f.opts.reading(e.Name)
		k, err := identify(f.life, e, hashes, f.progress)
		if f.life.Err() != nil {
			return
		}
		f.mu.Lock()
		f.hashing = nil
		now, same := f.listed[e.Name]
		switch {
		case !same || !slices.Equal(now.entry.Paths, e.Paths): // it is gone, or another one
		case err != nil:
			f.trouble[e.Name] = untold(e.Name, err)
			delete(f.listed, e.Name) // until the library is looked at again
		default:
			f.known[e.Name] = k
		}
		f.reshelve()
		names := slices.Collect(maps.Values(f.listed))
		f.mu.Unlock()
		if err != nil {
			f.opts.Logger.Warn("a model of this node is not told to the cluster", "model", e.Name, "error", err)
		}
		if err := hashes.save(names); err != nil {
			f.opts.Logger.Warn("the models' hashes are not kept, and are computed again at the next start", "error", err)
		}
	}
}

// next is the smallest model that is not hashed.
func (f *Files) next() (best library.Entry, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, l := range f.listed {
		if _, done := f.known[name]; done {
			continue
		}
		if e := l.entry; !ok || cmp.Or(cmp.Compare(e.SizeBytes, best.SizeBytes), cmp.Compare(e.Name, best.Name)) < 0 {
			best, ok = e, true
		}
	}
	if ok {
		f.hashing = &cluster.HashVitals{Model: best.Name, Total: best.SizeBytes}
		f.changes()
	}
	return best, ok
}

// progress notes how many bytes of a model have been read.
func (f *Files) progress(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hashing.Done = min(f.hashing.Done+int64(n), f.hashing.Total) // set by next
}

// Hashing tells of the model whose files are being read for their hashes; nil:
// none.
func (f *Files) Hashing() *cluster.HashVitals {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hashing == nil {
		return nil
	}
	v := *f.hashing
	return &v
}

// reshelve makes anew what is served; mu is held.
func (f *Files) reshelve() {
	f.shelf = map[string]slicestore.Stored{}
	put := func(s slicestore.Stored) {
		if key, err := s.ID.Key(nil); err == nil { // plain values, which can be written
			f.shelf[key] = s
		}
	}
	f.copies = map[string]string{}
	for _, c := range f.inStore {
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
func identify(ctx context.Context, e library.Entry, hashes *hashes, progress func(int)) (known, error) {
	k := known{entry: e, stored: slicestore.Stored{Paths: e.Paths}}
	for _, path := range e.Paths {
		h, err := hashes.of(ctx, path, progress)
		if err != nil {
			return known{}, err
		}
		k.add(path, h)
	}
	return k, nil
}

func (k *known) add(path string, h hashed) {
	k.files = append(k.files, cluster.File{Name: filepath.Base(path), Size: h.Size, SHA256: h.SHA256})
	k.stored.ID.Parts = append(k.stored.ID.Parts, slicestore.Part{Size: h.Size, Header: h.Header, Digest: h.SHA256})
	k.stored.Modified = append(k.stored.Modified, h.Modified)
}

// hashed is what is kept of a file.
type hashed struct {
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
	Header   int64     `json:"header"` // bytes before the tensors' data
	SHA256   string    `json:"sha256"`
}

func (h hashed) of(info fs.FileInfo) bool {
	return h.Size == info.Size() && h.Modified.Equal(info.ModTime())
}

// hashes keeps what was computed, by path.
type hashes struct {
	file string

	mu    sync.Mutex // guards known and dirty
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

// kept gives a model all of whose files were hashed as they are.
func (h *hashes) kept(e library.Entry) (known, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := known{entry: e, stored: slicestore.Stored{Paths: e.Paths}}
	for _, path := range e.Paths {
		x, ok := h.known[path]
		if info, err := os.Stat(path); !ok || err != nil || !x.of(info) {
			return known{}, false
		}
		k.add(path, x)
	}
	return k, true
}

// of gives a file's hash, and reads all of it only if it is not known.
func (h *hashes) of(ctx context.Context, path string, progress func(int)) (hashed, error) {
	file, err := os.Open(path)
	if err != nil {
		return hashed{}, err
	}
	defer file.Close() // only read from: nothing can be lost
	info, err := file.Stat()
	if err != nil {
		return hashed{}, err
	}
	h.mu.Lock()
	k, ok := h.known[path]
	h.mu.Unlock()
	if ok && k.of(info) {
		progress(int(k.Size))
		return k, nil
	}
	part, err := gguf.Parse(file, info.Size())
	if err != nil {
		return hashed{}, err
	}
	sum, err := slicestore.Hash(ctx, file, progress)
	if err != nil {
		return hashed{}, err
	}
	after, err := file.Stat()
	if err != nil || after.Size() != info.Size() || !after.ModTime().Equal(info.ModTime()) {
		return hashed{}, errors.New("the file changed while it was read; it is read again when the models are looked at next")
	}
	k = hashed{Size: info.Size(), Modified: info.ModTime(), Header: part.DataOffset, SHA256: sum}
	h.mu.Lock()
	h.known[path], h.dirty = k, true
	h.mu.Unlock()
	return k, nil
}

// save keeps the hashes of files that are listed.
func (h *hashes) save(models []listed) error {
	keep := map[string]bool{}
	for _, l := range models {
		for _, p := range l.entry.Paths {
			keep[p] = true
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
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
