package link

import (
	"bytes"
	"fmt"
	"testing"
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
