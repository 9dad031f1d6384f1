package slice_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/gguftest"
	"github.com/skein-run/skein/internal/gguf/hyper"
	"github.com/skein-run/skein/internal/gguf/slice"
)

// parse parses a whole model of one or more files.
func parse(t rapid.TB, files ...[]byte) (*gguf.Model, []io.ReaderAt) {
	t.Helper()
	var parts []*gguf.File
	var readers []io.ReaderAt
	for _, b := range files {
		f, err := gguf.Parse(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, f)
		readers = append(readers, bytes.NewReader(b))
	}
	m, err := gguf.Join(parts...)
	if err != nil {
		t.Fatal(err)
	}
	return m, readers
}

// write writes a shard as a file.
func write(t rapid.TB, f *slice.File, parts []io.ReaderAt) []byte {
	t.Helper()
	var b bytes.Buffer
	n, err := f.WriteTo(&b, parts)
	if err != nil {
		t.Fatal(err)
	}
	if n != f.Size || int64(b.Len()) != f.Size {
		t.Fatalf("the shard has %d bytes, Size says %d", n, f.Size)
	}
	return b.Bytes()
}

// drawStages cuts layers into stages anywhere.
func drawStages(t *rapid.T, layers int) []slice.Spec {
	var specs []slice.Spec
	for first := 0; first < layers; {
		end := rapid.IntRange(first+1, layers).Draw(t, "end")
		specs = append(specs, slice.Spec{First: first, End: end})
		first = end
	}
	return specs
}

// renamed is the name in the model of a tensor of the shard.
func renamed(name string, first int) string {
	rest, ok := strings.CutPrefix(name, "blk.")
	if !ok {
		return name
	}
	number, rest, _ := strings.Cut(rest, ".")
	n, _ := strconv.Atoi(number)
	return fmt.Sprintf("blk.%d.%s", n+first, rest)
}

// Joined in order, the stages' layers are the model's, byte by byte; what has
// no layer is in every stage, but for the vocabulary, and no stage has more.
func TestStagesJoinedAreTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tiny := gguftest.Tiny{Layers: rapid.IntRange(1, 6).Draw(t, "layers"), Seed: rapid.Uint64().Draw(t, "seed")}
		files := [][]byte{tiny.Bytes()}
		if rapid.Bool().Draw(t, "split") {
			files = tiny.Split(2)
		}
		m, parts := parse(t, files...)
		seen := map[string]bool{}
		var layerBytes int64
		specs := drawStages(t, tiny.Layers)
		for i, spec := range specs {
			f, err := slice.Cut(m, spec)
			if err != nil {
				t.Fatal(err)
			}
			stage, _ := parse(t, write(t, f, parts))
			last := i == len(specs)-1
			if (f.Run.Capture == "") != last || (f.Run.Embed != nil) != (i == 0) || (f.Run.VocabCount > 0) != last {
				t.Fatalf("stage %d of %d: %+v", i, len(specs), f.Run)
			}
			if s, _ := stage.String("tokenizer.ggml.model"); s != "no_vocab" {
				t.Fatalf("the stage has the tokenizer %q", s)
			}
			for _, got := range stage.Tensors() {
				name := renamed(got.Name, spec.First)
				if last && name == "token_embd.weight" {
					name = "output.weight" // nobody looks up rows there
				}
				want, ok := m.Tensor(name)
				if !ok {
					t.Fatalf("the stage has %s, the model has no %s", got.Name, name)
				}
				g, _ := io.ReadAll(stage.Data(got))
				w, _ := io.ReadAll(m.Data(want))
				if strings.HasPrefix(name, "blk.") {
					if seen[name] {
						t.Fatalf("%s is in two stages", name)
					}
					seen[name] = true
					layerBytes += got.Bytes
				} else if (name == "token_embd.weight" || name == "output.weight") && !last {
					w = w[:len(w)/int(want.Shape[1])*int(got.Shape[1])]
					if got.Shape[1] > 32 {
						t.Fatalf("a stage without a head keeps %d rows", got.Shape[1])
					}
				}
				if !bytes.Equal(g, w) {
					t.Fatalf("%s differs from the model's %s", got.Name, name)
				}
			}
			if v, _ := stage.Uint("llama.vocab_size"); v != stageVocabulary(stage) {
				t.Fatalf("vocab_size is %d, the table has %d rows", v, stageVocabulary(stage))
			}
		}
		var want int64
		for _, x := range m.Tensors() {
			if strings.HasPrefix(x.Name, "blk.") {
				want += x.Bytes
			}
		}
		if layerBytes != want {
			t.Fatalf("the stages hold %d bytes of layers, the model %d", layerBytes, want)
		}
	})
}

func stageVocabulary(m *gguf.Model) uint64 {
	x, _ := m.Tensor("token_embd.weight")
	return x.Shape[1]
}

