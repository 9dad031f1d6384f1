package slicestore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/gofrs/flock"

	"github.com/skein-run/skein/internal/gguf"
)

// Store keeps fetched slices below a folder.
type Store struct {
	Dir string // created when needed
}

// Remote is where a model can be fetched from.
type Remote struct {
	URL    string // base, "http://10.0.0.1:7000"
	Token  string
	Client *http.Client
	ID     ID
}

// workers fetch at once: while one waits for the disk, others use the network.
const workers = 4

// Fetch brings the pieces of a model that a shard needs and gives the paths of
// the files that hold them. name is the slice's own, from ID.Key; pieces says,
// once the header is here, which ranges the shard reads. progress is called
// with the part that is here, from one goroutine at a time. What was fetched
// before is not fetched again.
func (s *Store) Fetch(ctx context.Context, name string, from Remote, pieces func(*gguf.Model) ([]Block, error), progress func(float64)) (paths []string, err error) {
	if err := checkID(from.ID); err != nil {
		return nil, fmt.Errorf("fetch a slice: %w", err)
	}
	dir := filepath.Join(s.Dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("fetch a slice: %w", err)
	}
	lock := flock.New(filepath.Join(dir, "lock"))
	if _, err := lock.TryLockContext(ctx, retryLock); err != nil {
		return nil, fmt.Errorf("fetch a slice: another process is at it: %w", err)
	}
	f := &fetch{from: from, dir: dir}
	defer func() { err = errors.Join(err, f.close(), lock.Unlock()) }()
	if err := f.open(); err != nil {
		return nil, fmt.Errorf("fetch a slice: %w", err)
	}
	model, err := f.headers(ctx)
	if err != nil {
		return nil, fmt.Errorf("fetch the model's header: %w", err)
	}
	ranges, err := pieces(model)
	if err != nil {
		return nil, err
	}
	var blocks []Block
	for _, r := range ranges {
		if r.Part < 0 || r.Part >= len(from.ID.Parts) {
			return nil, fmt.Errorf("fetch a slice: part %d of %d", r.Part, len(from.ID.Parts))
		}
		blocks = append(blocks, Blocks(r)...)
	}
	if err := f.bring(ctx, blocks, progress); err != nil {
		return nil, fmt.Errorf("fetch a slice: %w", err)
	}
	return f.paths, nil
}

// checkID refuses sizes that no model has, before files of such are made.
func checkID(id ID) error {
	if len(id.Parts) == 0 || len(id.Parts) > 4096 {
		return fmt.Errorf("a model of %d files", len(id.Parts))
	}
	for _, p := range id.Parts {
		if p.Size < 24 || p.Header < 24 || p.Header > p.Size || p.Header > 1<<30 || p.Size > 1<<46 {
			return fmt.Errorf("a file of %d bytes with a header of %d", p.Size, p.Header)
		}
	}
	return nil
}

// fetch is one call of Fetch.
type fetch struct {
	from  Remote
	dir   string
	files []*os.File
	paths []string

	mu      sync.Mutex // guards all below
	journal *os.File
	have    map[Block]string // hash of what is here
}

func (f *fetch) open() error {
	for i, p := range f.from.ID.Parts {
		path := filepath.Join(f.dir, partName(i, len(f.from.ID.Parts)))
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		f.files, f.paths = append(f.files, file), append(f.paths, path)
		if err := punchable(file); err != nil {
			return fmt.Errorf("prepare %s: %w", path, err)
		}
		if err := file.Truncate(p.Size); err != nil {
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

// headers fetches what lies before the data and reads it.
func (f *fetch) headers(ctx context.Context) (*gguf.Model, error) {
	var blocks []Block
	for i, p := range f.from.ID.Parts {
		blocks = append(blocks, Blocks(Block{Part: i, Length: p.Header, Count: 1})...)
	}
	if err := f.bring(ctx, blocks, func(float64) {}); err != nil {
		return nil, err
	}
	var parts []*gguf.File
	for i, p := range f.from.ID.Parts {
		part, err := gguf.Parse(f.files[i], p.Size)
		if err != nil {
			return nil, err
		}
		if part.DataOffset != p.Header {
			return nil, fmt.Errorf("the header is %d bytes long, %d were announced", part.DataOffset, p.Header)
		}
		parts = append(parts, part)
	}
	return gguf.Join(parts...)
}

// bring makes sure that all blocks are here and right.
func (f *fetch) bring(ctx context.Context, blocks []Block, progress func(float64)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var total int64
	for _, b := range blocks {
		total += b.Bytes()
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
				if err := f.one(ctx, blocks[i]); err != nil {
					cancel(err)
					return
				}
				mu.Lock()
				done += blocks[i].Bytes()
				progress(float64(done) / float64(total))
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

// one checks a block that is here, or fetches it.
func (f *fetch) one(ctx context.Context, b Block) error {
	if err := b.inside(f.from.ID); err != nil {
		return err
	}
	f.mu.Lock()
	want, known := f.have[b]
	f.mu.Unlock()
	if known {
		if got, err := f.hash(b); err == nil && got == want {
			return nil
		}
	}
	body, sum, err := f.get(ctx, b)
	if err != nil {
		return err
	}
	for i := range b.Count {
		if _, err := f.files[b.Part].WriteAt(body[i*b.Length:(i+1)*b.Length], b.Offset+i*b.Stride); err != nil {
			return err
		}
	}
	return f.note(b, sum)
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

// get fetches a block and compares its hash.
func (f *fetch) get(ctx context.Context, b Block) (body []byte, sum string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.from.URL+path+"?"+b.query(), nil)
	if err != nil {
		return nil, "", err
	}
	req.Header.Set("Authorization", "Bearer "+f.from.Token)
	res, err := f.from.Client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close() // read to its end below
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 200)) // the status says enough without it
		return nil, "", fmt.Errorf("%s: %s", res.Status, bytes.TrimSpace(text))
	}
	if body, err = io.ReadAll(io.LimitReader(res.Body, b.Bytes()+1)); err != nil {
		return nil, "", err
	}
	if int64(len(body)) != b.Bytes() {
		return nil, "", fmt.Errorf("%d bytes arrived of %d", len(body), b.Bytes())
	}
	digest := sha256.Sum256(body)
	sum = hex.EncodeToString(digest[:])
	if told := res.Trailer.Get(digestTrailer); told != sum {
		return nil, "", fmt.Errorf("bytes %d and on of part %d were changed on their way: their hash is %s instead of %q", b.Offset, b.Part, sum, told)
	}
	return body, sum, nil
}
