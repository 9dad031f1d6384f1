package slice

import (
	"fmt"
	"strings"

	"github.com/skein-run/skein/internal/gguf"
)

// rankPlan is how the layers of a stage are cut for one rank.
type rankPlan struct {
	rule   tensorRule
	spec   Spec
	layers int // in the stage, padding included
	// heads is the attention of each layer that has one; nil entries and a nil
	// slice: not cut.
	heads []*attention
	// columns gives, for each width of a feed-forward network, the rank's part.
	columns map[uint64]span
	// widths is the width of each down product, by the tensor's name without
	// ".weight".
	widths map[string]uint64
}

// attention is one layer's heads.
type attention struct {
	heads, groups uint64 // query heads, and the KV heads that they share
	// block is the number of query heads that the cut must be a multiple of,
	// so that it falls between quantization blocks of attn_output's columns.
	block uint64
	key   uint64 // elements of a key and query head
	value uint64
	q, kv span // the rank's heads
}

// planRanks decides what the rank holds of each layer.
func planRanks(d *draft) (*rankPlan, error) {
	layers, _ := d.meta.Uint(d.key("block_count"))
	if layers == 0 || layers > maxLayers {
		return nil, fmt.Errorf("the stage has %d layers: %w", layers, gguf.ErrDamaged)
	}
	heads, rule, err := sharedHeads(d.meta, d.arch, d.tensors, int(layers))
	if err != nil {
		return nil, err
	}
	p := &rankPlan{rule: rule, spec: d.spec, layers: int(layers), heads: heads}
	if err := cutHeads(p.heads, d.spec); err != nil {
		return nil, err
	}
	if rule.feedForward == "" {
		if p.columns, err = cutColumns(d.tensors, d.spec); err != nil {
			return nil, err
		}
		p.widths = map[string]uint64{}
		for _, t := range d.tensors {
			if name, ok := strings.CutSuffix(t.Name, ".weight"); ok && strings.Contains(name, ".ffn_down") {
				p.widths[name] = t.Shape[0]
			}
		}
	}
	return p, nil
}

// sharedHeads finds the rule of a model and, if its attention can be cut, the
// heads of each layer. The rule says why it is not cut, if it is not.
func sharedHeads(meta gguf.Metadata, arch string, tensors []Tensor, layers int) ([]*attention, tensorRule, error) {
	rule, err := ruleFor(meta, arch, tensors)
	if err != nil || rule.attention != "" {
		return nil, rule, err
	}
	heads, err := readAttention(meta, arch, tensors, layers)
	if err != nil {
		return nil, rule, err
	}
	if n, within := units(heads); n == 1 && within == 1 {
		rule.attention, rule.as, rule.rename = fixed, "", nil
		return nil, rule, nil
	}
	return heads, rule, nil
}

// readAttention reads the heads of each layer whose attention can be cut.
func readAttention(meta gguf.Metadata, arch string, tensors []Tensor, layers int) ([]*attention, error) {
	heads, err := perLayer(meta, arch+".attention.head_count", layers, nil)
	if err != nil {
		return nil, err
	}
	groups, err := perLayer(meta, arch+".attention.head_count_kv", layers, heads)
	if err != nil {
		return nil, err
	}
	out := make([]*attention, layers)
	find := map[string]Tensor{}
	for _, t := range tensors {
		find[t.Name] = t
	}
	for i := range out {
		output, ok := find[fmt.Sprintf("blk.%d.attn_output.weight", i)]
		if !ok {
			continue // a recurrent layer, or none
		}
		a := &attention{heads: heads[i], groups: groups[i]}
		if a.heads == 0 || a.groups == 0 || a.heads%a.groups != 0 || output.Dims != 2 || output.Shape[0]%a.heads != 0 {
			return nil, fmt.Errorf("layer %d has %d heads, %d KV heads and %d columns in attn_output.weight: not understood: %w", i, a.heads, a.groups, output.Shape[0], ErrRefused)
		}
		a.value = output.Shape[0] / a.heads
		if k, ok := find[fmt.Sprintf("blk.%d.attn_k.weight", i)]; ok {
			a.key = k.Shape[1] / a.groups
		} else if qkv, ok := find[fmt.Sprintf("blk.%d.attn_qkv.weight", i)]; ok && qkv.Shape[1] > a.groups*a.value {
			a.key = (qkv.Shape[1] - a.groups*a.value) / (a.heads + a.groups)
		} else {
			return nil, fmt.Errorf("layer %d has neither attn_k nor attn_qkv: %w", i, ErrRefused)
		}
		columns, _ := output.Type.Block()
		a.block = columns / gcd(columns, a.value)
		out[i] = a
	}
	return out, nil
}

