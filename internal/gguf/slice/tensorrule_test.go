package slice_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/slice"
)

// TestSharedKVHead cuts within a group: each rank has the KV head.
func TestSharedKVHead(t *testing.T) {
	s := shape{Arch: "qwen3", Layers: 1, Heads: 4, Groups: 1, Size: 32, Columns: 128, Embedding: 64, Vocab: 64, Weights: gguf.F16}
	source, m := s.model(t)
	whole, _ := data(t, m, "blk.0.attn_k.weight")
	for r, f := range cutAll(t, m, 1, []int{3, 1}) {
		sh := shard(t, f, source)
		got, _ := data(t, sh, "blk.0.attn_k.weight")
		if !bytes.Equal(got, whole) {
			t.Errorf("rank %d has another KV head", r)
		}
		q, _ := sh.Uint("qwen3.attention.head_count")
		kv, _ := sh.Uint("qwen3.attention.head_count_kv")
		if want := uint64(3 - 2*r); q != want || kv != 1 {
			t.Errorf("rank %d has %d heads and %d KV heads, want %d and 1", r, q, kv, want)
		}
	}
}

// TestDisguise checks that a rank of an architecture which the library loads
// with whole heads only is named one that it loads with any.
func TestDisguise(t *testing.T) {
	s := shape{Arch: "qwen2", Layers: 2, Heads: 4, Groups: 2, Size: 32, Columns: 128, Embedding: 128, Vocab: 64, Weights: gguf.F16}
	source, m := s.model(t)
	for _, f := range cutAll(t, m, 2, []int{1, 1}) {
		sh := shard(t, f, source)
		if sh.Arch() != "seed_oss" || f.Run.Arch != "qwen2" {
			t.Errorf("the file is of %s and runs as %s", sh.Arch(), f.Run.Arch)
		}
		if n, _ := sh.Uint("seed_oss.attention.head_count"); n != 2 {
			t.Errorf("%d heads, want 2", n)
		}
		for _, kv := range sh.Pairs() {
			if strings.HasPrefix(kv.Key, "qwen2.") {
				t.Errorf("key %s is left", kv.Key)
			}
		}
		got, _ := data(t, sh, "blk.1.post_attention_norm.weight")
		want, _ := data(t, m, "blk.1.ffn_norm.weight")
		if !bytes.Equal(got, want) {
			t.Error("post_attention_norm is not the model's ffn_norm")
		}
	}
}

// TestUnderstoodOrRefused gives tensors that nobody has thought about and
// models that must not be cut.
func TestUnderstoodOrRefused(t *testing.T) {
	plain := shape{Arch: "qwen3", Layers: 1, Heads: 4, Groups: 2, Size: 32, Columns: 128, Embedding: 64, Vocab: 64, Weights: gguf.F16}
	tensor := func(name string, dims ...uint64) gguf.Tensor {
		x := gguf.Tensor{Name: "blk.0." + name, Type: gguf.F32, Dims: len(dims)}
		copy(x.Shape[:], dims)
		return x
	}
	for name, c := range map[string]struct {
		change func(*shape)
		extra  []gguf.Tensor
		want   string
	}{
		"norm over all columns": {extra: []gguf.Tensor{tensor("ffn_sub_norm.weight", 128)}, want: "norm over all columns"},
		"norm over all heads":   {extra: []gguf.Tensor{tensor("attn_k_norm.weight", 64)}, want: "norm over all heads"},
		"unknown of attention":  {extra: []gguf.Tensor{tensor("attn_surprise.weight", 128)}, want: "is not known"},
		"unknown of columns":    {extra: []gguf.Tensor{tensor("ffn_surprise.weight", 128)}, want: "is not known"},
		"wrong shape":           {extra: []gguf.Tensor{tensor("attn_gate.weight", 64, 3)}, want: "is not known"},
		"a scale for each row":  {extra: []gguf.Tensor{tensor("attn_output.scale", 64)}, want: "is not known"},
		"recurrent only":        {change: func(s *shape) { s.Arch = "mamba2" }, want: "recurrent"},
		"nobody tried":          {change: func(s *shape) { s.Arch = "chameleon" }, want: "chameleon"},
		"experts not tried":     {change: func(s *shape) { s.Arch, s.Experts = "gemma", 2 }, want: "with experts"},
	} {
		t.Run(name, func(t *testing.T) {
			s := plain
			if c.change != nil {
				c.change(&s)
			}
			_, m := s.model(t, c.extra...)
			_, err := slice.Cut(m, slice.Spec{End: 1, Parts: []int{1, 1}})
			if !errors.Is(err, slice.ErrRefused) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want a refusal with %q", err, c.want)
			}
		})
	}
}

