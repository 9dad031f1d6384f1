package slice

import (
	"fmt"
	"strings"

	"github.com/skein-run/skein/internal/gguf"
)

// cutColumns finds the widths of the feed-forward networks of the stage and
// the rank's part of each. One width is cut in one way wherever it is, because
// the metadata has one number for it. A width that is a multiple of another
// (shared experts: the library computes theirs as a multiple of one expert's)
// is cut at that multiple.
func cutColumns(tensors []Tensor, spec Spec) (map[uint64]span, error) {
	block := map[uint64]uint64{} // width -> columns that must stay together
	var expert uint64
	for _, t := range tensors {
		_, name, ok := layerOf(t.Name)
		if !ok || !strings.HasPrefix(name, "ffn_down") || !strings.HasSuffix(name, ".weight") {
			continue
		}
		width := t.Shape[0]
		columns, _ := t.Type.Block()
		if columns == 0 || width == 0 {
			return nil, fmt.Errorf("tensor %q has %d columns of type %s: %w", t.Name, width, t.Type, gguf.ErrDamaged)
		}
		block[width] = lcm(max(block[width], 1), columns)
		if name == "ffn_down_exps.weight" {
			expert = width
		}
	}
	out := map[uint64]span{}
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
		if wide := lcm(unit, kernelRows); width%wide == 0 && width/wide >= uint64(4*len(spec.Parts)) {
			unit = wide
		}
		if width%unit != 0 {
			return nil, fmt.Errorf("a feed-forward network of %d columns in blocks of %d can't be shared: %w", width, unit, ErrRefused)
		}
		first, count, err := share(int(width), int(unit), spec)
		if err != nil {
			return nil, fmt.Errorf("a feed-forward network of %d columns: %w", width, err)
		}
		out[width] = span{uint64(first), uint64(count)}
	}
	for width := range block {
		if _, done := out[width]; !done {
			n := width / expert
			out[width] = span{out[expert].first * n, out[expert].count * n}
		}
	}
	return out, nil
}

func (p *rankPlan) cutFeedForward(base, kind string, t Tensor) (Tensor, error) {
	if strings.HasSuffix(base, "norm") || strings.HasSuffix(base, "norm_exps") {
		if base == "ffn_sub_norm" {
			return Tensor{}, fmt.Errorf("tensor %q is a norm over all columns at once, which no rank has: %w", t.Name, ErrRefused)
		}
		return t, nil
	}
	switch base {
	case "ffn_gate_inp", "ffn_gate_inp_shexp", "ffn_gate_tid2eid", "ffn_exp_probs_b",
		"ffn_latent_down", "ffn_latent_up", "ffn_routed_down", "ffn_routed_up", "ffn_res_score":
		return t, nil // works on hidden states
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
			if base == "ffn_down" || p.spec.Rank == 0 {
				return t, nil
			}
			// The library adds an expert's bias before the experts are summed, so
			// before the exchange: one rank has it, and the others nothing.
			return t.zero()
		}
		if s, ok := p.columns[t.Shape[0]]; ok {
			return t.keep(0, s)
		}
	case "ffn":
		if s, ok := p.columns[t.Shape[0]]; ok && kind == "act.scales" && t.Dims == 1 {
			return t.keep(0, s)
		}
	}
	return Tensor{}, p.unknown(t)
}

// cutRows cuts what makes the columns of the down product: a row for each, or
// two where gate and up are fused, all gates first.
func (p *rankPlan) cutRows(t Tensor, dim int) (Tensor, error) {
	base := strings.TrimSuffix(strings.TrimSuffix(t.Name, ".weight"), ".bias")
	for _, made := range []string{"ffn_gate_up", "ffn_gate", "ffn_up"} {
		base = strings.Replace(base, made, "ffn_down", 1)
	}
	width := p.widths[base]
	s, ok := p.columns[width]
	switch rows := t.Shape[dim]; {
	case ok && rows == width:
		return t.keep(dim, s)
	case ok && rows == 2*width:
		return t.keep(dim, s, span{width + s.first, s.count})
	}
	return Tensor{}, p.unknown(t)
}

func (p *rankPlan) columnMetadata(d *draft) error {
	dense, _ := d.meta.Uint(d.key("feed_forward_length"))
	// The library derives these from other numbers where they are not given.
	derived := map[string]uint64{"expert_chunk_feed_forward_length": p.widthOf("ffn_down_chexps")}
	if n := p.widthOf("ffn_down_exps"); n != dense {
		derived["expert_feed_forward_length"] = n
	}
	for _, name := range []string{"feed_forward_length", "expert_feed_forward_length", "expert_shared_feed_forward_length", "expert_chunk_feed_forward_length"} {
		kv, ok := d.meta.Pair(d.key(name))
		if ok && kv.Type == gguf.TypeArray {
			all, err := d.meta.Uints(d.key(name))
			if err != nil {
				return err
			}
			counts := make([]uint32, len(all))
			for i, n := range all {
				counts[i] = p.width(n)
			}
			if err := d.set(d.key(name), counts); err != nil {
				return err
			}
			continue
		}
		n, given := d.meta.Uint(d.key(name))
		if ok && !given {
			return fmt.Errorf("metadata %q is not a number: %w", d.key(name), gguf.ErrDamaged)
		}
		if n == 0 {
			n = derived[name]
		}
		if n == 0 {
			continue
		}
		if err := d.set(d.key(name), p.width(n)); err != nil {
			return err
		}
	}
	return nil
}

// widthOf is the width of a kind of down product; 0 if the stage has none.
func (p *rankPlan) widthOf(kind string) uint64 {
	for name, width := range p.widths {
		if _, rest, _ := layerOf(name); rest == kind {
			return width
		}
	}
	return 0
}

// width is the rank's part of a width that the metadata names. A width that no
// tensor of the stage has is left as it is: nothing is made of that size.
func (p *rankPlan) width(n uint64) uint32 {
	if s, ok := p.columns[n]; ok {
		return uint32(s.count)
	}
	if s, ok := p.columns[n/2]; ok && p.rule.doubled {
		return uint32(2 * s.count)
	}
	return uint32(n)
}

func lcm(a, b uint64) uint64 { return a / gcd(a, b) * b }
