//go:build unix

package e2e

import (
	"testing"

	"github.com/skein-run/skein/internal/nettest"
)

// onHosts starts a cluster of a node on each host of a network, with these
// arguments, and waits until they are one.
func onHosts(t *testing.T, net *nettest.Network, args ...[]string) (nodes []*node) {
	t.Helper()
	for i, own := range args {
		own = append([]string{"-v", "--context", "4096", "--no-discovery", "--peer-host", net.Address(i)}, own...)
		for k := range args {
			if k != i {
				own = append(own, "--join", net.Address(k))
			}
		}
		nodes = append(nodes, launch(t, options{args: own, on: &host{net, i}}))
	}
	for _, n := range nodes {
		n.awaitUp()
	}
	together(t, nodes...)
	return nodes
}

// The link between the node of the client and that of the head breaks, and
// nobody is gone: the answer goes on at the same place when the link is back,
// however often it was tried in vain.
func TestLinkBetweenLiveNodesBreaks(t *testing.T) {
	const client, master, worker = 0, 1, 2
	net := nettest.New(t, nettest.Options{Hosts: 3})
	nodes := onHosts(t, net,
		[]string{"--no-worker", "--no-master", "--resume-tries", "1"},
		[]string{"--no-worker"},
		[]string{"--no-master", "--models-dir", saveExact(t)})
	nodes[master].load(exact, nodes[worker])
	const tokens = 800
	want := nodes[client].open("/v1/chat/completions", long(tokens)).whole("", tokens)
	s := nodes[client].open("/v1/chat/completions", long(tokens))
	before := ""
	for range 20 {
		before += s.text()
	}
	net.Apart(client, worker)
	if !nodes[client].stderr.wait(t, "again=1") {
		t.Fatal("the node of the client ended")
	}
	nodes[master].ready(exact)
	net.Together(client, worker)
	same(t, "link broken and mended", s.whole(before, tokens), want)
	if nodes[master].master() != nodes[master].id() {
		t.Errorf("the master is %q", nodes[master].master())
	}
}