// TestSharing says what parts are possible, and of which models attention
// stays whole.
func TestSharing(t *testing.T) {
	small := shape{Layers: 1, Size: 64, Columns: 512, Embedding: 576, Vocab: 64, Weights: gguf.Q4_0}
	for name, c := range map[string]struct {
		arch          string
		heads, groups int
		weights       gguf.TensorType
		want          slice.Sharing
		ask           []float64
		parts         []int
	}{
		"three KV heads":     {arch: "llama", heads: 9, groups: 3, weights: gguf.Q4_0, want: slice.Sharing{Units: 3, Within: 3}, ask: []float64{5, 3}, parts: []int{2, 1}},
		"one KV head":        {arch: "llama", heads: 8, groups: 1, weights: gguf.Q4_0, want: slice.Sharing{Units: 1, Within: 8}, ask: []float64{1, 1, 2}, parts: []int{1, 1, 2}},
		"blocks of 256":      {arch: "llama", heads: 8, groups: 4, weights: gguf.Q4_K, want: slice.Sharing{Units: 2, Within: 1}, ask: []float64{9, 1}, parts: []int{1, 1}},
		"more than KV heads": {arch: "llama", heads: 8, groups: 2, weights: gguf.Q4_0, want: slice.Sharing{Units: 2, Within: 4}, ask: []float64{1, 1, 1, 1}, parts: []int{1, 1, 1, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			s := small
			s.Arch, s.Heads, s.Groups, s.Weights = c.arch, c.heads, c.groups, c.weights
			if s.Weights == gguf.Q4_K {
				s.Embedding = 512
			}
			_, m := s.model(t)
			got, err := slice.Ranks(m)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			parts, err := slice.PartsFor(m, c.ask)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.parts, parts); d != "" {
				t.Errorf("parts for %v (-want +got):\n%s", c.ask, d)
			}
			for r := range parts {
				if _, err := slice.Cut(m, slice.Spec{End: 1, Rank: r, Parts: parts}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	s := small
	s.Arch, s.Heads, s.Groups = "phi3", 9, 3
	_, m := s.model(t)
	got, err := slice.Ranks(m)
	if err != nil || got.Units != 0 || !strings.Contains(got.Whole, "attention") {
		t.Errorf("phi3: %+v, %v; want attention whole", got, err)
	}
	if _, err := slice.PartsFor(m, []float64{1, 0}); err == nil {
		t.Error("a weight of 0 is taken")
	}
}

// TestEveryArchitectureHasAnAnswer goes through all that the library knows.
func TestEveryArchitectureHasAnAnswer(t *testing.T) {
	var cut, part int
	for _, arch := range slice.Architectures() {
		s := slice.SupportFor(arch)
		switch {
		case !s.Tensor.Yes && s.Tensor.Why == "":
			t.Errorf("%s is refused without a reason", arch)
		case s.Tensor.Yes && s.Tensor.Why == "":
			cut++
		case s.Tensor.Yes:
			part++
		}
	}
	if cut < 55 || part < 45 {
		t.Errorf("%d architectures are cut and %d in part; were there not more?", cut, part)
	}
}
