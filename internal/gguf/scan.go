package gguf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// readFullAt fills b or says that the file ended.
func readFullAt(r io.ReaderAt, b []byte, off int64) (int, error) {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// scanner walks a file front to back through one window, so that a header of
// many small fields costs few reads and skipping costs none.
type scanner struct {
	src    io.ReaderAt
	limit  int64 // first byte that is not there
	pos    int64 // of the next field
	window []byte
	start  int64 // position of window[0]
}

const windowBytes = 128 << 10

// left is the number of bytes not yet read.
func (s *scanner) left() int64 { return s.limit - s.pos }

// take gives the next n bytes, valid until the next call; n <= windowBytes.
func (s *scanner) take(n int64) ([]byte, error) {
	if n > s.left() {
		return nil, truncated(s.pos, n, s.left())
	}
	rel := s.pos - s.start
	if rel < 0 || rel+n > int64(len(s.window)) {
		size := min(int64(windowBytes), s.left())
		if int64(cap(s.window)) < size {
			s.window = make([]byte, size)
		}
		s.window = s.window[:size]
		if _, err := readFullAt(s.src, s.window, s.pos); err != nil {
			s.window = s.window[:0]
			return nil, fmt.Errorf("read at byte %d: %w", s.pos, err)
		}
		s.start, rel = s.pos, 0
	}
	s.pos += n
	return s.window[rel : rel+n], nil
}

// skip passes over n bytes without reading them.
func (s *scanner) skip(n int64) error {
	if n > s.left() {
		return truncated(s.pos, n, s.left())
	}
	s.pos += n
	return nil
}

func (s *scanner) u32() (uint32, error) {
	b, err := s.take(4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

func (s *scanner) u64() (uint64, error) {
	b, err := s.take(8)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

// length reads a count of things that take at least unit bytes each and makes
// sure that so many can be there at all.
func (s *scanner) length(unit int64) (int64, error) {
	at := s.pos
	v, err := s.u64()
	if err != nil {
		return 0, err
	}
	if v > uint64(s.left()/unit) {
		return 0, fmt.Errorf("length %d at byte %d goes beyond the end of the file: %w", v, at, ErrDamaged)
	}
	return int64(v), nil
}

// str reads a string of at most most bytes.
func (s *scanner) str(most int64) (string, error) {
	at := s.pos
	n, err := s.length(1)
	if err != nil {
		return "", err
	}
	if n > most {
		return "", fmt.Errorf("name of %d bytes at byte %d, at most %d are allowed: %w", n, at, most, ErrDamaged)
	}
	b, err := s.take(n)
	if err != nil {
		return "", err
	}
	return string(b), nil
}

// ErrDamaged is in every error about contents that no whole file has.
var ErrDamaged = errors.New("the file is damaged or not finished; download or convert it again")

func truncated(pos, want, have int64) error {
	return fmt.Errorf("the file ends at byte %d, where %d bytes more are needed: %w", pos+have, want-have, ErrDamaged)
}

// value passes over a value of type t and returns its payload's extent; for an
// array also element type and length.
func (s *scanner) value(kv *KV) error {
	switch kv.Type {
	case TypeString:
		kv.off = s.pos
		n, err := s.length(1)
		if err != nil {
			return err
		}
		if err := s.skip(n); err != nil {
			return err
		}
	case TypeArray:
		elem, n, err := s.arrayHead()
		if err != nil {
			return err
		}
		kv.Elem, kv.Len, kv.off = elem, uint64(n), s.pos
		if err := s.elements(elem, n, 1); err != nil {
			return err
		}
	default:
		n := kv.Type.size()
		if n == 0 {
			return fmt.Errorf("unknown %s: %w", kv.Type, ErrDamaged)
		}
		kv.off = s.pos
		if err := s.skip(n); err != nil {
			return err
		}
	}
	kv.size = s.pos - kv.off
	return nil
}

func (s *scanner) arrayHead() (ValueType, int64, error) {
	t, err := s.u32()
	if err != nil {
		return 0, 0, err
	}
	elem := ValueType(t)
	unit := elem.size()
	switch elem {
	case TypeString:
		unit = 8
	case TypeArray:
		unit = 12
	}
	if unit == 0 {
		return 0, 0, fmt.Errorf("array of unknown %s: %w", elem, ErrDamaged)
	}
	n, err := s.length(unit)
	return elem, n, err
}

// maxDepth bounds arrays within arrays; no known model has any.
const maxDepth = 8

func (s *scanner) elements(elem ValueType, n int64, depth int) error {
	switch elem {
	case TypeString:
		for range n {
			size, err := s.length(1)
			if err != nil {
				return err
			}
			if err := s.skip(size); err != nil {
				return err
			}
		}
		return nil
	case TypeArray:
		if depth >= maxDepth {
			return fmt.Errorf("arrays nested more than %d deep: %w", maxDepth, ErrDamaged)
		}
		for range n {
			inner, m, err := s.arrayHead()
			if err != nil {
				return err
			}
			if err := s.elements(inner, m, depth+1); err != nil {
				return err
			}
		}
		return nil
	default:
		return s.skip(n * elem.size())
	}
}
