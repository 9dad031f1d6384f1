package link

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// stream is frames as they travel, with their counts and orders.
func stream(frames ...frame) []byte {
	var out []byte
	var count uint32
	var orders [kinds]uint32
	for _, f := range frames {
		b := append(make([]byte, headerSize), f.payload...)
		f.order = orders[f.kind]
		orders[f.kind]++
		seal(b, f.header, &count, true)
		out = append(out, b...)
	}
	return out
}

func TestHeaderRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := header{
			length: rapid.Uint32Range(0, MaxPayload).Draw(t, "length"), kind: Kind(rapid.IntRange(1, kinds-1).Draw(t, "kind")),
			part: rapid.Uint16().Draw(t, "part"), seq: rapid.Uint64().Draw(t, "seq"), count: rapid.Uint32().Draw(t, "count"),
			order: rapid.Uint32().Draw(t, "order"), sum: rapid.Uint32().Draw(t, "sum"),
		}
		var b [headerSize]byte
		h.put(b[:])
		got, err := parseHeader(b[:], MaxPayload)
		if err != nil || got != h {
			t.Fatalf("got %+v, %v, want %+v", got, err, h)
		}
		// No flipped bit passes.
		b[rapid.IntRange(0, headerSize-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if got, err := parseHeader(b[:], MaxPayload); !errors.Is(err, errFrame) {
			t.Fatalf("a flipped bit gave %+v, %v", got, err)
		}
	})
}

func TestBadFrames(t *testing.T) {
	good := frame{header{kind: KindPlan, seq: 1}, []byte("a plan")}
	resealed := func(change func(b []byte)) []byte {
		b := stream(good)
		change(b)
		h := header{length: uint32(b[0]) | uint32(b[3])<<24, kind: Kind(b[4]), seq: 1, sum: checksum(b[headerSize:])}
		h.put(b)
		return b
	}
	for name, c := range map[string]struct {
		bytes []byte
		want  string
	}{
		"empty":       {nil, "EOF"},
		"half header": {stream(good)[:10], "unexpected EOF"},
		"half body":   {stream(good)[:headerSize+2], "unexpected EOF"},
		"text":        {bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 4), "checksum of the header"},
		"kind 0":      {resealed(func(b []byte) { b[4] = 0 }), "unknown kind 0"},
		"kind 16":     {resealed(func(b []byte) { b[4] = 16 }), "unknown kind 16"},
		"too long":    {resealed(func(b []byte) { b[3] = 0x20 }), "at most 268435456"},
		"body":        {append(stream(good)[:headerSize], "a plum"...), "checksum of plan 1"},
		"second":      {stream(good, good)[headerSize+6:], "1 missing"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := readFrame(bytes.NewReader(c.bytes), MaxPayload, 0, true)
			mustMention(t, err, c.want)
		})
	}
}

// oneByOne is a fast lane that gives what there is in small pieces.
type oneByOne struct {
	lane
	rest  []byte
	piece int
}

func (o *oneByOne) read(b []byte) (int, error) {
	if len(o.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), o.piece)], o.rest)
	o.rest = o.rest[n:]
	return n, nil
}

// both reads a stream as a bulk lane and as a fast lane, and gives the frames
// that each found before an error.
func both(b []byte, piece int) (bulk, fast []frame, err error) {
	r := bytes.NewReader(b)
	for count := uint32(0); ; count++ {
		f, err := readFrame(r, fastPayload, count, true)
		if err != nil {
			break
		}
		bulk = append(bulk, f)
	}
	p := newPeer(0, nil)
	p.fast = &oneByOne{rest: b, piece: piece}
	for err == nil {
		_, err = p.fill(true)
	}
	for kind := KindPlan; kind < kinds; kind++ {
		for {
			f, ok := p.take(kind)
			if !ok {
				break
			}
			fast = append(fast, f)
		}
	}
	return bulk, fast, err
}

// FuzzFrames: both readers take any bytes and find the same frames.
func FuzzFrames(f *testing.F) {
	f.Add(stream(frame{header{kind: KindPlan, seq: 3}, []byte("plan")}, frame{header{kind: kindReduce, part: 1}, make([]byte, 300)}, frame{header{kind: KindPlan}, nil}), 7)
	f.Add(stream(frame{header{kind: KindActivation}, make([]byte, fastPayload)}, frame{header{kind: KindActivation, seq: 1}, make([]byte, fastPayload)}), 50_000)
	f.Add(stream(frame{header{kind: kindAbort}, []byte("{}")}), 100)
	f.Add([]byte("no frame at all, but long enough for a header"), 3)
	f.Fuzz(func(t *testing.T, b []byte, piece int) {
		bulk, fast, err := both(b, 1+max(0, piece)%100_000)
		if err == nil {
			t.Fatal("the end was not noticed")
		}
		if len(fast) > len(bulk) {
			t.Fatalf("the fast lane found %d frames, the bulk lane %d", len(fast), len(bulk))
		}
		byKind := map[Kind][]frame{}
		for _, x := range bulk {
			byKind[x.kind] = append(byKind[x.kind], x)
		}
		for _, x := range fast {
			same := byKind[x.kind][0]
			byKind[x.kind] = byKind[x.kind][1:]
			if same.header != x.header || !bytes.Equal(same.payload, x.payload) {
				t.Fatalf("the fast lane found %+v, the bulk lane %+v", x.header, same.header)
			}
		}
	})
}

// FuzzHandshake: any greeting is judged without harm.
func FuzzHandshake(f *testing.F) {
	o := Options{Group: "test", Epoch: 1, Self: 1, Addresses: make([]string, 2)}
	f.Add(appendHandshake(nil, kindHello, marshal(hello{Group: "test", Epoch: 1, To: 1, Shards: 2})))
	f.Add(appendHandshake(nil, kindRefusal, marshal(refusal{Cause: "no"})))
	f.Add([]byte("\x16\x03\x01\x02\x00\x01\x00\x01"))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := readHandshake(bytes.NewReader(b))
		if err != nil || got.kind != kindHello {
			return
		}
		var h hello
		if err := json.Unmarshal(got.payload, &h); err != nil {
			return
		}
		if h.judge(o) == nil {
			want := hello{Group: "test", Epoch: 1, From: 0, To: 1, Shards: 2, Bulk: h.Bulk}
			if diff := cmp.Diff(want, h); diff != "" {
				t.Errorf("a stranger is welcome: %s", diff)
			}
		}
	})
}

// TestOrder: frames of a kind come in the order they were sent, whichever lane
// was faster; none comes twice.
func TestOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 20).Draw(t, "frames")
		order := make([]int, n)
		for i := range order {
			order[i] = i
		}
		p := newPeer(0, nil)
		start := rapid.Uint32().Draw(t, "start") // near the end of the numbers too
		p.boxes[KindPlan].next = start
		next := 0
		for _, i := range rapid.Permutation(order).Draw(t, "order") {
			f := frame{header{kind: KindPlan, order: start + uint32(i), seq: uint64(i)}, []byte{byte(i)}}
			if err := p.store(f); err != nil {
				t.Fatal(err)
			}
			if rapid.Bool().Draw(t, "take") {
				for f, ok := p.take(KindPlan); ok; f, ok = p.take(KindPlan) {
					if int(f.seq) != next {
						t.Fatalf("took %d where %d was next", f.seq, next)
					}
					next++
				}
			}
			if err := p.store(f); err == nil {
				t.Fatalf("%d came twice", i)
			}
		}
	})
}
