package gguf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/bits"
	"slices"

	"github.com/skein-run/skein/internal/gguf/ggml"
)

// Bounds of what is taken for a model at all. They are far above every known
// model and keep a hostile file from costing more than a moment.
const (
	maxHeaderBytes   = 512 << 20 // metadata and tensor directory
	maxPairs         = 1 << 16
	maxTensors       = 1 << 17
	maxKeyBytes      = 1<<16 - 1 // the format's own bound
	maxNameBytes     = 63        // ggml's GGML_MAX_NAME, without its zero
	maxDims          = 4
	maxAlignment     = 1 << 20
	residentValue    = 64 << 10 // a larger value stays in the file
	residentTotal    = 8 << 20  // and so does what comes after this many bytes
	maxKeysTotal     = 16 << 20
	defaultAlignment = 32
)

// File is a parsed GGUF file: one model, or one part of a split one.
type File struct {
	Metadata
	// Version is the format's version, 2 or 3.
	Version uint32
	// Alignment of tensor data in bytes, a power of two.
	Alignment int64
	// DataOffset is where tensor data starts; Size is the whole file. Bytes.
	DataOffset int64
	Size       int64

	src     io.ReaderAt
	tensors []Tensor
}

// TensorType is ggml's number for the encoding of a tensor's elements.
type TensorType = ggml.Type

// Tensor types that this module names.
const (
	F32  = ggml.F32
	F16  = ggml.F16
	Q4_0 = ggml.Q4_0
	Q8_0 = ggml.Q8_0
	Q4_K = ggml.Q4_K
	BF16 = ggml.BF16
	Q1_0 = ggml.Q1_0
	Q2_0 = ggml.Q2_0
)

// Tensor is one entry of a file's tensor directory.
type Tensor struct {
	Name string
	Type TensorType
	// Shape is the number of elements in each dimension, the row length first;
	// 1 in dimensions that the tensor does not have.
	Shape [4]uint64
	// Dims is how many dimensions the file lists, 0..4.
	Dims int
	// Offset in bytes from the start of the file's tensor data.
	Offset int64
	// Bytes of data, without padding.
	Bytes int64
	// Part is the index of the file that holds the data (0 if not split).
	Part int
}

// Elements is the number of elements.
func (t Tensor) Elements() uint64 { return t.Shape[0] * t.Shape[1] * t.Shape[2] * t.Shape[3] }

// Tensors lists the tensors in the order of the file. The slice is the File's
// own and must not be changed.
func (f *File) Tensors() []Tensor { return f.tensors }

// Data reads a tensor's bytes from the file.
func (f *File) Data(t Tensor) *io.SectionReader {
	return io.NewSectionReader(f.src, f.DataOffset+t.Offset, t.Bytes)
}

// Parse reads the header of the GGUF file of size bytes behind r. It reads the
// metadata and the tensor directory only, and holds neither large arrays nor
// tensor data: those are read through r when asked for, so r must stay usable
// as long as Strings, Uints, Floats or Data are.
func Parse(r io.ReaderAt, size int64) (*File, error) {
	f, err := parse(r, size)
	if err != nil {
		return nil, fmt.Errorf("read gguf: %w", err)
	}
	return f, nil
}

func parse(r io.ReaderAt, size int64) (*File, error) {
	s := &scanner{src: r, limit: size}
	f := &File{Size: size, src: r}
	if err := f.preamble(s); err != nil {
		return nil, err
	}
	tensors, err := s.u64()
	if err != nil {
		return nil, err
	}
	pairs, err := s.u64()
	if err != nil {
		return nil, err
	}
	if tensors > maxTensors {
		return nil, fmt.Errorf("header claims %d tensors, at most %d are possible: %w", tensors, maxTensors, ErrDamaged)
	}
	if pairs > maxPairs {
		return nil, fmt.Errorf("header claims %d metadata entries, at most %d are possible: %w", pairs, maxPairs, ErrDamaged)
	}
	if err := f.readPairs(s, int(pairs)); err != nil {
		return nil, err
	}
	if err := f.readAlignment(); err != nil {
		return nil, err
	}
	if err := f.readTensors(s, int(tensors)); err != nil {
		return nil, err
	}
	f.DataOffset = s.pos
	if len(f.tensors) > 0 {
		f.DataOffset = alignUp(s.pos, f.Alignment)
	}
	return f, f.checkLayout()
}

