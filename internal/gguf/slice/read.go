package slice

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"sort"
)

// Piece is a run of bytes of a shard: Length bytes at At of the shard. They are
// those at Offset of part Part of the source, or, if Part is -1, Fill repeated.
type Piece struct {
	At     int64
	Part   int
	Offset int64
	Length int64
	Fill   []byte
}

// Pieces lists a tensor's bytes in the order of the shard.
func (f *File) Pieces(t Tensor) iter.Seq[Piece] {
	return func(yield func(Piece) bool) {
		at := int64(len(f.Header)) + t.Offset
		for _, r := range t.Source {
			for i := range r.Count {
				if !yield(Piece{At: at, Part: r.Part, Offset: r.Offset + i*r.Stride, Length: r.Length, Fill: r.Fill}) {
					return
				}
				at += r.Length
			}
		}
	}
}

// SourceBytes is how many bytes of the source the shard holds.
func (f *File) SourceBytes() int64 {
	var n int64
	for _, t := range f.Tensors {
		for _, r := range t.Source {
			if r.Part >= 0 {
				n += r.Bytes()
			}
		}
	}
	return n
}

// TensorBytes is the size of the shard's tensors, without padding.
func (f *File) TensorBytes() int64 {
	var n int64
	for _, t := range f.Tensors {
		n += t.Bytes
	}
	return n
}

// Reader reads the shard as a file of f.Size bytes that is put together from
// the source's parts when asked for. It may be used from any goroutine if the
// parts may.
func (f *File) Reader(parts []io.ReaderAt) io.ReaderAt { return &reader{f, parts} }

type reader struct {
	file  *File
	parts []io.ReaderAt
}

func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read shard: offset %d is negative", off)
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at >= r.file.Size {
			return done, io.EOF
		}
		n, err := r.readSome(p[done:], at)
		done += n
		if err != nil {
			return done, fmt.Errorf("read shard: %w", err)
		}
	}
	return done, nil
}

// readSome reads at least one byte at a place within the file.
func (r *reader) readSome(p []byte, at int64) (int, error) {
	f := r.file
	header := int64(len(f.Header))
	if at < header {
		return copy(p, f.Header[at:]), nil
	}
	at -= header
	// The last tensor that begins at or before the place.
	i := sort.Search(len(f.Tensors), func(i int) bool { return f.Tensors[i].Offset > at }) - 1
	if i < 0 {
		return zeros(p, f.Size-header-at), nil
	}
	t := f.Tensors[i]
	at -= t.Offset
	if at >= t.Bytes {
		next := f.Size - header
		if i+1 < len(f.Tensors) {
			next = f.Tensors[i+1].Offset
		}
		return zeros(p, next-t.Offset-at), nil
	}
	for _, s := range t.Source {
		if at >= s.Bytes() {
			at -= s.Bytes()
			continue
		}
		return r.readRange(p, s, at)
	}
	return 0, fmt.Errorf("tensor %q has no bytes at %d", t.Name, at)
}

// readRange reads from a range, at bytes after its beginning.
func (r *reader) readRange(p []byte, s Range, at int64) (int, error) {
	p = p[:min(int64(len(p)), s.Bytes()-at)]
	if s.Part < 0 {
		if len(s.Fill) == 0 {
			return 0, errors.New("a range without source has nothing to be filled with")
		}
		for i := range p {
			p[i] = s.Fill[(at+int64(i))%int64(len(s.Fill))]
		}
		return len(p), nil
	}
	if s.Part >= len(r.parts) {
		return 0, fmt.Errorf("the shard needs part %d of the model, and %d are given", s.Part+1, len(r.parts))
	}
	run, within := at/s.Length, at%s.Length
	p = p[:min(int64(len(p)), s.Length-within)]
	n, err := r.parts[s.Part].ReadAt(p, s.Offset+run*s.Stride+within)
	if n == len(p) {
		return n, nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, fmt.Errorf("part %d of the model: %w", s.Part+1, err)
}

// zeros clears at most n bytes of p.
func zeros(p []byte, n int64) int {
	p = p[:min(int64(len(p)), n)]
	clear(p)
	return len(p)
}

// WriteTo writes the shard as a file.
func (f *File) WriteTo(w io.Writer, parts []io.ReaderAt) (int64, error) {
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, io.NewSectionReader(f.Reader(parts), 0, f.Size), make([]byte, 1<<20))
	if err != nil {
		return n, fmt.Errorf("write shard: %w", err)
	}
	return n, nil
}
