// Command randmodel writes a model with random weights and real shapes: llama
// architecture, Q4_0 matrices, f32 norms. Its answers mean nothing; its speed
// and memory are those of a trained model of the same shapes, since the library
// computes the same whatever the values are. A seed gives the same bytes again.
// `make bench-shards` calls it.
package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"

	"github.com/skein-run/skein/internal/gguf"
)

// shape is what the flags say.
type shape struct {
	embedding, layers, heads, kvHeads, head, ffn, vocabulary, context int
	seed                                                              uint64
}

func main() {
	var (
		s   shape
		out string
	)
	flag.StringVar(&out, "out", "", "file to write")
	flag.IntVar(&s.embedding, "embedding", 2560, "width of a hidden state")
	flag.IntVar(&s.layers, "layers", 18, "layers")
	flag.IntVar(&s.heads, "heads", 20, "attention heads")
	flag.IntVar(&s.kvHeads, "kv-heads", 4, "KV heads")
	flag.IntVar(&s.head, "head", 128, "width of a head")
	flag.IntVar(&s.ffn, "ffn", 9728, "width of the feed-forward network")
	flag.IntVar(&s.vocabulary, "vocabulary", 151936, "tokens")
	flag.IntVar(&s.context, "context", 8192, "trained context")
	flag.Uint64Var(&s.seed, "seed", 1, "of the weights")
	flag.Parse()
	if err := run(out, s); err != nil {
		fmt.Fprintln(os.Stderr, "randmodel:", err)
		os.Exit(1)
	}
}

