package nettest

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// Options of a Network.
type Options struct {
	Hosts int // 1 to 200
	// Megabits is the rate of each host's cable, per second and direction; 0:
	// as fast as the machine is.
	Megabits int
}

// Network is some hosts, each a Linux network namespace, on one switch, which
// is a namespace of its own. Host i has the address Address(i); the switch can
// have relays, at Address(Switch).
type Network struct {
	t      testing.TB
	names  []string // of the namespaces; the switch is the last
	relays int      // that Behind has made; of the goroutine of the test
	second bool     // Split has made the second switch; the same
}

// Switch is the index of the namespace in the middle.
const Switch = -1

// New makes a network that is taken down when the test ends. Without root, or
// without the commands ip and tc, the test is skipped, and says so.
func New(t testing.TB, o Options) *Network {
	t.Helper()
	if o.Hosts < 1 || o.Hosts > 200 {
		t.Fatalf("a network of %d hosts; 1 to 200 are possible", o.Hosts)
	}
	if err := possible(); err != nil {
		t.Skipf("SKIPPED, network namespaces are not tested: %v", err)
	}
	n := &Network{t: t}
	prefix := "skein-" + unique()
	for i := range o.Hosts {
		n.names = append(n.names, fmt.Sprintf("%s-%d", prefix, i))
	}
	n.names = append(n.names, prefix+"-sw")
	t.Cleanup(n.remove)
	for _, name := range n.names {
		n.ip("netns", "add", name)
	}
	n.inside(Switch, "ip", "link", "set", "lo", "up")
	n.inside(Switch, "ip", "link", "add", "name", "switch", "type", "bridge")
	n.inside(Switch, "ip", "addr", "add", n.Address(Switch)+"/24", "dev", "switch")
	n.inside(Switch, "ip", "link", "set", "switch", "up")
	for i := range o.Hosts {
		port := fmt.Sprintf("p%d", i)
		n.ip("link", "add", "eth", "netns", n.name(i), "type", "veth", "peer", "name", port, "netns", n.name(Switch))
		n.inside(i, "ip", "link", "set", "lo", "up")
		n.inside(i, "ip", "addr", "add", n.Address(i)+"/24", "dev", "eth")
		n.inside(i, "ip", "link", "set", "eth", "up")
		n.inside(Switch, "ip", "link", "set", port, "master", "switch", "up")
		if o.Megabits > 0 {
			n.limit(i, "eth", o.Megabits)
			n.limit(Switch, port, o.Megabits)
		}
	}
	return n
}

// limit sets the rate of what leaves a device. The bucket holds some frames, the
// queue 50 ms, like a small switch.
func (n *Network) limit(host int, device string, megabits int) {
	n.inside(host, "tc", "qdisc", "add", "dev", device, "root", "tbf",
		"rate", fmt.Sprintf("%dmbit", megabits), "burst", "128kb", "latency", "50ms")
}

// Address of a host, or of the Switch.
func (n *Network) Address(host int) string {
	if host == Switch {
		return "10.77.0.254"
	}
	return fmt.Sprintf("10.77.0.%d", host+1)
}

// Command is a command that will run on a host. The end of the test kills what
// runs there; a command that has only just been started is the caller's to end.
func (n *Network) Command(host int, name string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", n.name(host), name}, args...)...)
}

// Cut pulls a host's cable; Mend puts it back.
func (n *Network) Cut(host int) {
	n.t.Helper()
	n.inside(Switch, "ip", "link", "set", fmt.Sprintf("p%d", host), "down")
}

// Mend puts a host's cable back.
func (n *Network) Mend(host int) {
	n.t.Helper()
	n.inside(Switch, "ip", "link", "set", fmt.Sprintf("p%d", host), "up")
}

// Split moves hosts to a switch of their own: they see each other, and nobody
// else. Cables stay as they are. Unite ends it.
func (n *Network) Split(hosts ...int) {
	n.t.Helper()
	if !n.second {
		n.second = true
		n.inside(Switch, "ip", "link", "add", "name", "second", "type", "bridge")
		n.inside(Switch, "ip", "link", "set", "second", "up")
	}
	for _, host := range hosts {
		n.plug(host, "second")
	}
}

// Unite moves hosts back to the first switch.
func (n *Network) Unite(hosts ...int) {
	n.t.Helper()
	for _, host := range hosts {
		n.plug(host, "switch")
	}
}

func (n *Network) plug(host int, bridge string) {
	n.t.Helper()
	n.ip("-n", n.name(Switch), "link", "set", fmt.Sprintf("p%d", host), "master", bridge)
}

// Packets counts what has passed a host's cable so far, both ways.
func (n *Network) Packets(host int) (count int64) {
	n.t.Helper()
	for _, direction := range []string{"rx", "tx"} {
		cmd := n.Command(Switch, "cat", fmt.Sprintf("/sys/class/net/p%d/statistics/%s_packets", host, direction))
		out, err := cmd.Output()
		if err != nil {
			n.t.Fatalf("count the packets of host %d: %v", host, err)
		}
		k, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
		if err != nil {
			n.t.Fatal(err)
		}
		count += k
	}
	return count
}

func (n *Network) name(host int) string {
	if host == Switch {
		return n.names[len(n.names)-1]
	}
	return n.names[host]
}

func (n *Network) inside(host int, args ...string) {
	n.t.Helper()
	n.ip(append([]string{"netns", "exec", n.name(host)}, args...)...)
}

func (n *Network) ip(args ...string) {
	n.t.Helper()
	if err := run("ip", args...); err != nil {
		n.t.Fatal(err)
	}
}

// remove ends what still runs in the namespaces and deletes them.
func (n *Network) remove() {
	for _, name := range n.names {
		if err := endProcesses(name); err != nil {
			n.t.Errorf("end processes of %s: %v", name, err)
		}
		if err := run("ip", "netns", "delete", name); err != nil && !strings.Contains(err.Error(), "No such file") {
			n.t.Errorf("a network namespace is left over: %v; remove it with: ip netns delete %s", err, name)
		}
	}
}

func run(name string, args ...string) error {
	out, err := exec.CommandContext(context.Background(), name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
