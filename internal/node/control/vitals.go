package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/shirou/gopsutil/v4/host"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/hostinfo"
	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/replica"
	"github.com/skein-run/skein/internal/worker/executor"
)

// gauges ask nodes what is not in the state.
type gauges struct {
	c     *Control
	begun time.Time
	meter *hostinfo.Meter

	mu     sync.Mutex // guards what follows
	known  map[ids.Node]cluster.Vitals
	lines  map[ids.Node]placement.Line // from this node
	asked  time.Time                   // when known was gathered
	from   []ids.Node                  // the peers that were asked for it
	asking chan struct{}
}

// fresh is how old an answer may be that nobody asked to be newer.
const (
	fresh    = time.Second
	askLimit = 300 * time.Millisecond
	// stale is how old the last answer may be of a live node that is too busy to
	// answer in time: without, it would count as one without memory.
	stale = 15 * time.Second
)

func newGauges(c *Control) *gauges {
	return &gauges{c: c, begun: time.Now(), meter: hostinfo.NewMeter(context.Background()), known: map[ids.Node]cluster.Vitals{}, lines: map[ids.Node]placement.Line{}}
}

// line notes what was measured.
func (g *gauges) line(to ids.Node, l placement.Line) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lines[to] = l
}

// Links implements master.Vitals: the lines that live nodes have measured, each
// once, as the slower of both ends saw it.
func (g *gauges) Links() []placement.Link {
	g.mu.Lock()
	defer g.mu.Unlock()
	lines := map[[2]string]placement.Line{}
	for from, v := range g.known {
		for to, l := range v.Links {
			pair := [2]string{min(string(from), string(to)), max(string(from), string(to))}
			if old, ok := lines[pair]; ok {
				l = placement.Line{Latency: max(l.Latency, old.Latency), Bandwidth: min(l.Bandwidth, old.Bandwidth)}
			}
			lines[pair] = l
		}
	}
	var out []placement.Link
	for pair, l := range lines {
		out = append(out, placement.Link{A: pair[0], B: pair[1], Line: l})
	}
	slices.SortFunc(out, func(a, b placement.Link) int { return cmp.Or(cmp.Compare(a.A, b.A), cmp.Compare(a.B, b.B)) })
	return out
}

