package link

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestAllReduceSmoke(t *testing.T) {
	ca := newAuthority(t)
	for ranks := 1; ranks <= 4; ranks++ {
		for _, secure := range []bool{false, true} {
			for _, half := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d ranks tls=%v half=%v", ranks, secure, half), func(t *testing.T) {
					meshes := group(t, ranks, func(o *Options) {
						o.HalfPrecision = half
						if secure {
							o.TLS = ca.config(t)
						}
					})
					for _, n := range []int{0, 1, 5, 2560, 16384, 16385, 100_000, 1_300_000} {
						inputs := make([][]float32, ranks)
						random := rand.New(rand.NewPCG(uint64(n), uint64(ranks)))
						for i := range inputs {
							inputs[i] = make([]float32, n)
							for j := range inputs[i] {
								inputs[i][j] = random.Float32()*2 - 1
							}
							format(half).round(inputs[i])
						}
						want := slices.Clone(inputs[0])
						for _, in := range inputs[1:] {
							for j := range want {
								want[j] += in[j]
							}
						}
						all := make([]int, ranks)
						for i := range all {
							all[i] = i
						}
						if half && ranks > 2 && n*2 > directLimit {
							format(half).round(want)
						}
						each(meshes, func(i int, m *Mesh) {
							if err := m.AllReduce(all, inputs[i]); err != nil {
								t.Errorf("rank %d: %v", i, err)
								return
							}
							if !slices.Equal(inputs[i], want) {
								t.Errorf("rank %d of %d values: not the sum", i, n)
							}
						})
					}
				})
			}
		}
	}
}
