package gguf

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// ValueType is the type of a metadata value.
type ValueType uint32

// Metadata value types as the format numbers them.
const (
	TypeUint8 ValueType = iota
	TypeInt8
	TypeUint16
	TypeInt16
	TypeUint32
	TypeInt32
	TypeFloat32
	TypeBool
	TypeString
	TypeArray
	TypeUint64
	TypeInt64
	TypeFloat64
)

// size is the encoded size of a scalar; 0 for strings, arrays and unknown
// types, whose size is not fixed.
func (t ValueType) size() int64 {
	switch t {
	case TypeUint8, TypeInt8, TypeBool:
		return 1
	case TypeUint16, TypeInt16:
		return 2
	case TypeUint32, TypeInt32, TypeFloat32:
		return 4
	case TypeUint64, TypeInt64, TypeFloat64:
		return 8
	}
	return 0
}

// String is the format's name of the type.
func (t ValueType) String() string {
	names := [...]string{"uint8", "int8", "uint16", "int16", "uint32", "int32",
		"float32", "bool", "string", "array", "uint64", "int64", "float64"}
	if int(t) < len(names) {
		return names[t]
	}
	return fmt.Sprintf("value type %d", uint32(t))
}

// KV is one metadata entry. Large values stay in the file and are read when
// asked for; small ones are held.
type KV struct {
	Key  string
	Type ValueType
	// Elem and Len describe an array (the outer one, if they are nested).
	Elem ValueType
	Len  uint64

	// raw is the value as encoded after the type word, for an array without
	// its element type and length. nil: read from src at off instead.
	raw  []byte
	src  io.ReaderAt
	off  int64
	size int64
}

// payload gives the encoded elements: a scalar's bytes, a string with its
// length, or an array's elements.
func (kv KV) payload() ([]byte, error) {
	if kv.raw != nil || kv.size == 0 {
		return kv.raw, nil
	}
	b := make([]byte, kv.size)
	if _, err := readFullAt(kv.src, b, kv.off); err != nil {
		return nil, fmt.Errorf("read metadata %q: %w", kv.Key, err)
	}
	return b, nil
}

// encodedSize is what appendTo writes.
func (kv KV) encodedSize() int64 {
	n := 8 + int64(len(kv.Key)) + 4 + kv.size
	if kv.Type == TypeArray {
		n += 12
	}
	return n
}

// appendTo encodes the entry, key included.
func (kv KV) appendTo(b []byte) ([]byte, error) {
	p, err := kv.payload()
	if err != nil {
		return nil, err
	}
	b = appendString(b, kv.Key)
	b = binary.LittleEndian.AppendUint32(b, uint32(kv.Type))
	if kv.Type == TypeArray {
		b = binary.LittleEndian.AppendUint32(b, uint32(kv.Elem))
		b = binary.LittleEndian.AppendUint64(b, kv.Len)
	}
	return append(b, p...), nil
}

func appendString(b []byte, s string) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(len(s)))
	return append(b, s...)
}

// integer decodes a scalar integer. neg tells that v is the two's complement
// of a negative number.
func integer(t ValueType, b []byte) (v uint64, neg, ok bool) {
	switch t {
	case TypeUint8:
		return uint64(b[0]), false, true
	case TypeInt8:
		i := int8(b[0])
		return uint64(int64(i)), i < 0, true
	case TypeUint16:
		return uint64(binary.LittleEndian.Uint16(b)), false, true
	case TypeInt16:
		i := int16(binary.LittleEndian.Uint16(b))
		return uint64(int64(i)), i < 0, true
	case TypeUint32:
		return uint64(binary.LittleEndian.Uint32(b)), false, true
	case TypeInt32:
		i := int32(binary.LittleEndian.Uint32(b))
		return uint64(int64(i)), i < 0, true
	case TypeUint64:
		return binary.LittleEndian.Uint64(b), false, true
	case TypeInt64:
		i := int64(binary.LittleEndian.Uint64(b))
		return uint64(i), i < 0, true
	}
	return 0, false, false
}

