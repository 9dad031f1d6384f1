package nettest

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// possible says why there can be no network.
func possible() error {
	for _, name := range []string{"ip", "tc"} {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("the command %s is missing; install iproute2", name)
		}
	}
	if os.Geteuid() != 0 {
		return errors.New("only root may make namespaces")
	}
	// A container's root may lack the right to.
	name := "skein-" + unique()
	if err := run("ip", "netns", "add", name); err != nil {
		return err
	}
	defer func() { _ = run("ip", "netns", "delete", name) }() // the next line says what is wrong
	return run("ip", "netns", "exec", name, "ip", "link", "add", "name", "switch", "type", "bridge")
}

// unique is a name that no other process uses.
func unique() string {
	b := make([]byte, 4)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// Listen listens on a host; the socket stays there.
func (n *Network) Listen(host int, address string) (l net.Listener, err error) {
	if e := n.within(host, func() { l, err = net.Listen("tcp", address) }); e != nil {
		return nil, e
	}
	return l, err
}

// Dial connects from a host to host:port, which must be an IP address.
func (n *Network) Dial(host int, address string) (c net.Conn, err error) {
	if e := n.within(host, func() { c, err = net.Dial("tcp", address) }); e != nil {
		return nil, e
	}
	return c, err
}

// within runs f on a thread that is in a host's namespace.
func (n *Network) within(host int, f func()) error {
	ns, err := os.Open(filepath.Join("/run/netns", n.name(host)))
	if err != nil {
		return err
	}
	defer ns.Close()
	result := make(chan error, 1)
	go func() {
		// Not unlocked: the thread ends with the goroutine, and nobody else
		// gets one in a foreign namespace.
		runtime.LockOSThread()
		err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			f()
		}
		result <- err
	}()
	return <-result
}

// endProcesses kills what runs in a namespace.
func endProcesses(name string) error {
	out, err := exec.Command("ip", "netns", "pids", name).Output()
	if err != nil {
		return nil // the namespace was never made
	}
	for _, field := range strings.Fields(string(out)) {
		pid, err := strconv.Atoi(field)
		if err != nil || pid == os.Getpid() {
			continue
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}
