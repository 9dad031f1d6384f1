package hostinfo

import (
	"context"

	"github.com/shirou/gopsutil/v4/net"
	"github.com/shirou/gopsutil/v4/process"
)

// Process names a running program.
type Process struct {
	PID  int32  `json:"pid"`
	Name string `json:"name"`
}

// Listener gives the process that listens on a TCP port of this machine. It
// reports false when nobody does or when the system does not tell: other
// users' processes are hidden from most users.
func Listener(ctx context.Context, port int) (Process, bool) {
	connections, err := net.ConnectionsWithContext(ctx, "tcp")
	if err != nil {
		return Process{}, false
	}
	for _, c := range connections {
		if c.Status != "LISTEN" || int(c.Laddr.Port) != port || c.Pid == 0 {
			continue
		}
		p := Process{PID: c.Pid}
		if running, err := process.NewProcessWithContext(ctx, c.Pid); err == nil {
			if name, err := running.NameWithContext(ctx); err == nil {
				p.Name = name
			}
		}
		return p, true
	}
	return Process{}, false
}
