package slice_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/slice"
)

// shape is a model to be cut: real tensor names and shapes, arbitrary bytes.
type shape struct {
	Arch                string
	Layers              int
	Heads, Groups, Size int // query heads, KV heads, elements of a head
	Columns, Experts    int // of the feed-forward network
	Embedding, Vocab    int
	Weights             gguf.TensorType // of the products' matrices
	Fused, Tied, Sinks  bool
}

// extra are tensors beside those of every model; %d is the layer.
func (s shape) model(t rapid.TB, extra ...gguf.Tensor) ([]byte, *gguf.Model) {
	t.Helper()
	q, kv := s.Heads*s.Size, s.Groups*s.Size
	var tensors []gguf.Tensor
	add := func(name string, typ gguf.TensorType, dims ...int) {
		x := gguf.Tensor{Name: name, Type: typ, Dims: len(dims)}
		for i, n := range dims {
			x.Shape[i] = uint64(n)
		}
		tensors = append(tensors, x)
	}
	add("token_embd.weight", s.Weights, s.Embedding, s.Vocab)
	add("output_norm.weight", gguf.F32, s.Embedding)
	if !s.Tied {
		add("output.weight", s.Weights, s.Embedding, s.Vocab)
	}
	for i := range s.Layers {
		layer := func(name string, typ gguf.TensorType, dims ...int) {
			add(fmt.Sprintf("blk.%d.%s", i, name), typ, dims...)
		}
		layer("attn_norm.weight", gguf.F32, s.Embedding)
		if s.Fused {
			layer("attn_qkv.weight", s.Weights, s.Embedding, q+2*kv)
			layer("attn_qkv.bias", gguf.F32, q+2*kv)
		} else {
			layer("attn_q.weight", s.Weights, s.Embedding, q)
			layer("attn_q.bias", gguf.F32, q)
			layer("attn_k.weight", s.Weights, s.Embedding, kv)
			layer("attn_v.weight", s.Weights, s.Embedding, kv)
		}
		layer("attn_q_norm.weight", gguf.F32, s.Size)
		if s.Sinks {
			layer("attn_sinks.weight", gguf.F32, s.Heads)
		}
		layer("attn_output.weight", s.Weights, q, s.Embedding)
		layer("attn_output.bias", gguf.F32, s.Embedding)
		layer("ffn_norm.weight", gguf.F32, s.Embedding)
		if s.Experts == 0 {
			layer("ffn_gate.weight", s.Weights, s.Embedding, s.Columns)
			layer("ffn_up.weight", s.Weights, s.Embedding, s.Columns)
			layer("ffn_up.bias", gguf.F32, s.Columns)
			layer("ffn_down.weight", s.Weights, s.Columns, s.Embedding)
			layer("ffn_down.bias", gguf.F32, s.Embedding)
			continue
		}
		layer("ffn_gate_inp.weight", gguf.F32, s.Embedding, s.Experts)
		if s.Fused {
			layer("ffn_gate_up_exps.weight", s.Weights, s.Embedding, 2*s.Columns, s.Experts)
		} else {
			layer("ffn_gate_exps.weight", s.Weights, s.Embedding, s.Columns, s.Experts)
			layer("ffn_up_exps.weight", s.Weights, s.Embedding, s.Columns, s.Experts)
			layer("ffn_up_exps.bias", gguf.F32, s.Columns, s.Experts)
		}
		layer("ffn_down_exps.weight", s.Weights, s.Columns, s.Embedding, s.Experts)
		layer("ffn_down_exps.bias", gguf.F32, s.Embedding, s.Experts)
	}
	tensors = append(tensors, extra...)
	var kvs []gguf.KV
	for _, e := range []struct {
		key   string
		value any
	}{
		{"general.architecture", s.Arch},
		{s.Arch + ".block_count", uint32(s.Layers)},
		{s.Arch + ".embedding_length", uint32(s.Embedding)},
		{s.Arch + ".context_length", uint32(256)},
		{s.Arch + ".feed_forward_length", uint32(s.Columns)},
		{s.Arch + ".expert_count", uint32(s.Experts)},
		{s.Arch + ".expert_used_count", uint32(min(s.Experts, 2))},
		{s.Arch + ".attention.head_count", uint32(s.Heads)},
		{s.Arch + ".attention.head_count_kv", uint32(s.Groups)},
		{s.Arch + ".attention.key_length", uint32(s.Size)},
		{s.Arch + ".attention.value_length", uint32(s.Size)},
		{s.Arch + ".vocab_size", uint32(s.Vocab)},
	} {
		kv, err := gguf.Pair(e.key, e.value)
		if err != nil {
			t.Fatal(err)
		}
		kvs = append(kvs, kv)
	}
	var b bytes.Buffer
	state := uint32(1)
	err := gguf.Write(&b, kvs, tensors, func(x gguf.Tensor) (io.Reader, error) {
		data := make([]byte, x.Bytes)
		for i := range data {
			state = state*1664525 + 1013904223
			data[i] = byte(state >> 24)
		}
		return bytes.NewReader(data), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Parse(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	m, err := gguf.Join(f)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), m
}

// drawShape draws a model and parts that fit it.
func drawShape(t *rapid.T) (shape, []int) {
	s := shape{
		Layers:    rapid.IntRange(1, 2).Draw(t, "layers"),
		Size:      rapid.SampledFrom([]int{32, 64}).Draw(t, "size"),
		Columns:   32 * rapid.IntRange(4, 10).Draw(t, "columns"),
		Embedding: 32,
		Vocab:     rapid.IntRange(33, 160).Draw(t, "vocab"),
		Weights:   rapid.SampledFrom([]gguf.TensorType{gguf.F32, gguf.F16, gguf.Q8_0, gguf.Q4_0}).Draw(t, "type"),
		Fused:     rapid.Bool().Draw(t, "fused"),
		Tied:      rapid.Bool().Draw(t, "tied"),
		Sinks:     rapid.Bool().Draw(t, "sinks"),
	}
	s.Arch = "qwen3"
	if rapid.Bool().Draw(t, "moe") {
		s.Arch, s.Experts = "qwen3moe", rapid.IntRange(2, 3).Draw(t, "experts")
	}
	parts := rapid.SliceOfN(rapid.IntRange(1, 3), 2, 4).Draw(t, "parts")
	var total int
	for _, p := range parts {
		total += p
	}
	each := rapid.IntRange(1, 3).Draw(t, "group")
	s.Groups = total * rapid.IntRange(1, 2).Draw(t, "times")
	s.Heads = s.Groups * each
	return s, parts
}

// cutAll cuts all ranks of all layers.
func cutAll(t rapid.TB, m *gguf.Model, layers int, parts []int) []*slice.File {
	t.Helper()
	var files []*slice.File
	for r := range parts {
		f, err := slice.Cut(m, slice.Spec{End: layers, Rank: r, Parts: parts})
		if err != nil {
			t.Fatalf("rank %d of %v: %v", r, parts, err)
		}
		files = append(files, f)
	}
	return files
}

// shard reads a shard back as a model.
func shard(t rapid.TB, f *slice.File, source []byte) *gguf.Model {
	t.Helper()
	var b bytes.Buffer
	if _, err := f.WriteTo(&b, []io.ReaderAt{bytes.NewReader(source)}); err != nil {
		t.Fatal(err)
	}
	p, err := gguf.Parse(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	m, err := gguf.Join(p)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func data(t rapid.TB, m *gguf.Model, name string) ([]byte, gguf.Tensor) {
	t.Helper()
	x, ok := m.Tensor(name)
	if !ok {
		t.Fatalf("no tensor %s", name)
	}
	b, err := io.ReadAll(m.Data(x))
	if err != nil {
		t.Fatal(err)
	}
	return b, x
}

// TestEveryByteIsWhereItBelongs counts how many ranks hold each byte of the
// source: one, or all; none of a table that nobody reads.
func TestEveryByteIsWhereItBelongs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, parts := drawShape(t)
		source, m := s.model(t)
		files := cutAll(t, m, s.Layers, parts)
		count := make([]byte, len(source))
		var sum int64
		for _, f := range files {
			sum += f.SourceBytes()
			for _, x := range f.Tensors {
				for p := range f.Pieces(x) {
					if p.Part < 0 {
						continue
					}
					for i := p.Offset; i < p.Offset+p.Length; i++ {
						count[i]++
					}
				}
			}
		}
		base := m.Parts()[0].DataOffset
		var expected int64
		for _, x := range m.Tensors() {
			// What is whole on each rank works on hidden states; experts' bias
			// is on one rank alone.
			want := byte(1)
			if x.Name == "token_embd.weight" && !s.Tied {
				want = 0 // shards are fed with hidden states
			}
			for _, all := range []string{"norm", "attn_output.bias", "ffn_down.bias", "ffn_gate_inp"} {
				if strings.Contains(x.Name, all) {
					want = byte(len(parts))
				}
			}
			expected += int64(want) * x.Bytes
			for i := base + x.Offset; i < base+x.Offset+x.Bytes; i++ {
				if count[i] != want {
					t.Fatalf("byte %d of %s is on %d ranks, want %d", i-base-x.Offset, x.Name, count[i], want)
				}
			}
		}
		if sum != expected {
			t.Errorf("the ranks hold %d bytes, want %d", sum, expected)
		}
	})
}

// slab gives the bytes of [from, to) of a dimension, one piece for each index of
// the dimensions above.
func slab(b []byte, x gguf.Tensor, dim int, from, to uint64) [][]byte {
	per, step := x.Type.Block()
	if dim > 0 {
		step, per = x.Type.RowBytes(x.Shape[0]), 1
		for _, n := range x.Shape[1:dim] {
			step *= n
		}
	}
	all := x.Shape[dim] / per * step
	var out [][]byte
	for at := uint64(0); at < uint64(len(b)); at += all {
		out = append(out, b[at+from/per*step:at+to/per*step])
	}
	return out
}

// TestRanksJoinedAreTheModel puts the ranks' tensors back together along the
// dimension that was cut.
func TestRanksJoinedAreTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, parts := drawShape(t)
		source, m := s.model(t)
		var shards []*gguf.Model
		for _, f := range cutAll(t, m, s.Layers, parts) {
			shards = append(shards, shard(t, f, source))
		}
		for _, x := range m.Tensors() {
			want, _ := data(t, m, x.Name)
			switch {
			case s.Tied:
			case x.Name == "token_embd.weight":
				continue // nobody needs it
			case x.Name == "output.weight":
				x.Name = "token_embd.weight"
			}
			_, first := data(t, shards[0], x.Name)
			dim := -1
			for d := range x.Dims {
				if first.Shape[d] != x.Shape[d] {
					dim = d
				}
			}
			if dim < 0 {
				for r, sh := range shards {
					got, _ := data(t, sh, x.Name)
					if strings.HasSuffix(x.Name, "ffn_down_exps.bias") && r > 0 {
						want = make([]byte, len(want))
					}
					if !bytes.Equal(got, want) {
						t.Fatalf("%s on rank %d differs from the model's", x.Name, r)
					}
				}
				continue
			}
			// A fused tensor is several tensors, one behind the other.
			sections := []uint64{x.Shape[dim]}
			switch {
			case strings.Contains(x.Name, "attn_qkv"):
				kv := uint64(s.Groups * s.Size)
				sections = []uint64{uint64(s.Heads * s.Size), kv, kv}
			case strings.Contains(x.Name, "ffn_gate_up"):
				sections = []uint64{x.Shape[dim] / 2, x.Shape[dim] / 2}
			}
			var joined [][]byte
			for i := range sections {
				for _, sh := range shards {
					got, y := data(t, sh, x.Name)
					// The rank's part of a section is its part of the whole.
					from, to := uint64(0), uint64(0)
					for k, n := range sections {
						from, to = to, to+n*y.Shape[dim]/x.Shape[dim]
						if k == i {
							break
						}
					}
					for o, piece := range slab(got, y, dim, from, to) {
						if len(joined) <= o {
							joined = append(joined, nil)
						}
						joined[o] = append(joined[o], piece...)
					}
				}
			}
			if !bytes.Equal(bytes.Join(joined, nil), want) {
				t.Fatalf("the ranks' %s put together differ from the model's", x.Name)
			}
		}
	})
}

