package link

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/skein-run/skein/internal/runner/link/frame"
)

func TestSendAndReceive(t *testing.T) {
	ca := newAuthority(t)
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%v", secure), func(t *testing.T) {
			meshes := group(t, 3, func(o *Options) {
				if secure {
					o.TLS = ca.config(t)
				}
			})
			// Sizes around the border between the lanes, in one order.
			sizes := []int{0, 1, 100, fastPayload, fastPayload + 1, 10, 3 << 20, 5, 1 << 20, fastPayload + 7, 0}
			payload := func(from, to, n int) []byte {
				return bytes.Repeat([]byte{byte(from*16 + to*4 + n)}, sizes[n])
			}
			each(meshes, func(i int, m *Mesh) {
				for n := range sizes {
					for to := range meshes {
						if to == i {
							continue
						}
						if err := m.Send(to, KindActivation, uint64(n), payload(i, to, n)); err != nil {
							t.Errorf("shard %d: send: %v", i, err)
						}
					}
				}
				for from := range meshes {
					for n := range sizes {
						if from == i {
							continue
						}
						got, err := m.Receive(from, KindActivation, uint64(n))
						if err != nil {
							t.Errorf("shard %d: receive %d: %v", i, n, err)
							return
						}
						if !bytes.Equal(got, payload(from, i, n)) {
							t.Errorf("shard %d: frame %d of shard %d is not what was sent", i, n, from)
						}
					}
				}
			})
		})
	}
}

// TestNobodyReads: everybody sends much before anybody receives; no two writers
// wait for each other, over sockets and over pumps.
func TestNobodyReads(t *testing.T) {
	const frames = 60
	for name, make := range map[string]func(*testing.T) []*Mesh{
		"sockets": func(t *testing.T) []*Mesh { return group(t, 3, nil) },
		"tls": func(t *testing.T) []*Mesh {
			ca := newAuthority(t)
			return group(t, 3, func(o *Options) { o.TLS = ca.config(t) })
		},
		"pumps": func(t *testing.T) []*Mesh { return newWired(t, 3).meshes },
	} {
		t.Run(name, func(t *testing.T) {
			meshes := make(t)
			size := func(n int) int { return []int{fastPayload, 3 * fastPayload, 50_000}[n%3] }
			for i, m := range meshes {
				for n := range frames {
					for to := range meshes {
						if to == i {
							continue
						}
						if err := m.Send(to, KindActivation, uint64(n), bytes.Repeat([]byte{byte(n)}, size(n))); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			each(meshes, func(i int, m *Mesh) {
				for from := range meshes {
					if from == i {
						continue
					}
					for n := range frames {
						b, err := m.Receive(from, KindActivation, uint64(n))
						if err != nil || !bytes.Equal(b, bytes.Repeat([]byte{byte(n)}, size(n))) {
							t.Errorf("shard %d: frame %d of shard %d: %d bytes, %v", i, n, from, len(b), err)
							return
						}
					}
				}
				data := []float32{1, 2, 3}
				if err := m.AllReduce([]int{0, 1, 2}, data); err != nil || data[2] != 9 {
					t.Errorf("shard %d: %v, %v", i, data, err)
				}
				long := slices.Repeat([]float32{float32(i)}, 200_000)
				if err := m.AllReduce([]int{0, 1, 2}, long); err != nil || long[199_999] != 3 {
					t.Errorf("shard %d: %v, %v", i, long[199_999], err)
				}
			})
		})
	}
}

func TestPoll(t *testing.T) {
	meshes := group(t, 2, nil)
	if ready, err := meshes[0].Poll(1, KindPlan); ready || err != nil {
		t.Errorf("got %v, %v before anything was sent", ready, err)
	}
	// On either lane; the control frame behind it says that it has come.
	for seq, size := range []int{10, 2 * fastPayload} {
		if err := meshes[1].Send(0, KindPlan, uint64(seq), make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if err := meshes[1].Send(0, KindControl, uint64(seq), make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if _, err := meshes[0].Receive(1, KindControl, uint64(seq)); err != nil {
			t.Fatal(err)
		}
		if ready, err := meshes[0].Poll(1, KindPlan); !ready || err != nil {
			t.Errorf("got %v, %v after a frame of %d bytes", ready, err, size)
		}
		if _, err := meshes[0].Receive(1, KindPlan, uint64(seq)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWrongCalls break nothing.
func TestWrongCalls(t *testing.T) {
	m := group(t, 2, nil)[0]
	for _, err := range []error{
		m.Send(0, KindPlan, 0, nil),
		m.Send(2, KindPlan, 0, nil),
		m.Send(1, 0, 0, nil),
		m.Send(1, frame.Abort, 0, nil),
		m.Send(1, KindPlan, 0, make([]byte, frame.MaxPayload+1)),
	} {
		if err == nil {
			t.Error("a wrong call is accepted")
		}
	}
	if _, err := m.Receive(1, frame.Reduce, 0); err == nil {
		t.Error("it receives what is the link's own")
	}
	if _, err := m.Receive(0, KindPlan, 0); err == nil {
		t.Error("it receives from itself")
	}
	if err := m.Err(); err != nil {
		t.Errorf("a wrong call broke the mesh: %v", err)
	}
}

// TestWrongLength: a frame of other values than expected names both numbers.
func TestWrongLength(t *testing.T) {
	meshes := group(t, 2, nil)
	if err := meshes[1].SendFloats(0, KindActivation, 3, make([]float32, 10)); err != nil {
		t.Fatal(err)
	}
	err := meshes[0].ReceiveFloats(1, KindActivation, 3, make([]float32, 12))
	mustMention(t, err, "shard 1: sent activation 3 of 10 values where 12 were expected")
}

func TestAlone(t *testing.T) {
	m := group(t, 1, nil)[0]
	data := []float32{1}
	if err := m.AllReduce([]int{0}, data); err != nil || data[0] != 1 {
		t.Errorf("got %v, %v", data, err)
	}
}