// preamble checks magic and version and says what else the file may be.
func (f *File) preamble(s *scanner) error {
	head := make([]byte, min(s.limit, 512))
	if _, err := readFullAt(s.src, head, 0); err != nil {
		return fmt.Errorf("read the first bytes: %w", err)
	}
	if !bytes.HasPrefix(head, []byte("GGUF")) {
		return foreign(head, s.limit)
	}
	s.pos = 4
	v, err := s.u32()
	if err != nil {
		return err
	}
	switch {
	case v == 1:
		return fmt.Errorf("GGUF version 1 is no longer read by llama.cpp; convert the model again with a current llama.cpp, or download a newer file")
	case v != 0 && v&0xffff == 0:
		return fmt.Errorf("this GGUF file is big-endian; convert the model again on a little-endian machine, or with gguf_convert_endian.py of llama.cpp")
	case v < 2 || v > 3:
		return fmt.Errorf("GGUF version %d is unknown, versions 2 and 3 are read; update skein, or convert the model again with llama.cpp v0.5.0", v)
	}
	f.Version = v
	// From here on only the header is walked; tensor data has its own checks.
	s.limit = min(s.limit, maxHeaderBytes)
	return nil
}

// foreign names what a file without GGUF's magic looks like.
func foreign(head []byte, size int64) error {
	const convert = "convert the model with convert_hf_to_gguf.py of llama.cpp, or download a .gguf file of it"
	has := func(prefix string) bool { return bytes.HasPrefix(head, []byte(prefix)) }
	text := bytes.ToLower(bytes.TrimSpace(head))
	switch {
	case size == 0:
		return fmt.Errorf("the file is empty; download or copy it again")
	case has("FUGG"):
		return fmt.Errorf("this GGUF file is big-endian; convert the model again on a little-endian machine, or with gguf_convert_endian.py of llama.cpp")
	case has("version https://git-lfs"):
		return fmt.Errorf("this is a git-lfs pointer, not the model itself; run `git lfs pull` in its repository")
	case has("PK\x03\x04"):
		return fmt.Errorf("this is a zip archive, perhaps a PyTorch checkpoint or a wheel; unpack it, or %s", convert)
	case has("\x80\x02") || has("\x80\x03") || has("\x80\x04") || has("\x80\x05"):
		return fmt.Errorf("this looks like a PyTorch (pickle) checkpoint; %s", convert)
	case bytes.HasPrefix(text, []byte("<!doctype")) || bytes.HasPrefix(text, []byte("<html")) || bytes.HasPrefix(text, []byte("<?xml")):
		return fmt.Errorf("this is a web page, not a model: the download went to a login or error page; download the file again")
	case has("lmgg") || has("ggml") || has("tjgg") || has("fmgg"):
		return fmt.Errorf("this is a GGML file from before GGUF; %s", convert)
	case has("\x1f\x8b") || has("\xfd7zXZ") || has("\x28\xb5\x2f\xfd") || has("BZh"):
		return fmt.Errorf("this is a compressed file; unpack it first")
	case len(head) > 9 && head[8] == '{' && binary.LittleEndian.Uint64(head) < uint64(size):
		return fmt.Errorf("this looks like a safetensors file; %s", convert)
	case bytes.Count(head, []byte{0}) == len(head):
		return fmt.Errorf("the file starts with zeros: it is not a GGUF file, or its download was not finished; download it again")
	}
	return fmt.Errorf("not a GGUF file (it starts with %q, not \"GGUF\"); %s", head[:min(4, len(head))], convert)
}

func (f *File) readPairs(s *scanner, n int) error {
	f.index = make(map[string]int, min(n, 256))
	held, keys := int64(0), int64(0)
	for i := range n {
		key, err := s.str(maxKeyBytes)
		if err != nil {
			return fmt.Errorf("metadata entry %d of %d: %w", i+1, n, err)
		}
		if key == "" {
			return fmt.Errorf("metadata entry %d of %d has no name: %w", i+1, n, ErrDamaged)
		}
		if keys += int64(len(key)); keys > maxKeysTotal {
			return fmt.Errorf("more than %d MB of metadata names: %w", maxKeysTotal>>20, ErrDamaged)
		}
		if _, dup := f.index[key]; dup {
			return fmt.Errorf("metadata %q is there twice: %w", key, ErrDamaged)
		}
		t, err := s.u32()
		if err != nil {
			return fmt.Errorf("metadata %q: %w", key, err)
		}
		kv := KV{Key: key, Type: ValueType(t), src: s.src}
		if err := s.value(&kv); err != nil {
			return fmt.Errorf("metadata %q: %w", key, err)
		}
		if kv.size <= residentValue && held+kv.size <= residentTotal {
			end := s.pos
			s.pos = kv.off
			b, err := s.take(kv.size)
			if err != nil {
				return fmt.Errorf("metadata %q: %w", key, err)
			}
			kv.raw = bytes.Clone(b)
			held += kv.size
			s.pos = end
		}
		f.index[key] = len(f.kvs)
		f.kvs = append(f.kvs, kv)
	}
	return nil
}

func (f *File) readAlignment() error {
	a, err := alignmentOf(f.kvs)
	f.Alignment = a
	return err
}

