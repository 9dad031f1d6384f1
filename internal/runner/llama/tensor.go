//lint:file-ignore U1000 the structs mirror those of C field by field; what is unused keeps the others in place

package llama

import (
	"bytes"
	"fmt"
	"unsafe"
)

// tensor is struct ggml_tensor of ggml.h. Its memory is C's: a *tensor is made
// from a pointer that the library gave, and never kept beyond the callback.
type tensor struct {
	kind     int32 // enum ggml_type
	_        int32
	buffer   uintptr
	ne       [4]int64
	nb       [4]uint64
	op       int32 // enum ggml_op
	opParams [16]int32
	flags    int32
	src      [10]*tensor
	viewSrc  *tensor
	viewOffs uint64
	data     unsafe.Pointer
	name     [64]byte
}

const (
	tensorOverhead = 368 // ggml_tensor_overhead(): an object's header and the struct
	typeF32        = 0
	opMulMat       = 29
)

// label is the tensor's name, in the library's memory.
func (t *tensor) label() []byte {
	if n := bytes.IndexByte(t.name[:], 0); n >= 0 {
		return t.name[:n]
	}
	return t.name[:]
}

// isWeight tells whether t is a layer's tensor itself, which stays where it is
// while the model lives, and no view or copy of one, which lives for a graph.
func (t *tensor) isWeight() bool {
	return t.op == 0 && t.viewSrc == nil && bytes.HasPrefix(t.label(), blkPrefix)
}

// owner is the buffer that holds the tensor's data.
func (t *tensor) owner() uintptr {
	if t.viewSrc != nil {
		return t.viewSrc.buffer
	}
	return t.buffer
}

// elements is the number of elements, if they are f32 and lie one after another.
func (t *tensor) elements() (int, error) {
	n := t.ne[0] * t.ne[1] * t.ne[2] * t.ne[3]
	if t.kind != typeF32 || n < 0 || n > 0 && t.nb != [4]uint64{4, 4 * uint64(t.ne[0]), 4 * uint64(t.ne[0]*t.ne[1]), 4 * uint64(t.ne[0]*t.ne[1]*t.ne[2])} {
		return 0, fmt.Errorf("graph node %s is of type %d, %d elements with strides of %d bytes, not f32 in one piece", t.label(), t.kind, t.ne, t.nb)
	}
	return int(n), nil
}

// ggmlInit is struct ggml_init_params.
type ggmlInit struct {
	size   uint64
	buffer unsafe.Pointer
	noMem  uint8
	_      [7]uint8
}

// checkTensor makes tensors of known shapes in the library and reads them back
// through this package's idea of the struct. The hooks read every node of the
// graph that way; with a field in another place they would read wild.
func (l *Library) checkTensor() error {
	bad := func(what string, got, want any) error {
		return &ABIError{Found: fmt.Sprintf("another ggml_tensor (%s is %v, known %v)", what, got, want), Fix: installFix}
	}
	if n := l.tensorOverhead(); n != tensorOverhead {
		return bad("its size", n, tensorOverhead)
	}
	c := l.ggmlInit(ggmlInit{size: 1 << 16})
	if c == 0 {
		return bad("its context", "null", "a pointer")
	}
	defer l.ggmlFree(c)
	// The sizes are small, and no two are equal.
	a := l.newTensor(c, typeF32, 3, 5, 7, 11)
	b := l.newTensor(c, typeF32, 3, 2, 7, 11)
	if a == nil || b == nil {
		return bad("a new tensor", "null", "a pointer")
	}
	l.setName(a, "skein probe")
	switch {
	case a.kind != typeF32:
		return bad("type", a.kind, typeF32)
	case a.ne != [4]int64{3, 5, 7, 11}:
		return bad("ne", a.ne, "[3 5 7 11]")
	case a.nb != [4]uint64{4, 12, 60, 420}:
		return bad("nb", a.nb, "[4 12 60 420]")
	case string(a.label()) != "skein probe":
		return bad("name", fmt.Sprintf("%q", a.label()), `"skein probe"`)
	case uintptr(a.data) == 0 || uintptr(a.data) != l.tensorData(a):
		return bad("data", a.data, l.tensorData(a))
	case a.buffer != 0 || a.owner() != 0:
		return bad("buffer", a.buffer, 0)
	}
	// The shapes are right, or this would end the process.
	p := l.mulMat(c, a, b)
	v := l.viewTensor(c, a)
	if p == nil || v == nil {
		return bad("a new node", "null", "a pointer")
	}
	switch {
	case a.op != 0 || p.op != opMulMat || l.opName(p.op) != "MUL_MAT":
		return bad("the op of a matrix product", p.op, opMulMat)
	case p.src[0] != a || p.src[1] != b || p.src[2] != nil || a.src[0] != nil:
		return bad("src", p.src, "the operands")
	case p.ne != [4]int64{5, 2, 7, 11}:
		return bad("ne of a matrix product", p.ne, "[5 2 7 11]")
	case v.viewSrc != a || v.viewOffs != 0 || a.viewSrc != nil || v.data != a.data:
		return bad("view_src", v.viewSrc, "the viewed tensor")
	}
	return nil
}
