package gguf

import (
	"fmt"
	"slices"
)

// With gives the metadata with entries replaced, in their old places, or added
// at the end.
func (m Metadata) With(kvs ...KV) Metadata {
	out := slices.Clone(m.kvs)
	index := make(map[string]int, len(out)+len(kvs))
	for i, kv := range out {
		index[kv.Key] = i
	}
	for _, kv := range kvs {
		if i, ok := index[kv.Key]; ok {
			out[i] = kv
			continue
		}
		index[kv.Key] = len(out)
		out = append(out, kv)
	}
	return Metadata{kvs: out, index: index}
}

// Without gives the metadata without the entries that drop picks.
func (m Metadata) Without(drop func(key string) bool) Metadata {
	var kept []KV
	for _, kv := range m.kvs {
		if !drop(kv.Key) {
			kept = append(kept, kv)
		}
	}
	return Metadata{}.With(kept...)
}

// Cut gives the elements [from, to) of an array of numbers or truth values.
func (kv KV) Cut(from, to uint64) (KV, error) {
	size := uint64(kv.Elem.size())
	if kv.Type != TypeArray || size == 0 {
		return KV{}, fmt.Errorf("metadata %q is not an array of numbers and can't be cut", kv.Key)
	}
	if from > to || to > kv.Len {
		return KV{}, fmt.Errorf("metadata %q has %d elements, not %d", kv.Key, kv.Len, to)
	}
	p, err := kv.payload()
	if err != nil {
		return KV{}, err
	}
	out := kv
	out.raw = slices.Clone(p[from*size : to*size])
	if out.raw == nil {
		out.raw = []byte{}
	}
	out.Len, out.size, out.src, out.off = to-from, int64(len(out.raw)), nil, 0
	return out, nil
}
