package slicestore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/slicestore/piece"
)

// workers fetch at once: while one waits for the disk, others use the network.
const workers = 4

// fetch is one call of Store.Fetch.
type fetch struct {
	store  *Store
	want   Want
	id     ID // with headers, from the holder that is asked now
	holder *Holder
	dir    string
	files  []*os.File
	paths  []string
	lone   bool // all that is here came from holder, in this call

	mu      sync.Mutex // guards all below
	journal *os.File
	have    map[Block]string // hash of what is here, as the journal says
	sure    map[Block]bool   // compared with it, or fetched, in this call
	by      map[Block]string // who gave it, of those that were fetched in this call
}

func (f *fetch) open() error {
	now := time.Now()
	if err := os.Chtimes(filepath.Join(f.dir, "lock"), now, now); err != nil {
		return err
	}
	for i, p := range f.want.ID.Parts {
		path := filepath.Join(f.dir, partName(i, len(f.want.ID.Parts)))
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		f.files, f.paths = append(f.files, file), append(f.paths, path)
		if err := punchable(file); err != nil {
			return fmt.Errorf("prepare %s: %w", path, err)
		}
		info, err := file.Stat()
		if err == nil && info.Size() != p.Size { // it would count as a change
			err = file.Truncate(p.Size)
		}
		if err != nil {
			return fmt.Errorf("prepare %s: %w", path, err)
		}
	}
	return f.openJournal()
}

// partName is what llama.cpp wants the parts of a split model to be called.
func partName(i, n int) string {
	if n == 1 {
		return "model.gguf"
	}
	return fmt.Sprintf("model-%05d-of-%05d.gguf", i+1, n)
}

func (f *fetch) close() error {
	var errs []error
	for _, file := range append(f.files, f.journal) {
		if file != nil {
			errs = append(errs, file.Close())
		}
	}
	return errors.Join(errs...)
}

// from brings the slice, and has it witnessed where that can be.
func (f *fetch) from(ctx context.Context, holders []Holder) error {
	if err := f.gather(ctx, holders); err != nil || f.want.Whole || len(holders) < 2 {
		return err
	}
	return f.witness(ctx, holders)
}

// gather asks one holder after the other. What is all here needs none.
func (f *fetch) gather(ctx context.Context, holders []Holder) error {
	if id, ok := f.knownID(); ok {
		f.id, f.holder = id, nil
		err := f.all(ctx)
		var missing *holderError
		var wrong *contentError
		switch {
		case err == nil || ctx.Err() != nil:
			return err
		case errors.As(err, &wrong):
			if err := f.reset(); err != nil {
				return err
			}
		case !errors.As(err, &missing):
			return err
		}
	}
	if len(holders) == 0 {
		return errors.New("no other node that is there has the model's files; start one that has, or copy them here")
	}
	var failed []string
	for i := range holders {
		err := f.one(ctx, &holders[i])
		var theirs *holderError
		if err == nil || ctx.Err() != nil || !errors.As(err, &theirs) {
			return err
		}
		failed = append(failed, fmt.Sprintf("%s: %v", holders[i].Name, theirs.err))
	}
	return fmt.Errorf("no node could give the model's files: %s", strings.Join(failed, "; "))
}

// one takes what is missing from a holder.
func (f *fetch) one(ctx context.Context, h *Holder) error {
	id, err := h.identify(ctx, f.want.ID, f.stall())
	if err != nil {
		return err
	}
	f.id, f.holder, f.lone = id, h, len(f.have) == 0
	err = f.all(ctx)
	var wrong *contentError
	if !errors.As(err, &wrong) || ctx.Err() != nil {
		return err
	}
	// Not the model. If part of it came from elsewhere, this holder may be
	// right, so it is asked for all.
	lone := f.lone
	if err := f.reset(); err != nil {
		return err
	}
	if lone {
		return &holderError{wrong}
	}
	f.lone = true
	err = f.all(ctx)
	if errors.As(err, &wrong) {
		if err := f.reset(); err != nil {
			return err
		}
		return &holderError{wrong}
	}
	return err
}

// all makes sure that everything wanted is here and right.
func (f *fetch) all(ctx context.Context) error {
	model, err := f.headers(ctx)
	if err != nil {
		return err
	}
	ranges, err := f.want.Pieces(model)
	if err != nil {
		return err
	}
	var blocks []Block
	for _, r := range ranges {
		if r.Part < 0 || r.Part >= len(f.id.Parts) {
			return fmt.Errorf("part %d of %d", r.Part, len(f.id.Parts))
		}
		blocks = append(blocks, piece.Blocks(r)...)
	}
	if err := f.store.room(f.missing(blocks), f.want.Name); err != nil {
		return err
	}
	if err := f.bring(ctx, blocks, f.want.Progress); err != nil {
		return err
	}
	if err := f.rememberID(); err != nil || !f.want.Whole {
		return err
	}
	return f.checkWhole(ctx)
}

func (f *fetch) missing(blocks []Block) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	var n int64
	for _, b := range blocks {
		if _, ok := f.have[b]; !ok {
			n += b.Bytes()
		}
	}
	return n
}

