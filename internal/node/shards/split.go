package shards

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/skein-run/skein/internal/bench/shards"
	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/hyper"
	"github.com/skein-run/skein/internal/gguf/slice"
)

// ParseLayout reads "PxT": P stages of T ranks.
func ParseLayout(s string) (stages, ranks int, err error) {
	p, t, ok := strings.Cut(strings.ToLower(strings.TrimSpace(s)), "x")
	stages, err1 := strconv.Atoi(p)
	ranks, err2 := strconv.Atoi(t)
	if !ok || err1 != nil || err2 != nil || stages < 1 || ranks < 1 || stages > 256 || ranks > 256 {
		return 0, 0, fmt.Errorf("shards %q: write STAGESxRANKS, such as 2x1 for two stages or 1x2 for two ranks", s)
	}
	return stages, ranks, nil
}

// Split cuts a model into stages, as balance wants them, and each of those into
// ranks as even as heads allow. Where a boundary is not allowed, its neighbours
// are tried. The error wraps slice.ErrRefused when no such cut is known to be
// right.
func Split(m *gguf.Model, stages, ranks int, balance shards.Balance) ([]slice.Spec, error) {
	layers, err := layersOf(m)
	if err != nil {
		return nil, err
	}
	if stages > layers {
		return nil, fmt.Errorf("the model has %d layers, which makes no %d stages: %w", layers, stages, slice.ErrRefused)
	}
	work := make([]int64, layers)
	switch balance {
	case "", shards.BalanceEven:
		for i := range work {
			work[i] = 1
		}
	case shards.BalanceDecode:
		decodeWork(m, work)
	default:
		return nil, fmt.Errorf("balance %q: there are %s and %s", balance, shards.BalanceEven, shards.BalanceDecode)
	}
	ends := boundaries(work, stages)
	var first error
	for _, parts := range partsFor(m, ranks) {
		for shift := range layers {
			// 0, 1, -1, 2, -2, ...
			by := (shift + 1) / 2
			if shift%2 == 0 {
				by = -by
			}
			specs, ok := specs(ends, by, parts)
			if !ok {
				continue
			}
			err := cuttable(m, specs)
			if err == nil {
				return specs, nil
			}
			if !errors.Is(err, slice.ErrRefused) {
				return nil, err
			}
			if first == nil {
				first = err
			}
			if stages == 1 {
				break // nothing to shift
			}
		}
	}
	return nil, first
}

// decodeWork fills in what a decoded token reads of each layer, bytes; the
// output head is the last one's. Experts count as if all were read: what
// matters is how layers compare.
func decodeWork(m *gguf.Model, work []int64) {
	head := int64(0)
	for _, t := range m.Tensors() {
		var layer int
		var rest string
		switch n, err := fmt.Sscanf(t.Name, "blk.%d.%s", &layer, &rest); {
		case err == nil && n == 2 && layer < len(work):
			work[layer] += t.Bytes
		case t.Name == "output.weight":
			head = t.Bytes
		case t.Name == "token_embd.weight" && head == 0:
			head = t.Bytes // serves as the head too, if there is no other
		}
	}
	work[len(work)-1] += head
}

// boundaries gives the end of each stage, of one layer at least, so that the
// stage with the most work has as little as can be; of equally good ways the one
// whose stages are the most alike.
func boundaries(work []int64, stages int) []int {
	sums := make([]int64, len(work)+1)
	for i, w := range work {
		sums[i+1] = sums[i] + w
	}
	// least[k][i]: the most work of a stage when the layers from i on make k stages.
	least := make([][]int64, stages+1)
	for k := range least {
		least[k] = make([]int64, len(work)+1)
		for i := range least[k] {
			least[k][i] = math.MaxInt64
		}
	}
	least[0][len(work)] = 0
	for k := 1; k <= stages; k++ {
		for i := range work {
			for end := i + 1; end <= len(work); end++ {
				least[k][i] = min(least[k][i], max(sums[end]-sums[i], least[k-1][end]))
			}
		}
	}
	// Among those, the smallest sum of squares: squares[k][i] like least, next[k][i]
	// the end of the first of them.
	squares, next := make([][]float64, stages+1), make([][]int, stages+1)
	for k := range squares {
		squares[k], next[k] = make([]float64, len(work)+1), make([]int, len(work)+1)
		for i := range squares[k] {
			squares[k][i] = math.Inf(1)
		}
	}
	squares[0][len(work)] = 0
	for k := 1; k <= stages; k++ {
		for i := range work {
			for end := i + 1; end <= len(work) && sums[end]-sums[i] <= least[stages][0]; end++ {
				one := float64(sums[end] - sums[i])
				if all := one*one + squares[k-1][end]; all < squares[k][i] {
					squares[k][i], next[k][i] = all, end
				}
			}
		}
	}
	ends, first := make([]int, 0, stages), 0
	for k := stages; k > 0; k-- {
		first = next[k][first]
		ends = append(ends, first)
	}
	return ends
}

func cuttable(m *gguf.Model, specs []slice.Spec) error {
	for _, s := range specs {
		if _, err := slice.Cut(m, s); err != nil {
			return err
		}
	}
	return nil
}

// specs lays out stages whose inner boundaries are moved by shift layers.
func specs(ends []int, shift int, parts []int) ([]slice.Spec, bool) {
	var out []slice.Spec
	first, layers := 0, ends[len(ends)-1]
	for s, end := range ends {
		if s < len(ends)-1 {
			end += shift
		}
		if end <= first || end > layers {
			return nil, false
		}
		for r := range max(1, len(parts)) {
			out = append(out, slice.Spec{First: first, End: end, Rank: r, Parts: parts})
		}
		first = end
	}
	return out, true
}

// layersOf is the number of layers; architectures that hyper does not know are
// left to package slice to refuse.
func layersOf(m *gguf.Model) (int, error) {
	if p, err := hyper.Read(m); err == nil && p.Layers > 0 {
		return p.Layers, nil
	}
	n, ok := m.Uint(m.Arch() + ".block_count")
	if !ok || n == 0 || n > 1<<16 {
		return 0, fmt.Errorf("%s says nothing about its layers: %w", m.Arch(), slice.ErrRefused)
	}
	return int(n), nil
}

// partsFor gives sizes of ranks worth trying, the evenest first.
func partsFor(m *gguf.Model, ranks int) [][]int {
	if ranks == 1 {
		return [][]int{nil}
	}
	even := make([]int, ranks)
	for i := range even {
		even[i] = 1
	}
	heads := 0 // whole KV heads that every layer's cut must respect
	if p, err := hyper.Read(m); err == nil {
		for _, n := range p.KVHeads {
			heads = gcd(heads, n)
		}
	}
	if heads <= ranks || heads%ranks == 0 {
		return [][]int{even}
	}
	byHeads := make([]int, ranks)
	for i := range byHeads {
		byHeads[i] = (i+1)*heads/ranks - i*heads/ranks
	}
	// The larger ranks first, since 2:1 is how such cuts are written.
	for i, j := 0, ranks-1; i < j; i, j = i+1, j-1 {
		byHeads[i], byHeads[j] = byHeads[j], byHeads[i]
	}
	return [][]int{byHeads, even}
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// weights tells how the matrices of a model are stored.
func weights(m *gguf.Model) shards.Weights {
	for _, t := range m.Tensors() {
		if t.Dims >= 2 && t.Type != gguf.F32 && t.Type != gguf.F16 {
			return shards.Quantized
		}
	}
	return shards.Float
}
