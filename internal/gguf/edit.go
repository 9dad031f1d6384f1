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

// Pick gives the elements of an array of numbers or truth values at the
// indexes, in their order.
func (kv KV) Pick(indexes []int) (KV, error) {
	size := int(kv.Elem.size())
	if kv.Type != TypeArray || size == 0 {
		return KV{}, fmt.Errorf("metadata %q is not an array of numbers", kv.Key)
	}
	p, err := kv.payload()
	if err != nil {
		return KV{}, err
	}
	out := kv
	out.raw = make([]byte, 0, size*len(indexes))
	for _, i := range indexes {
		if i < 0 || uint64(i) >= kv.Len {
			return KV{}, fmt.Errorf("metadata %q has %d elements, not %d", kv.Key, kv.Len, i+1)
		}
		out.raw = append(out.raw, p[i*size:(i+1)*size]...)
	}
	out.Len, out.size, out.src, out.off = uint64(len(indexes)), int64(len(out.raw)), nil, 0
	return out, nil
}
