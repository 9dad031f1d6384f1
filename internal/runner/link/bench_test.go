package link

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"testing"
)

// BenchmarkAllReduce is an all-reduce of two ranks, threads of one process.
// 2,560 values are a layer of a 2 B model in decode, 1.3 million a chunk of
// 512 tokens. MB/s are of the values, of one direction.
func BenchmarkAllReduce(b *testing.B) {
	ca := newAuthority(b)
	for _, kind := range []string{"plain", "tls", "half"} {
		for _, n := range []int{2560, 16384, 512 * 2560} {
			b.Run(fmt.Sprintf("%s/%d", kind, n), func(b *testing.B) {
				meshes := group(b, 2, func(o *Options) {
					o.HalfPrecision = kind == "half"
					if kind == "tls" {
						o.TLS = ca.config(b)
					}
				})
				b.SetBytes(int64(n) * 4)
				b.ResetTimer()
				each(meshes, func(i int, m *Mesh) {
					runtime.LockOSThread()
					defer runtime.UnlockOSThread()
					data := make([]float32, n)
					for range b.N {
						if err := m.AllReduce([]int{0, 1}, data); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		}
	}
}

// BenchmarkSocket is what the all-reduces are measured against: both ends
// write as many bytes and read them, with Go's sockets and nothing else.
func BenchmarkSocket(b *testing.B) {
	for _, n := range []int{2560, 16384} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			one, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			defer one.Close()
			two, err := l.Accept()
			if err != nil {
				b.Fatal(err)
			}
			defer two.Close()
			swap := func(c net.Conn) {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				buf := make([]byte, 4*n)
				for range b.N {
					if _, err := c.Write(buf); err != nil {
						b.Error(err)
						return
					}
					if _, err := io.ReadFull(c, buf); err != nil {
						b.Error(err)
						return
					}
				}
			}
			b.SetBytes(int64(n) * 4)
			b.ResetTimer()
			done := make(chan struct{})
			go func() { defer close(done); swap(two) }()
			swap(one)
			<-done
		})
	}
}
