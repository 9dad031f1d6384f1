package httpapi

import (
	"net"

	"github.com/skein-run/skein/internal/calm"
)

// tokenListener takes connections whose writes wake no other thread of this
// process: each token of a stream is one write.
type tokenListener struct{ net.Listener }

func (l tokenListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return calm.WriteConn(c), nil
}
