//lint:file-ignore U1000 the structs mirror those of C field by field; what is unused keeps the others in place

package llama

import (
	"fmt"
	"unsafe"

	"github.com/ebitengine/purego"

	"github.com/skein-run/skein/internal/gguf"
)

// typeTraits is struct ggml_type_traits of ggml.h.
type typeTraits struct {
	name              *byte
	block, interleave int64  // elements
	size              uint64 // bytes of a block
	quantized         uint8
	_                 [7]uint8
	toFloat           uintptr // void(const void *, float *, int64_t)
	fromFloat         uintptr
}

// Dequantize turns rows of a tensor of type t, as they lie in a file, into f32
// with the library's own kernel, so that the values are those that it would
// compute with. It fills out, whose length must be whole blocks, and is safe
// from any goroutine.
func (l *Library) Dequantize(t gguf.TensorType, data []byte, out []float32) error {
	if !t.Known() {
		return fmt.Errorf("dequantize: %v is not a type this build knows", t)
	}
	block, size := t.Block()
	if len(out) == 0 || uint64(len(out))%block != 0 || uint64(len(data)) != uint64(len(out))/block*size {
		return fmt.Errorf("dequantize %d bytes of %v into %d elements: a block of %d elements has %d bytes", len(data), t, len(out), block, size)
	}
	if t == typeF32 {
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&out[0])), 4*len(out)), data)
		return nil
	}
	tr := l.typeTraits(int32(t))
	if tr == nil || uint64(tr.block) != block || tr.size != size {
		return &ABIError{Found: fmt.Sprintf("another layout of the type %v", t), Fix: installFix}
	}
	if tr.toFloat == 0 {
		return fmt.Errorf("dequantize: the library has no way from %v to f32", t)
	}
	purego.SyscallN(tr.toFloat, uintptr(unsafe.Pointer(&data[0])), uintptr(unsafe.Pointer(&out[0])), uintptr(len(out)))
	return nil
}