// scalar decodes any value that is not an array; ok is false for an array.
func scalar(t ValueType, b []byte) (any, bool) {
	switch t {
	case TypeBool:
		return b[0] != 0, true
	case TypeFloat32:
		return math.Float32frombits(binary.LittleEndian.Uint32(b)), true
	case TypeFloat64:
		return math.Float64frombits(binary.LittleEndian.Uint64(b)), true
	case TypeString:
		return string(b[8:]), true
	}
	v, neg, ok := integer(t, b)
	if neg {
		return int64(v), ok
	}
	return v, ok
}

// Pair makes an entry from a Go value: bool, int32, uint32, uint64, int64,
// float32, float64, string, or a slice of one of these ([]byte is an array of
// uint8), or [][]uint32 for a nested array.
func Pair(key string, value any) (KV, error) {
	kv := KV{Key: key}
	array := func(elem ValueType, n int) { kv.Type, kv.Elem, kv.Len = TypeArray, elem, uint64(n) }
	b := []byte{}
	switch v := value.(type) {
	case bool:
		kv.Type = TypeBool
		b = appendBool(b, v)
	case int8:
		kv.Type = TypeInt8
		b = append(b, byte(v))
	case uint8:
		kv.Type = TypeUint8
		b = append(b, v)
	case int16:
		kv.Type = TypeInt16
		b = binary.LittleEndian.AppendUint16(b, uint16(v))
	case uint16:
		kv.Type = TypeUint16
		b = binary.LittleEndian.AppendUint16(b, v)
	case uint32:
		kv.Type = TypeUint32
		b = binary.LittleEndian.AppendUint32(b, v)
	case int32:
		kv.Type = TypeInt32
		b = binary.LittleEndian.AppendUint32(b, uint32(v))
	case uint64:
		kv.Type = TypeUint64
		b = binary.LittleEndian.AppendUint64(b, v)
	case int64:
		kv.Type = TypeInt64
		b = binary.LittleEndian.AppendUint64(b, uint64(v))
	case float32:
		kv.Type = TypeFloat32
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	case float64:
		kv.Type = TypeFloat64
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
	case string:
		kv.Type = TypeString
		b = appendString(b, v)
	case []byte:
		array(TypeUint8, len(v))
		b = append(b, v...)
	case []bool:
		array(TypeBool, len(v))
		for _, x := range v {
			b = appendBool(b, x)
		}
	case []uint32:
		array(TypeUint32, len(v))
		for _, x := range v {
			b = binary.LittleEndian.AppendUint32(b, x)
		}
	case []int32:
		array(TypeInt32, len(v))
		for _, x := range v {
			b = binary.LittleEndian.AppendUint32(b, uint32(x))
		}
	case []float32:
		array(TypeFloat32, len(v))
		for _, x := range v {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
		}
	case []string:
		array(TypeString, len(v))
		for _, x := range v {
			b = appendString(b, x)
		}
	case [][]uint32:
		array(TypeArray, len(v))
		for _, row := range v {
			b = binary.LittleEndian.AppendUint32(b, uint32(TypeUint32))
			b = binary.LittleEndian.AppendUint64(b, uint64(len(row)))
			for _, x := range row {
				b = binary.LittleEndian.AppendUint32(b, x)
			}
		}
	default:
		return KV{}, fmt.Errorf("metadata %q: a value of Go type %T cannot be encoded; use one of the types that Pair lists", key, value)
	}
	kv.raw, kv.size = b, int64(len(b))
	return kv, nil
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// Summary prints a value for a person: a scalar as it is, an array by its
// length and element type.
func (kv KV) Summary() (string, error) {
	if kv.Type == TypeArray {
		return fmt.Sprintf("[%d x %s]", kv.Len, kv.Elem), nil
	}
	p, err := kv.payload()
	if err != nil {
		return "", err
	}
	v, _ := scalar(kv.Type, p)
	return fmt.Sprint(v), nil
}
