package main

import (
	"fmt"
	"net"
	"net/url"
)

// elsewhere is the address for other machines of a node that listens on all
// interfaces: its URL is this machine's own, which is of no use there. "" when
// it listens on one address, or the machine has no other.
func elsewhere(listen, own string, addrs []net.Addr) string {
	if ip := net.ParseIP(listen); ip == nil || !ip.IsUnspecified() {
		return ""
	}
	u, err := url.Parse(own)
	if err != nil || u.Port() == "" {
		return ""
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil {
			return fmt.Sprintf("http://%s", net.JoinHostPort(n.IP.String(), u.Port()))
		}
	}
	return ""
}
