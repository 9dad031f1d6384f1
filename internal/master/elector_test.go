package master

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skein-run/skein/internal/cluster/election"
	"github.com/skein-run/skein/internal/ids"
)

// values is a Storage in memory.
type values struct {
	mu sync.Mutex // guards m
	m  map[string][]byte
}

func (v *values) Get(name string) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.m[name], nil
}

func (v *values) Put(name string, b []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.m == nil {
		v.m = map[string][]byte{}
	}
	v.m[name] = b
	return nil
}

// net joins electors in memory.
type net struct {
	mu    sync.Mutex // guards what follows
	nodes map[ids.Node]*Elector
	disks map[ids.Node]*values
	deaf  map[ids.Node]bool // takes no messages
}

func newNet() *net {
	return &net{nodes: map[ids.Node]*Elector{}, disks: map[ids.Node]*values{}, deaf: map[ids.Node]bool{}}
}

func (n *net) send(_ context.Context, to ids.Node, s election.Status) error {
	n.mu.Lock()
	e, deaf := n.nodes[to], n.deaf[to]
	n.mu.Unlock()
	if e == nil || deaf {
		return errors.New("connection refused")
	}
	e.Receive(s)
	return nil
}

func (n *net) start(t *testing.T, id ids.Node, change func(*Options)) *Elector {
	t.Helper()
	if n.disks[id] == nil {
		n.disks[id] = &values{}
	}
	o := Options{ID: id, Candidate: true, Storage: n.disks[id], Send: n.send, Changed: func(election.Leader) {}, Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&o)
	}
	e, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	peers := slices.Sorted(maps.Keys(n.nodes))
	n.nodes[id] = e
	n.mu.Unlock()
	for _, p := range peers {
		e.Member(p, true)
		n.nodes[p].Member(id, true)
	}
	return e
}

func (n *net) kill(id ids.Node) {
	n.mu.Lock()
	e := n.nodes[id]
	delete(n.nodes, id)
	n.mu.Unlock()
	e.Stop()
	for _, p := range n.nodes {
		p.Member(id, false)
	}
}

func (n *net) stop() {
	for _, e := range n.nodes {
		e.Stop()
	}
}

func TestElectsAndSurvives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNet()
		defer n.stop()
		told := make(chan election.Leader, 10)
		n.start(t, "a", func(o *Options) { o.Changed = func(l election.Leader) { told <- l } })
		time.Sleep(time.Second)
		n.start(t, "b", func(o *Options) { o.Grace = time.Second })
		n.start(t, "c", func(o *Options) { o.Grace = time.Second })
		time.Sleep(5 * time.Second)
		first := n.nodes["a"].Leader()
		for id, e := range n.nodes {
			if l := e.Leader(); !l.Live || l.Session != first.Session {
				t.Fatalf("%s: %+v, a: %+v", id, l, first)
			}
		}
		if l := <-told; l.Session.Master != "a" || !l.Self {
			t.Errorf("told %+v", l)
		}
		master := first.Session.Master
		n.kill(master)
		begin := time.Now()
		synctest.Wait()
		for id, e := range n.nodes {
			if l := e.Leader(); !l.Live || l.Session.Master == master {
				t.Errorf("%s after %v: %+v", id, time.Since(begin), l)
			}
		}
		// The clock is on disk: what comes back is not older than its peers.
		e := n.start(t, master, func(o *Options) { o.Grace = time.Second })
		time.Sleep(5 * time.Second)
		if l := e.Leader(); !l.Live || l.Session != n.nodes["b"].Leader().Session && master != "b" {
			t.Errorf("the old master follows %+v", l)
		}
	})
}

func TestSilentMemberHoldsACampaignUpForItsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNet()
		defer n.stop()
		n.start(t, "a", nil)
		n.start(t, "b", nil)
		n.start(t, "c", nil)
		time.Sleep(3 * time.Second)
		master := n.nodes["a"].Leader().Session.Master
		var silent, other ids.Node
		for id := range n.nodes {
			if id == master {
				continue
			}
			if silent == "" {
				silent = id
			} else {
				other = id
			}
		}
		n.mu.Lock()
		n.deaf[silent] = true
		n.mu.Unlock()
		n.kill(master)
		time.Sleep(election.DefaultTimeout + 10*time.Millisecond)
		synctest.Wait()
		if l := n.nodes[other].Leader(); !l.Live {
			t.Errorf("%s: %+v", other, l)
		}
	})
}

// When a network heals the first messages may be lost in connections that broke
// meanwhile. They are sent again: else both masters would go on for ever.
func TestTwoMastersMeetThoughMessagesAreLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNet()
		defer n.stop()
		n.deaf["a"], n.deaf["b"] = true, true
		a, b := n.start(t, "a", nil), n.start(t, "b", nil)
		time.Sleep(3 * time.Second)
		if !a.Leader().Self || !b.Leader().Self {
			t.Fatalf("not two masters: %+v, %+v", a.Leader(), b.Leader())
		}
		n.mu.Lock()
		clear(n.deaf)
		n.mu.Unlock()
		time.Sleep(2 * time.Second)
		if x, y := a.Leader(), b.Leader(); x.Session != y.Session || x.Self == y.Self || !x.Live || !y.Live {
			t.Errorf("%+v, %+v", x, y)
		}
	})
}

func TestPromoteSaysWhyNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNet()
		defer n.stop()
		a := n.start(t, "a", nil)
		b := n.start(t, "b", nil)
		time.Sleep(3 * time.Second)
		if err := a.Promote(t.Context(), "nobody"); err == nil {
			t.Error("promoted nobody")
		}
		target := ids.Node("a")
		if a.Leader().Self {
			target = "b"
		}
		if err := b.Promote(t.Context(), target); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if l := a.Leader(); l.Session.Master != target {
			t.Errorf("%+v leads", l)
		}
	})
}

func TestMissingOptions(t *testing.T) {
	if _, err := Start(Options{ID: "a"}); err == nil {
		t.Error("started without a storage")
	}
}
