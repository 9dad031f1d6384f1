package master

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/election"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/replica"
)

var term1 = election.Leader{Session: ids.Session{Master: "a", Clock: 1}, Live: true, Self: true}

// book is a replicated state of one node: commands are decided and applied at
// once, through their bytes.
type book struct {
	t testing.TB
	m replica.Machine[cluster.State]

	mu      sync.Mutex // guards what follows
	state   cluster.State
	session ids.Session
	changed chan struct{}
	refuse  error // what Submit says
	lag     bool  // readers see the state as it was
	old     cluster.State
}

func newBook(t testing.TB) *book {
	b := &book{t: t, m: Machine(time.Now, slog.New(slog.DiscardHandler)), session: term1.Session, changed: make(chan struct{})}
	b.must(b.m.Begin(b.session))
	return b
}

func (b *book) State() (cluster.State, uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lag {
		return b.old, b.old.Index
	}
	return b.state, b.state.Index
}

func (b *book) Changes() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

func (b *book) Submit(_ context.Context, c replica.Command) (replica.Answer, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse != nil {
		return replica.Answer{}, b.refuse
	}
	data, result, err := b.m.Decide(b.state, c, b.session)
	if err != nil {
		return replica.Answer{}, err
	}
	for _, d := range data {
		b.state = b.m.Apply(b.state, replica.Entry{Index: b.state.Index + 1, Session: b.session, Data: d})
	}
	if len(data) > 0 {
		b.note()
	}
	return replica.Answer{Result: result, Index: b.state.Index, Copies: 1}, nil
}

// note wakes those who wait. The caller holds mu.
func (b *book) note() {
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *book) must(c replica.Command) command.Result {
	b.t.Helper()
	r, err := answer(b.Submit(context.Background(), c))
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

func (b *book) change(c cluster.Change) {
	b.t.Helper()
	cmd, err := command.Of("", c)
	if err != nil {
		b.t.Fatal(err)
	}
	b.must(replica.Command(cmd))
}

// gauges answer for nodes.
type gauges struct {
	mu    sync.Mutex // guards what follows
	gb    map[ids.Node]int64
	asked int
	block chan struct{} // nil: answers at once
	err   error
}

func (g *gauges) Vitals(ctx context.Context, _ time.Time) (map[ids.Node]cluster.Vitals, error) {
	g.mu.Lock()
	g.asked++
	block, err, out := g.block, g.err, map[ids.Node]cluster.Vitals{}
	for id, gb := range g.gb {
		out[id] = cluster.Vitals{Devices: []cluster.DeviceVitals{{Total: gb << 30, Available: gb << 30}}}
	}
	g.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return out, err
}

func (g *gauges) Links() []placement.Link { return nil }

// cell is a cluster of nodes with 4 GB each, and a keeper on a.
type cell struct {
	*book
	*gauges
	keeper  *Keeper
	planner *Planner
}

func newCell(t testing.TB) *cell {
	c := &cell{book: newBook(t), gauges: &gauges{gb: map[ids.Node]int64{"a": 4, "b": 4, "c": 4}}}
	for _, id := range slices.Sorted(maps.Keys(c.gb)) {
		c.change(cluster.NodeSeen{Node: cluster.Node{ID: id, Worker: true, Downloads: true, Devices: []placement.Device{{Total: 4 << 30, Speed: placement.Speed{Bandwidth: 1e10, Compute: 1e12}}}}})
	}
	for name, layers := range map[string]int{"small": 2, "large": 6, "huge": 60} {
		m := cluster.Model{Name: name, Files: []cluster.File{{Name: name, SHA256: "00"}}, Holders: []ids.Node{"a"}, Profile: placement.Model{Embedding: 64, Units: 1, NoTensor: "its heads hang together"}}
		for range layers {
			weights := placement.Part{Shared: 1000 << 20}
			m.Profile.Layers = append(m.Profile.Layers, placement.Layer{Weights: weights, Read: weights, Cell: placement.Part{Shared: 64}})
		}
		c.change(cluster.ModelKnown{Model: m})
	}
	var err error
	if c.keeper, err = NewKeeper(KeeperOptions{Self: "a", State: c, Vitals: c, Logger: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	if c.planner, err = NewPlanner(PlannerOptions{State: c, Vitals: c, Context: 512, Slots: 1}); err != nil {
		t.Fatal(err)
	}
	c.keeper.Member("b", true, "")
	c.keeper.Member("c", true, "")
	return c
}

func load(model string) command.Load { return command.Load{Model: model} }

// nodes tells where something wanted is placed.
func (c *cell) nodes(wanted string) string {
	s, _ := c.State()
	var out []string
	for _, i := range command.Instances(s, wanted) {
		for _, x := range i.Shards {
			out = append(out, string(x.Node))
		}
	}
	return strings.Join(out, "+")
}

func TestKeeperPlacesAndReplaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		l := load("large")
		l.Context, l.Slots = 512, 1
		cmd, err := l.Command("w")
		if err != nil {
			t.Fatal(err)
		}
		c.must(replica.Command(cmd))
		time.Sleep(time.Minute) // fake time
		if got := c.nodes("w"); got != "" {
			t.Fatalf("placed on %s without a keeper", got)
		}
		c.keeper.Lead(term1)
		synctest.Wait()
		if got := c.nodes("w"); got != "a+b" {
			t.Fatalf("placed on %q", got)
		}
		c.keeper.Member("b", false, "cable")
		synctest.Wait()
		s, _ := c.State()
		if n := s.Nodes["b"]; n.Online {
			t.Fatalf("%+v", n)
		}
		for id, i := range s.Instances { // a's shard is told to stop, and does
			if !strings.Contains(i.Releasing, "node b is gone: cable") {
				t.Errorf("releasing %q", i.Releasing)
			}
			c.change(cluster.ShardReported{Instance: id, Shard: 0, Phase: cluster.Stopped})
		}
		synctest.Wait()
		if got := c.nodes("w"); got != "a+c" {
			t.Errorf("placed again on %q: %+v", got, s.Wanted)
		}
		c.keeper.Stop()
		c.keeper.Member("c", false, "gone")
		synctest.Wait()
		if s, _ := c.State(); !s.Nodes["c"].Online {
			t.Error("a stopped keeper goes on")
		}
	})
}

