package main

import (
	"net"
	"testing"
)

func TestElsewhere(t *testing.T) {
	network := func(s string) net.Addr {
		ip, n, err := net.ParseCIDR(s)
		if err != nil {
			t.Fatal(err)
		}
		n.IP = ip
		return n
	}
	all := []net.Addr{network("127.0.0.1/8"), network("fe80::1/64"), network("192.168.1.7/24"), network("10.0.0.7/8")}
	for _, tt := range []struct {
		listen, own string
		addrs       []net.Addr
		want        string
	}{
		{"0.0.0.0", "http://127.0.0.1:52415", all, "http://192.168.1.7:52415"}, {"::", "http://127.0.0.1:8080", all, "http://192.168.1.7:8080"},
		{"127.0.0.1", "http://127.0.0.1:52415", all, ""}, {"192.168.1.7", "http://192.168.1.7:52415", all, ""},
		{"0.0.0.0", "http://127.0.0.1:52415", all[:2], ""}, {"0.0.0.0", "", all, ""},
	} {
		if got := elsewhere(tt.listen, tt.own, tt.addrs); got != tt.want {
			t.Errorf("%s, %s: %q, want %q", tt.listen, tt.own, got, tt.want)
		}
	}
}
