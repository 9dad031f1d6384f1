package slice_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/gguftest"
	"github.com/skein-run/skein/internal/gguf/slice"
)

var update = flag.Bool("update", false, "rewrite docs/sharding-architectures.md")

// document is the page that readers look an architecture up in.
func document() string {
	var rows strings.Builder
	pipeline, tensor := 0, 0
	cell := func(a slice.Answer, n *int) string {
		if !a.Yes {
			return "no: " + a.Why
		}
		*n++
		if a.Why == "" {
			return "yes"
		}
		return "yes; " + a.Why
	}
	for _, arch := range slice.Architectures() {
		s := slice.SupportFor(arch)
		fmt.Fprintf(&rows, "| `%s` | %s | %s |\n", arch, cell(s.Pipeline, &pipeline), cell(s.Tensor, &tensor))
	}
	return fmt.Sprintf(`# Which architectures can be cut

Skein cuts a model into pipeline stages (whole layers on each machine), into tensor ranks (each layer shared by several
machines), or both. Every architecture of llama.cpp v0.5.0 is listed here by its name in `+"`general.architecture`"+`. What is
refused is placed whole, on one machine that has the memory; an architecture that is not listed is refused as well.

Of %d architectures, %d can be cut into stages and %d into ranks. A "yes" means that it was run whole and cut, on tiny
models that llama.cpp's own test program makes, and that the logits were the same: bit for bit with stages, and within
the rounding of sums with ranks.

Cutting layers rewrites a model's header: its layers get new numbers and there are fewer of them. Most of what is said
below follows from that: the library decides some things by a layer's number, or by how many layers there are.

- An **empty layer** has weights of zeros and changes nothing. A stage gets one where the library does not run a model
  without a layer of that kind, or where its own layers must keep their numbers for the library to treat them right. It
  takes a layer's memory, and a layer's time except behind the last own layer of a stage that hands over hidden states.
- **Draft layers** (NextN, multi-token prediction) are in no stage; a plain context does not use them.
- A model whose architecture can be cut may still be refused, and says why: `+"`skein shard plan MODEL`"+` tells.

Generated from internal/gguf/slice by `+"`go test ./internal/gguf/slice -run TestDocument -update`"+`; do not edit.

| architecture | stages | ranks |
|---|---|---|
%s`, len(slice.Architectures()), pipeline, tensor, rows.String())
}

