package gguf_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/gguftest"
)

func parseBytes(b []byte) (*gguf.File, error) {
	return gguf.Parse(bytes.NewReader(b), int64(len(b)))
}

// raw builds headers that no writer would make.
type raw struct{ b []byte }

func header(version uint32, tensors, pairs uint64) *raw {
	r := &raw{b: []byte("GGUF")}
	return r.u32(version).u64(tensors).u64(pairs)
}

func (r *raw) u32(v uint32) *raw   { r.b = binary.LittleEndian.AppendUint32(r.b, v); return r }
func (r *raw) u64(v uint64) *raw   { r.b = binary.LittleEndian.AppendUint64(r.b, v); return r }
func (r *raw) bytes(s string) *raw { r.b = append(r.b, s...); return r }
func (r *raw) str(s string) *raw   { return r.u64(uint64(len(s))).bytes(s) }
func (r *raw) zeros(n int) *raw    { r.b = append(r.b, make([]byte, n)...); return r }
func (r *raw) pad(n int) *raw      { return r.zeros((n - len(r.b)%n) % n) }
func (r *raw) key(k string) *raw   { return r.str(k) }
func (r *raw) num(k string) *raw   { return r.key(k).u32(4).u32(32) }
func (r *raw) dims(d ...uint64) *raw {
	r.u32(uint32(len(d)))
	for _, v := range d {
		r.u64(v)
	}
	return r
}

// nested is an array value of the given depth, each level of one element.
func nested(depth int) *raw {
	r := header(3, 0, 1).key("deep").u32(9)
	for range depth - 1 {
		r.u32(9).u64(1)
	}
	return r.u32(4).u64(1).u32(7)
}