// perLayer reads a count that is one number or one for each layer.
func perLayer(meta gguf.Metadata, key string, layers int, otherwise []uint64) ([]uint64, error) {
	out := make([]uint64, layers)
	if kv, ok := meta.Pair(key); ok && kv.Type == gguf.TypeArray {
		all, err := meta.Uints(key)
		if err != nil {
			return nil, err
		}
		if len(all) < layers {
			return nil, fmt.Errorf("metadata %q has %d entries for %d layers: %w", key, len(all), layers, gguf.ErrDamaged)
		}
		return all[:layers], nil
	}
	v, ok := meta.Uint(key)
	if !ok {
		if otherwise == nil {
			return nil, fmt.Errorf("metadata %q is missing: %w", key, gguf.ErrDamaged)
		}
		return otherwise, nil
	}
	for i := range out {
		out[i] = v
	}
	return out, nil
}

// cutHeads gives each layer the rank's heads.
func cutHeads(layers []*attention, spec Spec) error {
	for _, a := range layers {
		if a == nil {
			continue
		}
		if a.cut(spec.Parts, spec.Rank) {
			continue
		}
		return partsError(layers, spec.Parts)
	}
	return nil
}

// cut gives the heads of one rank, if the parts fit: each rank has whole
// groups, or lies within one group, whose KV head it then holds whole beside
// its neighbours. All ranks are checked, so that all of them agree.
func (a *attention) cut(parts []int, rank int) bool {
	var total, sum uint64
	for _, n := range parts {
		total += uint64(n)
	}
	size := a.heads / a.groups
	var at uint64
	for r, n := range parts {
		sum += uint64(n)
		if a.heads*sum%total != 0 {
			return false
		}
		end := a.heads * sum / total
		whole := at%size == 0 && end%size == 0
		within := at/size == (end-1)/size
		if end == at || end%a.block != 0 || !whole && !within {
			return false
		}
		if r == rank {
			a.q = span{at, end - at}
			a.kv = span{at / size, max(1, (end-at)/size)}
		}
		at = end
	}
	return true
}

// cut keeps the rank's part of a layer's tensor.
func (p *rankPlan) cut(layer int, name string, t Tensor) (Tensor, error) {
	base, kind, _ := strings.Cut(name, ".")
	if strings.HasSuffix(kind, "scale") || kind == "input_scale" {
		// One factor for a whole product, or one an expert.
		if t.Dims == 1 && (t.Shape[0] == 1 || strings.HasSuffix(base, "exps")) {
			return t, nil
		}
		return Tensor{}, p.unknown(t)
	}
	if layer >= p.layers {
		return Tensor{}, fmt.Errorf("tensor %q is of layer %d of %d: %w", t.Name, layer, p.layers, gguf.ErrDamaged)
	}
	var a *attention
	if p.heads != nil {
		a = p.heads[layer]
	}
	switch {
	case strings.HasPrefix(base, "attn_") && a != nil:
		return p.cutAttention(a, base, kind, t)
	case strings.HasPrefix(base, "ffn") && p.columns != nil:
		return p.cutFeedForward(base, kind, t)
	}
	return t, nil
}

// unknown refuses a tensor that nobody has thought about.
func (p *rankPlan) unknown(t Tensor) error {
	return fmt.Errorf("how to share tensor %q with shape %d among ranks is not known: %w", t.Name, t.Shape[:t.Dims], ErrRefused)
}

