package calm

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// File gives f with another Read. An f that Go's poller does not know (a plain
// file, a blocking descriptor) is given back as it is.
func File(f *os.File) io.ReadCloser {
	// Only what the poller knows takes a deadline, and only that never blocks.
	if f.SetReadDeadline(time.Time{}) != nil {
		return f
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return f
	}
	return &file{File: f, in: newCall(raw.Read, read)}
}

type file struct {
	*os.File
	in *call
}

func (f *file) Read(p []byte) (int, error) {
	n, err := f.in.do(p)
	if errno, ok := err.(syscall.Errno); ok {
		err = &os.PathError{Op: "read", Path: f.Name(), Err: errno}
	}
	return end(p, n, err)
}

// WriteConn gives c with another Write, if it is a TCP connection.
func WriteConn(c net.Conn) net.Conn {
	if tcp, raw := unwrap(c); raw != nil {
		return &writer{TCPConn: tcp, out: newCall(raw.Write, write)}
	}
	return c
}

type writer struct {
	*net.TCPConn
	out *call
}

func (w *writer) Write(p []byte) (int, error) {
	n, err := w.out.do(p)
	return n, opError("write", w.TCPConn, err)
}

// ReadConn gives c with another Read, if it is a TCP connection.
func ReadConn(c net.Conn) net.Conn {
	if tcp, raw := unwrap(c); raw != nil {
		return &reader{TCPConn: tcp, in: newCall(raw.Read, read)}
	}
	return c
}

type reader struct {
	*net.TCPConn
	in *call
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.in.do(p)
	return end(p, n, opError("read", r.TCPConn, err))
}

func unwrap(c net.Conn) (*net.TCPConn, syscall.RawConn) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil, nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, nil
	}
	return tcp, raw
}

// end makes the end of the stream of a read that gave nothing.
func end(p []byte, n int, err error) (int, error) {
	if n == 0 && err == nil && len(p) > 0 {
		err = io.EOF
	}
	return n, err
}

// opError is the error of package net for a failed system call; those of the
// poller (closed, deadline) are in its shape already.
func opError(op string, c *net.TCPConn, err error) error {
	if errno, ok := err.(syscall.Errno); ok {
		return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: os.NewSyscallError(op, errno)}
	}
	return err
}

// call is one direction of a descriptor. One goroutine at a time is in do; the
// fields are there so that a call allocates nothing.
type call struct {
	wait func(func(fd uintptr) bool) error // of the syscall.RawConn
	step func(fd uintptr, p []byte) (n int, done bool, errno syscall.Errno)
	once func(fd uintptr) bool // try, bound

	mu    sync.Mutex // guards all below
	p     []byte
	n     int
	errno syscall.Errno
}

func newCall(wait func(func(fd uintptr) bool) error, step func(uintptr, []byte) (int, bool, syscall.Errno)) *call {
	c := &call{wait: wait, step: step}
	c.once = c.try
	return c
}

func (c *call) do(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.p, c.n, c.errno = p, 0, 0
	err := c.wait(c.once)
	c.p = nil
	if err == nil && c.errno != 0 {
		err = c.errno
	}
	return c.n, err
}

// try is what the poller calls, again each time that the descriptor is ready,
// until it gives true.
func (c *call) try(fd uintptr) bool {
	for {
		n, done, errno := c.step(fd, c.p[c.n:])
		switch errno {
		case 0:
			if c.n += n; done || c.n == len(c.p) {
				return true
			}
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			c.errno = errno
			return true
		}
	}
}

// read is done with the first bytes.
func read(fd uintptr, p []byte) (int, bool, syscall.Errno) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
	return int(n), true, errno
}

// write is done when all bytes are.
func write(fd uintptr, p []byte) (int, bool, syscall.Errno) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
	return int(n), false, errno
}