// headers fetches what lies before the data and reads it. A header that makes
// no sense is the holder's fault.
func (f *fetch) headers(ctx context.Context) (*gguf.Model, error) {
	var blocks []Block
	for i, p := range f.id.Parts {
		blocks = append(blocks, piece.Blocks(Block{Part: i, Length: p.Header, Count: 1})...)
	}
	if err := f.bring(ctx, blocks, func(int64, int64, string) {}); err != nil {
		return nil, fmt.Errorf("the model's header: %w", err)
	}
	var parts []*gguf.File
	for i, p := range f.id.Parts {
		part, err := gguf.Parse(f.files[i], p.Size)
		if err == nil && part.DataOffset != p.Header {
			err = fmt.Errorf("it is %d bytes long, %d were announced", part.DataOffset, p.Header)
		}
		if err != nil {
			return nil, &contentError{fmt.Errorf("the model's header: %w", err)}
		}
		parts = append(parts, part)
	}
	m, err := gguf.Join(parts...)
	if err != nil {
		return nil, &contentError{fmt.Errorf("the model's header: %w", err)}
	}
	return m, nil
}

// bring makes sure that all blocks are here and right.
func (f *fetch) bring(ctx context.Context, blocks []Block, progress func(done, total int64, from string)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var total int64
	for _, b := range blocks {
		total += b.Bytes()
	}
	from := ""
	if f.holder != nil {
		from = f.holder.Name
	}
	var (
		next atomic.Int64
		wg   sync.WaitGroup
		mu   sync.Mutex // guards done, and makes progress one at a time
		done int64
	)
	for range workers {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(blocks) || ctx.Err() != nil {
					return
				}
				if err := f.block(ctx, blocks[i]); err != nil {
					cancel(err)
					return
				}
				mu.Lock()
				done += blocks[i].Bytes()
				progress(done, total, from)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	for _, file := range f.files {
		if err := file.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// block checks a block that is here, or fetches it.
func (f *fetch) block(ctx context.Context, b Block) error {
	if err := b.Inside(f.id); err != nil {
		return err
	}
	f.mu.Lock()
	want, known := f.have[b]
	sure := f.sure[b]
	f.mu.Unlock()
	if sure {
		return nil
	}
	if known {
		if got, err := f.hash(b); err == nil && got == want {
			f.trust(b)
			return nil
		}
	}
	if f.holder == nil {
		return &holderError{errors.New("not all of it is here")}
	}
	body, sum, err := f.holder.get(ctx, b, f.stall())
	if err != nil {
		return err
	}
	write := f.store.writeAt
	if write == nil {
		write = (*os.File).WriteAt
	}
	for i := range b.Count {
		if _, err := write(f.files[b.Part], body[i*b.Length:(i+1)*b.Length], b.Offset+i*b.Stride); err != nil {
			return err
		}
	}
	if err := f.note(b, sum); err != nil {
		return err
	}
	f.mu.Lock()
	f.by[b] = f.holder.Name
	f.mu.Unlock()
	f.trust(b)
	return nil
}

func (f *fetch) trust(b Block) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sure[b] = true
}

func (f *fetch) stall() time.Duration {
	if f.store.Stall > 0 {
		return f.store.Stall
	}
	return 15 * time.Second
}

// hash is that of a block as it is on the disk.
func (f *fetch) hash(b Block) (string, error) {
	h := sha256.New()
	for i := range b.Count {
		if _, err := io.Copy(h, io.NewSectionReader(f.files[b.Part], b.Offset+i*b.Stride, b.Length)); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// contentError tells that what came, each piece as it was sent, is not the
// model.
type contentError struct{ err error }

func (e *contentError) Error() string { return e.err.Error() }
func (e *contentError) Unwrap() error { return e.err }

// checkWhole compares the files with their hashes, and marks the copy.
func (f *fetch) checkWhole(ctx context.Context) error {
	for i, p := range f.id.Parts {
		got, err := Hash(ctx, io.NewSectionReader(f.files[i], 0, p.Size), func(int) {})
		if err != nil {
			return err
		}
		if got != p.Digest {
			return &contentError{fmt.Errorf("file %d is not the model's: its SHA-256 is %s instead of %s", i+1, got, p.Digest)}
		}
	}
	return f.mark()
}

// reset forgets all that is here.
func (f *fetch) reset() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.have, f.sure, f.by = map[Block]string{}, map[Block]bool{}, map[Block]string{}
	errs := []error{f.journal.Truncate(0)}
	_, err := f.journal.Seek(0, io.SeekStart)
	errs = append(errs, err)
	for i, file := range f.files {
		errs = append(errs, file.Truncate(0), file.Truncate(f.want.ID.Parts[i].Size))
	}
	for _, name := range []string{idName, witnessed} {
		if err := os.Remove(filepath.Join(f.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// idName is the file beside a slice that says how long the headers are.
const idName = "id.json"

func (f *fetch) knownID() (ID, bool) {
	if !slices.ContainsFunc(f.want.ID.Parts, func(p Part) bool { return p.Header == 0 }) {
		return f.want.ID, true
	}
	b, err := os.ReadFile(filepath.Join(f.dir, idName))
	var id ID
	if err != nil || json.Unmarshal(b, &id) != nil {
		return ID{}, false // holders are asked then
	}
	return id, id.Is(f.want.ID) == nil
}

func (f *fetch) rememberID() error {
	b, err := json.Marshal(f.id)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(f.dir, idName), b)
}

// writeFile replaces a file as a whole.
func writeFile(path string, b []byte) error {
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
