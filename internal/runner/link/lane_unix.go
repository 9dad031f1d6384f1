//go:build unix

package link

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

// socket is a TCP connection taken out of Go's poller: a byte that arrives
// wakes the thread that waits for it, and no other.
type socket struct {
	net.Conn // until taken; afterwards for its addresses only

	fd    int
	taken bool
	out   []byte // what the kernel had no room for; only under TLS
}

// errAgain tells crypto/tls that a read may be tried again later.
type errAgain struct{}

func (errAgain) Error() string   { return "nothing to read now" }
func (errAgain) Timeout() bool   { return true }
func (errAgain) Temporary() bool { return true }

// take makes the socket non-blocking and the link's own.
func (s *socket) take() error {
	tcp, ok := s.Conn.(*net.TCPConn)
	if !ok {
		return fmt.Errorf("a %T is no TCP connection", s.Conn)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var dup error
	if err := raw.Control(func(fd uintptr) { s.fd, dup = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return err
	}
	if dup != nil {
		return dup
	}
	s.taken = true
	return tcp.Close()
}

// read is the lane's read: n 0 without an error is nothing now.
func (s *socket) read(b []byte) (int, error) {
	for {
		n, err := unix.Read(s.fd, b)
		switch {
		case err == nil && n == 0:
			return 0, io.EOF
		case err == nil:
			return n, nil
		case errors.Is(err, unix.EAGAIN):
			return 0, nil
		case !errors.Is(err, unix.EINTR):
			return 0, err
		}
	}
}

func (s *socket) write(b []byte) (int, error) {
	for {
		n, err := unix.Write(s.fd, b)
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, unix.EAGAIN):
			return 0, nil
		case !errors.Is(err, unix.EINTR):
			return 0, err
		}
	}
}

// CloseWrite is for a bulk lane, which is never taken.
func (s *socket) CloseWrite() error {
	if half, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

func (s *socket) flush() (bool, error) { return true, nil }

// shut can only fail on a connection that has ended already.
func (s *socket) shut() { _ = unix.Shutdown(s.fd, unix.SHUT_RDWR) }

func (s *socket) close() { _ = unix.Close(s.fd) }

// Read and Write are what crypto/tls sees: blocking in the handshake, never
// waiting after it.
func (s *socket) Read(b []byte) (int, error) {
	if !s.taken {
		return s.Conn.Read(b)
	}
	n, err := s.read(b)
	if n == 0 && err == nil {
		return 0, errAgain{}
	}
	return n, err
}

func (s *socket) Write(b []byte) (int, error) {
	if !s.taken {
		return s.Conn.Write(b)
	}
	n := 0
	if len(s.out) == 0 {
		var err error
		if n, err = s.write(b); err != nil {
			return n, err
		}
	}
	s.out = append(s.out, b[n:]...)
	return len(b), nil
}

// sealed is a lane of TLS over a socket.
type sealed struct {
	*socket
	conn *tls.Conn
}

func (s *sealed) read(b []byte) (int, error) {
	n, err := s.conn.Read(b)
	if errors.Is(err, errAgain{}) {
		err = nil
	}
	return n, err
}

// write seals a few records at a time, so that reading has its turn.
func (s *sealed) write(b []byte) (int, error) {
	if done, err := s.flush(); err != nil || !done {
		return 0, err
	}
	return s.conn.Write(b[:min(len(b), 32<<10)])
}

func (s *sealed) flush() (bool, error) {
	for len(s.out) > 0 {
		n, err := s.socket.write(s.out)
		if err != nil || n == 0 {
			return false, err
		}
		s.out = s.out[n:]
	}
	s.out = nil
	return true, nil
}

// descriptor of a lane of this file.
func descriptor(l lane) int32 {
	switch l := l.(type) {
	case *sealed:
		return int32(l.fd)
	case *socket:
		return int32(l.fd)
	}
	return -1
}

// poller is the sleeper of sockets: poll(2) and a pipe.
type poller struct {
	pipe [2]int

	mu     sync.Mutex // guards closed
	closed bool

	fds []unix.PollFd // of the goroutine that sleeps
}

func newPoller() (*poller, error) {
	p := &poller{}
	if err := unix.Pipe(p.pipe[:]); err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	for _, fd := range p.pipe {
		unix.CloseOnExec(fd)
		if err := unix.SetNonblock(fd, true); err != nil {
			p.close()
			return nil, fmt.Errorf("make a pipe: %w", err)
		}
	}
	return p, nil
}

func (p *poller) sleep(readers, writers []lane) {
	p.fds = append(p.fds[:0], unix.PollFd{Fd: int32(p.pipe[0]), Events: unix.POLLIN})
	for _, l := range readers {
		p.fds = append(p.fds, unix.PollFd{Fd: descriptor(l), Events: unix.POLLIN})
	}
	for _, l := range writers {
		p.fds = append(p.fds, unix.PollFd{Fd: descriptor(l), Events: unix.POLLOUT})
	}
	// An interrupted call is a wake for nothing, which callers bear.
	if _, err := unix.Poll(p.fds, -1); err != nil {
		return
	}
	if p.fds[0].Revents != 0 {
		var b [64]byte
		_, _ = unix.Read(p.pipe[0], b[:]) // empty is as good
	}
}

// wake needs no success: a full pipe wakes too.
func (p *poller) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		_, _ = unix.Write(p.pipe[1], []byte{1})
	}
}

func (p *poller) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	_ = unix.Close(p.pipe[0])
	_ = unix.Close(p.pipe[1])
}

// newSleeper and newLane choose sockets that can be polled.
func newSleeper() (sleeper, error) { return newPoller() }

// unsealed is what a connection is before TLS.
func unsealed(c net.Conn) net.Conn { return &socket{Conn: c, fd: -1} }

// newLane takes a connection of unsealed, or TLS over one.
func newLane(c net.Conn, notify func()) (lane, error) {
	switch c := c.(type) {
	case *socket:
		return c, c.take()
	case *tls.Conn:
		if s, ok := c.NetConn().(*socket); ok {
			return &sealed{socket: s, conn: c}, s.take()
		}
	}
	return newPump(c, notify), nil
}
