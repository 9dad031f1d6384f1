package gguf

import (
	"encoding/binary"
	"fmt"
	"io"
)

// EncodeHeader lays tensors out one after the other in the order given and
// encodes a version 3 header for them, padded to where tensor data begins. The
// tensors come back with Offset and Bytes set; Name, Type, Shape and Dims are
// the caller's. Data follows the header at these offsets, each padded with
// zeros to the alignment (general.alignment, or 32).
func EncodeHeader(kvs []KV, tensors []Tensor) (header []byte, laid []Tensor, err error) {
	align, err := alignmentOf(kvs)
	if err != nil {
		return nil, nil, fmt.Errorf("write gguf: %w", err)
	}
	size := int64(24)
	for _, kv := range kvs {
		size += kv.encodedSize()
	}
	b := make([]byte, 0, size+int64(len(tensors))*128)
	b = append(b, "GGUF"...)
	b = binary.LittleEndian.AppendUint32(b, 3)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(tensors)))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(kvs)))
	for _, kv := range kvs {
		if b, err = kv.appendTo(b); err != nil {
			return nil, nil, fmt.Errorf("write gguf: %w", err)
		}
	}
	var end int64
	for _, t := range tensors {
		if len(t.Name) > maxNameBytes || t.Dims < 0 || t.Dims > maxDims {
			return nil, nil, fmt.Errorf("write gguf: tensor %q has a name of more than %d bytes or %d dimensions", t.Name, maxNameBytes, t.Dims)
		}
		for d := t.Dims; d < maxDims; d++ {
			t.Shape[d] = 1
		}
		if t.Bytes, err = tensorBytes(t); err != nil {
			return nil, nil, fmt.Errorf("write gguf: %w", err)
		}
		t.Offset = end
		end = alignUp(end+t.Bytes, align)
		laid = append(laid, t)
		b = appendString(b, t.Name)
		b = binary.LittleEndian.AppendUint32(b, uint32(t.Dims))
		for d := range t.Dims {
			b = binary.LittleEndian.AppendUint64(b, t.Shape[d])
		}
		b = binary.LittleEndian.AppendUint32(b, uint32(t.Type))
		b = binary.LittleEndian.AppendUint64(b, uint64(t.Offset))
	}
	return append(b, make([]byte, alignUp(int64(len(b)), align)-int64(len(b)))...), laid, nil
}

// Write writes a whole file. data gives a tensor's bytes, exactly as many as
// its type and shape need; it is called once a tensor, in order.
func Write(w io.Writer, kvs []KV, tensors []Tensor, data func(Tensor) (io.Reader, error)) error {
	header, laid, err := EncodeHeader(kvs, tensors)
	if err != nil {
		return err
	}
	align, err := alignmentOf(kvs)
	if err != nil {
		return fmt.Errorf("write gguf: %w", err)
	}
	if _, err := w.Write(header); err != nil {
		return fmt.Errorf("write gguf header: %w", err)
	}
	for _, t := range laid {
		r, err := data(t)
		if err != nil {
			return fmt.Errorf("write gguf tensor %q: %w", t.Name, err)
		}
		if _, err := io.CopyN(w, r, t.Bytes); err != nil {
			return fmt.Errorf("write gguf tensor %q: %w", t.Name, err)
		}
		if _, err := w.Write(make([]byte, alignUp(t.Bytes, align)-t.Bytes)); err != nil {
			return fmt.Errorf("write gguf tensor %q: %w", t.Name, err)
		}
	}
	return nil
}
