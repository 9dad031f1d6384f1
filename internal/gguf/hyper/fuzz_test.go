package hyper_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/gguftest"
	"github.com/skein-run/skein/internal/gguf/hyper"
)

// FuzzEstimate takes any header that parses: hyper-parameters and memory come
// out as an error or as sizes that make sense, never as a panic or an overflow.
func FuzzEstimate(f *testing.F) {
	for _, arch := range []string{"llama", "gemma3", "jamba", "deepseek2", "nanbeige", "minimax-01"} {
		f.Add(smallModel(f, arch), 4096, 4)
	}
	f.Fuzz(func(t *testing.T, data []byte, context, slots int) {
		file, err := gguf.Parse(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		m, err := gguf.Join(file)
		if err != nil {
			return
		}
		e, err := hyper.For(m, hyper.Spec{Context: context, Slots: slots})
		if err != nil {
			return
		}
		for _, v := range []int64{e.Weights, e.KV, e.Recurrent, e.Compute, e.Output} {
			if v < 0 || v > e.Total {
				t.Fatalf("estimate %+v", e)
			}
		}
		if n, _, _, err := hyper.FitContext(m, e.Total, hyper.Spec{Context: context, Slots: slots}); err != nil || n != context {
			t.Fatalf("what takes %d bytes fits only up to %d of %d, %v", e.Total, n, context, err)
		}
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
