package hostinfo

import (
	"context"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/cpu"
)

// MemoryBandwidth measures how fast the machine's cores together read memory,
// in bytes/s: what bounds the decoding of tokens. It takes about a tenth of a
// second and 64 MB.
func MemoryBandwidth(ctx context.Context) (float64, error) {
	const size = 64 << 20
	words := make([]uint64, size/8)
	for i := range words { // pages that were never written share one
		words[i] = uint64(i)
	}
	workers := runtime.GOMAXPROCS(0)
	best := 0.0
	var sink uint64
	for range 10 { // the best of a few: what else runs makes it less, never more
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		sums := make([]uint64, workers)
		begin := time.Now()
		var wg sync.WaitGroup
		for w := range workers {
			part := words[w*len(words)/workers : (w+1)*len(words)/workers]
			wg.Go(func() {
				var a, b, c, d uint64 // four chains, so that the loads overlap
				for ; len(part) >= 4; part = part[4:] {
					a += part[0]
					b += part[1]
					c += part[2]
					d += part[3]
				}
				sums[w] = a + b + c + d
			})
		}
		wg.Wait()
		if t := time.Since(begin).Seconds(); t > 0 {
			best = max(best, size/t)
		}
		for _, s := range sums {
			sink += s
		}
	}
	runtime.KeepAlive(sink)
	words = nil
	debug.FreeOSMemory() // a node that idles should not hold it
	return best, nil
}

// What the library's matrix kernels make of a core's scalar units, by the widest
// instructions that both know. Measured is only the first: 138 Gflop/s on prompts
// of a Q4_0 model, where this package's loop gave 9.4. The others follow from the
// width of their registers, and whether products of bytes are added up in one
// instruction.
const (
	factorAVX512 = 14
	factorAVX2   = 8
	factorNEON   = 5
	factorScalar = 2
)

// Arithmetic estimates how many operations a second the library's kernels do
// with quantized weights and prompts, on all cores together: it measures the
// scalar units, and multiplies. It takes some 50 ms.
func Arithmetic(ctx context.Context) (float64, error) {
	const rounds = 1_000_000
	workers := runtime.GOMAXPROCS(0)
	best := 0.0
	sums := make([]float32, workers)
	for range 20 { // the best of many short ones: what else runs makes it less, never more
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		begin := time.Now()
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() { sums[w] += chains(rounds, 0.999, 0.001) })
		}
		wg.Wait()
		if t := time.Since(begin).Seconds(); t > 0 {
			best = max(best, float64(workers)*chainFlops*rounds/t)
		}
	}
	runtime.KeepAlive(sums)
	return best * vectorFactor(), nil
}

func vectorFactor() float64 {
	switch {
	case cpu.X86.HasAVX512F && cpu.X86.HasAVX512VNNI:
		return factorAVX512
	case cpu.X86.HasAVX2:
		return factorAVX2
	case cpu.ARM64.HasASIMDDP, runtime.GOOS == "darwin" && runtime.GOARCH == "arm64":
		return factorNEON
	}
	return factorScalar
}

// chainFlops is the operations of one round of chains.
const chainFlops = 16

// chains multiplies and adds in eight chains, so that their latencies overlap.
func chains(rounds int, a, b float32) float32 {
	x0, x1, x2, x3, x4, x5, x6, x7 := a, a+1, a+2, a+3, a+4, a+5, a+6, a+7
	for range rounds {
		x0 = x0*a + b
		x1 = x1*a + b
		x2 = x2*a + b
		x3 = x3*a + b
		x4 = x4*a + b
		x5 = x5*a + b
		x6 = x6*a + b
		x7 = x7*a + b
	}
	return x0 + x1 + x2 + x3 + x4 + x5 + x6 + x7
}
