package nettest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// through sends b, in pieces, through a path and gives what arrives.
func through(t interface{ Fatal(...any) }, path Path, pieces ...[]byte) []byte {
	caller, one := net.Pipe()
	two, target := net.Pipe()
	r := Splice(one, two, path)
	defer r.Close()
	go func() {
		for _, b := range pieces {
			if _, err := caller.Write(b); err != nil {
				break // a truncation ends the connection
			}
		}
		caller.Close()
	}()
	got, err := io.ReadAll(target)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestTamper(t *testing.T) {
	there := Direction{}
	for _, c := range []struct {
		name   string
		tamper Tamper
		want   string
	}{
		{"nothing", nil, "0123456789"},
		{"flip", Flip(there, 3, 0), "0122456789"},
		{"drop", Drop(there, 2, 4), "01456789"},
		{"replay", Replay(there, 2, 4), "012323456789"},
		{"reorder", Reorder(there, 2, 4, 7), "0145623789"},
		{"truncate", Truncate(there, 4), "0123"},
		{"another direction", Drop(Direction{Back: true}, 2, 4), "0123456789"},
	} {
		t.Run(c.name, func(t *testing.T) {
			// However the bytes are read, the edit is the same.
			for cut := range 11 {
				all := []byte("0123456789")
				if got := through(t, Path{Tamper: c.tamper}, all[:cut], all[cut:]); string(got) != c.want {
					t.Fatalf("cut at %d: got %q, want %q", cut, got, c.want)
				}
				if c.name != "nothing" && c.name != "truncate" && c.name != "another direction" {
					break // an edit is for one stream
				}
			}
		})
	}
}

func TestEditAnyPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(t, "bytes")
		from := rapid.IntRange(0, len(all)-1).Draw(t, "from")
		to := rapid.IntRange(from+1, len(all)).Draw(t, "to")
		var pieces [][]byte
		for rest := all; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
			pieces, rest = append(pieces, rest[:n]), rest[n:]
		}
		want := append(append(bytes.Clone(all[:to]), all[from:to]...), all[to:]...)
		got := through(t, Path{Tamper: Replay(Direction{}, int64(from), int64(to))}, pieces...)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestDelayAndLoss(t *testing.T) {
	for _, c := range []struct {
		name string
		path Path
		want time.Duration
	}{
		{"delay", Path{Delay: 30 * time.Millisecond}, 30 * time.Millisecond},
		{"loss", Path{Delay: time.Millisecond, Loss: 1}, 201 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				caller, one := net.Pipe()
				two, target := net.Pipe()
				defer Splice(one, two, c.path).Close()
				begin := time.Now()
				if _, err := caller.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(target, make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(begin); took != c.want {
					t.Errorf("took %v, want %v", took, c.want)
				}
			})
		})
	}
}

func TestCutAndMend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		caller, one := net.Pipe()
		two, target := net.Pipe()
		r := Splice(one, two, Path{})
		defer r.Close()
		r.Cut()
		if _, err := caller.Write([]byte("held")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 4)
		if err := target.SetReadDeadline(time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		if _, err := target.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read through a cut: %v", err)
		}
		if err := target.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		r.Mend()
		if _, err := io.ReadFull(target, b); err != nil || string(b) != "held" {
			t.Fatalf("got %q, %v", b, err)
		}
	})
}

func echo(t testing.TB) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.Copy(c, c) // the test sees what is missing
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l
}

func TestRelayOverTCP(t *testing.T) {
	l := echo(t)
	r, err := NewRelay(l.Addr().String(), Path{Delay: time.Millisecond, Precise: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	c, err := net.Dial("tcp", r.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	want := bytes.Repeat([]byte("0123456789"), 100_000)
	go func() {
		if _, err := c.Write(want); err != nil {
			t.Error(err)
		}
		c.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("what came back is not what was sent")
	}
}

// BenchmarkRelay says what the relay costs: a round trip of 10 kB without it,
// with it, and with delays, which should cost twice the delay more.
func BenchmarkRelay(b *testing.B) {
	for _, c := range []struct {
		name  string
		relay bool
		path  Path
	}{
		{"without", false, Path{}},
		{"with", true, Path{}},
		{"0.3ms", true, Path{Delay: 300 * time.Microsecond, Precise: true}},
	} {
		for _, n := range []int{10 << 10, 5 << 20} {
			b.Run(c.name+"/"+map[bool]string{true: "10kB", false: "5MB"}[n < 1<<20], func(b *testing.B) {
				address := echo(b).Addr().String()
				if c.relay {
					r, err := NewRelay(address, c.path)
					if err != nil {
						b.Fatal(err)
					}
					defer r.Close()
					address = r.Addr()
				}
				conn, err := net.Dial("tcp", address)
				if err != nil {
					b.Fatal(err)
				}
				defer conn.Close()
				out, in := make([]byte, n), make([]byte, n)
				b.SetBytes(int64(n))
				for b.Loop() {
					sent := make(chan error, 1)
					go func() { _, err := conn.Write(out); sent <- err }()
					if _, err := io.ReadFull(conn, in); err != nil {
						b.Fatal(err)
					}
					if err := <-sent; err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
