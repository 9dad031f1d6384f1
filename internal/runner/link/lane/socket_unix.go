//go:build unix

package lane

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

// TryRead is the lane's read: n 0 without an error is nothing now.
func (s *socket) TryRead(b []byte) (int, error) {
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

func (s *socket) TryWrite(b []byte) (int, error) {
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

func (s *socket) Flush() (bool, error) { return true, nil }

// Shut can only fail on a connection that has ended already.
func (s *socket) Shut() { _ = unix.Shutdown(s.fd, unix.SHUT_RDWR) }

func (s *socket) Free() { _ = unix.Close(s.fd) }

// records is what crypto/tls sees of a socket: blocking in the handshake, never
// waiting after it. Its records have 16 kB at most, so several of them are read
// and written by one system call.
type records struct {
	*socket
	in  []byte // what was read; [r:] is not yet looked at
	r   int
	out []byte // sealed and not yet written; [w:] is left
	w   int
}

// recordsAhead is how much is read at once, and sealed before it is written.
const recordsAhead = 64 << 10

func (s *records) Read(b []byte) (int, error) {
	if !s.taken {
		return s.Conn.Read(b)
	}
	if s.r == len(s.in) {
		if cap(s.in) == 0 {
			s.in = make([]byte, 0, recordsAhead)
		}
		n, err := s.TryRead(s.in[:cap(s.in)])
		if n == 0 && err == nil {
			err = errAgain{}
		}
		s.in, s.r = s.in[:n], 0
		if err != nil {
			return 0, err
		}
	}
	n := copy(b, s.in[s.r:])
	s.r += n
	return n, nil
}

// Write keeps sealed bytes until Flush.
func (s *records) Write(b []byte) (int, error) {
	if !s.taken {
		return s.Conn.Write(b)
	}
	s.out = append(s.out, b...)
	return len(b), nil
}

func (s *records) Flush() (bool, error) {
	for s.w < len(s.out) {
		n, err := s.TryWrite(s.out[s.w:])
		if err != nil || n == 0 {
			return false, err
		}
		s.w += n
	}
	s.out, s.w = s.out[:0], 0
	return true, nil
}

// sealed is a lane of TLS over records.
type sealed struct {
	*records
	conn *tls.Conn
}

func (s *sealed) TryRead(b []byte) (int, error) {
	n, err := s.conn.Read(b)
	if errors.Is(err, errAgain{}) {
		err = nil
	}
	return n, err
}

// TryWrite seals a part when the last one is gone, so that reading has its turn.
func (s *sealed) TryWrite(b []byte) (int, error) {
	if done, err := s.Flush(); err != nil || !done {
		return 0, err
	}
	n, err := s.conn.Write(b[:min(len(b), recordsAhead)])
	if err == nil {
		_, err = s.Flush()
	}
	return n, err
}

// descriptor of a lane of this file.
func descriptor(l Lane) int32 {
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
			p.Close()
			return nil, fmt.Errorf("make a pipe: %w", err)
		}
	}
	return p, nil
}

func (p *poller) Sleep(readers, writers []Lane) {
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

// Wake needs no success: a full pipe wakes too.
func (p *poller) Wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		_, _ = unix.Write(p.pipe[1], []byte{1})
	}
}

func (p *poller) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	_ = unix.Close(p.pipe[0])
	_ = unix.Close(p.pipe[1])
}

// NewSleeper is the sleeper of lanes made by New.
func NewSleeper() (Sleeper, error) { return newPoller() }

// Unsealed is what a connection is, or lies below its TLS.
func Unsealed(c net.Conn, secure bool) net.Conn {
	s := &socket{Conn: c, fd: -1}
	if secure {
		return &records{socket: s}
	}
	return s
}

// New makes a lane of a connection of Unsealed, or of TLS over one, and takes the
// connection out of Go's poller. Over any other connection it is a pump, which
// calls notify when it can go on.
func New(c net.Conn, notify func()) (Lane, error) {
	switch c := c.(type) {
	case *socket:
		return c, c.take()
	case *tls.Conn:
		if r, ok := c.NetConn().(*records); ok {
			return &sealed{records: r, conn: c}, r.take()
		}
	}
	return newPump(c, notify), nil
}
