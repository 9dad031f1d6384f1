package gguf

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Metadata is the ordered key-value part of a file, with typed access. The
// typed getters report false where a key is missing or has another type.
type Metadata struct {
	kvs   []KV           // in the order of the file
	index map[string]int // key -> position in kvs
}

// Pairs lists the entries in the order of the file. The slice is the File's
// own and must not be changed.
func (m Metadata) Pairs() []KV { return m.kvs }

// Pair finds an entry by key.
func (m Metadata) Pair(key string) (KV, bool) {
	i, ok := m.index[key]
	if !ok {
		return KV{}, false
	}
	return m.kvs[i], true
}

// scalarOf gives the decoded value of a key that is not an array.
func (m Metadata) scalarOf(key string) (any, bool) {
	kv, ok := m.Pair(key)
	if !ok || kv.Type == TypeArray {
		return nil, false
	}
	p, err := kv.payload()
	if err != nil {
		return nil, false
	}
	return scalar(kv.Type, p)
}

// String gives a string.
func (m Metadata) String(key string) (string, bool) {
	v, ok := m.scalarOf(key)
	s, is := v.(string)
	return s, ok && is
}

// Uint gives an integer of any width that is not negative.
func (m Metadata) Uint(key string) (uint64, bool) {
	v, ok := m.scalarOf(key)
	u, is := v.(uint64)
	return u, ok && is
}

// Int gives an integer of any width that int64 can hold.
func (m Metadata) Int(key string) (int64, bool) {
	v, ok := m.scalarOf(key)
	switch v := v.(type) {
	case int64:
		return v, ok
	case uint64:
		return int64(v), ok && v <= math.MaxInt64
	}
	return 0, false
}

// Float gives a floating-point number of either width.
func (m Metadata) Float(key string) (float64, bool) {
	v, ok := m.scalarOf(key)
	switch v := v.(type) {
	case float32:
		return float64(v), ok
	case float64:
		return v, ok
	}
	return 0, false
}

// Bool gives a truth value.
func (m Metadata) Bool(key string) (bool, bool) {
	v, ok := m.scalarOf(key)
	b, is := v.(bool)
	return b, ok && is
}

// array finds an array and reads its elements.
func (m Metadata) array(key string) (KV, []byte, error) {
	kv, ok := m.Pair(key)
	if !ok {
		return KV{}, nil, fmt.Errorf("metadata %q is missing", key)
	}
	if kv.Type != TypeArray {
		return KV{}, nil, fmt.Errorf("metadata %q is %s, not an array", key, kv.Type)
	}
	p, err := kv.payload()
	return kv, p, err
}

// Strings gives an array of strings, read from the file if it is large.
func (m Metadata) Strings(key string) ([]string, error) {
	kv, p, err := m.array(key)
	if err != nil {
		return nil, err
	}
	if kv.Elem != TypeString {
		return nil, fmt.Errorf("metadata %q is an array of %s, not of strings", key, kv.Elem)
	}
	// Invariant: Parse walked these lengths, so they add up to len(p), unless
	// the file changed since.
	out := make([]string, 0, kv.Len)
	for range kv.Len {
		if len(p) < 8 {
			return nil, fmt.Errorf("metadata %q: the file changed while it was read", key)
		}
		n := binary.LittleEndian.Uint64(p)
		if n > uint64(len(p)-8) {
			return nil, fmt.Errorf("metadata %q: the file changed while it was read", key)
		}
		out = append(out, string(p[8:8+n]))
		p = p[8+n:]
	}
	return out, nil
}

// Uints gives an array of integers or truth values (0 or 1); a negative element
// is an error.
func (m Metadata) Uints(key string) ([]uint64, error) {
	kv, p, err := m.array(key)
	if err != nil {
		return nil, err
	}
	step := int(kv.Elem.size())
	elem := kv.Elem
	if elem == TypeBool {
		elem = TypeUint8
	}
	if _, _, ok := integer(elem, make([]byte, 8)); !ok {
		return nil, fmt.Errorf("metadata %q is an array of %s, not of integers", key, kv.Elem)
	}
	out := make([]uint64, kv.Len)
	for i := range out {
		v, neg, _ := integer(elem, p[i*step:])
		if neg {
			return nil, fmt.Errorf("metadata %q has the negative element %d", key, int64(v))
		}
		out[i] = v
	}
	return out, nil
}

// Floats gives an array of floating-point numbers.
func (m Metadata) Floats(key string) ([]float64, error) {
	kv, p, err := m.array(key)
	if err != nil {
		return nil, err
	}
	if kv.Elem != TypeFloat32 && kv.Elem != TypeFloat64 {
		return nil, fmt.Errorf("metadata %q is an array of %s, not of floating-point numbers", key, kv.Elem)
	}
	out := make([]float64, kv.Len)
	for i := range out {
		if kv.Elem == TypeFloat32 {
			out[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(p[i*4:])))
		} else {
			out[i] = math.Float64frombits(binary.LittleEndian.Uint64(p[i*8:]))
		}
	}
	return out, nil
}
