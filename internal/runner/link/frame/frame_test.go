package frame

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// stream is frames as they travel, with their counts and orders.
func stream(frames ...Frame) []byte {
	var out []byte
	var count uint32
	var orders [Kinds]uint32
	for _, f := range frames {
		b := append(make([]byte, HeaderSize), f.Payload...)
		f.Order = orders[f.Kind]
		orders[f.Kind]++
		Seal(b, f.Header, &count, true)
		out = append(out, b...)
	}
	return out
}

func TestHeaderRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := Header{
			Length: rapid.Uint32Range(0, MaxPayload).Draw(t, "length"), Kind: Kind(rapid.IntRange(1, Kinds-1).Draw(t, "kind")),
			Part: rapid.Uint16().Draw(t, "part"), Seq: rapid.Uint64().Draw(t, "seq"), Count: rapid.Uint32().Draw(t, "count"),
			Order: rapid.Uint32().Draw(t, "order"), Sum: rapid.Uint32().Draw(t, "sum"),
		}
		var b [HeaderSize]byte
		h.Put(b[:])
		got, err := Parse(b[:], MaxPayload)
		if err != nil || got != h {
			t.Fatalf("got %+v, %v, want %+v", got, err, h)
		}
		// No flipped bit passes.
		b[rapid.IntRange(0, HeaderSize-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if got, err := Parse(b[:], MaxPayload); !errors.Is(err, ErrDamaged) {
			t.Fatalf("a flipped bit gave %+v, %v", got, err)
		}
	})
}

func TestBadFrames(t *testing.T) {
	good := Frame{Header{Kind: Plan, Seq: 1}, []byte("a plan")}
	resealed := func(change func(b []byte)) []byte {
		b := stream(good)
		change(b)
		h := Header{Length: uint32(b[0]) | uint32(b[3])<<24, Kind: Kind(b[4]), Seq: 1, Sum: Checksum(b[HeaderSize:])}
		h.Put(b)
		return b
	}
	for name, c := range map[string]struct {
		bytes []byte
		want  string
	}{
		"empty":       {nil, "EOF"},
		"half header": {stream(good)[:10], "unexpected EOF"},
		"half body":   {stream(good)[:HeaderSize+2], "unexpected EOF"},
		"text":        {bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 4), "checksum of the header"},
		"kind 0":      {resealed(func(b []byte) { b[4] = 0 }), "unknown kind 0"},
		"kind 16":     {resealed(func(b []byte) { b[4] = 16 }), "unknown kind 16"},
		"too long":    {resealed(func(b []byte) { b[3] = 0x20 }), "at most 268435456"},
		"body":        {append(stream(good)[:HeaderSize], "a plum"...), "checksum of plan 1"},
		"second":      {stream(good, good)[HeaderSize+6:], "1 missing"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Read(bytes.NewReader(c.bytes), MaxPayload, 0, true)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error about %q", err, c.want)
			}
		})
	}
}

// BenchmarkChecksum is what integrity costs on plain TCP, twice a byte.
func BenchmarkChecksum(b *testing.B) {
	for _, n := range []int{4 * 2560, 64 << 10} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			buf := make([]byte, n)
			b.SetBytes(int64(n))
			for b.Loop() {
				Checksum(buf)
			}
		})
	}
}
