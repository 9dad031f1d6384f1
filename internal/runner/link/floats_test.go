package link

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
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
		single.encode(wire, b)
		back, sum := make([]float32, n), append([]float32(nil), a...)
		single.decode(back, wire)
		single.add(sum, wire)
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