func TestBadInput(t *testing.T) {
	whole := gguftest.Tiny{}.Bytes()
	const again = "download or convert it again"
	tests := []struct {
		name string
		data []byte
		want []string // all of these are in the error
	}{
		{"empty", nil, []string{"empty", "download or copy it again"}},
		{"short magic", []byte("GG"), []string{"not a GGUF file", "convert_hf_to_gguf.py"}},
		{"safetensors", append(binary.LittleEndian.AppendUint64(nil, 40), `{"__metadata__":{"format":"pt"}}            `...), []string{"safetensors", "convert_hf_to_gguf.py"}},
		{"pickle", []byte("\x80\x02}q\x00(X\x05"), []string{"PyTorch", "convert_hf_to_gguf.py"}},
		{"zip", []byte("PK\x03\x04\x14\x00\x00\x00"), []string{"zip archive", "unpack it"}},
		{"web page", []byte("\n <!DOCTYPE html><html><body>Sign in"), []string{"web page", "download the file again"}},
		{"lfs pointer", []byte("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"), []string{"git-lfs pointer", "git lfs pull"}},
		{"old ggml", []byte("tjgg\x03\x00\x00\x00\x00\x00"), []string{"before GGUF", "convert_hf_to_gguf.py"}},
		{"gzip", []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00"), []string{"compressed", "unpack it"}},
		{"zeros", make([]byte, 600), []string{"starts with zeros", "download it again"}},
		{"text", []byte("hello world, this is text"), []string{`"hell"`, "convert_hf_to_gguf.py"}},

		{"version 1", header(1, 0, 0).b, []string{"version 1", "convert the model again with a current llama.cpp"}},
		{"version 0", header(0, 0, 0).b, []string{"version 0 is unknown"}},
		{"version 4", header(4, 0, 0).b, []string{"version 4 is unknown", "update skein"}},
		{"big-endian", append([]byte("GGUF\x00\x00\x00\x03"), make([]byte, 64)...), []string{"big-endian", "gguf_convert_endian.py"}},
		{"big-endian magic", append([]byte("FUGG\x00\x00\x00\x03"), make([]byte, 64)...), []string{"big-endian"}},
		{"only magic", []byte("GGUF"), []string{"ends at byte 4", again}},
		{"no counts", header(3, 0, 0).b[:12], []string{"ends at byte 12", again}},

		{"2^60 entries", header(3, 0, 1<<60).b, []string{"claims 1152921504606846976 metadata entries", again}},
		{"2^63 tensors", header(3, 1<<63, 0).b, []string{"tensors", again}},
		{"65,000 entries that are not there", header(3, 0, 65000).b, []string{"entry 1 of 65000", again}},
		{"key of 2^63 bytes", header(3, 0, 1).u64(1 << 63).b, []string{"length 9223372036854775808", again}},
		{"key of all ones", header(3, 0, 1).u64(math.MaxUint64).zeros(64).b, []string{"beyond the end", again}},
		{"key too long", header(3, 0, 1).str(strings.Repeat("k", 70000)).u32(4).u32(1).b, []string{"name of 70000 bytes", again}},
		{"no key", header(3, 0, 1).str("").u32(4).u32(1).b, []string{"has no name", again}},
		{"same key twice", header(3, 0, 2).num("a.b").num("a.b").b, []string{`"a.b" is there twice`, again}},
		{"string of 2^63-1 bytes", header(3, 0, 1).key("s").u32(8).u64(math.MaxInt64).zeros(64).b, []string{`"s"`, "beyond the end", again}},
		{"array of 2^62 numbers", header(3, 0, 1).key("a").u32(9).u32(4).u64(1 << 62).zeros(64).b, []string{`"a"`, "beyond the end", again}},
		{"array whose size overflows", header(3, 0, 1).key("a").u32(9).u32(10).u64(1<<61 + 1).zeros(64).b, []string{"beyond the end", again}},
		{"array of strings with a long one", header(3, 0, 1).key("a").u32(9).u32(8).u64(2).str("x").u64(1 << 40).zeros(8).b, []string{"beyond the end", again}},
		{"unknown value type", header(3, 0, 1).key("a").u32(13).zeros(16).b, []string{"unknown value type 13", again}},
		{"array of unknown type", header(3, 0, 1).key("a").u32(9).u32(99).u64(1).zeros(16).b, []string{"array of unknown value type 99", again}},
		{"arrays too deep", nested(9).b, []string{"nested more than 8 deep", again}},
		{"arrays very deep", nested(100000).b, []string{"nested more than 8 deep", again}},

		{"alignment is no uint32", header(3, 0, 1).key("general.alignment").u32(10).u64(32).b, []string{"uint64, not uint32", again}},
		{"alignment 0", header(3, 0, 1).key("general.alignment").u32(4).u32(0).b, []string{"alignment is 0", again}},
		{"alignment 48", header(3, 0, 1).key("general.alignment").u32(4).u32(48).b, []string{"alignment is 48", again}},
		{"alignment 2^31", header(3, 0, 1).key("general.alignment").u32(4).u32(1 << 31).b, []string{"alignment is 2147483648", again}},

		{"tensor name too long", header(3, 1, 0).str(strings.Repeat("t", 64)).dims(1).u32(0).u64(0).zeros(64).b, []string{"name of 64 bytes", again}},
		{"5 dimensions", header(3, 1, 0).str("t").dims(1, 1, 1, 1, 1).u32(0).u64(0).zeros(64).b, []string{"5 dimensions", again}},
		{"unknown tensor type", header(3, 1, 0).str("t").dims(32).u32(77).u64(0).zeros(64).b, []string{`"t" has the unknown tensor type 77`, "update skein"}},
		{"removed tensor type", header(3, 1, 0).str("t").dims(32).u32(31).u64(0).zeros(64).b, []string{"removed type Q4_0_4_4", "quantize the model again"}},
		{"row is no multiple of the block", header(3, 1, 0).str("t").dims(33).u32(2).u64(0).zeros(64).b, []string{"33 elements", "Q4_0 blocks of 32", again}},
		{"shape of 2^63", header(3, 1, 0).str("t").dims(1 << 63).u32(0).u64(0).zeros(64).b, []string{"impossible shape", again}},
		{"shape that overflows", header(3, 1, 0).str("t").dims(1<<31, 1<<31, 1<<31).u32(0).u64(0).zeros(64).b, []string{"impossible shape", again}},
		{"offset of 2^63", header(3, 1, 0).str("t").dims(8).u32(0).u64(1 << 63).zeros(64).b, []string{"beyond every file", again}},
		{"offset not aligned", header(3, 1, 0).str("t").dims(8).u32(0).u64(8).pad(32).zeros(64).b, []string{"not a multiple of 32", again}},
		{"data beyond the file", header(3, 1, 0).str("t").dims(1 << 20).u32(0).u64(0).pad(32).zeros(64).b, []string{`"t" ends at byte`, again}},
		{"gap", header(3, 1, 0).str("t").dims(8).u32(0).u64(64).pad(32).zeros(128).b, []string{"where the engine expects 0", again}},
		{"same tensor twice", header(3, 2, 0).str("t").dims(8).u32(0).u64(0).str("t").dims(8).u32(0).u64(32).pad(32).zeros(64).b, []string{`"t" is there twice`, again}},
		{"overlap", header(3, 2, 0).str("t").dims(16).u32(0).u64(0).str("u").dims(8).u32(0).u64(32).pad(32).zeros(96).b, []string{`"u" overlaps that of "t"`, again}},
		{"tensors that are not there", header(3, 100000, 0).b, []string{"tensor 1 of 100000", again}},
		{"truncated data", whole[:len(whole)-300], []string{"ends at byte", again}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := parseBytes(test.data)
			if err == nil {
				t.Fatal("was taken for a good file")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}

// TestTruncatedAnywhere cuts a good file at every byte of its header and at
// some of its data: always an error, never a model.
func TestTruncatedAnywhere(t *testing.T) {
	whole := gguftest.Tiny{Layers: 1}.Bytes()
	f, err := parseBytes(whole)
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(whole)-32; n++ {
		if n > int(f.DataOffset) {
			n = min(n+997, len(whole)-33)
		}
		if _, err := parseBytes(whole[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes were taken for a good file", n, len(whole))
		}
	}
}

// TestNoAllocationFromLengths gives huge claims in small files: what is
// allocated stays near what is there.
func TestNoAllocationFromLengths(t *testing.T) {
	for name, data := range map[string][]byte{
		"entries":        header(3, 0, 65535).zeros(100).b,
		"tensors":        header(3, 131072, 0).zeros(100).b,
		"key":            header(3, 0, 1).u64(1 << 40).zeros(100).b,
		"string":         header(3, 0, 1).key("s").u32(8).u64(1 << 40).zeros(100).b,
		"array":          header(3, 0, 1).key("s").u32(9).u32(8).u64(1 << 40).zeros(100).b,
		"array of array": header(3, 0, 1).key("s").u32(9).u32(9).u64(1 << 40).zeros(100).b,
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := parseBytes(data); err == nil {
			t.Errorf("%s: was taken for a good file", name)
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
			t.Errorf("%s: %d bytes were allocated for a file of %d", name, n, len(data))
		}
	}
}

// counting counts what a parse reads.
type counting struct {
	r           *bytes.Reader
	calls, read int
}

func (c *counting) ReadAt(b []byte, off int64) (int, error) {
	c.calls++
	n, err := c.r.ReadAt(b, off)
	c.read += n
	return n, err
}

// TestLargeArraysStayInTheFile parses a header with a vocabulary of 200,000:
// it is passed over with few reads, not held, and read when asked for.
func TestLargeArraysStayInTheFile(t *testing.T) {
	tokens := make([]string, 200_000)
	for i := range tokens {
		tokens[i] = strings.Repeat("x", i%12)
	}
	data := gguftest.Tiny{Extra: []gguf.KV{gguftest.KV("tokenizer.ggml.tokens", tokens), gguftest.KV("big.floats", make([]float32, 1<<20))}}.Bytes()
	c := &counting{r: bytes.NewReader(data)}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f, err := gguf.Parse(c, int64(len(data)))
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("parsing allocated %d bytes", n)
	}
	if c.calls > 60 || c.read > 4<<20 {
		t.Errorf("parsing made %d reads of %d bytes in all", c.calls, c.read)
	}
	got, err := f.Strings("tokenizer.ggml.tokens")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(tokens, got); diff != "" {
		t.Error("the tokens came back different")
	}
}

func TestGetters(t *testing.T) {
	b, _, err := gguf.EncodeHeader([]gguf.KV{
		gguftest.KV("u8", uint8(200)), gguftest.KV("i8", int8(-3)), gguftest.KV("u16", uint16(60000)), gguftest.KV("i16", int16(-300)),
		gguftest.KV("u32", uint32(7)), gguftest.KV("i32", int32(-8)), gguftest.KV("u64", uint64(math.MaxUint64)), gguftest.KV("i64", int64(math.MinInt64)),
		gguftest.KV("f32", float32(0.5)), gguftest.KV("f64", 0.25), gguftest.KV("yes", true), gguftest.KV("s", "caf\xc3\xa9"),
		gguftest.KV("as", []string{"a", "", "c"}), gguftest.KV("au", []uint32{1, 2}), gguftest.KV("ai", []int32{1, -2}),
		gguftest.KV("ab", []bool{true, false}), gguftest.KV("af", []float32{1, 2.5}), gguftest.KV("aa", [][]uint32{{1}, {}, {2, 3}}),
		gguftest.KV("none", []string{}),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	f, err := parseBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	type answer struct {
		V  any
		OK bool
	}
	uintOf := func(k string) answer { v, ok := f.Uint(k); return answer{v, ok} }
	intOf := func(k string) answer { v, ok := f.Int(k); return answer{v, ok} }
	floatOf := func(k string) answer { v, ok := f.Float(k); return answer{v, ok} }
	stringOf := func(k string) answer { v, ok := f.String(k); return answer{v, ok} }
	boolOf := func(k string) answer { v, ok := f.Bool(k); return answer{v, ok} }
	for _, test := range []struct {
		name      string
		got, want answer
	}{
		{"u8", uintOf("u8"), answer{uint64(200), true}},
		{"u16", uintOf("u16"), answer{uint64(60000), true}},
		{"u64", uintOf("u64"), answer{uint64(math.MaxUint64), true}},
		{"i8", intOf("i8"), answer{int64(-3), true}},
		{"i16", intOf("i16"), answer{int64(-300), true}},
		{"i32", intOf("i32"), answer{int64(-8), true}},
		{"i64", intOf("i64"), answer{int64(math.MinInt64), true}},
		{"u32 as int", intOf("u32"), answer{int64(7), true}},
		{"negative as uint", uintOf("i32"), answer{uint64(0), false}},
		{"2^64-1 as int", intOf("u64"), answer{int64(-1), false}},
		{"string as uint", uintOf("s"), answer{uint64(0), false}},
		{"missing", uintOf("nothing"), answer{uint64(0), false}},
		{"array as uint", uintOf("au"), answer{uint64(0), false}},
		{"f32", floatOf("f32"), answer{0.5, true}},
		{"f64", floatOf("f64"), answer{0.25, true}},
		{"uint as float", floatOf("u32"), answer{0.0, false}},
		{"s", stringOf("s"), answer{"café", true}},
		{"bool as string", stringOf("yes"), answer{"", false}},
		{"yes", boolOf("yes"), answer{true, true}},
	} {
		if test.got.OK != test.want.OK || test.want.OK && test.got.V != test.want.V {
			t.Errorf("%s: got %v, want %v", test.name, test.got, test.want)
		}
	}
	if got, err := f.Strings("as"); err != nil || !cmp.Equal(got, []string{"a", "", "c"}) {
		t.Errorf("strings: %q, %v", got, err)
	}
	if got, err := f.Strings("none"); err != nil || len(got) != 0 {
		t.Errorf("no strings: %q, %v", got, err)
	}
	if got, err := f.Uints("au"); err != nil || !cmp.Equal(got, []uint64{1, 2}) {
		t.Errorf("uints: %v, %v", got, err)
	}
	if got, err := f.Uints("ab"); err != nil || !cmp.Equal(got, []uint64{1, 0}) {
		t.Errorf("truth values: %v, %v", got, err)
	}
	if got, err := f.Floats("af"); err != nil || !cmp.Equal(got, []float64{1, 2.5}) {
		t.Errorf("floats: %v, %v", got, err)
	}
	for name, err := range map[string]error{
		"negative element": second(f.Uints("ai")), "strings as uints": second(f.Uints("as")), "uints as strings": second(f.Strings("au")),
		"scalar as array": second(f.Uints("u8")), "missing array": second(f.Strings("nothing")), "nested as uints": second(f.Uints("aa")),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	aa, ok := f.Pair("aa")
	if text, err := aa.Summary(); !ok || err != nil || text != "[3 x array]" {
		t.Errorf("nested array is summed up as %q, %v", text, err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestJoin(t *testing.T) {
	part := func(tiny gguftest.Tiny, n, i int) *gguf.File {
		f, err := parseBytes(tiny.Split(n)[i])
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	whole, err := parseBytes(gguftest.Tiny{}.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	var a gguftest.Tiny
	for name, test := range map[string]struct {
		parts []*gguf.File
		want  string
	}{
		"none":          {nil, "no file given"},
		"missing":       {[]*gguf.File{part(a, 5, 1), part(a, 5, 3)}, "of 5 parts these are missing: 1, 3, 5; download"},
		"doubled":       {[]*gguf.File{part(a, 3, 1), part(a, 3, 1), part(a, 3, 0)}, "part 2 of 3 is given twice"},
		"two wholes":    {[]*gguf.File{whole, whole}, "give one file"},
		"foreign count": {[]*gguf.File{part(a, 3, 0), part(a, 2, 1)}, "different models"},
		"foreign size":  {[]*gguf.File{part(a, 2, 0), part(gguftest.Tiny{Layers: 3}, 2, 1)}, "different models"},
	} {
		if _, err := gguf.Join(test.parts...); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v does not say %q", name, err, test.want)
		}
	}
}
