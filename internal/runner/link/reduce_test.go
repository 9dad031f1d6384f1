package link

import (
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/skein-run/skein/internal/runner/link/precision"
)

// TestAllReduceIsTheSumInRankOrder: any number of ranks, any length, any group
// within the mesh, plain, sealed and f16. All ranks get the same bits, those of
// adding in the order of ranks.
func TestAllReduceIsTheSumInRankOrder(t *testing.T) {
	ca := newAuthority(t)
	type key struct {
		n            int
		secure, half bool
	}
	made := map[key][]*Mesh{}
	meshes := func(k key) []*Mesh {
		if made[k] == nil {
			made[k] = group(t, k.n, func(o *Options) {
				o.HalfPrecision = k.half
				if k.secure {
					o.TLS = ca.config(t)
				}
			})
		}
		return made[k]
	}
	rapid.Check(t, func(t *rapid.T) {
		k := key{n: rapid.IntRange(2, 5).Draw(t, "shards"), secure: rapid.Bool().Draw(t, "tls"), half: rapid.Bool().Draw(t, "half")}
		all := meshes(k)
		ranks := rapid.Permutation([]int{0, 1, 2, 3, 4}[:k.n]).Draw(t, "order")
		ranks = ranks[:rapid.IntRange(1, k.n).Draw(t, "ranks")]
		length := rapid.OneOf(rapid.IntRange(0, 40), rapid.IntRange(8180, 8200), rapid.IntRange(16380, 16390), rapid.IntRange(0, 200_000)).Draw(t, "length")
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		inputs := make([][]float32, k.n)
		for i := range inputs {
			inputs[i] = make([]float32, length)
			for j := range inputs[i] {
				inputs[i][j] = float32(random.NormFloat64())
			}
		}
		want := make([]float32, length)
		for j := range want {
			for _, r := range ranks {
				v := inputs[r][j]
				if k.half && len(ranks) > 1 {
					v = half(v)
				}
				if r == ranks[0] {
					want[j] = v
				} else {
					want[j] += v
				}
			}
			if k.half && len(ranks) > 2 && length*2 > directLimit {
				want[j] = half(want[j]) // sums travel too
			}
		}
		each(all, func(i int, m *Mesh) {
			if !slices.Contains(ranks, i) {
				return
			}
			if err := m.AllReduce(ranks, inputs[i]); err != nil {
				t.Errorf("shard %d: %v", i, err)
			} else if !slices.Equal(inputs[i], want) {
				t.Errorf("shard %d has not the sum of %d values over %v", i, length, ranks)
			}
		})
	})
}

// TestAllReduceAmongFrames: frames that the other side sends before, between
// and after all-reduces wait until they are wanted.
func TestAllReduceAmongFrames(t *testing.T) {
	const rounds, n = 50, 3000
	meshes := group(t, 3, nil)
	each(meshes, func(i int, m *Mesh) {
		next, last := (i+1)%3, (i+2)%3
		for round := range uint64(rounds) {
			data := []float32{float32(i), 1}
			data = append(data, make([]float32, n)...)
			if err := m.SendFloats(next, KindActivation, round, []float32{float32(i), float32(round)}); err != nil {
				t.Error(err)
				return
			}
			if err := m.AllReduce([]int{0, 1, 2}, data); err != nil {
				t.Error(err)
				return
			}
			if data[0] != 3 || data[1] != 3 {
				t.Errorf("round %d: sums %v", round, data[:2])
			}
			if err := m.Send(next, KindResult, round, []byte{byte(i)}); err != nil {
				t.Error(err)
				return
			}
			if round%2 == 0 {
				continue // they pile up
			}
			for r := round - 1; r <= round; r++ {
				var got [2]float32
				if err := m.ReceiveFloats(last, KindActivation, r, got[:]); err != nil || got != [2]float32{float32(last), float32(r)} {
					t.Errorf("round %d: got %v, %v", r, got, err)
					return
				}
				if b, err := m.Receive(last, KindResult, r); err != nil || len(b) != 1 || int(b[0]) != last {
					t.Errorf("round %d: got %v, %v", r, b, err)
					return
				}
			}
		}
	})
}

func TestAllReduceOutOfStep(t *testing.T) {
	for _, c := range []struct {
		name    string
		lengths [2]int
	}{{"another length", [2]int{100, 101}}, {"much longer", [2]int{100, 1_000_000}}} {
		t.Run(c.name, func(t *testing.T) {
			meshes := group(t, 2, nil)
			errs := make([]error, 2)
			each(meshes, func(i int, m *Mesh) { errs[i] = m.AllReduce([]int{0, 1}, make([]float32, c.lengths[i])) })
			each(meshes, func(i int, m *Mesh) {
				if errs[i] == nil { // the shorter one may be done before the other notices
					errs[i] = m.AllReduce([]int{0, 1}, make([]float32, 10))
				}
			})
			for i, err := range errs {
				mustMention(t, err, "not in the same step")
				_ = i
			}
		})
	}
}

func TestAllReduceRefusesWrongRanks(t *testing.T) {
	m := group(t, 2, nil)[0]
	for _, ranks := range [][]int{{}, {1}, {0, 0}, {0, 1, 1}, {0, 2}, {0, -1}} {
		if err := m.AllReduce(ranks, []float32{1}); err == nil {
			t.Errorf("ranks %v are accepted", ranks)
		}
	}
	if err := m.Err(); err != nil {
		t.Errorf("a wrong call broke the mesh: %v", err)
	}
}

// half is what becomes of a value that travels as f16.
func half(v float32) float32 {
	one := []float32{v}
	precision.Half.Round(one)
	return one[0]
}
