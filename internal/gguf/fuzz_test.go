package gguf_test

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/gguftest"
)

// FuzzParse feeds bytes from outside. Whatever is accepted must be consistent:
// tensors inside the file and apart, every getter without a panic,
// and the same header again when it is written back.
func FuzzParse(f *testing.F) {
	// Small seeds: large ones spend the time on being minimized.
	for _, arch := range []string{"llama", "gemma3", "jamba", "deepseek2"} {
		f.Add(smallModel(f, arch))
	}
	f.Add(header(3, 0, 0).b)
	f.Add(header(2, 1, 1).num("general.alignment").str("t").dims(32).u32(2).u64(0).pad(32).zeros(32).b)
	f.Add(nested(3).b)
	f.Add([]byte("GGUF\x00\x00\x00\x03"))
	f.Add([]byte("PK\x03\x04"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := parseBytes(data)
		if err != nil {
			return
		}
		var end int64
		for _, x := range file.Tensors() {
			if x.Offset < end || x.Bytes < 0 || file.DataOffset+x.Offset+x.Bytes > int64(len(data)) {
				t.Fatalf("tensor %+v is not inside the file of %d bytes", x, len(data))
			}
			end = x.Offset + x.Bytes
		}
		for _, kv := range file.Pairs() {
			if _, err := kv.Summary(); err != nil {
				t.Fatal(err)
			}
			file.Uint(kv.Key)
			file.Float(kv.Key)
			if kv.Type == gguf.TypeArray && kv.Elem == gguf.TypeString {
				if _, err := file.Strings(kv.Key); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := file.Uints(kv.Key); err == nil && kv.Type != gguf.TypeArray {
				t.Fatalf("%s is no array", kv.Key)
			}
		}
		again, _, err := gguf.EncodeHeader(file.Pairs(), file.Tensors())
		if err != nil {
			t.Fatal(err)
		}
		var size int64
		for _, x := range file.Tensors() {
			size = max(size, x.Offset+x.Bytes)
		}
		back, err := parseBytes(append(again, make([]byte, size)...))
		if err != nil {
			t.Fatalf("what was written back is not read: %v", err)
		}
		if diff := cmp.Diff(file.Tensors(), back.Tensors()); diff != "" {
			t.Fatal(diff)
		}
		third, _, err := gguf.EncodeHeader(back.Pairs(), back.Tensors())
		if err != nil || !bytes.Equal(again, third) {
			t.Fatalf("what was written back reads differently (%v)", err)
		}
		m, err := gguf.Join(file)
		if err != nil {
			return
		}
		m.Quantization()
		m.ChatTemplates()
	})
}

// smallModel is a header with most of the keys that hyper-parameters come from.
func smallModel(tb testing.TB, arch string) []byte {
	kvs := []gguf.KV{gguftest.KV("general.architecture", arch), gguftest.KV("tokenizer.ggml.tokens", []string{"a", "b"}),
		gguftest.KV(arch+".attention.head_count_kv", []uint32{1, 0})}
	for i, name := range []string{"block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count",
		"attention.sliding_window", "attention.key_length_mla", "attention.value_length_mla", "ssm.state_size", "ssm.inner_size", "expert_count", "expert_used_count"} {
		kvs = append(kvs, gguftest.KV(arch+"."+name, uint32(i/4+2)))
	}
	var b bytes.Buffer
	err := gguf.Write(&b, kvs, []gguf.Tensor{{Name: "output.weight", Dims: 2, Shape: [4]uint64{2, 2}}, {Name: "x", Type: gguf.Q4_0, Dims: 1, Shape: [4]uint64{32}}},
		func(x gguf.Tensor) (io.Reader, error) { return bytes.NewReader(make([]byte, x.Bytes)), nil })
	if err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// TestWriteReadsBack writes arbitrary headers and tensors and reads them again.
func TestWriteReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kvs := []gguf.KV{gguftest.KV("general.alignment", uint32(1)<<rapid.IntRange(3, 9).Draw(t, "alignment"))}
		for i := range rapid.IntRange(0, 8).Draw(t, "pairs") {
			value := rapid.OneOf(
				rapid.Just(any(true)), rapid.Map(rapid.Uint32(), func(v uint32) any { return v }),
				rapid.Map(rapid.Int64(), func(v int64) any { return v }), rapid.Map(rapid.String(), func(v string) any { return v }),
				rapid.Map(rapid.SliceOf(rapid.String()), func(v []string) any { return v }),
				rapid.Map(rapid.SliceOf(rapid.Float32()), func(v []float32) any { return v }),
				rapid.Map(rapid.SliceOf(rapid.SliceOf(rapid.Uint32())), func(v [][]uint32) any { return v }),
			).Draw(t, "value")
			kvs = append(kvs, gguftest.KV(fmt.Sprintf("k%d", i), value))
		}
		var tensors []gguf.Tensor
		var contents [][]byte
		for i := range rapid.IntRange(0, 6).Draw(t, "tensors") {
			typ := rapid.SampledFrom([]gguf.TensorType{gguf.F32, gguf.F16, gguf.Q4_0, gguf.Q8_0, gguf.Q4_K}).Draw(t, "type")
			elements, bytes := typ.Block()
			x := gguf.Tensor{Name: fmt.Sprintf("t%d", i), Type: typ, Dims: 2}
			x.Shape[0] = elements * rapid.Uint64Range(0, 3).Draw(t, "blocks")
			x.Shape[1] = rapid.Uint64Range(1, 5).Draw(t, "rows")
			n := int(x.Shape[0] / elements * bytes * x.Shape[1])
			tensors = append(tensors, x)
			contents = append(contents, rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "data"))
		}
		var b bytes.Buffer
		next := 0
		err := gguf.Write(&b, kvs, tensors, func(gguf.Tensor) (io.Reader, error) {
			next++
			return bytes.NewReader(contents[next-1]), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		f, err := parseBytes(b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		again, _, err := gguf.EncodeHeader(f.Pairs(), f.Tensors())
		if err != nil || !bytes.HasPrefix(b.Bytes(), again) {
			t.Fatalf("the header came back different (%v)", err)
		}
		for i, x := range f.Tensors() {
			got, err := io.ReadAll(f.Data(x))
			if err != nil || !bytes.Equal(got, contents[i]) || x.Name != tensors[i].Name || x.Shape[0] != tensors[i].Shape[0] {
				t.Fatalf("tensor %d came back as %+v, %v", i, x, err)
			}
		}
	})
}

// TestWriteRefuses names what a writer cannot encode.
func TestWriteRefuses(t *testing.T) {
	for name, x := range map[string]gguf.Tensor{
		"unknown type":  {Name: "t", Type: 77, Dims: 1, Shape: [4]uint64{32}},
		"part of block": {Name: "t", Type: gguf.Q4_0, Dims: 1, Shape: [4]uint64{31}},
		"5 dimensions":  {Name: "t", Dims: 5},
		"long name":     {Name: string(make([]byte, 64)), Dims: 1, Shape: [4]uint64{1}},
	} {
		if _, _, err := gguf.EncodeHeader(nil, []gguf.Tensor{x}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := gguf.Pair("k", struct{}{}); err == nil {
		t.Error("a struct was encoded")
	}
	short := []gguf.Tensor{{Name: "t", Dims: 1, Shape: [4]uint64{8}}}
	if err := gguf.Write(io.Discard, nil, short, func(gguf.Tensor) (io.Reader, error) { return bytes.NewReader(make([]byte, 8)), nil }); err == nil {
		t.Error("a tensor of 32 bytes was written from 8")
	}
}