// TestKeeperWaitsForItsTerm: it does not decide about a state that may be old.
func TestKeeperWaitsForItsTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		time.Sleep(time.Minute) // fake time: it has been there for long
		c.keeper.Member("c", false, "gone")
		second := election.Leader{Session: ids.Session{Master: "a", Clock: 2}, Live: true, Self: true}
		c.keeper.Lead(second)
		synctest.Wait()
		if s, _ := c.State(); !s.Nodes["c"].Online {
			t.Fatal("it decides before its term begins")
		}
		c.book.mu.Lock()
		c.session = second.Session
		c.book.mu.Unlock()
		c.must(c.m.Begin(second.Session))
		synctest.Wait()
		if s, _ := c.State(); s.Nodes["c"].Online {
			t.Error("it does not decide in its term")
		}
		c.keeper.Lead(election.Leader{Session: ids.Session{Master: "b", Clock: 3}, Live: true})
		c.keeper.Member("b", false, "gone")
		synctest.Wait()
		if s, _ := c.State(); !s.Nodes["b"].Online {
			t.Error("it decides after its term")
		}
	})
}

// TestSlowNodesDelayNothing: while nodes are asked for their memory, what needs
// no answer is done.
func TestSlowNodesDelayNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		c.block = make(chan struct{})
		l := load("small")
		l.Context, l.Slots = 512, 1
		cmd, err := l.Command("w")
		if err != nil {
			t.Fatal(err)
		}
		c.must(replica.Command(cmd))
		c.keeper.Lead(term1)
		time.Sleep(2 * time.Second) // fake time: its place is looked for
		synctest.Wait()
		c.keeper.Member("b", false, "cable")
		synctest.Wait()
		if s, _ := c.State(); s.Nodes["b"].Online {
			t.Error("a node's loss waits for slow nodes")
		}
		if c.asked != 1 {
			t.Errorf("asked %d times at once", c.asked)
		}
		close(c.block)
		synctest.Wait()
		if got := c.nodes("w"); got != "a" {
			t.Errorf("placed on %q", got)
		}
		c.keeper.Stop()
	})
}

// TestKeeperTriesAgain: what can't be written is tried until it is, without
// haste.
func TestKeeperTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		c.refuse = errors.New("disk full")
		c.keeper.Lead(term1)
		c.keeper.Member("b", false, "cable")
		time.Sleep(10 * time.Second) // fake time
		c.book.mu.Lock()
		c.refuse = nil
		c.book.mu.Unlock()
		time.Sleep(retry)
		synctest.Wait()
		if s, _ := c.State(); s.Nodes["b"].Online {
			t.Error("not tried again")
		}
		// Nodes that can't be asked: a problem, and on.
		c.gauges.mu.Lock()
		c.gauges.err = errors.New("no route")
		c.gauges.mu.Unlock()
		l := load("small")
		l.Context, l.Slots = 512, 1
		cmd, err := l.Command("w")
		if err != nil {
			t.Fatal(err)
		}
		c.must(replica.Command(cmd))
		time.Sleep(time.Minute)
		synctest.Wait()
		s, _ := c.State()
		if p := s.Wanted["w"].Problem; p == "" || c.asked > 10 {
			t.Errorf("problem %q, asked %d times in a minute", p, c.asked)
		}
		c.gauges.mu.Lock()
		c.gauges.err = nil
		c.gauges.mu.Unlock()
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if got := c.nodes("w"); got == "" {
			t.Error("not placed when nodes answer again")
		}
		c.keeper.Stop()
	})
}

func TestLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		p, err := c.planner.Plan(t.Context(), load("large"))
		if err != nil || len(p.Plans) != 1 || p.Plans[0].Explanation == "" || p.Load.Context != 512 {
			t.Fatalf("%+v, %v", p, err)
		}
		if s, _ := c.State(); len(s.Wanted)+len(s.Instances) > 0 {
			t.Error("a dry run changed the state")
		}
		p, err = c.planner.Load(t.Context(), "w", load("large"))
		if err != nil || c.nodes("w") != "a+b" || p.Copies != 1 || !slices.Equal(p.Result.Wanted, []string{"w"}) || len(p.Plans) != 1 {
			t.Fatalf("%+v, %v, on %q", p, err, c.nodes("w"))
		}
		for name, want := range map[string]string{"none": command.UnknownModel, "large": command.AlreadyLoaded, "huge": command.NoMemory} {
			_, err := c.planner.Load(t.Context(), "x"+name, load(name))
			var no *replica.Refusal
			if !errors.As(err, &no) || no.Code != want || no.Message == "" {
				t.Errorf("load %s: %v, want %s", name, err, want)
			}
			if _, err := c.planner.Plan(t.Context(), load(name)); !errors.As(err, &no) || no.Code != want {
				t.Errorf("dry run of %s: %v, want %s", name, err, want)
			}
		}
		l := load("small")
		l.Replicas = 2
		if p, err := c.planner.Load(t.Context(), "two", l); err == nil {
			t.Errorf("two replicas in the memory of one: %v", p.Load.Instances)
		}
		l.Replicas = 1
		if _, err := c.planner.Load(t.Context(), "one", l); err != nil || c.nodes("one") != "c" {
			t.Errorf("%v, on %q", err, c.nodes("one"))
		}
	})
}

// What has just ended may still be missing in what the nodes told lately: they
// are asked again before a load is refused.
func TestMemoryThatHasJustBeenFreed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		stale := &late{cell: c, gb: map[ids.Node]int64{}, until: time.Now()}
		planner, err := NewPlanner(PlannerOptions{State: c, Vitals: stale, Context: 512, Slots: 1})
		if err != nil {
			t.Fatal(err)
		}
		if p, err := planner.Load(t.Context(), "w", load("large")); err != nil || c.nodes("w") != "a+b" {
			t.Errorf("%+v, %v, on %q", p, err, c.nodes("w"))
		}
	})
}

// late tells what was so before a moment to who is content with that.
type late struct {
	*cell
	gb    map[ids.Node]int64
	until time.Time
}

func (l *late) Vitals(ctx context.Context, since time.Time) (map[ids.Node]cluster.Vitals, error) {
	if since.Before(l.until) {
		return (&gauges{gb: l.gb}).Vitals(ctx, since)
	}
	return l.cell.Vitals(ctx, since)
}

// TestLoadsAtOnceNeverOvercommit: of many loads at once those that fit are
// placed, and the others are refused for lack of memory.
func TestLoadsAtOnceNeverOvercommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		var wg sync.WaitGroup
		var mu sync.Mutex
		placed, refused := 0, 0
		for n := range 8 {
			wg.Go(func() {
				l := load("small")
				m := fmt.Sprintf("small%d", n)
				s, _ := c.State()
				known := s.Models["small"]
				known.Name = m
				c.change(cluster.ModelKnown{Model: known})
				l.Model = m
				_, err := c.planner.Load(t.Context(), m, l)
				mu.Lock()
				defer mu.Unlock()
				var no *replica.Refusal
				switch {
				case err == nil:
					placed++
				case errors.As(err, &no) && (no.Code == command.NoMemory || no.Code == command.StalePlan):
					refused++
				default:
					t.Errorf("load: %v", err)
				}
			})
		}
		wg.Wait()
		s, _ := c.State()
		by := map[ids.Node]int64{}
		for _, i := range s.Instances {
			for _, x := range i.Shards {
				by[x.Node] += x.Reserve
			}
		}
		for id, n := range by {
			if n > 4<<30 {
				t.Errorf("node %s: %d bytes are promised", id, n)
			}
		}
		if placed != 4 || refused != 4 {
			t.Errorf("%d placed, %d refused", placed, refused)
		}
	})
}

