package rank

import (
	"fmt"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/slice/stage"
)

// attention is one layer's heads.
type attention struct {
	heads, groups uint64 // query heads, and the KV heads that they share
	// block is the number of query heads that the cut must be a multiple of,
	// so that it falls between quantization blocks of attn_output's columns.
	block uint64
	key   uint64 // elements of a key and query head
	value uint64
	q, kv Span // the rank's heads
}

// place names a tensor.
type place struct {
	layer int
	name  string
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
	find := map[place]Tensor{}
	for _, t := range tensors {
		find[place{t.Layer, t.Name}] = t
	}
	for i := range out {
		output, ok := find[place{i, "attn_output.weight"}]
		if !ok {
			continue // a recurrent layer, or none
		}
		a := &attention{heads: heads[i], groups: groups[i]}
		if a.heads == 0 || a.groups == 0 || a.heads%a.groups != 0 || output.Dims != 2 || output.Shape[0]%a.heads != 0 {
			return nil, fmt.Errorf("layer %d has %d heads, %d KV heads and %d columns in attn_output.weight: not understood: %w", i, a.heads, a.groups, output.Shape[0], stage.ErrRefused)
		}
		a.value = output.Shape[0] / a.heads
		if k, ok := find[place{i, "attn_k.weight"}]; ok {
			a.key = k.Shape[1] / a.groups
		} else if qkv, ok := find[place{i, "attn_qkv.weight"}]; ok && qkv.Shape[1] > a.groups*a.value {
			a.key = (qkv.Shape[1] - a.groups*a.value) / (a.heads + a.groups)
		} else {
			return nil, fmt.Errorf("layer %d has neither attn_k nor attn_qkv: %w", i, stage.ErrRefused)
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
			a.q = Span{at, end - at}
			a.kv = Span{at / size, max(1, (end-at)/size)}
		}
		at = end
	}
	return true
}

func (p *Plan) cutAttention(a *attention, base, kind string, t Tensor) (Cut, error) {
	last := t.Dims - 1 // rows of a matrix, elements of a bias
	q, kv := a.q, a.kv
	scaled := func(s Span, per uint64) Span { return Span{s.First * per, s.Count * per} }
	switch base {
	case "attn_q", "attn_gate", "attn_sinks":
		// A head has as many rows as it needs: some have a gate beside each.
		if per := t.Shape[last] / a.heads; per*a.heads == t.Shape[last] {
			return keep(last, scaled(q, per))
		}
	case "attn_k":
		if t.Shape[last] == a.groups*a.key {
			return keep(last, scaled(kv, a.key))
		}
	case "attn_v":
		if t.Shape[last] == a.groups*a.value {
			return keep(last, scaled(kv, a.value))
		}
	case "attn_qkv":
		keys, values := a.heads*a.key, (a.heads+a.groups)*a.key
		if t.Shape[last] == values+a.groups*a.value {
			k, v := scaled(kv, a.key), scaled(kv, a.value)
			return keep(last, scaled(q, a.key), Span{keys + k.First, k.Count}, Span{values + v.First, v.Count})
		}
	case "attn_output":
		if kind == "bias" {
			return Cut{Dim: -1}, nil
		}
		return keep(0, scaled(q, a.value))
	case "attn_q_norm", "attn_k_norm":
		heads, of := a.heads, q
		if base == "attn_k_norm" {
			heads, of = a.groups, kv
		}
		switch {
		case t.Dims == 2 && t.Shape[1] == heads && (t.Shape[0] == a.key || t.Shape[0] == 1):
			return keep(1, of)
		case t.Dims == 1 && t.Shape[0] == a.key:
			return Cut{Dim: -1}, nil // the same for each head
		case t.Dims == 1 && t.Shape[0] == heads*a.key:
			return Cut{}, fmt.Errorf("tensor %q is a norm over all heads at once, which no rank has: %w", t.Name, stage.ErrRefused)
		}
	case "attn_norm", "attn_norm_2", "attn_post_norm", "attn_output_norm", "attn_rot_embd":
		return Cut{Dim: -1}, nil
	}
	return Cut{}, p.unknown(t)
}

func (p *Plan) headMetadata(e *editor) error {
	heads, err := perLayer(e.meta, e.key("attention.head_count"), len(p.heads), nil)
	if err != nil {
		return err
	}
	if heads[0] > 0 {
		derived := e.width / heads[0]
		for _, name := range []string{"attention.key_length", "attention.value_length", "rope.dimension_count"} {
			if _, ok := e.meta.Uint(e.key(name)); ok {
				if name == "attention.key_length" {
					derived, _ = e.meta.Uint(e.key(name))
				}
				continue
			}
			length := derived
			if name == "attention.value_length" {
				length = e.width / heads[0]
			}
			if err := e.set(e.key(name), uint32(length)); err != nil {
				return err
			}
		}
	}
	groups, err := perLayer(e.meta, e.key("attention.head_count_kv"), len(p.heads), heads)
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
			newHeads[i], newGroups[i] = uint32(a.q.Count), uint32(a.kv.Count)
		}
	}
	if err := e.setCounts("attention.head_count", newHeads); err != nil {
		return err
	}
	return e.setCounts("attention.head_count_kv", newGroups)
}

// setCounts writes a number for each layer, in one if all are the same and the
// model has it so.
func (e *editor) setCounts(name string, counts []uint32) error {
	kv, ok := e.meta.Pair(e.key(name))
	same := !ok || kv.Type != gguf.TypeArray
	for _, n := range counts {
		same = same && n == counts[0]
	}
	if same {
		return e.set(e.key(name), counts[0])
	}
	return e.set(e.key(name), counts)
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// anyHeads finds a layer that has so many heads in the whole model.
func (p *Plan) anyHeads(heads, groups uint64) *attention {
	for _, a := range p.heads {
		if a != nil && a.heads == heads && a.groups == groups {
			return a
		}
	}
	return nil
}
