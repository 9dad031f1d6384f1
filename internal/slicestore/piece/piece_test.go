package piece

import (
	"net/url"
	"testing"

	"pgregory.net/rapid"
)

// Blocks cover a piece once, in order, and none is too large for a request.
func TestBlocks(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := Block{Offset: rapid.Int64Range(0, 1<<40).Draw(rt, "offset"), Length: rapid.Int64Range(1, 3*blockBytes).Draw(rt, "length"), Count: rapid.Int64Range(1, 40).Draw(rt, "count")}
		if b.Count > 1 {
			b.Stride = b.Length + rapid.Int64Range(0, 1000).Draw(rt, "gap")
		}
		type run struct{ from, n int64 }
		flat := func(blocks []Block) (out []run) {
			for _, b := range blocks {
				for i := range b.Count {
					r := run{b.Offset + i*b.Stride, b.Length}
					if n := len(out); n > 0 && out[n-1].from+out[n-1].n == r.from {
						out[n-1].n += r.n
					} else {
						out = append(out, r)
					}
				}
			}
			return out
		}
		cut := Blocks(b)
		want, got := flat([]Block{b}), flat(cut)
		if len(want) != len(got) {
			rt.Fatalf("%d runs instead of %d", len(got), len(want))
		}
		for i := range want {
			if want[i] != got[i] {
				rt.Fatalf("run %d is %+v instead of %+v", i, got[i], want[i])
			}
		}
		id := ID{Parts: []Part{{Size: 1 << 42}}}
		for _, c := range cut {
			if err := c.Inside(id); err != nil {
				rt.Fatal(err)
			}
		}
	})
}

func FuzzParseBlock(f *testing.F) {
	f.Add(Block{Offset: 5, Length: 7, Stride: 9, Count: 3}.Query())
	f.Add("part=0&offset=-1&length=99999999999999999999")
	f.Fuzz(func(t *testing.T, query string) {
		v, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		b, err := ParseBlock(v)
		id := ID{Parts: []Part{{Size: 1000}}}
		if err != nil || b.Inside(id) != nil {
			return
		}
		if end := b.Offset + (b.Count-1)*b.Stride + b.Length; b.Offset < 0 || end > 1000 {
			t.Fatalf("%+v ends at %d of 1000", b, end)
		}
	})
}
