// Package precision turns the values that shards exchange into bytes and back:
// f32, or f16 in half the bytes. What is added up is added up as f32.
//
// It is in the way of every all-reduce, so f32 has vector instructions where the
// processor has them; every processor gets the same bits.
package precision

import (
	"encoding/binary"
	"math"
)

// Format is how values travel.
type Format bool

// Half is f16: half the bytes, not exact.
const (
	Single Format = false
	Half   Format = true
)

// Size is a value's size in bytes.
func (f Format) Size() int {
	if f == Half {
		return 2
	}
	return 4
}

// Encode writes src to dst, which has len(src) times f.Size bytes.
func (f Format) Encode(dst []byte, src []float32) {
	if f == Half {
		for i, v := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], toHalf(v))
		}
		return
	}
	dst = dst[:4*len(src)]
	n := encodeMost(dst, src)
	dst, src = dst[4*n:], src[n:]
	for i, v := range src {
		binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
	}
}

// Decode reads len(dst) values from src.
func (f Format) Decode(dst []float32, src []byte) {
	if f == Half {
		for i := range dst {
			dst[i] = fromHalf(binary.LittleEndian.Uint16(src[2*i:]))
		}
		return
	}
	src = src[:4*len(dst)]
	n := decodeMost(dst, src)
	dst, src = dst[n:], src[4*n:]
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
	}
}

// Add adds the len(dst) values of src to dst.
func (f Format) Add(dst []float32, src []byte) {
	if f == Half {
		for i := range dst {
			dst[i] += fromHalf(binary.LittleEndian.Uint16(src[2*i:]))
		}
		return
	}
	src = src[:4*len(dst)]
	n := addMost(dst, src)
	dst, src = dst[n:], src[4*n:]
	for len(dst) >= 4 {
		s, d := src[:16], dst[:4]
		d[0] += math.Float32frombits(binary.LittleEndian.Uint32(s))
		d[1] += math.Float32frombits(binary.LittleEndian.Uint32(s[4:]))
		d[2] += math.Float32frombits(binary.LittleEndian.Uint32(s[8:]))
		d[3] += math.Float32frombits(binary.LittleEndian.Uint32(s[12:]))
		src, dst = src[16:], dst[4:]
	}
	for i := range dst {
		dst[i] += math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
	}
}

// Round makes of each value what its receiver will see.
func (f Format) Round(values []float32) {
	if f == Single {
		return
	}
	for i, v := range values {
		values[i] = fromHalf(toHalf(v))
	}
}

// toHalf rounds to the nearest f16, ties to even; too large is infinite.
func toHalf(v float32) uint16 {
	bits := math.Float32bits(v)
	sign := uint16(bits >> 16 & 0x8000)
	bits &= 0x7fffffff
	switch {
	case bits > 0x7f800000:
		return sign | 0x7e00 // NaN
	case bits >= 0x477ff000:
		return sign | 0x7c00 // rounds beyond 65504
	case bits < 0x38800000:
		// Subnormal: adding 0.5 leaves the rounded multiple of 2^-24 in the
		// lowest bits, by the float unit's own rounding.
		return sign | uint16(math.Float32bits(math.Float32frombits(bits)+0.5)-0x3f000000)
	}
	return sign | uint16((bits-0x38000000+0xfff+bits>>13&1)>>13)
}

// fromHalf is exact.
func fromHalf(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	bits := uint32(h & 0x7fff)
	switch {
	case bits >= 0x7c00:
		return math.Float32frombits(sign | 0x7f800000 | bits&0x3ff<<13)
	case bits < 0x400:
		return math.Float32frombits(sign | math.Float32bits(float32(bits)*(1.0/(1<<24))))
	}
	return math.Float32frombits(sign | (bits<<13 + 0x38000000))
}