// alignmentOf reads general.alignment, which the format fixes to uint32.
func alignmentOf(kvs []KV) (int64, error) {
	i := slices.IndexFunc(kvs, func(kv KV) bool { return kv.Key == "general.alignment" })
	if i < 0 {
		return defaultAlignment, nil
	}
	if kvs[i].Type != TypeUint32 {
		return 0, fmt.Errorf("general.alignment is %s, not uint32: %w", kvs[i].Type, ErrDamaged)
	}
	b, err := kvs[i].payload()
	if err != nil {
		return 0, err
	}
	v := int64(binary.LittleEndian.Uint32(b))
	if v == 0 || v&(v-1) != 0 || v > maxAlignment {
		return 0, fmt.Errorf("general.alignment is %d, not a power of two up to %d: %w", v, maxAlignment, ErrDamaged)
	}
	return v, nil
}

func (f *File) readTensors(s *scanner, n int) error {
	seen := make(map[string]struct{}, min(n, 1024))
	for i := range n {
		t, err := readTensor(s)
		if err != nil {
			return fmt.Errorf("tensor %d of %d: %w", i+1, n, err)
		}
		if _, dup := seen[t.Name]; dup {
			return fmt.Errorf("tensor %q is there twice: %w", t.Name, ErrDamaged)
		}
		seen[t.Name] = struct{}{}
		f.tensors = append(f.tensors, t)
	}
	return nil
}

func readTensor(s *scanner) (Tensor, error) {
	t := Tensor{Shape: [4]uint64{1, 1, 1, 1}}
	var err error
	if t.Name, err = s.str(maxNameBytes); err != nil {
		return t, err
	}
	dims, err := s.u32()
	if err != nil {
		return t, err
	}
	if dims > maxDims {
		return t, fmt.Errorf("%q has %d dimensions, at most %d are possible: %w", t.Name, dims, maxDims, ErrDamaged)
	}
	t.Dims = int(dims)
	for d := range t.Dims {
		if t.Shape[d], err = s.u64(); err != nil {
			return t, err
		}
	}
	typ, err := s.u32()
	if err != nil {
		return t, err
	}
	t.Type = TensorType(typ)
	off, err := s.u64()
	if err != nil {
		return t, err
	}
	if off > math.MaxInt64 {
		return t, fmt.Errorf("%q starts at byte %d, beyond every file: %w", t.Name, off, ErrDamaged)
	}
	t.Offset = int64(off)
	t.Bytes, err = tensorBytes(t)
	return t, err
}

// tensorBytes is the size of a tensor's data.
func tensorBytes(t Tensor) (int64, error) {
	elements, bytes := t.Type.Block()
	if elements == 0 {
		if name := t.Type.Removed(); name != "" {
			return 0, fmt.Errorf("%q has the removed type %s; download or quantize the model again (as Q4_0 or IQ4_NL, which llama.cpp repacks itself)", t.Name, name)
		}
		return 0, fmt.Errorf("%q has the unknown tensor type %d; update skein, or quantize the model again with llama.cpp v0.5.0", t.Name, uint32(t.Type))
	}
	if t.Shape[0]%elements != 0 {
		return 0, fmt.Errorf("%q has rows of %d elements, which %v blocks of %d do not fill: %w", t.Name, t.Shape[0], t.Type, elements, ErrDamaged)
	}
	total := bytes
	for _, n := range [...]uint64{t.Shape[0] / elements, t.Shape[1], t.Shape[2], t.Shape[3]} {
		hi, lo := bits.Mul64(total, n)
		if hi != 0 || lo > math.MaxInt64/2 || n > math.MaxInt64/2 {
			return 0, fmt.Errorf("%q has the impossible shape %v: %w", t.Name, t.Shape, ErrDamaged)
		}
		total = lo
	}
	return int64(total), nil
}

// checkLayout makes sure that all tensor data lies in the file, in order, next
// to each other and aligned: the engine refuses everything else.
func (f *File) checkLayout() error {
	var end int64
	for i, t := range f.tensors {
		switch {
		case t.Offset%f.Alignment != 0:
			return fmt.Errorf("data of tensor %q starts at %d, not a multiple of %d: %w", t.Name, t.Offset, f.Alignment, ErrDamaged)
		case t.Offset < end:
			return fmt.Errorf("data of tensor %q overlaps that of %q: %w", t.Name, f.tensors[i-1].Name, ErrDamaged)
		case t.Offset > end:
			return fmt.Errorf("data of tensor %q starts at %d where the engine expects %d: %w", t.Name, t.Offset, end, ErrDamaged)
		case t.Offset > f.Size-f.DataOffset || t.Bytes > f.Size-f.DataOffset-t.Offset:
			return fmt.Errorf("data of tensor %q ends at byte %d, but the file has %d: %w", t.Name, f.DataOffset+t.Offset+t.Bytes, f.Size, ErrDamaged)
		}
		end = alignUp(t.Offset+t.Bytes, f.Alignment)
	}
	return nil
}

func alignUp(v, to int64) int64 { return (v + to - 1) / to * to }
