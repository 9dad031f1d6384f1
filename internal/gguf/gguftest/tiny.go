// Package gguftest makes small GGUF files for tests: llama-like models with
// random weights that libllama really loads, as one file or split.
//
// It is imported by tests only and holds no state.
package gguftest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/skein-run/skein/internal/gguf"
)

// Tiny describes a model. The zero value is a usable one: 2 layers, 64 wide, a
// vocabulary that spells every byte.
type Tiny struct {
	Arch     string // default "llama"
	Name     string // general.name; default "tiny"
	Layers   int    // default 2
	Width    int    // embedding length, a multiple of 32; default 64
	Heads    int    // default 4
	KVHeads  int    // default 2
	FFN      int    // default 128
	Context  int    // default 256
	Template string // chat template; default none
	Seed     uint64 // of the weights
	// Extra metadata comes last; a key that is there already is replaced.
	Extra []gguf.KV
}

func (t Tiny) filled() Tiny {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	if t.Arch == "" {
		t.Arch = "llama"
	}
	if t.Name == "" {
		t.Name = "tiny"
	}
	def(&t.Layers, 2)
	def(&t.Width, 64)
	def(&t.Heads, 4)
	def(&t.KVHeads, 2)
	def(&t.FFN, 128)
	def(&t.Context, 256)
	return t
}

// KV is gguf.Pair for values that are known to be good.
func KV(key string, value any) gguf.KV {
	kv, err := gguf.Pair(key, value)
	if err != nil {
		panic(err) // a mistake in a test's own literal
	}
	return kv
}

// vocabulary is <unk>, <s>, </s> and a token for each byte.
func vocabulary() (tokens []string, scores []float32, kinds []int32) {
	tokens, kinds = []string{"<unk>", "<s>", "</s>"}, []int32{2, 3, 3}
	for b := range 256 {
		tokens, kinds = append(tokens, fmt.Sprintf("<0x%02X>", b)), append(kinds, 6)
	}
	// SentencePiece models spell a space as U+2581.
	tokens, kinds = append(tokens, "\u2581"), append(kinds, 1)
	return tokens, make([]float32, len(tokens)), kinds
}

// Metadata is the model's metadata.
func (t Tiny) Metadata() []gguf.KV {
	t = t.filled()
	tokens, scores, kinds := vocabulary()
	kvs := []gguf.KV{
		KV("general.architecture", t.Arch),
		KV("general.name", t.Name),
		KV("general.file_type", uint32(0)),
		KV(t.Arch+".block_count", uint32(t.Layers)),
		KV(t.Arch+".context_length", uint32(t.Context)),
		KV(t.Arch+".embedding_length", uint32(t.Width)),
		KV(t.Arch+".feed_forward_length", uint32(t.FFN)),
		KV(t.Arch+".attention.head_count", uint32(t.Heads)),
		KV(t.Arch+".attention.head_count_kv", uint32(t.KVHeads)),
		KV(t.Arch+".attention.layer_norm_rms_epsilon", float32(1e-5)),
		KV(t.Arch+".rope.dimension_count", uint32(t.Width/t.Heads)),
		KV(t.Arch+".vocab_size", uint32(len(tokens))),
		KV("tokenizer.ggml.model", "llama"),
		KV("tokenizer.ggml.tokens", tokens),
		KV("tokenizer.ggml.scores", scores),
		KV("tokenizer.ggml.token_type", kinds),
		KV("tokenizer.ggml.bos_token_id", uint32(1)),
		KV("tokenizer.ggml.eos_token_id", uint32(2)),
		KV("tokenizer.ggml.unknown_token_id", uint32(0)),
	}
	if t.Template != "" {
		kvs = append(kvs, KV("tokenizer.chat_template", t.Template))
	}
	return merge(kvs, t.Extra)
}

