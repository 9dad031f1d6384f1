package gguftest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"testing"

	"github.com/skein-run/skein/internal/gguf"
)

// Widen writes a model of Q8_0 tensors with f32 ones of the same values, for
// tests that compare what is computed in different shapes. Pairs take the place
// of the model's own of that key.
func Widen(f *gguf.File, pairs ...gguf.KV) ([]byte, error) {
	from := map[string]gguf.Tensor{}
	var tensors []gguf.Tensor
	for _, x := range f.Tensors() {
		from[x.Name] = x
		if x.Type == gguf.Q8_0 {
			x.Type, x.Bytes = gguf.F32, x.Bytes/34*32*4
		}
		if x.Type != gguf.F32 {
			return nil, fmt.Errorf("widen %s: it is %s, not Q8_0", x.Name, x.Type)
		}
		tensors = append(tensors, x)
	}
	pairs = append([]gguf.KV{KV("general.file_type", uint32(0))}, pairs...)
	kvs := slices.DeleteFunc(slices.Clone(f.Pairs()), func(p gguf.KV) bool {
		return slices.ContainsFunc(pairs, func(q gguf.KV) bool { return q.Key == p.Key })
	})
	var b bytes.Buffer
	err := gguf.Write(&b, append(kvs, pairs...), tensors, func(x gguf.Tensor) (io.Reader, error) {
		data, err := io.ReadAll(f.Data(from[x.Name]))
		if from[x.Name].Type == gguf.Q8_0 {
			data = widened(data)
		}
		return bytes.NewReader(data), err
	})
	return b.Bytes(), err
}

// WidenFile is Widen for the file at path; the new one, name.gguf, is in a folder
// of its own.
func WidenFile(tb testing.TB, path, name string, pairs ...gguf.KV) string {
	tb.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	f, err := gguf.Parse(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		tb.Fatal(err)
	}
	wide, err := Widen(f, pairs...)
	if err != nil {
		tb.Fatal(err)
	}
	return write(tb, tb.TempDir(), name+".gguf", wide)
}

// widened is Q8_0 in f32: blocks of a half-precision scale and 32 signed bytes.
func widened(blocks []byte) (out []byte) {
	for ; len(blocks) >= 34; blocks = blocks[34:] {
		h := binary.LittleEndian.Uint16(blocks)
		scale := math.Ldexp(float64(h&0x3ff|0x400), int(h>>10&0x1f)-25)
		if h>>10&0x1f == 0 {
			scale = math.Ldexp(float64(h&0x3ff), -24)
		}
		if h>>15 == 1 {
			scale = -scale
		}
		for _, q := range blocks[2:34] {
			out = binary.LittleEndian.AppendUint32(out, math.Float32bits(float32(scale*float64(int8(q)))))
		}
	}
	return out
}
