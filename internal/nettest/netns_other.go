//go:build !linux

package nettest

import (
	"errors"
	"net"
)

var errPlatform = errors.New("namespaces are Linux's")

func possible() error { return errPlatform }

func unique() string { return "" }

// Listen is Linux's.
func (n *Network) Listen(int, string) (net.Listener, error) { return nil, errPlatform }

// Dial is Linux's.
func (n *Network) Dial(int, string) (net.Conn, error) { return nil, errPlatform }

func endProcesses(string) error { return nil }
