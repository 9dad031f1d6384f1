// Package rank knows how tensor ranks share a model's layers, architecture by
// architecture: which heads and columns each rank holds, what stays whole on
// all of them, and which sums put their work together again.
//
// A rank holds some heads and some columns of the feed-forward network of each
// layer. What follows from the sum over all heads or columns is a sum of the
// ranks' own results, so the product that ends a layer's half (attn_output,
// ffn_down, or the sum of the experts) is the one thing that ranks exchange.
// Biases after it are added by the library after the exchange, so each rank
// has them whole; so are norms, routers and everything else that works on
// hidden states.
//
// It is pure: it imports gguf and slice/stage alone, not net, os or log/slog.
// All of its values are immutable and may be used from any goroutine.
//
// Source: llama.cpp v0.5.0, src/models and src/llama-graph.cpp.
package rank

import (
	"fmt"
	"slices"
	"strings"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/slice/stage"
)

// Tensor is a tensor of a stage. Its name is that within the layer
// ("attn_q.weight"), or the whole name if Layer is -1.
type Tensor struct {
	Layer int
	gguf.Tensor
}

// Span is a stretch of a dimension, in elements.
type Span struct{ First, Count uint64 }

// Cut is what a rank keeps of a tensor: spans of dimension Dim, one after the
// other; all of it if Dim is -1. Zero: the rank has zeros instead of the bytes.
type Cut struct {
	Dim   int
	Spans []Span
	Zero  bool
}

func keep(dim int, spans ...Span) (Cut, error) { return Cut{Dim: dim, Spans: spans}, nil }

// Model is what matters about a stage, or a whole model, for sharing it.
type Model struct {
	rule    rule
	arch    string
	meta    gguf.Metadata
	layers  int
	tensors []Tensor
	// heads is the attention of each layer, nil for a layer without; all of it
	// is nil if attention stays whole.
	heads []*attention
}

// maxLayers bounds what a file may claim.
const maxLayers = 1 << 16

// Read reads what matters. meta is that of the stage. An error wraps
// stage.ErrRefused where ranks must not share it, and says why.
func Read(meta gguf.Metadata, arch string, tensors []Tensor) (*Model, error) {
	layers, _ := meta.Uint(arch + ".block_count")
	if layers == 0 || layers > maxLayers {
		return nil, fmt.Errorf("%s.block_count is %d: %w", arch, layers, gguf.ErrDamaged)
	}
	m := &Model{arch: arch, meta: meta, layers: int(layers), tensors: tensors}
	var err error
	if m.rule, err = ruleFor(meta, arch, tensors); err != nil || m.rule.attention != "" {
		return m, err
	}
	heads, err := readAttention(meta, arch, tensors, m.layers)
	if err != nil {
		return nil, err
	}
	if n, within := units(heads); n == 1 && within == 1 {
		m.rule.attention, m.rule.as, m.rule.rename, m.rule.unread = fixed, "", nil, nil
		return m, nil
	}
	m.heads = heads
	return m, nil
}

// Plan is how one rank shares the layers.
type Plan struct {
	rule   rule
	arch   string
	meta   gguf.Metadata
	rank   int
	layers int
	heads  []*attention // with this rank's heads
	// columns gives, for each width of a feed-forward network, the rank's part.
	columns map[uint64]Span
	// widths is the width of each down product, by the weight's name without
	// ".weight".
	widths map[place]uint64
}

// Plan decides what a rank holds. An error about parts that do not fit names
// some that do.
func (m *Model) Plan(parts []int, rank int) (*Plan, error) {
	p := &Plan{rule: m.rule, arch: m.arch, meta: m.meta, rank: rank, layers: m.layers, widths: map[place]uint64{}}
	if m.heads != nil {
		p.heads = make([]*attention, m.layers)
	}
	for i, a := range m.heads {
		if a == nil {
			continue
		}
		mine := *a
		if !mine.cut(parts, rank) {
			return nil, partsError(m.heads, parts)
		}
		p.heads[i] = &mine
	}
	var err error
	if p.columns, err = cutColumns(m.tensors, parts, rank); err != nil {
		return nil, err
	}
	for _, t := range m.tensors {
		if name, ok := strings.CutSuffix(t.Name, ".weight"); ok && t.Layer >= 0 && strings.HasPrefix(name, "ffn_down") {
			p.widths[place{t.Layer, name}] = t.Shape[0]
		}
	}
	return p, nil
}

