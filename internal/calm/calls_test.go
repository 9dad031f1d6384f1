package calm

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"
)

func pair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}

// More than any socket's buffer: the writer has to wait in the middle.
const large = 32 << 20

func TestConnCarriesAll(t *testing.T) {
	a, b := pair(t)
	want := pattern(large)
	sent := make(chan error, 1)
	go func() {
		n, err := WriteConn(a).Write(want)
		if err == nil && n != len(want) {
			err = io.ErrShortWrite
		}
		sent <- errors.Join(err, a.Close())
	}()
	got, err := io.ReadAll(ReadConn(b))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d, equal %v, %v", len(got), len(want), bytes.Equal(got, want), err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func TestFileCarriesAll(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	want := pattern(1 << 20)
	sent := make(chan error, 1)
	go func() {
		_, err := w.Write(want)
		sent <- errors.Join(err, w.Close())
	}()
	f := File(r)
	defer f.Close()
	got, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
	}
	if n, err := f.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("after the end: %d, %v", n, err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// A read or write that waits ends with its descriptor, and with its deadline.
func TestClosedWhileWaiting(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	f := File(r)
	ended := make(chan error, 1)
	go func() {
		_, err := f.Read(make([]byte, 1))
		ended <- err
	}()
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err == nil || err == io.EOF {
		t.Errorf("read of a closed pipe: %v", err)
	}
}

func TestDeadlines(t *testing.T) {
	a, b := pair(t)
	past := time.Now().Add(-time.Second)
	if err := errors.Join(a.SetDeadline(past), b.SetDeadline(past)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := ReadConn(b).Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("read: %v", err)
	}
	if _, err := WriteConn(a).Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write: %v", err)
	}
}

// A peer that is gone is a *net.OpError, as of a plain connection.
func TestPeerGone(t *testing.T) {
	a, b := pair(t)
	if err := errors.Join(b.SetLinger(0), b.Close()); err != nil {
		t.Fatal(err)
	}
	w := WriteConn(a)
	var err error
	for err == nil { // the first ones may still go into the buffer
		_, err = w.Write(pattern(1 << 16))
	}
	if _, ok := errors.AsType[*net.OpError](err); !ok {
		t.Errorf("write: %T %v", err, err)
	}
}

func TestOthersStayAsTheyAre(t *testing.T) {
	a, _ := net.Pipe()
	defer a.Close()
	if ReadConn(a) != a || WriteConn(a) != a {
		t.Error("a connection that is not TCP was wrapped")
	}
	plain, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if File(plain) != io.ReadCloser(plain) {
		t.Error("a plain file was wrapped")
	}
}

// A token's read and write allocate nothing.
func TestAllocations(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("plain connections are used here")
	}
	a, b := pair(t)
	w, r := WriteConn(a), ReadConn(b)
	p, q := []byte("data: x\n\n"), make([]byte, 64)
	n := testing.AllocsPerRun(100, func() {
		if _, err := w.Write(p); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, q[:len(p)]); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}
