package ggml

import "testing"

// Each type has a name of its own, is read or was removed, and its rows are as
// long as its blocks say.
func TestTypes(t *testing.T) {
	names := map[string]Type{}
	for v := range Type(64) {
		elements, bytes := v.Block()
		if v.Known() != (elements > 0 && bytes > 0) || v.Known() && v.Removed() != "" {
			t.Errorf("%v: known %v, blocks of %d elements in %d bytes, removed as %q", v, v.Known(), elements, bytes, v.Removed())
		}
		if other, twice := names[v.String()]; twice {
			t.Errorf("types %d and %d are both called %v", other, v, v)
		}
		names[v.String()] = v
		if n := v.RowBytes(3 * elements); n != 3*bytes {
			t.Errorf("%v: three blocks of %d bytes take %d", v, bytes, n)
		}
	}
	for v, want := range map[Type]string{F32: "F32", Q4_0: "Q4_0", Q4_K: "Q4_K", 4: "Q4_2", 63: "type 63"} {
		if v.String() != want {
			t.Errorf("type %d is %v, want %s", uint32(v), v, want)
		}
	}
}
