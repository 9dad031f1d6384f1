package nettest

// nowhere is a hardware address that no host of a network has.
const nowhere = "02:00:00:00:00:01"

// Apart lets two hosts lose all packets to each other, while both reach all
// others. Together ends it.
func (n *Network) Apart(a, b int) {
	n.t.Helper()
	for _, way := range [][2]int{{a, b}, {b, a}} {
		n.inside(way[0], "ip", "neigh", "replace", n.Address(way[1]), "lladdr", nowhere, "dev", "eth", "nud", "permanent")
	}
}

// Together ends Apart.
func (n *Network) Together(a, b int) {
	n.t.Helper()
	for _, way := range [][2]int{{a, b}, {b, a}} {
		n.inside(way[0], "ip", "neigh", "del", n.Address(way[1]), "dev", "eth")
	}
}
