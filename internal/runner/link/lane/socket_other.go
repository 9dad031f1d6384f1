//go:build !unix

package lane

import "net"

// NewSleeper is the sleeper of lanes made by New.
func NewSleeper() (Sleeper, error) { return NewBell(), nil }

// Unsealed is what a connection is, or lies below its TLS: here, nothing of its own.
func Unsealed(c net.Conn, _ bool) net.Conn { return c }

// New makes a lane of a connection; notify is called when it can go on.
func New(c net.Conn, notify func()) (Lane, error) { return newPump(c, notify), nil }
