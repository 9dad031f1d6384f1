package control

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/config"
	"github.com/skein-run/skein/internal/figures"
	"github.com/skein-run/skein/internal/hostinfo"
	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/library"
	"github.com/skein-run/skein/internal/supervise"
)

var (
	figuresFile = flag.String("figures", "", "append what was measured to this file")
	manyNodes   = flag.Int("nodes", fewNodes, "how many nodes TestManyNodes starts in this process")
	manyWithin  = flag.Duration("within", time.Minute, "how long TestManyNodes waits for them")
)

// fleet is many nodes in this process.
type fleet struct {
	t     *testing.T
	nodes []*Control // nil: killed
}

func (f *fleet) start(i int, join []string) *Control {
	f.t.Helper()
	dir := f.t.TempDir()
	lib, err := library.Open(library.Options{Registry: filepath.Join(dir, "models.json"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.t.Fatal(err)
	}
	facts, err := hostinfo.Read(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	// Known already, so that 50 nodes do not measure one machine at once.
	b, err := json.Marshal(speed{Chip: facts.Chip, Cores: facts.CoresUsable, Bandwidth: 10e9, Arithmetic: 100e9})
	if err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "speed.json"), b, 0o600); err != nil {
		f.t.Fatal(err)
	}
	c, err := New(Options{
		ID: ids.Node(fmt.Sprintf("n%02d", i)), Name: fmt.Sprint("machine-", i), Dir: dir, Version: "test", Library: lib, Context: 4096, Slots: 1,
		Config: config.Serve{Cluster: config.Cluster{Namespace: "many", Secret: "s3cret", PeerHost: "127.0.0.1", Join: join, NoDiscovery: true, ResumeTries: 1, ResumeTimeout: time.Second}},
		Runner: supervise.Options{Executable: "/nonexistent", Logger: slog.New(slog.DiscardHandler)},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		f.t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		f.t.Fatal(err)
	}
	return c
}

// wrong says what is not yet as it must be, "" if all is.
func (f *fleet) wrong() string {
	var up []ids.Node
	for _, c := range f.nodes {
		if c != nil {
			up = append(up, c.opts.ID)
		}
	}
	var session ids.Session
	var hash string
	for _, c := range f.nodes {
		if c == nil {
			continue
		}
		id := c.opts.ID
		if n := len(c.Peers()) + 1; n != len(up) {
			return fmt.Sprintf("%s sees %d nodes of %d", id, n, len(up))
		}
		l := c.Leader()
		switch {
		case !l.Live:
			return fmt.Sprintf("%s knows no master", id)
		case session.Zero():
			session = l.Session
		case session != l.Session:
			return fmt.Sprintf("%s follows %v, others %v", id, l.Session, session)
		}
		state, _ := c.replica.State()
		var online []ids.Node
		for n, x := range state.Nodes {
			if x.Online {
				online = append(online, n)
			}
		}
		slices.Sort(online)
		if !slices.Equal(online, up) {
			return fmt.Sprintf("in the state of %s %d nodes are there, not %d", id, len(online), len(up))
		}
		s, err := c.replica.Status()
		if err != nil {
			f.t.Fatal(err)
		}
		if hash == "" {
			hash = s.Hash
		} else if hash != s.Hash {
			return fmt.Sprintf("%s has another state than others", id)
		}
	}
	return ""
}

// converged waits until all nodes agree, and tells how long that took.
func (f *fleet) converged(what string, begin time.Time, limit time.Duration) {
	f.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond) // of many nodes any may be the last to change
	defer tick.Stop()
	for {
		wrong := f.wrong()
		took := time.Since(begin)
		if wrong == "" {
			f.t.Logf("%d nodes in one process agree after %s: %.2f s", len(f.nodes), what, took.Seconds())
			err := figures.Append(*figuresFile, figures.Figure{Name: fmt.Sprintf("%d nodes in one process agree after %s", len(f.nodes), what), Unit: "s",
				Values: []float64{took.Seconds()}, Note: "loopback"})
			if err != nil {
				f.t.Fatal(err)
			}
			return
		}
		if took > limit {
			f.t.Fatalf("after %s for %v: %s", what, limit, wrong)
		}
		<-tick.C
	}
}

// TestManyNodes starts many nodes at once, and then a fifth of them dies at
// once, the master first: all of a node but models. The others agree on one
// master, one state, and who is there.
func TestManyNodes(t *testing.T) {
	n := *manyNodes
	f := &fleet{t: t, nodes: make([]*Control, n)}
	t.Cleanup(func() {
		var wg sync.WaitGroup
		for _, c := range f.nodes {
			if c != nil {
				wg.Go(func() { f.kill(c) })
			}
		}
		wg.Wait()
	})
	begin := time.Now()
	f.nodes[0] = f.start(0, nil)
	join := []string{net.JoinHostPort("127.0.0.1", strconv.Itoa(f.nodes[0].mesh.GossipPort()))}
	for i := 1; i < n; i++ {
		f.nodes[i] = f.start(i, join)
	}
	f.converged("start", begin, *manyWithin)
	lead := slices.IndexFunc(f.nodes, func(c *Control) bool { return c.Leader().Self })
	begin = time.Now()
	var wg sync.WaitGroup
	for i := range n / 5 {
		at := (lead + i) % n
		c := f.nodes[at]
		f.nodes[at] = nil
		wg.Go(func() { f.kill(c) })
	}
	wg.Wait()
	f.converged(fmt.Sprintf("the loss of %d", n/5), begin, *manyWithin)
}

// kill ends a node that says no good-bye.
func (f *fleet) kill(c *Control) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := c.Stop(ctx); err != nil {
		f.t.Errorf("stop %s: %v", c.opts.ID, err)
	}
}