// A shard read anywhere is the shard written in one go, and its pieces name
// every byte of its tensors once, in order.
func TestReaderAndPiecesAreTheFile(t *testing.T) {
	m, parts := parse(t, gguftest.Tiny{Layers: 4}.Split(3)...)
	f, err := slice.Cut(m, slice.Spec{First: 1, End: 3})
	if err != nil {
		t.Fatal(err)
	}
	whole := write(t, f, parts)
	r := f.Reader(parts)
	rapid.Check(t, func(t *rapid.T) {
		off := rapid.IntRange(0, len(whole)+3).Draw(t, "off")
		p := make([]byte, rapid.IntRange(0, 3000).Draw(t, "n"))
		n, err := r.ReadAt(p, int64(off))
		want := whole[min(off, len(whole)):]
		if len(want) >= len(p) {
			want = want[:len(p)]
			if err != nil {
				t.Fatal(err)
			}
		} else if err != io.EOF {
			t.Fatalf("the error at the end is %v", err)
		}
		if !bytes.Equal(p[:n], want) {
			t.Fatalf("%d bytes at %d differ", len(p), off)
		}
	})
	built := bytes.Clone(f.Header)
	built = append(built, make([]byte, f.Size-int64(len(built)))...)
	var named int64
	for _, x := range f.Tensors {
		for p := range f.Pieces(x) {
			b := bytes.Repeat(p.Fill, int(p.Length))
			if p.Part >= 0 {
				b = make([]byte, p.Length)
				if _, err := parts[p.Part].ReadAt(b, p.Offset); err != nil {
					t.Fatal(err)
				}
			}
			copy(built[p.At:], b[:p.Length])
			named += p.Length
		}
	}
	if !bytes.Equal(built, whole) {
		t.Error("the pieces are not the file")
	}
	if named != f.TensorBytes() || named != f.SourceBytes() {
		t.Errorf("the pieces have %d bytes, the tensors %d, the source gives %d", named, f.TensorBytes(), f.SourceBytes())
	}
}

func TestReaderNamesMissingParts(t *testing.T) {
	tiny := gguftest.Tiny{Layers: 2}
	m, parts := parse(t, tiny.Split(2)...)
	f, err := slice.Cut(m, slice.Spec{First: 0, End: 2})
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteTo(io.Discard, parts[:1])
	if err == nil || !strings.Contains(err.Error(), "needs part 2") {
		t.Errorf("without the second part: %v", err)
	}
	short := []io.ReaderAt{parts[0], bytes.NewReader(nil)}
	if _, err = f.WriteTo(io.Discard, short); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("with a part that has shrunk: %v", err)
	}
}

// The engine sees each layer of a stage as what it was in the whole model.
func TestLayersKeepTheirKind(t *testing.T) {
	var cut []string
	for _, arch := range slice.Architectures() {
		if slice.SupportFor(arch).Pipeline.Yes {
			cut = append(cut, arch)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		arch := rapid.SampledFrom(cut).Draw(t, "arch")
		layers := rapid.IntRange(1, 12).Draw(t, "layers")
		var extra []gguf.KV
		maybe := func(name string, value any) {
			if rapid.Bool().Draw(t, name) {
				extra = append(extra, gguftest.KV(arch+"."+name, value))
			}
		}
		list := func(name string, values ...uint32) []uint32 {
			out := make([]uint32, layers)
			for i := range out {
				out[i] = rapid.SampledFrom(values).Draw(t, name)
			}
			return out
		}
		maybe("attention.sliding_window", uint32(64))
		maybe("attention.sliding_window_pattern", list("pattern", 0, 1))
		maybe("attention.head_count", list("heads", 4, 8))
		maybe("attention.head_count_kv", list("groups", 0, 2))
		maybe("feed_forward_length", list("columns", 0, 64, 128))
		maybe("attention.recurrent_layers", list("recurrent", 0, 1))
		maybe("leading_dense_block_count", uint32(rapid.IntRange(0, layers).Draw(t, "lead")))
		maybe("nextn_predict_layers", uint32(rapid.IntRange(0, layers-1).Draw(t, "draft")))
		m, parts := parse(t, gguftest.Tiny{Arch: arch, Layers: layers, Extra: extra}.Bytes())
		whole, err := hyper.Read(m)
		if err != nil {
			t.Skip(err)
		}
		for _, spec := range drawStages(t, whole.Layers) {
			f, err := slice.Cut(m, spec)
			if errors.Is(err, slice.ErrRefused) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			stage, _ := parse(t, write(t, f, parts))
			got, err := hyper.Read(stage)
			if err != nil {
				t.Fatal(err)
			}
			before := 0
			if f.Run.Capture != "" {
				_, place, _ := strings.Cut(f.Run.Capture, "-")
				n, _ := strconv.Atoi(place)
				before = n + 1 - (spec.End - spec.First)
			} else if first, ok := firstOwn(stage, m, spec.First); ok {
				before = first
			}
			n := spec.End - spec.First
			view := func(h *hyper.Params, from int) []string {
				var out []string
				for i := range n {
					l := from + i
					// The first layer's heads stand for the model's where it has none.
					heads := h.Heads[l]
					if h.Recurrent[l] {
						heads = 0
					}
					out = append(out, fmt.Sprint(h.Windowed[l], h.Recurrent[l], h.Attention[l], heads, h.KVHeads[l], h.FFN[l]))
				}
				return out
			}
			if diff := cmp.Diff(view(whole, spec.First), view(got, before)); diff != "" {
				t.Fatalf("%s %v: (-whole +stage)\n%s", arch, spec, diff)
			}
			if got.Draft != 0 {
				t.Fatalf("the stage has %d draft layers", got.Draft)
			}
		}
	})
}

