package precision

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// Values travel little endian, and sums are those of float32, to the bit,
// however many values there are.
func TestFloatsToTheBit(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	draw := func() float32 {
		v := math.Float32frombits(random.Uint32())
		if v != v {
			return float32(math.Inf(1))
		}
		return v
	}
	for n := range 70 {
		a, b := make([]float32, n), make([]float32, n)
		for i := range a {
			a[i], b[i] = draw(), draw()
		}
		wire := make([]byte, 4*n+1)
		wire[4*n] = 0x5a
		Single.Encode(wire, b)
		back, sum := make([]float32, n), append([]float32(nil), a...)
		Single.Decode(back, wire)
		Single.Add(sum, wire)
		for i := range a {
			if got := math.Float32frombits(binary.LittleEndian.Uint32(wire[4*i:])); got != b[i] || back[i] != b[i] {
				t.Fatalf("%d values: number %d, %g, travels as %g and arrives as %g", n, i, b[i], got, back[i])
			}
			if want := a[i] + b[i]; math.Float32bits(sum[i]) != math.Float32bits(want) && want == want {
				t.Fatalf("%d values: number %d: %g + %g is %g", n, i, a[i], b[i], sum[i])
			}
		}
		if wire[4*n] != 0x5a {
			t.Fatalf("%d values: written beyond their end", n)
		}
	}
}

// TestHalf compares with the definition: the nearest f16, ties to even.
func TestHalf(t *testing.T) {
	for h := range 1 << 16 {
		v := fromHalf(uint16(h))
		if v != v {
			if back := toHalf(v); back&0x7c00 != 0x7c00 || back&0x3ff == 0 {
				t.Fatalf("NaN %04x became %04x", h, back)
			}
			continue
		}
		if back := toHalf(v); back != uint16(h) {
			t.Fatalf("%04x is %g, which became %04x", h, v, back)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		// Between two neighbours, and at their middle.
		h := uint16(rapid.IntRange(0, 0x7bfe).Draw(t, "half"))
		low, high := fromHalf(h), fromHalf(h+1)
		middle := low + (high-low)/2
		even := h + h&1
		if got := toHalf(middle); got != even {
			t.Fatalf("the middle of %04x and %04x became %04x", h, h+1, got)
		}
		part := rapid.Float32Range(0, 0.499).Draw(t, "part")
		if got := toHalf(low + (high-low)*part); got != h {
			t.Fatalf("%g above %04x became %04x", part, h, got)
		}
		if got := toHalf(-(high - (high-low)*part)); got != h+1|0x8000 {
			t.Fatalf("%g below -%04x became %04x", part, h+1, got)
		}
	})
}

// BenchmarkFormat is what turning values into bytes costs.
func BenchmarkFormat(b *testing.B) {
	values, bytes := make([]float32, 2560), make([]byte, 4*2560)
	for _, f := range []Format{Single, Half} {
		b.Run(fmt.Sprintf("encode/%v", f), func(b *testing.B) {
			for b.Loop() {
				f.Encode(bytes, values)
			}
		})
		b.Run(fmt.Sprintf("add/%v", f), func(b *testing.B) {
			for b.Loop() {
				f.Add(values, bytes)
			}
		})
	}
}
