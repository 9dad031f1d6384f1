package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"

	netstat "github.com/shirou/gopsutil/v4/net"
	"github.com/shirou/gopsutil/v4/process"
)

// windowsAddressInUse is WSAEADDRINUSE, which package syscall does not map.
const windowsAddressInUse = syscall.Errno(10048)

// listenError says why an address cannot be listened on and what to change.
func listenError(ctx context.Context, address string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE), errors.Is(err, windowsAddressInUse):
		return fmt.Errorf("listen on %s: the port is in use%s: stop that program or choose another port with --api-port: %w",
			address, portOwner(ctx, address), err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("listen on %s: this machine does not have that address: choose another with --api-host: %w", address, err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("listen on %s: not permitted: choose a port above 1023 with --api-port: %w", address, err)
	}
	return fmt.Errorf("listen on %s: check --api-host and --api-port: %w", address, err)
}

// portOwner names the program that listens on the address's port, as
// " by NAME (process 123)", or nothing when it cannot be found out (it belongs
// to another user, or the platform does not tell).
func portOwner(ctx context.Context, address string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return ""
	}
	connections, err := netstat.ConnectionsWithContext(ctx, "tcp")
	if err != nil {
		return ""
	}
	for _, c := range connections {
		if c.Status != "LISTEN" || int(c.Laddr.Port) != number || c.Pid == 0 {
			continue
		}
		owner, err := process.NewProcessWithContext(ctx, c.Pid)
		if err != nil {
			return fmt.Sprintf(" by process %d", c.Pid)
		}
		name, err := owner.NameWithContext(ctx)
		if err != nil {
			return fmt.Sprintf(" by process %d", c.Pid)
		}
		return fmt.Sprintf(" by %s (process %d)", name, c.Pid)
	}
	return ""
}
