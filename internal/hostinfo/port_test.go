package hostinfo

import (
	"net"
	"os"
	"testing"
)

func TestListener(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	p, ok := Listener(t.Context(), port)
	if !ok || int(p.PID) != os.Getpid() || p.Name == "" {
		t.Errorf("got %+v, %v; this process %d listens on port %d", p, ok, os.Getpid(), port)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if p, ok := Listener(t.Context(), port); ok && int(p.PID) == os.Getpid() {
		t.Errorf("still listening after Close: %+v", p)
	}
}
