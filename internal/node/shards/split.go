package shards

import (
	"errors"
	"fmt"
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

// Split cuts a model into stages of about as many layers each, and each of
// those into ranks as even as heads allow. Where a boundary is not allowed, its
// neighbours are tried. The error wraps slice.ErrRefused when no such cut is
// known to be right.
func Split(m *gguf.Model, stages, ranks int) ([]slice.Spec, error) {
	layers, err := layersOf(m)
	if err != nil {
		return nil, err
	}
	if stages > layers {
		return nil, fmt.Errorf("the model has %d layers, which makes no %d stages: %w", layers, stages, slice.ErrRefused)
	}
	var first error
	for _, parts := range partsFor(m, ranks) {
		for shift := range layers {
			// 0, 1, -1, 2, -2, ...
			by := (shift + 1) / 2
			if shift%2 == 0 {
				by = -by
			}
			specs, ok := specs(layers, stages, by, parts)
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

func cuttable(m *gguf.Model, specs []slice.Spec) error {
	for _, s := range specs {
		if _, err := slice.Cut(m, s); err != nil {
			return err
		}
	}
	return nil
}

// specs lays out stages whose inner boundaries are moved by shift layers.
func specs(layers, stages, shift int, parts []int) ([]slice.Spec, bool) {
	var out []slice.Spec
	first := 0
	for s := range stages {
		end := (s + 1) * layers / stages
		if s < stages-1 {
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