// TestShapesFollowTheMetadata checks what the library checks when it loads.
func TestShapesFollowTheMetadata(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, parts := drawShape(t)
		source, m := s.model(t)
		var total, vocab, next int
		for _, p := range parts {
			total += p
		}
		for r, f := range cutAll(t, m, s.Layers, parts) {
			sh := shard(t, f, source)
			n := func(key string) int {
				v, ok := sh.Uint(s.Arch + "." + key)
				if !ok {
					t.Fatalf("the shard has no %s", key)
				}
				return int(v)
			}
			q, kv, columns := n("attention.head_count"), n("attention.head_count_kv"), n("feed_forward_length")
			if got, want := kv, s.Groups*parts[r]/total; got != want {
				t.Errorf("rank %d has %d KV heads, want %d", r, got, want)
			}
			if n("attention.key_length") != s.Size || n("attention.value_length") != s.Size || n("rope.dimension_count") != s.Size {
				t.Error("the size of a head changed")
			}
			rows := func(name string, dim, want int) {
				if x, ok := sh.Tensor("blk.0." + name); ok && x.Shape[dim] != uint64(want) {
					t.Errorf("rank %d: %s is %v, want %d in dimension %d", r, name, x.Shape[:x.Dims], want, dim)
				}
			}
			rows("attn_q.weight", 1, q*s.Size)
			rows("attn_k.weight", 1, kv*s.Size)
			rows("attn_v.weight", 1, kv*s.Size)
			rows("attn_qkv.weight", 1, (q+2*kv)*s.Size)
			rows("attn_output.weight", 0, q*s.Size)
			rows("attn_sinks.weight", 0, q)
			rows("ffn_up.weight", 1, columns)
			rows("ffn_down.weight", 0, columns)
			rows("ffn_down_exps.weight", 0, columns)
			rows("ffn_gate_up_exps.weight", 1, 2*columns)
			if f.Run.VocabFirst != vocab || n("vocab_size") != f.Run.VocabCount {
				t.Errorf("rank %d computes tokens [%d, +%d), want from %d on and vocab_size %d", r, f.Run.VocabFirst, f.Run.VocabCount, vocab, n("vocab_size"))
			}
			vocab += f.Run.VocabCount
			next += columns
			want := []slice.Reduction{{Weight: "attn_output.weight"}, {Weight: "ffn_down.weight"}}
			if s.Experts > 0 {
				want[1] = slice.Reduction{Node: "ffn_moe_out"}
			}
			if d := cmp.Diff(want, f.Run.Reduce); d != "" {
				t.Errorf("what is summed up (-want +got):\n%s", d)
			}
		}
		if vocab != s.Vocab || next != s.Columns {
			t.Errorf("the ranks compute %d of %d tokens and %d of %d columns", vocab, s.Vocab, next, s.Columns)
		}
	})
}