// firstOwn finds the place of a layer of the model in a stage, by its bytes.
func firstOwn(stage, m *gguf.Model, layer int) (int, bool) {
	want, ok := m.Tensor(fmt.Sprintf("blk.%d.attn_q.weight", layer))
	if !ok {
		return 0, false
	}
	w, _ := io.ReadAll(m.Data(want))
	for place := 0; ; place++ {
		got, ok := stage.Tensor(fmt.Sprintf("blk.%d.attn_q.weight", place))
		if !ok {
			return 0, false
		}
		if g, _ := io.ReadAll(stage.Data(got)); bytes.Equal(g, w) {
			return place, true
		}
	}
}

func TestCutOutsideTheModel(t *testing.T) {
	m, _ := parse(t, gguftest.Tiny{Layers: 2}.Bytes())
	for _, spec := range []slice.Spec{{First: 0, End: 3}, {First: 1, End: 1}, {First: -1, End: 1}, {First: 2, End: 1}} {
		_, err := slice.Cut(m, spec)
		if err == nil || !strings.Contains(err.Error(), "layers [0, 2)") {
			t.Errorf("%v: %v", spec, err)
		}
	}
}

// A damaged or strange model gives an error or a shard that can be written.
func FuzzCut(f *testing.F) {
	small := gguftest.Tiny{Layers: 2, Width: 32, Heads: 2, KVHeads: 2, FFN: 32}
	f.Add(small.Bytes(), 1, 2, 0, 0)
	f.Add(small.Bytes(), 0, 2, 1, 2)
	f.Add(gguftest.Tiny{Arch: "gemma3", Layers: 3, Width: 32, Heads: 1, KVHeads: 1, FFN: 32, Extra: []gguf.KV{gguftest.KV("gemma3.attention.sliding_window", uint32(8))}}.Bytes(), 2, 3, 0, 0)
	f.Add(gguftest.Tiny{Arch: "jamba", Layers: 3, Width: 32, Heads: 2, KVHeads: 2, FFN: 32, Extra: []gguf.KV{gguftest.KV("jamba.attention.head_count_kv", []uint32{0, 2, 0})}}.Bytes(), 0, 1, 0, 0)
	f.Fuzz(func(t *testing.T, b []byte, first, end, rank, ranks int) {
		file, err := gguf.Parse(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		m, err := gguf.Join(file)
		if err != nil {
			return
		}
		spec := slice.Spec{First: first, End: end, Rank: rank}
		for range min(max(ranks, 0), 8) {
			spec.Parts = append(spec.Parts, 1)
		}
		shard, err := slice.Cut(m, spec)
		if err != nil {
			return
		}
		if shard.SourceBytes() > 1<<30 {
			t.Fatalf("a shard of %d source bytes from a file of %d", shard.SourceBytes(), len(b))
		}
		if _, err := shard.Reader([]io.ReaderAt{bytes.NewReader(b)}).ReadAt(make([]byte, min(shard.Size, 1<<20)), 0); err != nil {
			t.Fatal(err)
		}
	})
}

// Padding is zeros in the shape of its kind, and takes nothing of the source.
func TestPaddingIsZeros(t *testing.T) {
	m, parts := parse(t, gguftest.Tiny{Arch: "jamba", Layers: 3, Extra: []gguf.KV{gguftest.KV("jamba.attention.head_count_kv", []uint32{0, 0, 2})}}.Bytes())
	f, err := slice.Cut(m, slice.Spec{First: 0, End: 2})
	if err != nil {
		t.Fatal(err)
	}
	stage, _ := parse(t, write(t, f, parts))
	if n, _ := stage.Uint("jamba.block_count"); n != 3 || f.Run.Capture != "l_out-1" {
		t.Fatalf("%d layers that end at %s, want 3 and l_out-1", n, f.Run.Capture)
	}
	var zeros int64
	for _, x := range stage.Tensors() {
		if !strings.HasPrefix(x.Name, "blk.2.") {
			continue
		}
		want, _ := m.Tensor(x.Name)
		if x.Shape != want.Shape || x.Type != want.Type {
			t.Errorf("%s is %v of %s, want %v of %s", x.Name, x.Shape, x.Type, want.Shape, want.Type)
		}
		b, _ := io.ReadAll(stage.Data(x))
		if !bytes.Equal(b, make([]byte, len(b))) {
			t.Errorf("%s is not zeros", x.Name)
		}
		zeros += x.Bytes
	}
	if zeros == 0 || f.TensorBytes()-f.SourceBytes() != zeros {
		t.Errorf("%d bytes of padding, %d of the shard's are not of the source", zeros, f.TensorBytes()-f.SourceBytes())
	}
}
