//go:build unix

package e2e

import (
	"encoding/json"
	"errors"
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
	const tokens = 3000 // enough to be under way when the link breaks
	want := nodes[client].open("/v1/chat/completions", long(tokens)).whole("", tokens)
	s := nodes[client].open("/v1/chat/completions", long(tokens))
	before := ""
	for range 20 {
		before += s.text()
	}
	net.Apart(client, worker)
	// A node that waits for its client to read does not see what it lost.
	rest := make(chan string)
	go func() { rest <- s.drain() }()
	if !nodes[client].stderr.wait(t, "again=1") {
		t.Fatal("the node of the client ended")
	}
	nodes[master].ready(exact)
	net.Together(client, worker)
	same(t, "link broken and mended", before+<-rest, want)
	if nodes[master].master() != nodes[master].id() {
		t.Errorf("the master is %q", nodes[master].master())
	}
}

// drain reads a stream to its end and gives its text, with why it ended if that
// is not how it should. It may be called beside the test.
func (s *stream) drain() string {
	text := ""
	for {
		data, err := s.data()
		var c completion
		switch {
		case errors.Is(err, errEnd):
			return text
		case err != nil:
			return text + err.Error()
		case json.Unmarshal([]byte(data), &c) != nil:
			return text + data
		case len(c.Choices) > 0:
			text += c.Choices[0].Delta.Content
		case c.Usage == nil:
			return text + data
		}
	}
}
