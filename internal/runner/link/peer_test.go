package link

import (
	"bytes"
	"io"
	"testing"

	"pgregory.net/rapid"

	"github.com/skein-run/skein/internal/runner/link/frame"
	"github.com/skein-run/skein/internal/runner/link/lane"
)

// stream is frames as they travel, with their counts and orders.
func stream(frames ...frame.Frame) []byte {
	var out []byte
	var count uint32
	var orders [frame.Kinds]uint32
	for _, f := range frames {
		b := append(make([]byte, frame.HeaderSize), f.Payload...)
		f.Order = orders[f.Kind]
		orders[f.Kind]++
		frame.Seal(b, f.Header, &count, true)
		out = append(out, b...)
	}
	return out
}

// oneByOne is a fast lane that gives what there is in small pieces.
type oneByOne struct {
	lane.Lane
	rest  []byte
	piece int
}

func (o *oneByOne) TryRead(b []byte) (int, error) {
	if len(o.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), o.piece)], o.rest)
	o.rest = o.rest[n:]
	return n, nil
}

// both reads a stream as a bulk lane and as a fast lane, and gives the frames
// that each found before an error.
func both(b []byte, piece int) (bulk, fast []frame.Frame, err error) {
	r := bytes.NewReader(b)
	for count := uint32(0); ; count++ {
		f, err := frame.Read(r, fastPayload, count, true)
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
	for kind := KindPlan; kind < frame.Kinds; kind++ {
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
	f.Add(stream(frame.Frame{Header: frame.Header{Kind: KindPlan, Seq: 3}, Payload: []byte("plan")}, frame.Frame{Header: frame.Header{Kind: frame.Reduce, Part: 1}, Payload: make([]byte, 300)}, frame.Frame{Header: frame.Header{Kind: KindPlan}, Payload: nil}), 7)
	f.Add(stream(frame.Frame{Header: frame.Header{Kind: KindActivation}, Payload: make([]byte, fastPayload)}, frame.Frame{Header: frame.Header{Kind: KindActivation, Seq: 1}, Payload: make([]byte, fastPayload)}), 50_000)
	f.Add(stream(frame.Frame{Header: frame.Header{Kind: frame.Abort}, Payload: []byte("{}")}), 100)
	f.Add([]byte("no frame at all, but long enough for a header"), 3)
	f.Fuzz(func(t *testing.T, b []byte, piece int) {
		bulk, fast, err := both(b, 1+max(0, piece)%100_000)
		if err == nil {
			t.Fatal("the end was not noticed")
		}
		if len(fast) > len(bulk) {
			t.Fatalf("the fast lane found %d frames, the bulk lane %d", len(fast), len(bulk))
		}
		byKind := map[frame.Kind][]frame.Frame{}
		for _, x := range bulk {
			byKind[x.Kind] = append(byKind[x.Kind], x)
		}
		for _, x := range fast {
			same := byKind[x.Kind][0]
			byKind[x.Kind] = byKind[x.Kind][1:]
			if same.Header != x.Header || !bytes.Equal(same.Payload, x.Payload) {
				t.Fatalf("the fast lane found %+v, the bulk lane %+v", x.Header, same.Header)
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
			f := frame.Frame{Header: frame.Header{Kind: KindPlan, Order: start + uint32(i), Seq: uint64(i)}, Payload: []byte{byte(i)}}
			if err := p.store(f); err != nil {
				t.Fatal(err)
			}
			if rapid.Bool().Draw(t, "take") {
				for f, ok := p.take(KindPlan); ok; f, ok = p.take(KindPlan) {
					if int(f.Seq) != next {
						t.Fatalf("took %d where %d was next", f.Seq, next)
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
