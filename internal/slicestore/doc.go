// Package slicestore brings the bytes of a model to a machine that lacks its
// files: Source serves ranges of them over HTTP, a Shelf those of many models,
// and Store fetches what one shard needs, or all of it, from whichever holder
// gives it, checks it, and keeps it.
//
// What is kept is a copy of each file in which only those ranges are filled;
// the rest are holes that take no room where the file system has such. So a
// runner reads it as it reads the whole file, and nothing knows the difference.
// A journal beside it says what has arrived, with its hash: an interrupted
// fetch goes on where it was, and every use checks the hashes again.
//
// It imports gguf and the standard library's network, and no other part. Sources
// and Shelves may be used from any goroutine; a Store likewise, also by several
// processes. None has goroutines beyond its calls.
package slicestore

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"

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

// inside checks that a piece lies within its file and is no larger than one
// request may bring.
func (b Block) inside(id ID) error {
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