// Cut says what the rank keeps of a tensor.
func (p *Plan) Cut(t Tensor) (Cut, error) {
	if t.Layer < 0 {
		return Cut{Dim: -1}, nil
	}
	if t.Layer >= p.layers || t.Dims == 0 {
		return Cut{}, fmt.Errorf("tensor %q of layer %d of %d has %d dimensions: %w", t.Name, t.Layer, p.layers, t.Dims, gguf.ErrDamaged)
	}
	base, kind, _ := strings.Cut(t.Name, ".")
	if strings.HasSuffix(kind, "scale") {
		// One factor for a whole product, or one an expert.
		if t.Dims == 1 && (t.Shape[0] == 1 || strings.HasSuffix(base, "exps")) {
			return Cut{Dim: -1}, nil
		}
		return Cut{}, p.unknown(t)
	}
	switch {
	case strings.HasPrefix(base, "attn_") && p.heads != nil && p.heads[t.Layer] != nil:
		return p.cutAttention(p.heads[t.Layer], base, kind, t)
	case strings.HasPrefix(base, "ffn"):
		return p.cutFeedForward(base, kind, t)
	}
	return Cut{Dim: -1}, nil
}

// unknown refuses a tensor that nobody has thought about.
func (p *Plan) unknown(t Tensor) error {
	return fmt.Errorf("how to share tensor %q of layer %d with shape %d among ranks is not known: %w", t.Name, t.Layer, t.Shape[:t.Dims], stage.ErrRefused)
}

// Sum tells what ranks add up because of a tensor of a layer: the product that
// it is the weight of, or a node; "" and "" if nothing.
func (p *Plan) Sum(name string) (weight, node string) {
	switch name {
	case "attn_output.weight":
		if p.heads != nil {
			return name, ""
		}
	case "ffn_down.weight", "ffn_down_shexp.weight":
		return name, ""
	case "ffn_down_exps.weight":
		return "", p.rule.experts
	case "ffn_down_chexps.weight":
		return "", "ffn_adj_moe_out"
	}
	return "", ""
}

// Arch is the architecture that the rank's file names: one of the same
// computation, where the library loads the model's own with whole heads only.
func (p *Plan) Arch() string {
	if p.rule.as != "" {
		return p.rule.as
	}
	return p.arch
}

// Name is what a tensor of a layer is called in the rank's file; false if that
// has none of it.
func (p *Plan) Name(name string) (string, bool) {
	base, kind, _ := strings.Cut(name, ".")
	if other, ok := p.rule.rename[base]; ok {
		return other + "." + kind, true
	}
	return name, !slices.Contains(p.rule.unread, name)
}

// Metadata is the stage's, with what the cut changes, and with what the library
// would otherwise derive from numbers that are changed. width is that of a
// hidden state.
func (p *Plan) Metadata(width int) (gguf.Metadata, error) {
	e := &editor{meta: p.meta, arch: p.arch, width: uint64(width)}
	if p.heads != nil {
		if err := p.headMetadata(e); err != nil {
			return gguf.Metadata{}, err
		}
	}
	if err := p.columnMetadata(e); err != nil {
		return gguf.Metadata{}, err
	}
	if p.rule.as == "" {
		return e.meta, nil
	}
	prefix := p.arch + "."
	all := e.meta.Pairs()
	e.meta = e.meta.Without(func(key string) bool { return strings.HasPrefix(key, prefix) })
	for _, kv := range all {
		if rest, ok := strings.CutPrefix(kv.Key, prefix); ok {
			kv.Key = p.rule.as + "." + rest
			e.meta = e.meta.With(kv)
		}
	}
	return e.meta, e.set("general.architecture", p.rule.as)
}

// editor changes metadata. It belongs to one call.
type editor struct {
	meta  gguf.Metadata
	arch  string
	width uint64
}

func (e *editor) key(name string) string { return e.arch + "." + name }

// set replaces or adds an entry; value is one that gguf.Pair takes.
func (e *editor) set(key string, value any) error {
	kv, err := gguf.Pair(key, value)
	if err != nil {
		return err
	}
	e.meta = e.meta.With(kv)
	return nil
}