func merge(kvs, extra []gguf.KV) []gguf.KV {
next:
	for _, x := range extra {
		for i := range kvs {
			if kvs[i].Key == x.Key {
				kvs[i] = x
				continue next
			}
		}
		kvs = append(kvs, x)
	}
	return kvs
}

// Tensors lists the model's tensors, all F32.
func (t Tiny) Tensors() []gguf.Tensor {
	t = t.filled()
	width, ffn := uint64(t.Width), uint64(t.FFN)
	kv := width / uint64(t.Heads) * uint64(t.KVHeads)
	tokens, _, _ := vocabulary()
	tensor := func(name string, shape ...uint64) gguf.Tensor {
		x := gguf.Tensor{Name: name, Type: gguf.F32, Dims: len(shape)}
		copy(x.Shape[:], shape)
		return x
	}
	out := []gguf.Tensor{tensor("token_embd.weight", width, uint64(len(tokens)))}
	for i := range t.Layers {
		name := func(s string) string { return fmt.Sprintf("blk.%d.%s.weight", i, s) }
		out = append(out,
			tensor(name("attn_norm"), width), tensor(name("attn_q"), width, width),
			tensor(name("attn_k"), width, kv), tensor(name("attn_v"), width, kv),
			tensor(name("attn_output"), width, width), tensor(name("ffn_norm"), width),
			tensor(name("ffn_gate"), width, ffn), tensor(name("ffn_up"), width, ffn),
			tensor(name("ffn_down"), ffn, width))
	}
	return append(out, tensor("output_norm.weight", width), tensor("output.weight", width, uint64(len(tokens))))
}

// Bytes is the model as one file.
func (t Tiny) Bytes() []byte { return t.encode(t.Metadata(), t.Tensors()) }

// Split is the model as n files, in order, with the split keys set.
func (t Tiny) Split(n int) [][]byte {
	tensors := t.Tensors()
	var out [][]byte
	for i := range n {
		part := []gguf.KV{KV("split.no", uint16(i)), KV("split.count", uint16(n)), KV("split.tensors.count", int32(len(tensors)))}
		if i == 0 {
			part = append(t.Metadata(), part...)
		}
		out = append(out, t.encode(part, tensors[len(tensors)*i/n:len(tensors)*(i+1)/n]))
	}
	return out
}

func (t Tiny) encode(kvs []gguf.KV, tensors []gguf.Tensor) []byte {
	var b bytes.Buffer
	err := gguf.Write(&b, kvs, tensors, func(x gguf.Tensor) (io.Reader, error) { return bytes.NewReader(t.weights(x)), nil })
	if err != nil {
		panic(err) // a mistake in a test's own description
	}
	return b.Bytes()
}

// weights draws a tensor's values, the same ones for the same seed and name:
// ones for norms, else normal with variance 1/row length.
func (t Tiny) weights(x gguf.Tensor) []byte {
	seed := t.Seed
	for _, c := range []byte(x.Name) {
		seed = seed*1099511628211 + uint64(c)
	}
	r := rand.New(rand.NewPCG(seed, 1))
	scale := 1 / math.Sqrt(float64(x.Shape[0]))
	b := make([]byte, 0, x.Bytes)
	for range x.Elements() {
		v := float32(1)
		if x.Dims > 1 {
			v = float32(r.NormFloat64() * scale)
		}
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

// WriteFile writes the model into dir and gives its path.
func (t Tiny) WriteFile(tb testing.TB, dir, name string) string {
	tb.Helper()
	return write(tb, dir, name, t.Bytes())
}

// WriteSplit writes the model as name-00001-of-0000n.gguf and so on.
func (t Tiny) WriteSplit(tb testing.TB, dir, name string, n int) []string {
	tb.Helper()
	var paths []string
	for i, data := range t.Split(n) {
		paths = append(paths, write(tb, dir, fmt.Sprintf("%s-%05d-of-%05d.gguf", name, i+1, n), data))
	}
	return paths
}

func write(tb testing.TB, dir, name string, data []byte) string {
	tb.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}
