// Package piece names models by their content, and pieces of their files: which
// bytes of which model a shard reads, and what of them one request brings.
//
// It opens nothing and calls nobody; slicestore serves, fetches and keeps what is
// named here. All of it may be used from any goroutine.
package piece

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/slice"
)

// Part is one file of a model, as far as it takes to tell it from others.
type Part struct {
	Size   int64 `json:"size"`   // bytes
	Header int64 `json:"header"` // of those, before the tensors' data
	// Digest is what Identify makes, or the SHA-256 of the file, hex. Both ends
	// of a transfer mean the same.
	Digest string `json:"digest"`
}

// ID names a model by its content.
type ID struct {
	Parts []Part `json:"parts"`
}

// Samples of a file's data that count for its digest. A header alone is the
// same for every training of a model.
const (
	samples     = 256
	sampleBytes = 4096
)

// Identify reads what names a model.
func Identify(parts []*gguf.File, files []io.ReaderAt) (ID, error) {
	var id ID
	for i, p := range parts {
		h := sha256.New()
		if _, err := io.Copy(h, io.NewSectionReader(files[i], 0, p.DataOffset)); err != nil {
			return ID{}, fmt.Errorf("identify the model: %w", err)
		}
		data := p.Size - p.DataOffset
		for n := range int64(samples) {
			at := p.DataOffset + max(0, data-sampleBytes)*n/(samples-1)
			if _, err := io.Copy(h, io.NewSectionReader(files[i], at, min(sampleBytes, p.Size-at))); err != nil {
				return ID{}, fmt.Errorf("identify the model: %w", err)
			}
		}
		id.Parts = append(id.Parts, Part{Size: p.Size, Header: p.DataOffset, Digest: hex.EncodeToString(h.Sum(nil))})
	}
	return id, nil
}

// Is compares a model with a wanted one, whose headers may be unknown.
func (id ID) Is(want ID) error {
	if err := id.Check(); err != nil {
		return err
	}
	if len(id.Parts) != len(want.Parts) {
		return fmt.Errorf("its model has %d files instead of %d", len(id.Parts), len(want.Parts))
	}
	for i, p := range id.Parts {
		w := want.Parts[i]
		if p.Size != w.Size || p.Digest != w.Digest || p.Header == 0 || w.Header != 0 && p.Header != w.Header {
			return fmt.Errorf("its file %d is another one", i+1)
		}
	}
	return nil
}

// Check refuses sizes that no model has, before files of such are made.
func (id ID) Check() error {
	if len(id.Parts) == 0 || len(id.Parts) > 4096 {
		return fmt.Errorf("a model of %d files", len(id.Parts))
	}
	for _, p := range id.Parts {
		if p.Size < 24 || p.Header != 0 && p.Header < 24 || p.Header > p.Size || p.Header > 1<<30 || p.Size > 1<<46 {
			return fmt.Errorf("a file of %d bytes with a header of %d", p.Size, p.Header)
		}
	}
	return nil
}

// Key is a file name for the model together with one shard of it; nil: all of
// it. It does not depend on the parts' Header.
func (id ID) Key(shard any) (string, error) {
	content := ID{Parts: slices.Clone(id.Parts)}
	for i := range content.Parts {
		content.Parts[i].Header = 0
	}
	b, err := json.Marshal(struct {
		ID    ID
		Shard any
	}{content, shard})
	if err != nil {
		return "", fmt.Errorf("name a slice: %w", err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16]), nil
}

// Block is a piece of a file: Count runs of Length bytes, the first at Offset
// of part Part and each next one Stride bytes further.
type Block struct {
	Part   int   `json:"part"`
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
	Stride int64 `json:"stride"`
	Count  int64 `json:"count"`
}

// Bytes is the size of the piece.
func (b Block) Bytes() int64 { return b.Length * b.Count }

// Needs lists what a shard reads of a model's files.
func Needs(m *gguf.Model, spec slice.Spec) ([]Block, error) {
	f, err := slice.Cut(m, spec)
	if err != nil {
		return nil, err
	}
	var out []Block
	add := func(r slice.Range) {
		if r.Part >= 0 {
			out = append(out, Block{Part: r.Part, Offset: r.Offset, Length: r.Length, Stride: r.Stride, Count: r.Count})
		}
	}
	for _, t := range f.Tensors {
		for _, r := range t.Source {
			add(r)
		}
	}
	if f.Run.Embed != nil {
		add(f.Run.Embed.Rows)
	}
	return out, nil
}

// Everything is all of a model's files but their headers, which a Store always
// fetches.
func Everything(m *gguf.Model) ([]Block, error) {
	var out []Block
	for i, p := range m.Parts() {
		if p.Size > p.DataOffset {
			out = append(out, Block{Part: i, Offset: p.DataOffset, Length: p.Size - p.DataOffset, Count: 1})
		}
	}
	return out, nil
}

// blockBytes is about what one request brings.
const blockBytes = 4 << 20

// Blocks cuts a piece into such that one request can bring.
func Blocks(b Block) []Block {
	var out []Block
	if b.Count == 1 || b.Length > blockBytes {
		for i := range b.Count {
			for at := int64(0); at < b.Length; at += blockBytes {
				out = append(out, Block{Part: b.Part, Offset: b.Offset + i*b.Stride + at, Length: min(blockBytes, b.Length-at), Count: 1})
			}
		}
		return out
	}
	each := max(1, blockBytes/max(1, b.Length))
	for i := int64(0); i < b.Count; i += each {
		out = append(out, Block{Part: b.Part, Offset: b.Offset + i*b.Stride, Length: b.Length, Stride: b.Stride, Count: min(each, b.Count-i)})
	}
	return out
}

// Inside checks that a piece lies within its file and is no larger than one
// request may bring.
func (b Block) Inside(id ID) error {
	if b.Part < 0 || b.Part >= len(id.Parts) {
		return fmt.Errorf("part %d of %d", b.Part, len(id.Parts))
	}
	size := id.Parts[b.Part].Size
	ok := b.Offset >= 0 && b.Length > 0 && b.Count > 0 && b.Stride >= 0 &&
		b.Offset <= size && b.Length <= size-b.Offset && b.Length <= 2*blockBytes && b.Count <= 2*blockBytes/b.Length
	if ok && b.Count > 1 {
		ok = b.Stride >= b.Length && b.Stride <= (size-b.Offset-b.Length)/(b.Count-1)
	}
	if !ok {
		return fmt.Errorf("%+v is not a piece of a file of %d bytes", b, size)
	}
	return nil
}

// Query is the block as parameters of a URL.
func (b Block) Query() string {
	v := url.Values{}
	for name, n := range map[string]int64{"part": int64(b.Part), "offset": b.Offset, "length": b.Length, "stride": b.Stride, "count": b.Count} {
		v.Set(name, strconv.FormatInt(n, 10))
	}
	return v.Encode()
}

// ParseBlock reads what Query wrote.
func ParseBlock(v url.Values) (Block, error) {
	var b Block
	var part int64
	for name, n := range map[string]*int64{"part": &part, "offset": &b.Offset, "length": &b.Length, "stride": &b.Stride, "count": &b.Count} {
		var err error
		if *n, err = strconv.ParseInt(v.Get(name), 10, 64); err != nil {
			return b, fmt.Errorf("%s: %w", name, err)
		}
	}
	if part < 0 || part > 1<<16 {
		return b, fmt.Errorf("part %d", part)
	}
	b.Part = int(part)
	return b, nil
}
