// Package ggml is ggml's table of the types that tensors have: their numbers, names
// and blocks, as of the release that the engine is built of. The file format
// (package gguf) and the cutting of models need it; it imports nothing of ours.
package ggml

import "fmt"

// Type is ggml's number for the encoding of a tensor's elements.
type Type uint32

// Tensor types that this module names elsewhere; String knows them all.
const (
	F32  Type = 0
	F16  Type = 1
	Q4_0 Type = 2
	Q8_0 Type = 8
	Q4_K Type = 12
	BF16 Type = 30
	Q1_0 Type = 41
	Q2_0 Type = 42
)

// encoding is one row of ggml's type table: a row of a tensor is a sequence of
// blocks, each holding elements elements in bytes bytes.
type encoding struct {
	name     string
	elements uint64
	bytes    uint64
}

// encodingOf is ggml's type table as of v0.5.0. Sizes follow from the block
// structs: a half-precision scale (2 bytes), packed quants, sub-block scales.
func encodingOf(t Type) (encoding, bool) {
	switch t {
	case 0:
		return encoding{"F32", 1, 4}, true
	case 1:
		return encoding{"F16", 1, 2}, true
	case 2:
		return encoding{"Q4_0", 32, 18}, true
	case 3:
		return encoding{"Q4_1", 32, 20}, true
	case 6:
		return encoding{"Q5_0", 32, 22}, true
	case 7:
		return encoding{"Q5_1", 32, 24}, true
	case 8:
		return encoding{"Q8_0", 32, 34}, true
	case 9:
		return encoding{"Q8_1", 32, 36}, true
	case 10:
		return encoding{"Q2_K", 256, 84}, true
	case 11:
		return encoding{"Q3_K", 256, 110}, true
	case 12:
		return encoding{"Q4_K", 256, 144}, true
	case 13:
		return encoding{"Q5_K", 256, 176}, true
	case 14:
		return encoding{"Q6_K", 256, 210}, true
	case 15:
		return encoding{"Q8_K", 256, 292}, true
	case 16:
		return encoding{"IQ2_XXS", 256, 66}, true
	case 17:
		return encoding{"IQ2_XS", 256, 74}, true
	case 18:
		return encoding{"IQ3_XXS", 256, 98}, true
	case 19:
		return encoding{"IQ1_S", 256, 50}, true
	case 20:
		return encoding{"IQ4_NL", 32, 18}, true
	case 21:
		return encoding{"IQ3_S", 256, 110}, true
	case 22:
		return encoding{"IQ2_S", 256, 82}, true
	case 23:
		return encoding{"IQ4_XS", 256, 136}, true
	case 24:
		return encoding{"I8", 1, 1}, true
	case 25:
		return encoding{"I16", 1, 2}, true
	case 26:
		return encoding{"I32", 1, 4}, true
	case 27:
		return encoding{"I64", 1, 8}, true
	case 28:
		return encoding{"F64", 1, 8}, true
	case 29:
		return encoding{"IQ1_M", 256, 56}, true
	case 30:
		return encoding{"BF16", 1, 2}, true
	case 34:
		return encoding{"TQ1_0", 256, 54}, true
	case 35:
		return encoding{"TQ2_0", 256, 66}, true
	case 39:
		return encoding{"MXFP4", 32, 17}, true
	case 40:
		return encoding{"NVFP4", 64, 36}, true
	case 41:
		return encoding{"Q1_0", 128, 18}, true
	case 42:
		return encoding{"Q2_0", 64, 18}, true
	}
	return encoding{}, false
}

// Removed is the name of a type that llama.cpp once wrote and no longer reads; "":
// it is none.
func (t Type) Removed() string {
	switch t {
	case 4:
		return "Q4_2"
	case 5:
		return "Q4_3"
	case 31:
		return "Q4_0_4_4"
	case 32:
		return "Q4_0_4_8"
	case 33:
		return "Q4_0_8_8"
	case 36:
		return "IQ4_NL_4_4"
	case 37:
		return "IQ4_NL_4_8"
	case 38:
		return "IQ4_NL_8_8"
	}
	return ""
}

// Known tells whether the type is one that the engine reads.
func (t Type) Known() bool {
	_, ok := encodingOf(t)
	return ok
}

// Block gives the number of elements in a block and the bytes it takes; zero
// for an unknown type.
func (t Type) Block() (elements, bytes uint64) {
	e, _ := encodingOf(t)
	return e.elements, e.bytes
}

// RowBytes is the size of a row of n elements; n must be a multiple of the
// block's elements, and the type known.
func (t Type) RowBytes(n uint64) uint64 {
	e, ok := encodingOf(t)
	if !ok {
		return 0
	}
	return n / e.elements * e.bytes
}

// String is the usual upper-case name: "Q4_K".
func (t Type) String() string {
	if e, ok := encodingOf(t); ok {
		return e.name
	}
	if name := t.Removed(); name != "" {
		return name
	}
	return fmt.Sprintf("type %d", uint32(t))
}
