package llama

import (
	"errors"
	"slices"
	"testing"

	"github.com/skein-run/skein/internal/gguf"
)

// noFloats are types of intermediate values and of indices: no weights.
var noFloats = []string{"Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"}

func TestDequantize(t *testing.T) {
	lib, err := library()
	if err != nil {
		t.Fatal(err)
	}
	// One block each, whose values are known.
	q8 := append([]byte{0x00, 0x38}, make([]byte, 32)...) // d = 0.5
	q8[2], q8[3] = 3, 0xfe
	q4 := append([]byte{0x00, 0x3c}, slices.Repeat([]byte{0x88}, 16)...) // d = 1, all 0
	q4[2] = 0x97
	for name, c := range map[string]struct {
		kind gguf.TensorType
		data []byte
		n    int
		want map[int]float32
	}{
		"f32":  {0, []byte{0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0}, 2, map[int]float32{0: 1, 1: -2}},
		"f16":  {1, []byte{0x00, 0x3c, 0x00, 0xc0}, 2, map[int]float32{0: 1, 1: -2}},
		"bf16": {30, []byte{0x80, 0x3f, 0x00, 0xc0}, 2, map[int]float32{0: 1, 1: -2}},
		"q8_0": {8, q8, 32, map[int]float32{0: 1.5, 1: -1, 2: 0, 31: 0}},
		"q4_0": {2, q4, 32, map[int]float32{0: -1, 1: 0, 16: 1, 31: 0}},
	} {
		out := make([]float32, c.n)
		if err := lib.Dequantize(c.kind, c.data, out); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for i, v := range c.want {
			if out[i] != v {
				t.Errorf("%s: element %d is %g, want %g", name, i, out[i], v)
			}
		}
	}
	for kind := range gguf.TensorType(64) {
		if !kind.Known() {
			if err := lib.Dequantize(kind, []byte{0}, make([]float32, 1)); err == nil {
				t.Errorf("type %d, which nobody knows, was turned into f32", kind)
			}
			continue
		}
		block, size := kind.Block()
		out := make([]float32, 2*block)
		err := lib.Dequantize(kind, make([]byte, 2*size), out)
		if not := slices.Contains(noFloats, kind.String()); not != (err != nil) {
			t.Errorf("%v: %v", kind, err)
		}
		if err := lib.Dequantize(kind, make([]byte, 2*size+1), out); err == nil {
			t.Errorf("%v: a byte too many was taken", kind)
		}
	}
}

func TestDequantizeGate(t *testing.T) {
	lib, err := library()
	if err != nil {
		t.Fatal(err)
	}
	other := *lib
	other.typeTraits = func(int32) *typeTraits { return lib.typeTraits(2) }
	var abi *ABIError
	if err := other.Dequantize(8, make([]byte, 34), make([]float32, 32)); !errors.As(err, &abi) {
		t.Errorf("another layout: %v, want an ABIError", err)
	}
}
