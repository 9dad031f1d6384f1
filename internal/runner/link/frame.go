package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Version of the link protocol; both ends must speak the same.
//
//	1  2026-11  first
const Version = 1

// Kind says what a frame is about. Each kind has an order of its own.
type Kind uint8

// The kinds that callers use.
const (
	KindPlan       Kind = 1 // head -> shard: what to do in a step
	KindActivation Kind = 2 // stage -> stage: hidden states
	KindResult     Kind = 3 // shard -> head: candidates, normalizers, rows
	KindControl    Kind = 4 // any: anything else
	lastPublic          = KindControl
)

// The kinds of the link itself.
const (
	kindReduce  Kind = 8
	kindBeat    Kind = 9
	kindReady   Kind = 10
	kindAbort   Kind = 11
	kindHello   Kind = 12
	kindWelcome Kind = 13
	kindRefusal Kind = 14

	kinds = 16
)

func (k Kind) String() string {
	names := [kinds]string{KindPlan: "plan", KindActivation: "activation", KindResult: "result", KindControl: "control",
		kindReduce: "all-reduce", kindBeat: "beat", kindReady: "ready", kindAbort: "abort",
		kindHello: "hello", kindWelcome: "welcome", kindRefusal: "refusal"}
	if int(k) < len(names) && names[k] != "" {
		return names[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Sizes in bytes.
const (
	headerSize = 32
	// MaxPayload bounds a frame. A chunk of 4,096 tokens of 16,384 values fits.
	MaxPayload = 256 << 20
	// fastPayload bounds a frame on the fast lane, and a piece of an all-reduce.
	fastPayload = 64 << 10
	// hello frames are small, and come from strangers.
	maxHello = 4 << 10
	// maxWaiting bounds what waits for one peer, to be sent or to be received.
	maxWaiting = 1 << 30
)

// header precedes each payload, little endian:
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
type header struct {
	length uint32
	kind   Kind
	part   uint16
	seq    uint64
	count  uint32
	order  uint32
	sum    uint32
}

// errFrame marks bytes that are no frame of this protocol.
var errFrame = errors.New("damaged frame")

// castagnoli has hardware support on amd64 and arm64.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// put writes h to the first headerSize bytes of b.
func (h header) put(b []byte) {
	b = b[:headerSize]
	le := binary.LittleEndian
	le.PutUint32(b, h.length)
	b[4], b[5] = byte(h.kind), 0
	le.PutUint16(b[6:], h.part)
	le.PutUint64(b[8:], h.seq)
	le.PutUint32(b[16:], h.count)
	le.PutUint32(b[20:], h.order)
	le.PutUint32(b[24:], h.sum)
	le.PutUint32(b[28:], checksum(b[:28]))
}

// parseHeader reads what put wrote and checks that the payload is not larger
// than limit.
func parseHeader(b []byte, limit int) (header, error) {
	b = b[:headerSize]
	le := binary.LittleEndian
	if got, want := checksum(b[:28]), le.Uint32(b[28:]); got != want {
		return header{}, fmt.Errorf("%w: checksum of the header is %08x, not %08x", errFrame, got, want)
	}
	h := header{
		length: le.Uint32(b), kind: Kind(b[4]), part: le.Uint16(b[6:]), seq: le.Uint64(b[8:]),
		count: le.Uint32(b[16:]), order: le.Uint32(b[20:]), sum: le.Uint32(b[24:]),
	}
	if b[5] != 0 || h.kind == 0 || h.kind >= kinds {
		return header{}, fmt.Errorf("%w: unknown %v", errFrame, h.kind)
	}
	if int64(h.length) > int64(limit) {
		return header{}, fmt.Errorf("%w: %v of %d bytes, at most %d are allowed here", errFrame, h.kind, h.length, limit)
	}
	return h, nil
}

// check compares the payload with its header.
func (h header) check(payload []byte) error {
	if got := checksum(payload); got != h.sum {
		return fmt.Errorf("%w: checksum of %v %d is %08x, not %08x", errFrame, h.kind, h.seq, got, h.sum)
	}
	return nil
}

// counted checks that h is the frame after the last one on its connection.
func (h header) counted(want uint32) error {
	switch missing := h.count - want; {
	case missing == 0:
		return nil
	case missing < 1<<31:
		return fmt.Errorf("%w: frame %d came where %d was expected: %d missing", errFrame, h.count, want, missing)
	default:
		return fmt.Errorf("%w: frame %d came where %d was expected: repeated", errFrame, h.count, want)
	}
}
