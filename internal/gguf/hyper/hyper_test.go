package hyper_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/gguftest"
	"github.com/skein-run/skein/internal/gguf/hyper"
)

// modelOf is a model without tensors. base gives 6 layers, 2 heads of 32.
func modelOf(tb testing.TB, arch string, extra ...gguf.KV) *gguf.Model {
	tb.Helper()
	kvs := []gguf.KV{gguftest.KV("general.architecture", arch)}
	have := map[string]bool{}
	for i, kv := range extra {
		extra[i].Key = arch + "." + kv.Key
		have[kv.Key] = true
	}
	for _, d := range []struct {
		key   string
		value uint32
	}{{"block_count", 6}, {"context_length", 1024}, {"embedding_length", 64}, {"feed_forward_length", 128}, {"attention.head_count", 2}} {
		if !have[d.key] {
			kvs = append(kvs, gguftest.KV(arch+"."+d.key, d.value))
		}
	}
	return modelFrom(tb, append(kvs, extra...))
}

func modelFrom(tb testing.TB, kvs []gguf.KV) *gguf.Model {
	tb.Helper()
	b, _, err := gguf.EncodeHeader(kvs, nil)
	if err != nil {
		tb.Fatal(err)
	}
	f, err := gguf.Parse(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		tb.Fatal(err)
	}
	m, err := gguf.Join(f)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// marks prints truth values for each layer: "x.x".
func marks(v []bool) string {
	var b strings.Builder
	for _, x := range v {
		b.WriteByte(map[bool]byte{true: 'x', false: '.'}[x])
	}
	return b.String()
}

// TestLayerKinds covers architectures of which no model file is at hand:
// expected values follow from llama.cpp v0.5.0's sources.
func TestLayerKinds(t *testing.T) {
	kv := gguftest.KV
	window := kv("attention.sliding_window", uint32(100))
	for _, test := range []struct {
		name                           string
		arch                           string
		extra                          []gguf.KV
		windowed, recurrent, attention string
		window                         int
		memory                         string
	}{
		{"plain", "llama", nil, "......", "......", "xxxxxx", 0, "attention"},
		{"window that the library ignores", "qwen2", []gguf.KV{window}, "......", "......", "xxxxxx", 0, "attention"},
		{"phi3 has its window disabled", "phi3", []gguf.KV{window}, "......", "......", "xxxxxx", 0, "attention"},
		{"gemma3", "gemma3", []gguf.KV{window}, "xxxxx.", "......", "xxxxxx", 100, "sliding_window"},
		{"gemma3 without window", "gemma3", nil, "......", "......", "xxxxxx", 0, "attention"},
		{"gemma2 has a default window", "gemma2", nil, "x.x.x.", "......", "xxxxxx", 4096, "sliding_window"},
		{"llama4 has a fixed window", "llama4", []gguf.KV{window}, "xxx.xx", "......", "xxxxxx", 8192, "sliding_window"},
		{"llama4 without one", "llama4", []gguf.KV{kv("attention.sliding_window", uint32(0))}, "......", "......", "xxxxxx", 0, "attention"},
		{"dense first", "cohere2moe", []gguf.KV{window}, ".xxx.x", "......", "xxxxxx", 100, "sliding_window"},
		{"small exaone4 has none", "exaone4", []gguf.KV{window}, "......", "......", "xxxxxx", 0, "attention"},
		{"pattern as number", "cohere2", []gguf.KV{window, kv("attention.sliding_window_pattern", uint32(3))}, "xx.xx.", "......", "xxxxxx", 100, "sliding_window"},
		{"pattern for each layer", "gemma4", []gguf.KV{window, kv("attention.sliding_window_pattern", []bool{true, false, true, true, false, false})}, "x.xx..", "......", "xxxxxx", 100, "sliding_window"},
		{"layers that share a cache", "gemma4", []gguf.KV{kv("attention.shared_kv_layers", uint32(2))}, "......", "......", "xxxx..", 0, "attention"},
		{"smallthinker", "smallthinker", []gguf.KV{window}, ".xxx.x", "......", "xxxxxx", 4096, "sliding_window"},
		{"mamba", "mamba", nil, "......", "xxxxxx", "......", 0, "recurrent"},
		{"jamba", "jamba", []gguf.KV{kv("attention.head_count_kv", []uint32{0, 2, 0, 0, 2, 0})}, "......", "x.xx.x", ".x..x.", 0, "hybrid"},
		{"both in each layer", "falcon-h1", nil, "......", "xxxxxx", "xxxxxx", 0, "hybrid"},
		{"every 4th attends", "qwen35", nil, "......", "xxx.xx", "...x..", 0, "hybrid"},
		{"every 2nd attends", "qwen3next", []gguf.KV{kv("full_attention_interval", uint32(2))}, "......", "x.x.x.", ".x.x.x", 0, "hybrid"},
		{"recurrent layers listed", "qwen35", []gguf.KV{kv("attention.recurrent_layers", []bool{true, true, false, false, true, true})}, "......", "xx..xx", "..xx..", 0, "hybrid"},
		{"embedding model", "bert", nil, "......", "......", "......", 0, "attention"},
		{"draft layers do not count", "glm4moe", []gguf.KV{kv("nextn_predict_layers", uint32(1))}, ".....", ".....", "xxxxx", 0, "attention"},
	} {
		h, err := hyper.Read(modelOf(t, test.arch, test.extra...))
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		got := []any{marks(h.Windowed), marks(h.Recurrent), marks(h.Attention), h.Window, h.Memory()}
		want := []any{test.windowed, test.recurrent, test.attention, test.window, test.memory}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: windowed, recurrent, attention, window, memory (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestRecurrentState(t *testing.T) {
	kv := gguftest.KV
	for _, test := range []struct {
		arch      string
		extra     []gguf.KV
		conv, ssm int
	}{
		{"mamba2", []gguf.KV{kv("ssm.conv_kernel", uint32(4)), kv("ssm.inner_size", uint32(128)), kv("ssm.state_size", uint32(16)), kv("ssm.group_count", uint32(2))}, 3 * (128 + 2*2*16), 16 * 128},
		{"rwkv6", []gguf.KV{kv("wkv.head_size", uint32(8))}, 2 * 64, 64 * 8},
		{"arwkv7", []gguf.KV{kv("wkv.head_size", uint32(8)), kv("token_shift_count", uint32(1))}, 64, 64 * 8},
		{"lfm2", []gguf.KV{kv("shortconv.l_cache", uint32(3)), kv("attention.head_count_kv", []uint32{0, 2, 0, 2, 0, 2})}, 2 * 64, 0},
		{"kimi-linear", []gguf.KV{kv("kda.head_dim", uint32(16)), kv("ssm.conv_kernel", uint32(4)), kv("attention.head_count_kv", []uint32{0, 2, 0, 2, 0, 2})}, 3 * 3 * 2 * 16, 16 * 16 * 2},
		{"minimax-01", nil, 0, 32 * 32 * 2},
	} {
		h, err := hyper.Read(modelOf(t, test.arch, test.extra...))
		if err != nil {
			t.Errorf("%s: %v", test.arch, err)
			continue
		}
		if h.ConvState != test.conv || h.SSMState != test.ssm {
			t.Errorf("%s: state of %d + %d values, want %d + %d", test.arch, h.ConvState, h.SSMState, test.conv, test.ssm)
		}
	}
}

func TestBadHyper(t *testing.T) {
	kv := gguftest.KV
	for name, test := range map[string]struct {
		m    *gguf.Model
		want string
	}{
		"no architecture":  {modelFrom(t, nil), `"general.architecture" is missing`},
		"no layers":        {modelFrom(t, []gguf.KV{kv("general.architecture", "llama")}), `"llama.block_count" is missing`},
		"0 layers":         {modelOf(t, "llama", kv("block_count", uint32(0))), "0 layers"},
		"2^31-1 layers":    {modelOf(t, "llama", kv("block_count", uint32(1<<31-1))), "2147483647 layers"},
		"layers as text":   {modelOf(t, "llama", kv("block_count", "many")), `"llama.block_count" is not a number`},
		"negative context": {modelOf(t, "llama", kv("context_length", int32(-1))), "not a number of at least 0"},
		"huge context":     {modelOf(t, "llama", kv("context_length", uint64(1<<40))), "impossible"},
		"too few heads":    {modelOf(t, "llama", kv("attention.head_count", []uint32{1, 2})), "2 entries for 6 layers"},
		"heads as text":    {modelOf(t, "llama", kv("attention.head_count", []string{"1", "1", "1", "1", "1", "1"})), "not of integers"},
	} {
		if _, err := hyper.Read(test.m); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v does not say %q", name, err, test.want)
		}
		if _, err := hyper.For(test.m, hyper.Spec{Context: 1, Slots: 1}); err == nil {
			t.Errorf("%s: was estimated", name)
		}
	}
}

// TestFitContext holds for any model size and limit: what fits stays within the
// limit, is as large as possible, and memory never falls with the context.
func TestFitContext(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		arch := rapid.SampledFrom([]string{"llama", "gemma2", "mamba", "qwen35"}).Draw(t, "arch")
		kvs := []gguf.KV{gguftest.KV("general.architecture", arch)}
		for _, key := range []string{"block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count"} {
			kvs = append(kvs, gguftest.KV(arch+"."+key, rapid.Uint32Range(1, 64).Draw(t, key)))
		}
		b, _, err := gguf.EncodeHeader(kvs, nil)
		if err != nil {
			t.Fatal(err)
		}
		f, err := gguf.Parse(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		m, err := gguf.Join(f)
		if err != nil {
			t.Fatal(err)
		}
		spec := hyper.Spec{Context: rapid.IntRange(1, 40_000).Draw(t, "context"), Slots: rapid.IntRange(1, 8).Draw(t, "slots")}
		limit := rapid.Int64Range(0, 1<<30).Draw(t, "limit")
		n, e, fits, err := hyper.FitContext(m, limit, spec)
		if err != nil {
			t.Fatal(err)
		}
		if fits != (e.Total <= limit) {
			t.Fatalf("fits %v, with %d of %d bytes", fits, e.Total, limit)
		}
		if n < 1 || n > spec.Context || fits && n < spec.Context && n%256 != 0 {
			t.Fatalf("context %d of %d", n, spec.Context)
		}
		if next := n + 256; fits && next <= spec.Context {
			spec.Context = next
			if more, err := hyper.For(m, spec); err != nil || more.Total <= limit {
				t.Fatalf("%d fits, and so does %d (%d of %d bytes), %v", n, next, more.Total, limit, err)
			}
		}
	})
}

func TestBadSpec(t *testing.T) {
	m := modelOf(t, "llama")
	for name, spec := range map[string]hyper.Spec{
		"no context": {Slots: 1}, "no slots": {Context: 1}, "negative batch": {Context: 1, Slots: 1, Batch: -1},
		"unknown type": {Context: 1, Slots: 1, KeyType: 77}, "huge": {Context: 1 << 40, Slots: 1},
	} {
		if _, err := hyper.For(m, spec); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