func run(out string, s shape) (err error) {
	if out == "" {
		return errors.New("say which file to write: -out FILE")
	}
	kvs, err := metadata(s)
	if err != nil {
		return err
	}
	// A file that was cut off must not be taken for a model the next time.
	f, err := os.Create(out + ".new")
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	random := rand.NewChaCha8([32]byte{byte(s.seed), byte(s.seed >> 8)})
	err = gguf.Write(w, kvs, tensors(s), func(t gguf.Tensor) (io.Reader, error) { return data(t, random) })
	if err = errors.Join(err, w.Flush(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return os.Rename(f.Name(), out)
}

func metadata(s shape) ([]gguf.KV, error) {
	tokens, scores, kinds := vocabulary(s.vocabulary)
	var kvs []gguf.KV
	for _, kv := range []struct {
		key   string
		value any
	}{
		{"general.architecture", "llama"}, {"general.name", "random"}, {"general.file_type", uint32(2)},
		{"llama.block_count", uint32(s.layers)}, {"llama.context_length", uint32(s.context)},
		{"llama.embedding_length", uint32(s.embedding)}, {"llama.feed_forward_length", uint32(s.ffn)},
		{"llama.attention.head_count", uint32(s.heads)}, {"llama.attention.head_count_kv", uint32(s.kvHeads)},
		{"llama.attention.key_length", uint32(s.head)}, {"llama.attention.value_length", uint32(s.head)},
		{"llama.rope.dimension_count", uint32(s.head)}, {"llama.rope.freq_base", float32(1e6)},
		{"llama.attention.layer_norm_rms_epsilon", float32(1e-6)}, {"llama.vocab_size", uint32(s.vocabulary)},
		{"tokenizer.ggml.model", "llama"}, {"tokenizer.ggml.tokens", tokens}, {"tokenizer.ggml.scores", scores},
		{"tokenizer.ggml.token_type", kinds}, {"tokenizer.ggml.bos_token_id", uint32(1)},
		{"tokenizer.ggml.eos_token_id", uint32(2)}, {"tokenizer.ggml.unknown_token_id", uint32(0)},
	} {
		pair, err := gguf.Pair(kv.key, kv.value)
		if err != nil {
			return nil, err
		}
		kvs = append(kvs, pair)
	}
	return kvs, nil
}

// vocabulary has the special tokens, one for each byte, and words of no meaning.
func vocabulary(n int) (tokens []string, scores []float32, kinds []int32) {
	const (
		normal, unknown, control, bytes = 1, 2, 3, 6
	)
	for i := range n {
		token, kind := fmt.Sprintf("w%d", i), int32(normal)
		switch {
		case i == 0:
			token, kind = "<unk>", unknown
		case i == 1:
			token, kind = "<s>", control
		case i == 2:
			token, kind = "</s>", control
		case i < 3+256:
			token, kind = fmt.Sprintf("<0x%02X>", i-3), bytes
		}
		tokens, scores, kinds = append(tokens, token), append(scores, -float32(i)), append(kinds, kind)
	}
	return tokens, scores, kinds
}

func tensors(s shape) []gguf.Tensor {
	var out []gguf.Tensor
	matrix := func(name string, columns, rows int) {
		out = append(out, gguf.Tensor{Name: name, Type: gguf.Q4_0, Dims: 2, Shape: [4]uint64{uint64(columns), uint64(rows), 1, 1}})
	}
	norm := func(name string) {
		out = append(out, gguf.Tensor{Name: name, Type: gguf.F32, Dims: 1, Shape: [4]uint64{uint64(s.embedding), 1, 1, 1}})
	}
	e := s.embedding
	matrix("token_embd.weight", e, s.vocabulary)
	norm("output_norm.weight")
	matrix("output.weight", e, s.vocabulary)
	for i := range s.layers {
		b := fmt.Sprintf("blk.%d.", i)
		norm(b + "attn_norm.weight")
		matrix(b+"attn_q.weight", e, s.heads*s.head)
		matrix(b+"attn_k.weight", e, s.kvHeads*s.head)
		matrix(b+"attn_v.weight", e, s.kvHeads*s.head)
		matrix(b+"attn_output.weight", s.heads*s.head, e)
		norm(b + "ffn_norm.weight")
		matrix(b+"ffn_gate.weight", e, s.ffn)
		matrix(b+"ffn_up.weight", e, s.ffn)
		matrix(b+"ffn_down.weight", s.ffn, e)
	}
	return out
}

// Of a Q4_0 block: 32 elements share a scale.
const (
	blockBytes = 18
	spread     = 4.6 // standard deviation of a uniform 4-bit value around 8
)

// data gives the bytes of a tensor: norms of 1, and matrices whose rows keep
// the size of what they are multiplied with, so that no value runs away.
func data(t gguf.Tensor, random io.Reader) (io.Reader, error) {
	if t.Type == gguf.F32 {
		var one [4]byte
		binary.LittleEndian.PutUint32(one[:], math.Float32bits(1))
		return &repeat{pattern: one[:]}, nil
	}
	if t.Type != gguf.Q4_0 || t.Bytes%blockBytes != 0 {
		return nil, fmt.Errorf("%s is no Q4_0 matrix", t.Name)
	}
	return &blocks{random: random, scale: half(1 / math.Sqrt(float64(t.Shape[0])) / spread)}, nil
}

// repeat gives a pattern without end.
type repeat struct {
	pattern []byte
	at      int
}

func (r *repeat) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = r.pattern[r.at]
		r.at = (r.at + 1) % len(r.pattern)
	}
	return len(p), nil
}

// blocks gives random Q4_0 blocks of one scale without end.
type blocks struct {
	random io.Reader
	scale  uint16
	block  [blockBytes]byte
	left   []byte
}

func (b *blocks) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		if len(b.left) == 0 {
			if _, err := io.ReadFull(b.random, b.block[2:]); err != nil {
				return n, err
			}
			binary.LittleEndian.PutUint16(b.block[:], b.scale)
			b.left = b.block[:]
		}
		k := copy(p[n:], b.left)
		b.left = b.left[k:]
		n += k
	}
	return n, nil
}

// half rounds a positive, normal value to a half-precision float, downwards.
func half(v float64) uint16 {
	bits := math.Float32bits(float32(v))
	exponent := int32(bits>>23)&0xff - 127 + 15
	if exponent <= 0 || exponent >= 31 {
		return 0
	}
	return uint16(exponent)<<10 | uint16(bits>>13)&0x3ff
}
