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
	"time"

	"github.com/skein-run/skein/internal/slicestore/piece"
)

// The hash that a model is known by is of whole files, which a slice has not.
// What one holder gives is compared with what another one has instead: hashes
// of the same blocks, without their bytes.

// DisagreedError tells that two holders of one model have other bytes in it.
// Which of them is right the hash of the whole tells.
type DisagreedError struct {
	A, B string // their names; A "": who gave it is not known any more
	Part int    // of the model's files, from 0
	At   int64  // byte in it
}

func (e *DisagreedError) Error() string {
	a := e.A
	if a == "" {
		a = "what was fetched before"
	}
	return fmt.Sprintf("%s and %s differ at byte %d of file %d of the model: one of the two copies is damaged", a, e.B, e.At, e.Part+1)
}

// witnessed is the file beside a slice that says that all of it was compared.
const witnessed = "witnessed"

// witness compares the blocks of a slice with what holders have that did not
// give them. One that does not answer is passed over; without any, the slice is
// taken as it came.
func (f *fetch) witness(ctx context.Context, holders []Holder) error {
	mark := filepath.Join(f.dir, witnessed)
	f.mu.Lock()
	fetched := len(f.by) > 0
	var blocks []Block
	for b := range f.sure {
		blocks = append(blocks, b)
	}
	f.mu.Unlock()
	if _, err := os.Stat(mark); err == nil && !fetched {
		return nil
	}
	if err := os.Remove(mark); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		next  atomic.Int64
		alone atomic.Int64 // blocks without a witness
		wg    sync.WaitGroup
	)
	silent := make([]atomic.Bool, len(holders))
	for range workers {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(blocks) || ctx.Err() != nil {
					return
				}
				ok, err := f.compare(ctx, blocks[i], holders, silent)
				if err != nil {
					cancel(err)
					return
				}
				if !ok {
					alone.Add(1)
				}
			}
		})
	}
	wg.Wait()
	err := context.Cause(ctx)
	var differ *DisagreedError
	switch {
	case errors.As(err, &differ):
		return errors.Join(err, f.reset()) // neither is to be trusted
	case err != nil || alone.Load() > 0:
		return err
	}
	return os.WriteFile(mark, nil, 0o600)
}

// compare asks holders for a block's hash until one answers; false: none did.
func (f *fetch) compare(ctx context.Context, b Block, holders []Holder, silent []atomic.Bool) (bool, error) {
	f.mu.Lock()
	own, giver := f.have[b], f.by[b]
	f.mu.Unlock()
	for i := range holders {
		h := &holders[i]
		if h.Name == giver || silent[i].Load() {
			continue
		}
		sum, err := h.digest(ctx, b, f.stall())
		switch {
		case ctx.Err() != nil:
			return false, context.Cause(ctx)
		case err != nil:
			silent[i].Store(true)
			continue
		case sum != own:
			return false, &DisagreedError{A: giver, B: h.Name, Part: b.Part, At: b.Offset}
		}
		return true, nil
	}
	return false, nil
}

// digest asks for a block's hash.
func (h *Holder) digest(ctx context.Context, b Block, stall time.Duration) (string, error) {
	body, _, err := h.call(ctx, "/digest?"+b.Query(), 2*sha256.Size, stall)
	return string(bytes.TrimSpace(body)), err
}

// serveDigest answers with the hash of a piece.
func serveDigest(w http.ResponseWriter, r *http.Request, id ID, files []io.ReaderAt) {
	b, err := piece.ParseBlock(r.URL.Query())
	if err == nil {
		err = b.Inside(id)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	sum := sha256.New()
	for i := range b.Count {
		if _, err := io.Copy(sum, io.NewSectionReader(files[b.Part], b.Offset+i*b.Stride, b.Length)); err != nil {
			http.Error(w, "this node can't read the model", http.StatusInternalServerError)
			return
		}
	}
	_, _ = io.WriteString(w, hex.EncodeToString(sum.Sum(nil))) // a client that is gone needs no answer
}