// TestAnyPartsAreCutOrExplained gives parts that may not fit.
func TestAnyPartsAreCutOrExplained(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, _ := drawShape(t)
		s.Groups = rapid.IntRange(1, 9).Draw(t, "groups")
		s.Heads = s.Groups * rapid.IntRange(1, 4).Draw(t, "per group")
		if rapid.Bool().Draw(t, "k quants") {
			s.Weights, s.Embedding, s.Columns = gguf.Q4_K, 256, 256*rapid.IntRange(1, 5).Draw(t, "blocks")
			s.Size = 128
			if s.Heads%2 != 0 {
				s.Heads, s.Groups = 2*s.Heads, 2*s.Groups
			}
		}
		_, m := s.model(t)
		parts := rapid.SliceOfN(rapid.IntRange(-1, 5), 1, 5).Draw(t, "any parts")
		rank := rapid.IntRange(-1, len(parts)).Draw(t, "rank")
		if _, err := slice.Cut(m, slice.Spec{End: s.Layers, Rank: rank, Parts: parts}); err != nil {
			if text := err.Error(); !errors.Is(err, slice.ErrRefused) && !strings.Contains(text, "use ") && !strings.Contains(text, "must be") && !strings.Contains(text, "count from 0") {
				t.Errorf("error names no fix: %v", err)
			}
		}
		// What PartsFor gives, Cut takes.
		weights := rapid.SliceOfN(rapid.Float64Range(0.1, 10), 2, 5).Draw(t, "weights")
		fit, err := slice.PartsFor(m, weights)
		if err != nil {
			if !strings.Contains(err.Error(), "use ") {
				t.Errorf("error names no fix: %v", err)
			}
			return
		}
		for r := range fit {
			_, err := slice.Cut(m, slice.Spec{End: s.Layers, Rank: r, Parts: fit})
			if err != nil && !strings.Contains(err.Error(), "blocks can't be shared") {
				t.Fatalf("PartsFor(%v) of %+v gave %v, and: %v", weights, s, fit, err)
			}
		}
	})
}