func (p *rankPlan) cutAttention(a *attention, base, kind string, t Tensor) (Tensor, error) {
	last := t.Dims - 1 // rows of a matrix, elements of a bias
	q, kv := a.q, a.kv
	scaled := func(s span, per uint64) span { return span{s.first * per, s.count * per} }
	switch base {
	case "attn_q", "attn_gate", "attn_sinks":
		// A head has as many rows as it needs: some have a gate beside each.
		if per := t.Shape[last] / a.heads; per*a.heads == t.Shape[last] {
			return t.keep(last, scaled(q, per))
		}
	case "attn_k":
		if t.Shape[last] == a.groups*a.key {
			return t.keep(last, scaled(kv, a.key))
		}
	case "attn_v":
		if t.Shape[last] == a.groups*a.value {
			return t.keep(last, scaled(kv, a.value))
		}
	case "attn_qkv":
		keys, values := a.heads*a.key, (a.heads+a.groups)*a.key
		if t.Shape[last] == values+a.groups*a.value {
			k, v := scaled(kv, a.key), scaled(kv, a.value)
			return t.keep(last, scaled(q, a.key), span{keys + k.first, k.count}, span{values + v.first, v.count})
		}
	case "attn_output":
		if kind == "bias" {
			return t, nil
		}
		return t.keep(0, scaled(q, a.value))
	case "attn_q_norm", "attn_k_norm":
		heads, of := a.heads, q
		if base == "attn_k_norm" {
			heads, of = a.groups, kv
		}
		switch {
		case t.Dims == 2 && t.Shape[1] == heads && (t.Shape[0] == a.key || t.Shape[0] == 1):
			return t.keep(1, of)
		case t.Dims == 1 && t.Shape[0] == a.key:
			return t, nil // the same for each head
		case t.Dims == 1 && t.Shape[0] == heads*a.key:
			return Tensor{}, fmt.Errorf("tensor %q is a norm over all heads at once, which no rank has: %w", t.Name, ErrRefused)
		}
	case "attn_norm", "attn_norm_2", "attn_post_norm", "attn_output_norm", "attn_rot_embd":
		return t, nil
	}
	return Tensor{}, p.unknown(t)
}

// reduction tells what ranks add up because of a tensor: the product that it
// is the weight of, or a node.
func (p *rankPlan) reduction(name string) (weight, node string) {
	switch name {
	case "attn_output.weight":
		if p.heads != nil {
			return name, ""
		}
	case "ffn_down.weight", "ffn_down_shexp.weight":
		if p.columns != nil {
			return name, ""
		}
	case "ffn_down_exps.weight":
		if p.columns != nil {
			return "", p.rule.experts
		}
	case "ffn_down_chexps.weight":
		if p.columns != nil {
			return "", "ffn_adj_moe_out"
		}
	}
	return "", ""
}

// metadata writes what the cut changes, and what the library would otherwise
// derive from numbers that are changed.
func (p *rankPlan) metadata(d *draft) error {
	if p.heads != nil {
		if err := p.headMetadata(d); err != nil {
			return err
		}
	}
	if p.columns != nil {
		return p.columnMetadata(d)
	}
	return nil
}

func (p *rankPlan) headMetadata(d *draft) error {
	heads, err := perLayer(d.meta, d.key("attention.head_count"), len(p.heads), nil)
	if err != nil {
		return err
	}
	if heads[0] > 0 {
		derived := uint64(d.run.Embedding) / heads[0]
		for _, name := range []string{"attention.key_length", "attention.value_length", "rope.dimension_count"} {
			if _, ok := d.meta.Uint(d.key(name)); ok {
				if name == "attention.key_length" {
					derived, _ = d.meta.Uint(d.key(name))
				}
				continue
			}
			length := derived
			if name == "attention.value_length" {
				length = uint64(d.run.Embedding) / heads[0]
			}
			if err := d.set(d.key(name), uint32(length)); err != nil {
				return err
			}
		}
	}
	groups, err := perLayer(d.meta, d.key("attention.head_count_kv"), len(p.heads), heads)
	if err != nil {
		return err
	}
	newHeads, newGroups := make([]uint32, len(p.heads)), make([]uint32, len(p.heads))
	for i, a := range p.heads {
		newHeads[i], newGroups[i] = uint32(heads[i]), uint32(groups[i])
		if a == nil {
			// One number for all layers is that of those with attention.
			a = p.anyHeads(heads[i], groups[i])
		}
		if a != nil {
			newHeads[i], newGroups[i] = uint32(a.q.count), uint32(a.kv.count)
		}
	}
	if err := d.setCounts("attention.head_count", newHeads); err != nil {
		return err
	}
	return d.setCounts("attention.head_count_kv", newGroups)
}

// setCounts writes a number for each layer, in one if all are the same and the
// model has it so.
func (d *draft) setCounts(name string, counts []uint32) error {
	kv, ok := d.meta.Pair(d.key(name))
	same := !ok || kv.Type != gguf.TypeArray
	for _, n := range counts {
		same = same && n == counts[0]
	}
	if same {
		return d.set(d.key(name), counts[0])
	}
	return d.set(d.key(name), counts)
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// anyHeads finds a layer that has so many heads in the whole model.
func (p *rankPlan) anyHeads(heads, groups uint64) *attention {
	for _, a := range p.heads {
		if a != nil && a.heads == heads && a.groups == groups {
			return a
		}
	}
	return nil
}
