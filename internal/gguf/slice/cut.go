package slice

import (
	"fmt"

	"github.com/skein-run/skein/internal/gguf"
)

// draft is a shard in the making. The pipeline cut fills it, the tensor cut
// narrows it further; encode makes the File. It belongs to one call of Cut.
type draft struct {
	model *gguf.Model // the whole model; read only
	arch  string
	spec  Spec
	// meta is the shard's metadata: layer numbers, counts and per-layer arrays
	// are those of the stage already.
	meta gguf.Metadata
	// tensors of the shard, under their names in the shard ("blk.0." is the
	// stage's first layer). Shape and Source always agree in size.
	tensors []Tensor
	run     Run
}

// Cut makes one shard of a model: the layers of a stage, and of those one
// rank's part. A spec of all layers without ranks is the whole model in the
// form of a shard (fed with hidden states, no tokenizer). An error that wraps
// ErrRefused says why this model must not be cut this way.
func Cut(m *gguf.Model, spec Spec) (*File, error) {
	d, err := cutLayers(m, spec)
	if err != nil {
		return nil, fmt.Errorf("cut layers [%d, %d): %w", spec.First, spec.End, err)
	}
	if spec.Ranks() > 1 {
		if err := cutTensor(d); err != nil {
			return nil, fmt.Errorf("cut rank %d of %d: %w", spec.Rank, spec.Ranks(), err)
		}
	}
	f, err := d.encode()
	if err != nil {
		return nil, fmt.Errorf("cut layers [%d, %d): %w", spec.First, spec.End, err)
	}
	return f, nil
}

// key is a key of the architecture: "llama." before name.
func (d *draft) key(name string) string { return d.arch + "." + name }

// set replaces or adds a metadata entry; value is one that gguf.Pair takes.
func (d *draft) set(key string, value any) error {
	kv, err := gguf.Pair(key, value)
	if err != nil {
		return err
	}
	d.meta = d.meta.With(kv)
	return nil
}

// whole is a tensor with all of its bytes.
func whole(t gguf.Tensor, base int64) Tensor {
	return Tensor{Tensor: t, Source: []Range{{Part: t.Part, Offset: base + t.Offset, Length: t.Bytes, Count: 1}}}
}

// empty is a tensor of the same shape that is full of zeros, which every type
// decodes to zeros.
func empty(t gguf.Tensor) Tensor {
	return Tensor{Tensor: t, Source: []Range{{Part: -1, Length: t.Bytes, Count: 1, Fill: []byte{0}}}}
}

// encode lays the draft out as a file.
func (d *draft) encode() (*File, error) {
	plain := make([]gguf.Tensor, len(d.tensors))
	for i, t := range d.tensors {
		plain[i] = t.Tensor
	}
	header, laid, err := gguf.EncodeHeader(d.meta.Pairs(), plain)
	if err != nil {
		return nil, err
	}
	align := int64(32)
	if a, ok := d.meta.Uint("general.alignment"); ok {
		align = int64(a)
	}
	f := &File{Spec: d.spec, Header: header, Run: d.run, Size: int64(len(header))}
	for i, t := range laid {
		var have int64
		for _, r := range d.tensors[i].Source {
			have += r.Bytes()
		}
		if have != t.Bytes {
			return nil, fmt.Errorf("tensor %q was cut to %d bytes, but its shape needs %d", t.Name, have, t.Bytes)
		}
		f.Tensors = append(f.Tensors, Tensor{Tensor: t, Source: d.tensors[i].Source})
		f.Size = int64(len(header)) + t.Offset + (t.Bytes+align-1)/align*align
	}
	return f, nil
}
