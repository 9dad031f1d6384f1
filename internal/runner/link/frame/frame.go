// Package frame is the format in which everything travels between shards: a
// header of 32 bytes and a payload. The header says what the frame is about, its
// place among the others, and the checksums that guard both.
//
// A reader believes nothing: Parse, Counted and Check each refuse what is
// flipped, left out, repeated or too long with an error that wraps ErrDamaged.
// It must not import the rest of the link.
package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Version of the link protocol; both ends must speak the same.
//
//	1  2026-11  first
const Version = 1

// Kind says what a frame is about. Each kind has an order of its own.
type Kind uint8

// The kinds that callers use.
const (
	Plan       Kind = 1 // head -> shard: what to do in a step
	Activation Kind = 2 // stage -> stage: hidden states
	Result     Kind = 3 // shard -> head: candidates, normalizers, rows
	Control    Kind = 4 // any: anything else
	// LastPublic and those before it may take either lane; each other has its own.
	LastPublic = Control
)

// The kinds of the link itself.
const (
	Reduce  Kind = 8
	Beat    Kind = 9
	Ready   Kind = 10
	Abort   Kind = 11
	Hello   Kind = 12
	Welcome Kind = 13
	Refusal Kind = 14

	// Kinds is one more than the largest kind can be.
	Kinds = 16
)

func (k Kind) String() string {
	names := [Kinds]string{Plan: "plan", Activation: "activation", Result: "result", Control: "control",
		Reduce: "all-reduce", Beat: "beat", Ready: "ready", Abort: "abort",
		Hello: "hello", Welcome: "welcome", Refusal: "refusal"}
	if int(k) < len(names) && names[k] != "" {
		return names[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// HeaderSize is in bytes.
const HeaderSize = 32

// MaxPayload bounds a frame, in bytes. A chunk of 4,096 tokens of 16,384 values fits.
const MaxPayload = 256 << 20

// Header precedes each payload, little endian:
//
//	 0  u32  length of the payload
//	 4  u8   kind
//	 5  u8   0
//	 6  u16  part: number of the piece in an all-reduce
//	 8  u64  seq: the sender's label, a step or the number of an all-reduce
//	16  u32  count of the frame on its connection, modulo 2^32
//	20  u32  order of the frame among those of its kind, modulo 2^32
//	24  u32  CRC-32C of the payload; 0 where TLS guards it
//	28  u32  CRC-32C of the 28 bytes before
//
// The last one is checked before anything else is believed.
type Header struct {
	Length uint32
	Kind   Kind
	Part   uint16
	Seq    uint64
	Count  uint32
	Order  uint32
	Sum    uint32
}

// ErrDamaged marks bytes that are no frame of this protocol.
var ErrDamaged = errors.New("damaged frame")

// castagnoli has hardware support on amd64 and arm64.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is CRC-32C.
func Checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// Put writes h to the first HeaderSize bytes of b.
func (h Header) Put(b []byte) {
	b = b[:HeaderSize]
	le := binary.LittleEndian
	le.PutUint32(b, h.Length)
	b[4], b[5] = byte(h.Kind), 0
	le.PutUint16(b[6:], h.Part)
	le.PutUint64(b[8:], h.Seq)
	le.PutUint32(b[16:], h.Count)
	le.PutUint32(b[20:], h.Order)
	le.PutUint32(b[24:], h.Sum)
	le.PutUint32(b[28:], Checksum(b[:28]))
}

// Parse reads what Put wrote and checks that the payload is not larger than limit.
func Parse(b []byte, limit int) (Header, error) {
	b = b[:HeaderSize]
	le := binary.LittleEndian
	if got, want := Checksum(b[:28]), le.Uint32(b[28:]); got != want {
		return Header{}, fmt.Errorf("%w: checksum of the header is %08x, not %08x", ErrDamaged, got, want)
	}
	h := Header{
		Length: le.Uint32(b), Kind: Kind(b[4]), Part: le.Uint16(b[6:]), Seq: le.Uint64(b[8:]),
		Count: le.Uint32(b[16:]), Order: le.Uint32(b[20:]), Sum: le.Uint32(b[24:]),
	}
	if b[5] != 0 || h.Kind == 0 || h.Kind >= Kinds {
		return Header{}, fmt.Errorf("%w: unknown %v", ErrDamaged, h.Kind)
	}
	if int64(h.Length) > int64(limit) {
		return Header{}, fmt.Errorf("%w: %v of %d bytes, at most %d are allowed here", ErrDamaged, h.Kind, h.Length, limit)
	}
	return h, nil
}

// Check compares the payload with its header.
func (h Header) Check(payload []byte) error {
	if got := Checksum(payload); got != h.Sum {
		return fmt.Errorf("%w: checksum of %v %d is %08x, not %08x", ErrDamaged, h.Kind, h.Seq, got, h.Sum)
	}
	return nil
}

// Counted checks that h is the frame after the last one on its connection.
func (h Header) Counted(want uint32) error {
	switch missing := h.Count - want; {
	case missing == 0:
		return nil
	case missing < 1<<31:
		return fmt.Errorf("%w: frame %d came where %d was expected: %d missing", ErrDamaged, h.Count, want, missing)
	default:
		return fmt.Errorf("%w: frame %d came where %d was expected: repeated", ErrDamaged, h.Count, want)
	}
}

// Frame is one that has arrived. Its payload is the receiver's.
type Frame struct {
	Header
	Payload []byte
}

// Seal writes the header of b, a frame whose payload is in place; summed says that
// the payload needs a checksum, and count numbers the frames of the connection.
func Seal(b []byte, h Header, count *uint32, summed bool) {
	h.Length = uint32(len(b) - HeaderSize)
	h.Count = *count
	if summed {
		h.Sum = Checksum(b[HeaderSize:])
	}
	h.Put(b)
	*count++
}

// Read reads the frame that is number count on its connection. The buffer grows
// with what has arrived, not with what was promised.
func Read(r io.Reader, limit int, count uint32, summed bool) (Frame, error) {
	var b [HeaderSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return Frame{}, err // io.EOF between frames
	}
	h, err := Parse(b[:], limit)
	if err != nil {
		return Frame{}, err
	}
	if err := h.Counted(count); err != nil {
		return Frame{}, err
	}
	const step = 1 << 20
	payload := make([]byte, min(int(h.Length), step))
	for at := 0; ; {
		if _, err := io.ReadFull(r, payload[at:]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return Frame{}, err
		}
		if at = len(payload); at == int(h.Length) {
			break
		}
		payload = append(payload, make([]byte, min(int(h.Length)-at, at))...)
	}
	if summed {
		if err := h.Check(payload); err != nil {
			return Frame{}, err
		}
	}
	return Frame{h, payload}, nil
}
