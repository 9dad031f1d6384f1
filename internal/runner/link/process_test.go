package link

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/skein-run/skein/internal/nettest"
)

// asShard makes of the test binary a shard: its index.
const asShard = "LINK_TEST_SHARD"

func TestMain(m *testing.M) {
	if host := os.Getenv(asShard); host != "" {
		if err := shardProcess(host); err != nil {
			fmt.Println("FAILED", err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// shardProcess listens at host, says where, and for each line "epoch self
// addresses" joins and computes until the mesh breaks, which it says.
func shardProcess(host string) error {
	l, err := Listen(host + ":0")
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Println("ADDRESS", l.Addr())
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var o Options
		var addresses string
		if _, err := fmt.Sscan(lines.Text(), &o.Epoch, &o.Self, &addresses); err != nil {
			return err
		}
		o.Group, o.Addresses = "processes", strings.Split(addresses, ",")
		m, err := l.Join(context.Background(), o)
		if err != nil {
			return err
		}
		fmt.Println("JOINED")
		ranks := make([]int, m.Size())
		for i := range ranks {
			ranks[i] = i
		}
		data := make([]float32, 2560)
		for err == nil {
			compute()
			err = m.AllReduce(ranks, data)
		}
		var broken *BrokenError
		if !errors.As(err, &broken) {
			return err
		}
		fmt.Println("BROKEN", broken.Culprit, broken.Cause)
		m.Close()
	}
	return nil
}

// compute holds a thread for a moment.
func compute() {
	x := 1.0
	for range 100_000 {
		x = x*1.0000001 + 1e-9
	}
	if x < 0 {
		panic("arithmetic")
	}
}

// process is a shard in a process of its own.
type process struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	lines   chan string
	address string
}

func start(t *testing.T, n *nettest.Network, host int) *process {
	t.Helper()
	cmd := n.Command(host, os.Args[0])
	// Beats must come through while the only processor computes.
	cmd.Env = append(os.Environ(), asShard+"="+n.Address(host), "GOMAXPROCS=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, in: in, lines: make(chan string, 100)}
	var done sync.WaitGroup
	done.Go(func() {
		defer close(p.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			p.lines <- s.Text()
		}
	})
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // a stopped one too
		done.Wait()
		_ = cmd.Wait() // it was killed
	})
	p.address = strings.TrimPrefix(p.line(t, "ADDRESS"), "ADDRESS ")
	return p
}

// line waits for one that begins with a word.
func (p *process) line(t *testing.T, word string) string {
	t.Helper()
	select {
	case s, ok := <-p.lines:
		if !ok || !strings.HasPrefix(s, word) {
			t.Fatalf("a shard says %q, not %s", s, word)
		}
		return s
	case <-time.After(30 * time.Second):
		t.Fatalf("a shard hangs before %s", word)
	}
	return ""
}

func joinProcesses(t *testing.T, epoch int, shards []*process) {
	t.Helper()
	var addresses []string
	for _, p := range shards {
		addresses = append(addresses, p.address)
	}
	for i, p := range shards {
		if _, err := fmt.Fprintln(p.in, epoch, i, strings.Join(addresses, ",")); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range shards {
		p.line(t, "JOINED")
	}
}

// TestProcesses: three shards on a network of 1 Gbit/s. One is killed, stopped
// or cut off while they compute; the others name it in time, and a new process
// takes its place.
func TestProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED, processes on a network are not tested: -short")
	}
	n := nettest.New(t, nettest.Options{Hosts: 3, Megabits: 1000})
	shards := make([]*process, 3)
	for i := range shards {
		shards[i] = start(t, n, i)
	}
	for epoch, c := range []struct {
		name   string
		victim int
		harm   func(p *process) error
		after  func(p *process) error
		limit  time.Duration
		says   string
	}{
		{"killed", 1, func(p *process) error { return p.cmd.Process.Kill() }, nil, time.Second, "closed its connection"},
		{"stopped", 2, stop, kill, 2 * time.Second, "silent for 1.7s"},
		{"cut", 0, func(*process) error { n.Cut(0); return nil }, func(p *process) error { n.Mend(0); return kill(p) }, 2 * time.Second, "is cut"},
	} {
		joinProcesses(t, epoch+1, shards)
		victim := shards[c.victim]
		begin := time.Now()
		if err := c.harm(victim); err != nil {
			t.Fatal(err)
		}
		for i, p := range shards {
			if i == c.victim {
				continue
			}
			got := p.line(t, "BROKEN")
			took := time.Since(begin)
			t.Logf("%s: shard %d says after %v: %s", c.name, i, took.Round(time.Millisecond), got)
			if want := fmt.Sprintf("BROKEN %d ", c.victim); !strings.HasPrefix(got, want) || !strings.Contains(got, c.says) {
				t.Errorf("%s: shard %d says %q, want %q and %q", c.name, i, got, want, c.says)
			}
			if took > c.limit {
				t.Errorf("%s: shard %d took %v, more than %v", c.name, i, took, c.limit)
			}
		}
		if c.after != nil {
			if err := c.after(victim); err != nil {
				t.Fatal(err)
			}
		}
		shards[c.victim] = start(t, n, c.victim)
	}
	joinProcesses(t, 9, shards)
}
