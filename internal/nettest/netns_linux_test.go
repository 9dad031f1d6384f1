package nettest

import (
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestNetwork(t *testing.T) {
	n := New(t, Options{Hosts: 3, Megabits: 1000})
	l, err := n.Listen(2, n.Address(2)+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		defer close(accepted)
		if c, err := l.Accept(); err == nil {
			accepted <- c
		}
	}()
	c, err := n.Dial(0, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	far := <-accepted
	defer far.Close()
	if got, _, _ := net.SplitHostPort(far.RemoteAddr().String()); got != n.Address(0) {
		t.Errorf("the call came from %s, not from host 0", got)
	}
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(far, b); err != nil {
		t.Fatal(err)
	}
	// Nothing passes a cut cable; what was sent arrives when it is mended.
	n.Cut(0)
	if _, err := c.Write([]byte("again")); err != nil {
		t.Fatal(err)
	}
	if err := far.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if k, err := far.Read(b); err == nil {
		t.Fatalf("%q came through a cut cable", b[:k])
	}
	if err := far.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	n.Mend(0)
	if _, err := io.ReadFull(far, b); err != nil || string(b) != "again" {
		t.Fatalf("after mending: %q, %v", b, err)
	}
	out, err := n.Command(1, "ip", "-br", "addr", "show", "eth").CombinedOutput()
	if err != nil || !strings.Contains(string(out), n.Address(1)) {
		t.Errorf("host 1 has %q, %v", out, err)
	}
}

// TestSplit: two of four hosts have a switch of their own for a while.
func TestSplit(t *testing.T) {
	n := New(t, Options{Hosts: 4})
	var at [4]net.PacketConn
	for i := range at {
		if err := n.within(i, func() {
			c, err := net.ListenPacket("udp", n.Address(i)+":7000")
			if err != nil {
				t.Error(err)
				return
			}
			at[i] = c
		}); err != nil || at[i] == nil {
			t.Fatalf("listen on host %d: %v", i, err)
		}
		defer at[i].Close()
	}
	// passes sends until one arrives; what does not pass is never known to.
	passes := func(from, to int, within time.Duration) bool {
		for end := time.Now().Add(within); time.Now().Before(end); {
			if _, err := at[from].WriteTo([]byte{byte(from)}, &net.UDPAddr{IP: net.ParseIP(n.Address(to)), Port: 7000}); err != nil {
				t.Fatal(err)
			}
			if err := at[to].SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 1)
			for {
				_, _, err := at[to].ReadFrom(b)
				if err != nil {
					break
				}
				if int(b[0]) == from {
					return true
				}
			}
		}
		return false
	}
	const long, short = 20 * time.Second, 300 * time.Millisecond
	if !passes(0, 2, long) || !passes(1, 3, long) {
		t.Fatal("hosts of one switch do not reach each other")
	}
	before := n.Packets(0)
	n.Split(2, 3)
	if passes(0, 2, short) || passes(3, 1, short) {
		t.Error("packets pass between two switches")
	}
	if !passes(2, 3, long) || !passes(0, 1, long) {
		t.Error("hosts of one side do not reach each other")
	}
	n.Unite(2, 3)
	if !passes(0, 2, long) || !passes(3, 1, long) {
		t.Error("united hosts do not reach each other")
	}
	if after := n.Packets(0); after <= before {
		t.Errorf("%d packets before, %d after", before, after)
	}
}

// TestNetworkIsTakenDown looks for what a network has left.
func TestNetworkIsTakenDown(t *testing.T) {
	var names []string
	t.Run("network", func(t *testing.T) {
		n := New(t, Options{Hosts: 2})
		names = n.names
		// Also when something still runs there.
		cmd := n.Command(0, "sh", "-c", "echo in; exec cat >/dev/null")
		cmd.Stdin = blocked(t)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Until then it is on its way, and nobody can tell where to.
		if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Wait() }) // it is killed
		t.Cleanup(n.remove)                  // before the wait
	})
	if names == nil {
		t.Skip("SKIPPED, network namespaces are not tested, see above")
	}
	out, err := exec.Command("ip", "netns", "list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.Contains(string(out), name) {
			t.Errorf("namespace %s is left over", name)
		}
	}
}

// blocked is a file that nothing is ever read from until the test ends.
func blocked(t *testing.T) *os.File {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r
}

// TestRelayBetweenHosts is how a delay comes into a network: a relay on the
// switch, which hosts call in place of each other.
func TestRelayBetweenHosts(t *testing.T) {
	n := New(t, Options{Hosts: 2})
	target, err := n.Listen(1, n.Address(1)+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	l, err := n.Listen(Switch, n.Address(Switch)+":0")
	if err != nil {
		t.Fatal(err)
	}
	const delay = 5 * time.Millisecond
	r := NewRelayOn(l, func() (net.Conn, error) { return n.Dial(Switch, target.Addr().String()) }, Path{Delay: delay, Precise: true})
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	c, err := n.Dial(0, r.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	far, err := target.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	begin := time.Now()
	if _, err := c.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4)
	if _, err := io.ReadFull(far, b); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < delay {
		t.Errorf("it took %v, less than the delay", took)
	}
}

// TestBehind: a program that takes any port is reached through the relay.
func TestBehind(t *testing.T) {
	n := New(t, Options{Hosts: 2})
	const delay = 3 * time.Millisecond
	address := n.Behind(1, Path{Delay: delay, Precise: true})
	target, err := n.Listen(1, n.Address(1)+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	_, port, err := net.SplitHostPort(target.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := n.Dial(0, net.JoinHostPort(address, port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	far, err := target.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	begin := time.Now()
	if _, err := c.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4)
	if _, err := io.ReadFull(far, b); err != nil || string(b) != "ping" {
		t.Fatalf("%q, %v", b, err)
	}
	if took := time.Since(begin); took < delay {
		t.Errorf("it took %v, less than the delay", took)
	}
	if other := n.Behind(0, Path{}); other == address {
		t.Error("two hosts are behind one address")
	}
}
