package placement

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/cluster/placement/cost"
)

// seat is a device of a node that could hold a shard.
type seat struct {
	node   string
	host   string
	device string
	free   int64 // this node's share of what its machine has left
	speed  Speed
	has    bool
	must   bool
	whole  bool // takes whole models only
}

// spot is a node with its seats, of which a plan uses at most one.
type spot struct {
	node  string
	must  bool
	seats []*seat
}

// passed is why a node is not considered.
type passed struct{ node, why string }

// table is the work space of one call of Place.
type table struct {
	request Request
	sums    *cost.Sums
	cluster Cluster
	lines   map[[2]string]Line
	nodes   []Node // eligible, by id
	free    map[memory]int64
	out     []passed
	known   map[shape][]int   // results of endsOf
	needs   map[cut][][]int64 // of pieces, see needsOf
	steps   int               // visits of seats and layers: the measure of work
}

// memory is one budget: a device of a machine, whatever nodes run there.
type memory struct{ host, device string }

// budgets says what each memory has left: no more than what is available less
// what is promised and not yet taken, nor than what is not promised at all.
// Nodes of one machine may report at different times: the least counts, and
// one that is silent counts with its promises alone.
func budgets(nodes []Node) map[memory]int64 {
	type sum struct {
		available, total, reserved, pending int64
		told                                bool
	}
	all := map[memory]*sum{}
	for _, n := range nodes {
		for _, d := range n.Devices {
			key := memory{n.host(), d.ID}
			s := all[key]
			if s == nil {
				s = &sum{available: d.Available, total: d.Total}
				all[key] = s
			}
			switch told := !n.Reported.IsZero(); {
			case told && !s.told:
				s.available, s.told = d.Available, true
			case told == s.told:
				s.available = min(s.available, d.Available)
			}
			s.total = min(s.total, d.Total)
			s.reserved, s.pending = s.reserved+d.Reserved, s.pending+d.Pending
		}
	}
	free := make(map[memory]int64, len(all))
	for key, s := range all {
		free[key] = max(min(s.available-s.pending, s.total-s.reserved), 0)
	}
	return free
}

// line is the connection of two seats.
func (t *table) line(a, b *seat) Line {
	t.steps++
	if l, ok := t.lines[pair(a.node, b.node)]; ok {
		return l
	}
	if a.host == b.host {
		return t.cluster.Local
	}
	return t.cluster.Default
}

func pair(a, b string) [2]string { return [2]string{min(a, b), max(a, b)} }