// TestLoadPlansAgain: a plan of an old state is refused by the master, and made
// again when the news arrive.
func TestLoadPlansAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		c.book.mu.Lock()
		c.lag, c.old = true, c.state
		c.book.mu.Unlock()
		if _, err := c.planner.Load(t.Context(), "one", load("small")); err != nil {
			t.Fatal(err)
		}
		second, _ := c.State()
		known := second.Models["small"]
		known.Name = "other"
		c.change(cluster.ModelKnown{Model: known})
		c.book.mu.Lock()
		c.old.Models = c.state.Models // knows the model, not the first load
		c.book.mu.Unlock()
		go func() {
			time.Sleep(100 * time.Millisecond) // fake time
			c.book.mu.Lock()
			c.lag = false
			c.note()
			c.book.mu.Unlock()
		}()
		begin := time.Now()
		if _, err := c.planner.Load(t.Context(), "two", load("other")); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took != 100*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		if c.nodes("one") == c.nodes("two") {
			t.Errorf("both on %s", c.nodes("one"))
		}
	})
}

// TestLoadOfWhatIsNotKnownHere: a node whose state lags plans when it has
// caught up, and takes no load without a place.
func TestLoadOfWhatIsNotKnownHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		known := c.state.Models["small"]
		known.Name = "new"
		c.book.mu.Lock()
		c.lag, c.old = true, c.state
		c.book.mu.Unlock()
		c.change(cluster.ModelKnown{Model: known})
		go func() {
			time.Sleep(100 * time.Millisecond) // fake time
			c.book.mu.Lock()
			c.lag = false
			c.note()
			c.book.mu.Unlock()
		}()
		p, err := c.planner.Load(t.Context(), "new", load("new"))
		if err != nil || len(p.Plans) != 1 || len(p.Result.Instances) != 1 {
			t.Fatalf("%+v, %v", p, err)
		}
	})
}

// TestLoadOnANodeThatJoins: a node that answers already and is not in the
// state yet is waited for; one that nobody knows is not.
func TestLoadOnANodeThatJoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		c.gb["new"] = 4
		go func() {
			time.Sleep(100 * time.Millisecond) // fake time
			n := c.state.Nodes["a"]
			n.ID = "new"
			c.change(cluster.NodeSeen{Node: n})
		}()
		l := load("small")
		l.Require = []ids.Node{"new"}
		if _, err := c.planner.Load(t.Context(), "w", l); err != nil || !strings.Contains(c.nodes("w"), "new") {
			t.Fatalf("%v, on %q", err, c.nodes("w"))
		}
		l.Model, l.Require = "large", []ids.Node{"z"}
		begin := time.Now()
		_, err := c.planner.Load(t.Context(), "x", l)
		var no *replica.Refusal
		if !errors.As(err, &no) || no.Code != command.UnknownNode || time.Since(begin) > 0 {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		c.gb["newer"] = 4
		go func() {
			time.Sleep(100 * time.Millisecond) // fake time
			n := c.state.Nodes["a"]
			n.ID = "newer"
			c.change(cluster.NodeSeen{Node: n})
		}()
		l.Require, l.MinNodes = nil, 5
		if _, err = c.planner.Load(t.Context(), "y", l); errors.As(err, &no) && no.Code == command.NotEnoughNodes {
			t.Errorf("five nodes are there: %v", err)
		}
		l.MinNodes = 6
		begin = time.Now()
		if _, err = c.planner.Load(t.Context(), "z", l); !errors.As(err, &no) || no.Code != command.NotEnoughNodes || time.Since(begin) > 0 {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
	})
}

// TestMachineReadsOldAndOdd: entries that can't be read count and change
// nothing else, so that those after them are in order.
func TestMachineReadsOldAndOdd(t *testing.T) {
	b := newBook(t)
	for _, data := range []string{"garbage", `{"v":99,"index":2}`, `{"v":1,"index":7,"session":{"master_node_id":"a","clock":1},"kind":"session_began","change":{}}`} {
		before := b.state
		b.state = b.m.Apply(b.state, replica.Entry{Index: b.state.Index + 1, Session: b.session, Data: []byte(data)})
		if b.state.Index != before.Index+1 || len(b.state.Nodes) > 0 {
			t.Errorf("%s: %+v", data, b.state)
		}
		if c := b.m.Undo([]replica.Entry{{Index: b.state.Index, Session: b.session, Data: []byte(data)}}); len(c) > 0 {
			t.Errorf("%s is offered", data)
		}
	}
	b.change(cluster.NodeSeen{Node: cluster.Node{ID: "a"}})
	if _, ok := b.state.Nodes["a"]; !ok {
		t.Error("nothing is taken after entries that can't be read")
	}
	snapshot, err := b.m.Encode(b.state)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := b.m.Decode(snapshot); err != nil || s.Index != b.state.Index {
		t.Errorf("%+v, %v", s, err)
	}
}