// Vitals asks all live nodes, unless it was done since, or within a second. One
// that came meanwhile is asked: a load right after a join counts on it.
func (g *gauges) Vitals(ctx context.Context, since time.Time) (map[ids.Node]cluster.Vitals, error) {
	for {
		peers := g.c.peers()
		g.mu.Lock()
		if time.Since(g.asked) < fresh && g.asked.After(since) && slices.Equal(g.from, peers) {
			defer g.mu.Unlock()
			return maps.Clone(g.known), nil
		}
		if g.asking == nil {
			g.asking = make(chan struct{})
			g.mu.Unlock()
			g.ask(ctx)
			continue
		}
		asking := g.asking
		g.mu.Unlock()
		select {
		case <-asking:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Known gives what was gathered last, and has it gathered anew if that is old.
func (g *gauges) Known() map[ids.Node]cluster.Vitals {
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Since(g.asked) > fresh && g.asking == nil && len(g.c.peers()) > 0 {
		g.asking = make(chan struct{})
		g.c.wg.Go(func() { g.ask(g.c.ctx) })
	}
	return g.known // replaced, never changed
}

// ask gathers, and ends asking.
func (g *gauges) ask(ctx context.Context) {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	peers := g.c.peers()
	out := map[ids.Node]cluster.Vitals{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, p := range peers {
		wg.Go(func() {
			v, err := g.of(ctx, p)
			if err != nil {
				g.c.log.Debug("a node does not say how it is", "node", p, "error", err)
				return
			}
			v.At = time.Now()
			mu.Lock()
			out[p] = v
			mu.Unlock()
		})
	}
	own, err := g.own(ctx)
	wg.Wait()
	g.mu.Lock()
	for _, p := range peers {
		if old, ok := g.known[p]; ok && out[p].At.IsZero() && begin.Sub(old.At) < stale {
			out[p] = old
		}
	}
	g.mu.Unlock()
	if err != nil {
		g.c.log.Warn("this node can't be measured", "error", err)
	} else {
		out[g.c.opts.ID] = own
	}
	g.mu.Lock()
	g.known, g.asked, g.from = out, begin, peers
	close(g.asking)
	g.asking = nil
	g.mu.Unlock()
}

// of asks one peer.
func (g *gauges) of(ctx context.Context, node ids.Node) (v cluster.Vitals, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+string(node)+executor.VitalsPath, nil)
	if err != nil {
		return v, err
	}
	resp, err := g.c.http.Do(req)
	if err != nil {
		return v, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return v, fmt.Errorf("status %d", resp.StatusCode)
	}
	return v, json.NewDecoder(http.MaxBytesReader(nil, resp.Body, 4<<20)).Decode(&v)
}

// own measures this node.
func (g *gauges) own(ctx context.Context) (cluster.Vitals, error) {
	f, err := hostinfo.Read(ctx)
	if err != nil {
		return cluster.Vitals{}, err
	}
	v := cluster.Vitals{
		At: time.Now(), Uptime: time.Since(g.begun).Seconds(), Chip: f.Chip, OS: f.System, Addresses: addresses(),
		Devices: []cluster.DeviceVitals{{Name: f.Chip, Kind: "cpu", Total: int64(f.MemoryTotal), Available: int64(f.MemoryAvailable)}},
		Tasks:   g.c.tasks.List(),
	}
	if g.c.opts.Refusals != nil {
		v.Refusals = g.c.opts.Refusals()
	}
	v.Resumed, v.Lost = g.c.router.Losses()
	if err := g.c.replica.Failed(); err != nil {
		v.LogProblem = err.Error()
	}
	m := g.meter.Read(ctx)
	v.FastCores, v.EfficientCores, v.GPU, v.Temperature, v.Power = m.FastCores, m.EfficientCores, m.GPU, m.Temperature, m.Power
	pending := map[string]int64{}
	if g.c.executor != nil {
		pending = g.c.executor.Pending()
	}
	v.Devices = append(v.Devices, g.c.engine().vitals(m.GPUs, g.c.taken(pending))...)
	v.Connections, v.Thunderbolt, v.RDMA = m.Lines.Kinds, m.Lines.Thunderbolt, m.Lines.RDMA
	if d, err := hostinfo.Disk(ctx, g.c.place()); err == nil { // not every file system tells
		v.Disk = &cluster.Space{Total: int64(d.Total), Free: int64(d.Free)}
	}
	g.mu.Lock()
	v.Links = maps.Clone(g.lines)
	g.mu.Unlock()
	if g.c.executor != nil {
		g.c.executor.Fill(&v)
	}
	if g.c.files != nil {
		v.Downloads, v.Fetched = g.c.files.Downloads(), g.c.files.Fetched()
		v.Hashing = g.c.files.Hashing()
	}
	return v, nil
}

// place is the folder of this node's state.
func (c *Control) place() string {
	if c.opts.Dir != "" {
		return c.opts.Dir
	}
	return c.temp
}

func addresses() []string {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []string
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			out = append(out, n.IP.String())
		}
	}
	return out
}

// available is the memory that could be allocated now.
func available() (int64, error) {
	f, err := hostinfo.Read(context.Background())
	return int64(f.MemoryAvailable), err
}

func diskFree(dir string) (int64, error) {
	d, err := hostinfo.Disk(context.Background(), dir)
	return int64(d.Free), err
}

// facts are what the cluster knows of this node.
func (c *Control) facts(ctx context.Context) (cluster.Node, error) {
	f, err := hostinfo.Read(ctx)
	if err != nil {
		return cluster.Node{}, err
	}
	o := c.opts.Config.Cluster
	n := cluster.Node{
		ID: c.opts.ID, Name: c.opts.Name, Host: hostKey(ctx, c.opts.ID), Worker: !o.NoWorker, Candidate: o.Candidate(), API: !o.NoAPI,
		Downloads: !o.NoDownloads && !o.NoWorker, Version: c.opts.Version,
		Devices: append([]placement.Device{{Total: int64(f.MemoryTotal), Speed: c.machineSpeed(ctx, f)}}, c.engine().devices()...),
	}
	if c.mesh != nil {
		n.Address = net.JoinHostPort(c.mesh.Host(), fmt.Sprint(c.mesh.Port()))
	}
	return n, nil
}

// hostKey names the machine in its present boot: nodes that share it share its
// memory.
func hostKey(ctx context.Context, id ids.Node) string {
	machine, err := host.HostIDWithContext(ctx)
	if err != nil || machine == "" {
		return string(id)
	}
	boot, err := host.BootTimeWithContext(ctx)
	if err != nil {
		return machine
	}
	return fmt.Sprintf("%s/%d", machine, boot/60) // it may be off by a second between two readings
}

// announce tells the cluster what this node is, whenever the state says
// something else.
func (c *Control) announce() {
	pause := time.Duration(0)
	var want cluster.Node // what a run of a node is does not change
	for {
		changes := c.replica.Changes()
		var err error
		if want.ID == "" {
			want, err = c.facts(c.ctx)
		}
		if err != nil {
			c.log.Warn("this node can't be described to its cluster; it is tried again", "error", err)
			want = cluster.Node{}
		} else if state, _ := c.replica.State(); !announced(state, want) {
			err = c.submit(cluster.NodeSeen{Node: want})
		} else {
			pause = 0
			select {
			case <-changes:
				continue
			case <-c.ctx.Done():
				return
			}
		}
		var none *replica.NoMasterError
		if err != nil && !errors.As(err, &none) && c.ctx.Err() == nil {
			c.log.Debug("this node is not announced yet", "error", err)
		}
		pause = min(max(2*pause, 20*time.Millisecond), time.Second)
		t := time.NewTimer(pause)
		select {
		case <-changes:
		case <-t.C:
		case <-c.ctx.Done():
		}
		t.Stop()
		if c.ctx.Err() != nil {
			return
		}
	}
}

func announced(s cluster.State, want cluster.Node) bool {
	got, ok := s.Nodes[want.ID]
	if !ok || !got.Online {
		return false
	}
	got.Draining, got.Since, got.Online = want.Draining, want.Since, want.Online
	return reflect.DeepEqual(got, want)
}

// submit gives a change as a command.
func (c *Control) submit(change cluster.Change) error {
	cmd, err := command.Of("", change)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.ctx, 10*time.Second)
	defer cancel()
	_, err = c.replica.Submit(ctx, replica.Command(cmd))
	return err
}

func newID() string { return rand.Text() }