func newTable(c Cluster, r Request, now time.Time) (*table, error) {
	t := &table{request: r, sums: cost.NewSums(r.Model, cost.Use{Context: r.Context, Slots: r.Slots, Batch: r.Batch}), cluster: c, lines: make(map[[2]string]Line, len(c.Links)), free: budgets(c.Nodes), known: map[shape][]int{}, needs: map[cut][][]int64{}}
	if t.cluster.Default == (Line{}) {
		t.cluster.Default = DefaultLine
	}
	if t.cluster.Local == (Line{}) {
		t.cluster.Local = LocalLine
	}
	for _, l := range c.Links {
		if l.Latency < 0 || !(l.Bandwidth > 0) {
			return nil, &InvalidError{fmt.Sprintf("the link of %s and %s has latency %g and bandwidth %g; measure it again", l.A, l.B, l.Latency, l.Bandwidth)}
		}
		key := pair(l.A, l.B)
		// Of two measurements the slower counts, whatever their order.
		if old, ok := t.lines[key]; ok {
			l.Line = Line{max(l.Latency, old.Latency), min(l.Bandwidth, old.Bandwidth)}
		}
		t.lines[key] = l.Line
	}
	known := map[string]bool{}
	told := slices.ContainsFunc(c.Nodes, func(n Node) bool { return !n.Reported.IsZero() })
	for _, n := range c.Nodes {
		if known[n.ID] {
			return nil, &InvalidError{fmt.Sprintf("node %s is listed twice", n.ID)}
		}
		known[n.ID] = true
		why := t.whyNot(n, now)
		if why == "" && told && n.Reported.IsZero() {
			why = "it does not answer when it is asked for its free memory"
		}
		if why != "" {
			t.out = append(t.out, passed{n.ID, why})
			continue
		}
		n.Host = n.host()
		t.nodes = append(t.nodes, n)
	}
	slices.SortFunc(t.nodes, func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(t.out, func(a, b passed) int { return cmp.Compare(a.node, b.node) })
	for _, id := range r.Require {
		if !known[id] {
			return nil, &NodeError{Node: id, Why: "there is no such node"}
		}
		if i := slices.IndexFunc(t.out, func(p passed) bool { return p.node == id }); i >= 0 {
			return nil, &NodeError{Node: id, Why: t.out[i].why}
		}
	}
	if have := len(t.nodes); have < r.MinNodes {
		return nil, &NotEnoughNodesError{Want: r.MinNodes, Have: have, Passed: t.passedOver()}
	}
	return t, nil
}

// whyNot says why a node gets nothing; "" if it may.
func (t *table) whyNot(n Node, now time.Time) string {
	switch {
	case !n.Worker:
		return "it runs no shards (--no-worker)"
	case n.Draining:
		return "it is being drained; resume it first"
	case slices.Contains(t.request.Exclude, n.ID):
		return "it is excluded"
	case t.cluster.Fresh > 0 && now.Sub(n.Reported) > t.cluster.Fresh:
		return fmt.Sprintf("its last report is %v old", now.Sub(n.Reported).Round(time.Second))
	case !n.Has && !n.Downloads:
		return "the model's files are not there, and it fetches none (--no-downloads)"
	case !slices.ContainsFunc(n.Devices, func(d Device) bool { return d.Speed.Usable() }):
		return "its speed is not measured yet"
	}
	return ""
}

// spots lists the nodes that may be used together, by id. Nodes of one machine
// share its memory: unless every is set, only one of each machine is listed (or
// those that are required), so that nothing is lost to a second process there.
func (t *table) spots(every bool) []spot {
	hosts := map[string][]Node{}
	var names []string
	for _, n := range t.nodes {
		if hosts[n.Host] == nil {
			names = append(names, n.Host)
		}
		hosts[n.Host] = append(hosts[n.Host], n)
	}
	var out []spot
	for _, host := range names {
		all := hosts[host]
		use := all
		if !every && len(use) > 1 {
			use = slices.DeleteFunc(slices.Clone(use), func(n Node) bool { return !slices.Contains(t.request.Require, n.ID) })
			if len(use) == 0 {
				// Nodes that have the files first; then by id.
				use = all[:1]
				if i := slices.IndexFunc(all, func(n Node) bool { return n.Has }); i > 0 {
					use = all[i : i+1]
				}
			}
		}
		for _, n := range use {
			s := spot{node: n.ID, must: slices.Contains(t.request.Require, n.ID)}
			for _, d := range n.Devices {
				if d.Speed.Usable() {
					s.seats = append(s.seats, &seat{node: n.ID, host: host, device: d.ID, free: t.free[memory{host, d.ID}] / int64(len(use)), speed: d.Speed, has: n.Has, must: s.must, whole: d.Whole})
				}
			}
			// The faster device first.
			slices.SortFunc(s.seats, func(a, b *seat) int {
				return cmp.Or(cmp.Compare(b.speed.Bandwidth, a.speed.Bandwidth), cmp.Compare(a.device, b.device))
			})
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b spot) int { return cmp.Compare(a.node, b.node) })
	return out
}

// cuttable leaves the seats that take a part of a model; false if a required
// node has none.
func cuttable(spots []spot) ([]spot, bool) {
	var out []spot
	for _, s := range spots {
		if slices.ContainsFunc(s.seats, func(x *seat) bool { return x.whole }) {
			s.seats = slices.DeleteFunc(slices.Clone(s.seats), func(x *seat) bool { return x.whole })
		}
		switch {
		case len(s.seats) > 0:
			out = append(out, s)
		case s.must:
			return nil, false
		}
	}
	return out, true
}

// crowded tells whether machines have several nodes, so that spots(true)
// differs from spots(false).
func (t *table) crowded() bool {
	seen := map[string]bool{}
	for _, n := range t.nodes {
		if seen[n.Host] {
			return true
		}
		seen[n.Host] = true
	}
	return false
}

// fits tells whether a piece goes into so much memory.
func (t *table) fits(p cost.Piece, free int64) bool {
	t.steps++
	return cost.Headroom(t.sums.Memory(p).Total) <= free
}

// order sorts all seats of spots; required nodes come first. Of a node only
// its first seat in the order is kept.
func (t *table) order(spots []spot, less func(a, b *seat) int) []*seat {
	var all []*seat
	for _, s := range spots {
		all = append(all, s.seats...)
	}
	t.steps += len(all)
	slices.SortFunc(all, func(a, b *seat) int {
		if a.must != b.must {
			if a.must {
				return -1
			}
			return 1
		}
		d := less(a, b)
		if d == 0 && a.has != b.has {
			d = 1
			if a.has {
				d = -1
			}
		}
		return cmp.Or(d, cmp.Compare(a.node, b.node), cmp.Compare(a.device, b.device))
	})
	seen := map[string]bool{}
	return slices.DeleteFunc(all, func(s *seat) bool {
		twice := seen[s.node]
		seen[s.node] = true
		return twice
	})
}
