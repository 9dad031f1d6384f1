package llama

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"github.com/skein-run/skein/internal/gguf/slice"
)

// LoadSlice loads a shard straight from the files of the whole model: parts,
// in order. The library reads the shard as a C stream whose bytes are put
// together when it asks for them, so that neither disk nor memory holds a
// copy. Where the system's C library has no such streams (Windows), a
// temporary file of the shard's size exists during the load.
func (l *Library) LoadSlice(f *slice.File, parts []io.ReaderAt, o ModelOptions) (*Model, error) {
	name := fmt.Sprintf("layers %d to %d, rank %d of %d", f.Spec.First, f.Spec.End-1, f.Spec.Rank, f.Spec.Ranks())
	if o.VocabOnly {
		return nil, fmt.Errorf("load %s: a shard has no vocabulary to load alone", name)
	}
	if o.Mmap {
		return nil, fmt.Errorf("load %s: a shard can't be mapped", name)
	}
	if l.streams == nil {
		return l.loadCopy(name, f, parts, o)
	}
	s := &source{reader: f.Reader(parts), size: f.Size}
	s.pin.Pin(s)
	defer s.pin.Unpin()
	file := l.streams.open(s)
	if file == 0 {
		return nil, fmt.Errorf("load %s: the C library gave no stream", name)
	}
	m, err := l.load(name, o, func(p modelParams) uintptr {
		p.loadMode, p.lazyMode = loadModeNone, lazyModeOff // a stream can't be mapped
		return l.modelLoadStream(file, p)
	})
	l.streams.close(file)
	if s.err != nil {
		if m != nil {
			m.Close()
		}
		return nil, fmt.Errorf("load %s: %w", name, s.err)
	}
	return m, err
}

// loadCopy loads a shard by way of a temporary file.
func (l *Library) loadCopy(name string, f *slice.File, parts []io.ReaderAt, o ModelOptions) (_ *Model, err error) {
	tmp, err := os.CreateTemp(o.TempDir, "shard-*.gguf")
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, os.Remove(tmp.Name())) }()
	_, err = f.WriteTo(tmp, parts)
	if err := errors.Join(err, tmp.Close()); err != nil {
		return nil, fmt.Errorf("load %s: %w; a shard needs %d bytes of room in %s while it is loaded", name, err, f.Size, tmp.Name())
	}
	return l.load(name, o, func(p modelParams) uintptr {
		p.loadMode, p.lazyMode = loadModeNone, lazyModeOff // the file does not stay
		return l.modelLoad(tmp.Name(), p)
	})
}

// streams makes C streams (FILE *) whose reads and seeks come back to a source.
type streams struct {
	open  func(*source) uintptr
	close func(uintptr) int32
}

// source is a C stream's side here. It is pinned while the stream is open: the
// C library hands its address back with every call.
type source struct {
	reader io.ReaderAt
	size   int64
	pin    runtime.Pinner

	mu  sync.Mutex // guards all below; the library reads from any thread
	at  int64
	err error // of the first failed read
}

// read fills p from where the stream stands; 0: the end, -1: failed.
func (s *source) read(p []byte) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if left := s.size - s.at; int64(len(p)) > left {
		p = p[:max(0, left)]
	}
	if len(p) == 0 {
		return 0
	}
	n, err := s.reader.ReadAt(p, s.at)
	if n < len(p) {
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		if s.err == nil {
			s.err = err
		}
		return -1
	}
	s.at += int64(n)
	return n
}

// seek moves the stream and gives its place; -1: there is no such place.
func (s *source) seek(off int64, whence int) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		off += s.at
	case io.SeekEnd:
		off += s.size
	}
	if off < 0 {
		return -1
	}
	s.at = off
	return off
}

// sourceOf is the source whose address C handed back.
func sourceOf(cookie uintptr) *source { return *(**source)(unsafe.Pointer(&cookie)) }

// cBytes is C's memory for a read of n bytes.
func cBytes(p, n uintptr) []byte { return unsafe.Slice(*(**byte)(unsafe.Pointer(&p)), n) }