// The page says what the code does.
func TestDocument(t *testing.T) {
	path := filepath.Join("..", "..", "..", "docs", "sharding-architectures.md")
	if *update {
		if err := os.WriteFile(path, []byte(document()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(got), document()); diff != "" {
		t.Errorf("docs/sharding-architectures.md is stale; run go test ./internal/gguf/slice -run TestDocument -update (-page +code)\n%s", diff)
	}
}

func TestArchitecturesAreSortedAndAnswered(t *testing.T) {
	all := slice.Architectures()
	if !slices.IsSorted(all) || len(slices.Compact(slices.Clone(all))) != len(all) {
		t.Error("the list is not sorted, or has one twice")
	}
	for _, arch := range all {
		s := slice.SupportFor(arch)
		if s.Architecture != arch || !s.Pipeline.Yes && s.Pipeline.Why == "" || !s.Tensor.Yes && s.Tensor.Why == "" {
			t.Errorf("%+v: a refusal without a reason", s)
		}
	}
	if s := slice.SupportFor("llama9"); s.Pipeline.Yes || s.Tensor.Yes {
		t.Errorf("an unknown architecture can be cut: %+v", s)
	}
}

func TestCutPoints(t *testing.T) {
	kv := gguftest.KV
	for _, c := range []struct {
		name string
		tiny gguftest.Tiny
		want []slice.CutPoint
	}{
		{"anywhere", gguftest.Tiny{Layers: 4}, []slice.CutPoint{{1, 0}, {2, 0}, {3, 0}}},
		{"one layer", gguftest.Tiny{Layers: 1}, nil},
		{"draft layers don't count", gguftest.Tiny{Arch: "qwen3moe", Layers: 4, Extra: []gguf.KV{kv("qwen3moe.nextn_predict_layers", uint32(2))}}, []slice.CutPoint{{1, 0}}},
		{"every fourth layer is another", gguftest.Tiny{Arch: "smollm3", Layers: 9}, []slice.CutPoint{{1, 1}, {2, 2}, {3, 3}, {4, 0}, {5, 1}, {6, 2}, {7, 3}, {8, 0}}},
		{"a windowed layer in each", gguftest.Tiny{Arch: "gpt-oss", Layers: 4, Extra: []gguf.KV{
			kv("gpt-oss.attention.sliding_window", uint32(8)), kv("gpt-oss.attention.sliding_window_pattern", []uint32{0, 0, 1, 0})}},
			[]slice.CutPoint{{1, 1}, {2, 1}, {3, 1}}},
		{"the size that is another model", gguftest.Tiny{Arch: "baichuan", Layers: 32}, nil},
		{"a size beside it", gguftest.Tiny{Arch: "baichuan", Layers: 3}, []slice.CutPoint{{1, 0}, {2, 0}}},
		{"indexers of earlier layers", gguftest.Tiny{Arch: "glm-dsa", Layers: 5, Extra: []gguf.KV{kv("glm-dsa.attention.indexer.types", []uint32{1, 0, 0, 1, 0})}},
			[]slice.CutPoint{{3, 0}}},
		{"both kinds in each", gguftest.Tiny{Arch: "jamba", Layers: 4, Extra: []gguf.KV{kv("jamba.attention.head_count_kv", []uint32{0, 2, 0, 2})}},
			[]slice.CutPoint{{1, 1}, {2, 0}, {3, 1}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, _ := parse(t, c.tiny.Bytes())
			got, err := slice.CutPoints(m)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestRefusalsSayWhyAndWhere(t *testing.T) {
	kv := gguftest.KV
	for _, c := range []struct {
		tiny gguftest.Tiny
		spec slice.Spec
		want string
	}{
		{gguftest.Tiny{Arch: "bert"}, slice.Spec{End: 1}, "embedding model"},
		{gguftest.Tiny{Arch: "unheard-of"}, slice.Spec{End: 2}, `"unheard-of" is not cut by layers: the architecture is not known`},
		{gguftest.Tiny{Arch: "talkie"}, slice.Spec{End: 1}, "token embeddings again"},
		{gguftest.Tiny{Arch: "nanbeige", Extra: []gguf.KV{kv("nanbeige.num_loops", uint32(2))}}, slice.Spec{End: 2}, "several times"},
		{gguftest.Tiny{Arch: "exaone4", Layers: 64}, slice.Spec{End: 9}, "has no place to be cut"},
		{gguftest.Tiny{Arch: "glm4"}, slice.Spec{End: 1}, "takes no hidden states"},
		{gguftest.Tiny{Arch: "deepseek2", Layers: 30}, slice.Spec{End: 27}, "without q_lora_rank"},
		{gguftest.Tiny{Arch: "glm-dsa", Layers: 5, Extra: []gguf.KV{kv("glm-dsa.attention.indexer.types", []uint32{1, 0, 0, 1, 0})}},
			slice.Spec{First: 2, End: 5}, "may begin at layers 3: layer 2 attends"},
	} {
		m, _ := parse(t, c.tiny.Bytes())
		_, err := slice.Cut(m, c.spec)
		if !errors.Is(err, slice.ErrRefused) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %v: %v; want a refusal with %q", c.tiny.Arch, c.spec, err, c.want)
		}
	}
}

// What the library would derive from the number of layers is written out.
func TestStageMetadata(t *testing.T) {
	kv := gguftest.KV
	for _, c := range []struct {
		name string
		tiny gguftest.Tiny
		spec slice.Spec
		want map[string]any // nil: the key is gone
		run  slice.Run      // Enter, Capture, Positions, and the scale of Embed
	}{
		{"residual scale", gguftest.Tiny{Arch: "minicpm", Layers: 4}, slice.Spec{First: 1, End: 3},
			map[string]any{"residual_scale": float64(float32(1.4) / 2), "embedding_scale": 0.0}, slice.Run{Capture: "l_out-1", Positions: 1}},
		{"scale of the first stage", gguftest.Tiny{Arch: "minicpm", Layers: 4}, slice.Spec{End: 3},
			map[string]any{"embedding_scale": nil}, slice.Run{Capture: "l_out-2", Positions: 1}},
		{"a lite model", gguftest.Tiny{Arch: "deepseek2", Layers: 27}, slice.Spec{First: 1, End: 9},
			map[string]any{"attention.q_lora_rank": uint64(0), "expert_gating_func": uint64(1)}, slice.Run{Capture: "l_out-7", Positions: 1}},
		{"pattern by period", gguftest.Tiny{Arch: "gemma3", Layers: 12, Extra: []gguf.KV{kv("gemma3.attention.sliding_window", uint32(8))}},
			slice.Spec{First: 4, End: 8}, map[string]any{"attention.sliding_window_pattern": []uint64{1, 0, 1, 1}}, slice.Run{Capture: "l_out-3", Positions: 1}},
		{"interval", gguftest.Tiny{Arch: "qwen35", Layers: 8}, slice.Spec{First: 2, End: 6},
			map[string]any{"attention.recurrent_layers": []uint64{1, 0, 1, 1}}, slice.Run{Capture: "l_out-3", Positions: 4}},
		{"leading dense layers", gguftest.Tiny{Arch: "dots1", Layers: 6, Extra: []gguf.KV{kv("dots1.leading_dense_block_count", uint32(3))}},
			slice.Spec{First: 2, End: 6}, map[string]any{"leading_dense_block_count": uint64(1)}, slice.Run{Positions: 1}},
		{"steps of experts", gguftest.Tiny{Arch: "ernie4_5-moe", Layers: 6, Extra: []gguf.KV{kv("ernie4_5-moe.interleave_moe_layer_step", uint32(2))}},
			slice.Spec{First: 1, End: 2}, map[string]any{"interleave_moe_layer_step": uint64(1)}, slice.Run{Capture: "l_out-0", Positions: 1}},
		{"an embedding norm", gguftest.Tiny{Arch: "bloom", Layers: 4}, slice.Spec{First: 1, End: 4}, nil, slice.Run{Enter: "inp_norm-0", Positions: 1}},
		{"a node of its own", gguftest.Tiny{Arch: "plamo2", Layers: 4}, slice.Spec{End: 2}, nil, slice.Run{Capture: "ffn_residual-1", Positions: 1}},
		{"padding before", gguftest.Tiny{Arch: "smollm3", Layers: 8}, slice.Spec{First: 2, End: 5},
			map[string]any{"block_count": uint64(5)}, slice.Run{Capture: "l_out-4", Positions: 1}},
		{"deepstack", gguftest.Tiny{Arch: "qwen3vl", Extra: []gguf.KV{kv("qwen3vl.n_deepstack_layers", uint32(3))}}, slice.Spec{End: 1},
			map[string]any{"n_deepstack_layers": uint64(0)}, slice.Run{Capture: "l_out-0", Positions: 4}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, parts := parse(t, c.tiny.Bytes())
			f, err := slice.Cut(m, c.spec)
			if err != nil {
				t.Fatal(err)
			}
			stage, _ := parse(t, write(t, f, parts))
			for name, want := range c.want {
				key := c.tiny.Arch + "." + name
				var got any
				if entry, ok := stage.Pair(key); ok && entry.Type == gguf.TypeArray {
					got, _ = stage.Uints(key)
				} else if v, ok := stage.Uint(key); ok {
					got = v
				} else if v, ok := stage.Float(key); ok {
					got = v
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s (-want +got)\n%s", key, diff)
				}
			}
			if f.Run.Capture != c.run.Capture || f.Run.Enter != c.run.Enter || f.Run.Positions != c.run.Positions {
				t.Errorf("Run is %+v, want %+v", f.Run, c.run)
			}
		})
	}
	m, _ := parse(t, gguftest.Tiny{Arch: "gemma3", Width: 64}.Bytes())
	f, err := slice.Cut(m, slice.Spec{End: 1})
	if err != nil {
		t.Fatal(err)
	}
	if f.Run.Embed.Scale != 8 {
		t.Errorf("rows of gemma3 are scaled by %v, want the root of 64", f.Run.Embed.Scale)
	}
}
