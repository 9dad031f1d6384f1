package nettest

import (
	"fmt"
	"net"
)

// The ports that a host behind a relay has for everything that asks for any.
const (
	firstPort = 40000
	ports     = 64
)

// Behind gives an address on the switch that stands for a host: a connection to
// it passes a relay and goes on to the same port of the host. It is for
// programs that choose their ports themselves. To have a relay on each port that
// they may choose, the host gets few: so it is called before they start.
func (n *Network) Behind(host int, path Path) (address string) {
	n.t.Helper()
	n.relays++
	if n.relays > 50 {
		n.t.Fatal("more than 50 relays on one switch")
	}
	address = fmt.Sprintf("10.77.0.%d", 200+n.relays)
	n.inside(Switch, "ip", "addr", "add", address+"/24", "dev", "switch")
	n.inside(host, "sh", "-c", fmt.Sprintf("echo '%d %d' >/proc/sys/net/ipv4/ip_local_port_range", firstPort, firstPort+ports-1))
	for port := firstPort; port < firstPort+ports; port++ {
		l, err := n.Listen(Switch, net.JoinHostPort(address, fmt.Sprint(port)))
		if err != nil {
			n.t.Fatal(err)
		}
		r := NewRelayOn(l, func() (net.Conn, error) {
			return n.Dial(Switch, net.JoinHostPort(n.Address(host), fmt.Sprint(port)))
		}, path)
		n.t.Cleanup(func() {
			// Nobody listens at most of the ports, which callers see as well.
			if err := r.Close(); err != nil {
				n.t.Logf("relay to port %d of host %d: %v", port, host, err)
			}
		})
	}
	return address
}
