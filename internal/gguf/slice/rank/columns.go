package rank

import (
	"fmt"
	"strings"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/slice/stage"
)

// cutColumns finds the widths of the feed-forward networks of the stage and
// the rank's part of each. One width is cut in one way wherever it is, because
// the metadata has one number for it. A width that is a multiple of another
// (shared experts: the library computes theirs as a multiple of one expert's)
// is cut at that multiple.
func cutColumns(tensors []Tensor, parts []int, rank int) (map[uint64]Span, error) {
	block := map[uint64]uint64{} // width -> columns that must stay together
	var expert uint64
	for _, t := range tensors {
		if t.Layer < 0 || !strings.HasPrefix(t.Name, "ffn_down") || !strings.HasSuffix(t.Name, ".weight") {
			continue
		}
		width := t.Shape[0]
		columns, _ := t.Type.Block()
		if columns == 0 || width == 0 {
			return nil, fmt.Errorf("tensor %q has %d columns of type %s: %w", t.Name, width, t.Type, gguf.ErrDamaged)
		}
		block[width] = lcm(max(block[width], 1), columns)
		if t.Name == "ffn_down_exps.weight" {
			expert = width
		}
	}
	out := map[uint64]Span{}
	for width, unit := range block {
		if expert != 0 && width != expert && width%expert == 0 {
			continue
		}
		if width == expert {
			for other, columns := range block {
				if other%expert == 0 {
					unit = lcm(unit, columns/gcd(columns, other/expert))
				}
			}
		}
		if wide := lcm(unit, kernelRows); width%wide == 0 && width/wide >= uint64(4*len(parts)) {
			unit = wide
		}
		if width%unit != 0 {
			return nil, fmt.Errorf("a feed-forward network of %d columns in blocks of %d can't be shared: %w", width, unit, stage.ErrRefused)
		}
		first, count, err := share(int(width), int(unit), parts, rank)
		if err != nil {
			return nil, fmt.Errorf("a feed-forward network of %d columns: %w", width, err)
		}
		out[width] = Span{uint64(first), uint64(count)}
	}
	for width := range block {
		if _, done := out[width]; !done {
			n := width / expert
			out[width] = Span{out[expert].First * n, out[expert].Count * n}
		}
	}
	return out, nil
}

func (p *Plan) cutFeedForward(base, kind string, t Tensor) (Cut, error) {
	if strings.HasSuffix(base, "norm") || strings.HasSuffix(base, "norm_exps") {
		if base == "ffn_sub_norm" {
			return Cut{}, fmt.Errorf("tensor %q is a norm over all columns at once, which no rank has: %w", t.Name, stage.ErrRefused)
		}
		return Cut{Dim: -1}, nil
	}
	switch base {
	case "ffn_gate_inp", "ffn_gate_inp_shexp", "ffn_gate_tid2eid", "ffn_exp_probs_b",
		"ffn_latent_down", "ffn_latent_up", "ffn_routed_down", "ffn_routed_up", "ffn_res_score":
		return Cut{Dim: -1}, nil // works on hidden states
	case "ffn_up", "ffn_gate", "ffn_up_exps", "ffn_gate_exps", "ffn_up_shexp", "ffn_gate_shexp", "ffn_up_chexps", "ffn_gate_chexps", "ffn_gate_up_exps":
		dim := 1
		if kind == "bias" {
			dim = 0
		}
		if t.Dims > dim {
			return p.cutRows(t, dim)
		}
	case "ffn_down", "ffn_down_exps", "ffn_down_shexp", "ffn_down_chexps":
		if kind == "bias" {
			if base == "ffn_down" || p.rank == 0 {
				return Cut{Dim: -1}, nil
			}
			// The library adds an expert's bias before the experts are summed, so
			// before the exchange: one rank has it, and the others nothing.
			return Cut{Dim: -1, Zero: true}, nil
		}
		if s, ok := p.columns[t.Shape[0]]; ok {
			return keep(0, s)
		}
	case "ffn":
		if s, ok := p.columns[t.Shape[0]]; ok && kind == "act.scales" && t.Dims == 1 {
			return keep(0, s)
		}
	}
	return Cut{}, p.unknown(t)
}

// cutRows cuts what makes the columns of the down product: a row for each, or
// two where gate and up are fused, all gates first.
func (p *Plan) cutRows(t Tensor, dim int) (Cut, error) {
	base := strings.TrimSuffix(strings.TrimSuffix(t.Name, ".weight"), ".bias")
	for _, made := range []string{"ffn_gate_up", "ffn_gate", "ffn_up"} {
		base = strings.Replace(base, made, "ffn_down", 1)
	}
	width := p.widths[place{t.Layer, base}]
	s, ok := p.columns[width]
	switch rows := t.Shape[dim]; {
	case ok && rows == width:
		return keep(dim, s)
	case ok && rows == 2*width:
		return keep(dim, s, Span{width + s.First, s.Count})
	}
	return Cut{}, p.unknown(t)
}

func (p *Plan) columnMetadata(e *editor) error {
	dense, _ := e.meta.Uint(e.key("feed_forward_length"))
	// The library derives these from other numbers where they are not given.
	derived := map[string]uint64{"expert_chunk_feed_forward_length": p.widthOf("ffn_down_chexps")}
	if n := p.widthOf("ffn_down_exps"); n != dense {
		derived["expert_feed_forward_length"] = n
	}
	for _, name := range []string{"feed_forward_length", "expert_feed_forward_length", "expert_shared_feed_forward_length", "expert_chunk_feed_forward_length"} {
		kv, ok := e.meta.Pair(e.key(name))
		if ok && kv.Type == gguf.TypeArray {
			all, err := e.meta.Uints(e.key(name))
			if err != nil {
				return err
			}
			counts := make([]uint32, len(all))
			for i, n := range all {
				counts[i] = p.width(n)
			}
			if err := e.set(e.key(name), counts); err != nil {
				return err
			}
			continue
		}
		n, given := e.meta.Uint(e.key(name))
		if ok && !given {
			return fmt.Errorf("metadata %q is not a number: %w", e.key(name), gguf.ErrDamaged)
		}
		if n == 0 {
			n = derived[name]
		}
		if n == 0 {
			continue
		}
		if err := e.set(e.key(name), p.width(n)); err != nil {
			return err
		}
	}
	return nil
}

// widthOf is the width of a kind of down product; 0 if the stage has none.
func (p *Plan) widthOf(kind string) uint64 {
	for at, width := range p.widths {
		if at.name == kind {
			return width
		}
	}
	return 0
}

// width is the rank's part of a width that the metadata names. A width that no
// tensor of the stage has is left as it is: nothing is made of that size.
func (p *Plan) width(n uint64) uint32 {
	if s, ok := p.columns[n]; ok {
		return uint32(s.Count)
	}
	if s, ok := p.columns[n/2]; ok && p.rule.doubled {
		return uint32(2 * s.Count)
	}
	return uint32(n)
}

func lcm(a, b uint64) uint64 { return a / gcd(a, b) * b }
