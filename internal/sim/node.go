package sim

import (
	"maps"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/election"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/cluster/plan"
	"github.com/skein-run/skein/internal/cluster/reconcile"
	"github.com/skein-run/skein/internal/ids"
)

// node is one node: its disk, and its process while it is up.
type node struct {
	w    *World
	opts NodeOptions

	// The disk.
	durable election.Durable
	entries []cluster.Event // the log: entry i has index i+1
	states  []cluster.State // [i]: after i entries; what a log gives is certain
	files   map[string]bool // parts of models that were fetched
	full    bool            // there is no room for entries

	gone bool // it was destroyed
	up   bool
	life int // counts starts and stops: what was begun in another life is void

	// The process.
	el      *election.Machine
	unsaved *election.Durable // there was no room for it
	woken   time.Time         // when the election's next deadline is looked at
	leader  election.Leader
	members map[ids.Node]int // peers, and the life they were seen in
	causes  map[ids.Node]string
	unfit   map[ids.Node]bool // peers that can't write
	failed  bool              // it could not write, and tries again
	drops   map[ids.Node]int  // how often a peer was given up: its connections are closed then

	applied uint64
	copying *stream           // from the master
	term    *term             // while this node is master
	lost    []command.Command // to be offered
	offered int               // number of the one that is on its way; 0: none is
	early   []func()          // commands that wait for the term to serve

	told    bool // the worker is to look at its plans
	session ids.Session
	local   map[plan.Key]*local
	facts   bool // its facts are on their way
	memory  reconcile.Memory
	keeping bool      // a decision is being carried out
	poked   bool      // the keeper is to decide
	asking  bool      // vitals are asked for
	wake    time.Time // the keeper's next one by itself
}

func newNode(w *World, o NodeOptions) *node {
	if o.Host == "" {
		o.Host = "host of " + string(o.ID)
	}
	return &node{w: w, opts: o, states: []cluster.State{{}}, files: map[string]bool{}}
}

// after has something happen in this life.
func (n *node) after(d time.Duration, do func()) {
	life := n.life
	n.w.after(d, func() {
		if n.life == life {
			do()
		}
	})
}

// clock is what the node takes for the time.
func (n *node) clock() time.Time { return n.w.now.Add(n.opts.Skew) }

func (n *node) start() {
	n.up, n.life = true, n.life+1
	n.members, n.causes, n.drops = map[ids.Node]int{}, map[ids.Node]string{}, map[ids.Node]int{}
	n.unfit, n.failed = map[ids.Node]bool{}, false
	n.leader, n.copying, n.term, n.lost, n.offered, n.early = election.Leader{}, nil, nil, nil, 0, nil
	n.local, n.memory = map[plan.Key]*local{}, reconcile.Memory{}
	n.unsaved = nil
	n.told, n.facts, n.keeping, n.poked, n.asking, n.wake, n.woken = false, false, false, false, false, time.Time{}, time.Time{}
	n.applied = uint64(len(n.entries))
	c := election.Config{ID: n.opts.ID, Candidate: !n.opts.NoMaster, Force: n.opts.Force, Durable: n.durable, Timeout: election.DefaultTimeout, Quiet: election.DefaultQuiet}
	if !n.opts.NoGrace {
		c.Grace = 1500 * time.Millisecond
	}
	m, err := election.New(c)
	if err != nil {
		n.w.broken("%s: %v", n.opts.ID, err)
		return
	}
	n.el = m
	m.Seen(n.applied)
	m.Start(n.clock())
	n.elect()
	n.changed()
}

func (n *node) stop() {
	n.up, n.life = false, n.life+1
	n.el, n.term, n.copying, n.local = nil, nil, nil, nil
	n.gave()
}

// look finds out whether a peer is there, as the mesh does.
func (n *node) look(peer ids.Node) {
	p := n.w.nodes[peer]
	seen, was := n.members[peer]
	now := n.w.reach(n.opts.ID, peer)
	if was && (!now || seen != p.life) {
		delete(n.members, peer)
		n.drops[peer]++
		if n.term != nil {
			delete(n.term.streams, peer)
		}
		n.causes[peer] = "it does not answer"
		n.el.Leave(peer, n.clock())
		n.elect()
		if n.copying != nil && n.copying.from == peer {
			n.copying.broken = true
		}
	}
	if now && (!was || seen != p.life) {
		n.members[peer] = p.life
		delete(n.causes, peer)
		n.el.Join(peer, n.clock())
		n.elect()
	}
	if n.term != nil {
		n.settle()
	}
	n.poke()
}

// elect carries out what the election wants.
func (n *node) elect() {
	r := n.el.Ready()
	if r.Durable != nil {
		n.unsaved = r.Durable
	}
	if n.unsaved != nil && !n.full { // else it goes on, and tries again
		n.durable, n.unsaved = *n.unsaved, nil
	}
	if r.Unfit != nil {
		clear(n.unfit)
		for _, peer := range *r.Unfit {
			n.unfit[peer] = true
		}
		if n.term != nil {
			n.settle()
		}
	}
	for _, msg := range r.Messages {
		n.w.send(n.opts.ID, msg.To, func(to *node) {
			to.el.Step(msg.Status, to.clock())
			to.elect()
		})
	}
	if at, ok := n.el.Deadline(); ok && !at.Equal(n.woken) {
		n.woken = at
		n.after(at.Sub(n.clock()), func() {
			n.el.Tick(n.clock())
			n.woken = time.Time{}
			n.elect()
		})
	}
	if r.Leader != nil && *r.Leader != n.leader {
		n.lead(*r.Leader)
	}
}

// lead ends one term and begins the next.
func (n *node) lead(l election.Leader) {
	n.leader = l
	if l.Self && !n.opts.NoMaster || !l.Live {
		n.w.note("%s: %v, live %v", n.opts.ID, l.Session, l.Live)
	}
	if l.Self && n.opts.NoMaster {
		n.w.broken("%s leads and is no candidate", n.opts.ID)
	}
	n.copying, n.term = nil, nil
	n.early, n.offered, n.keeping, n.asking = nil, 0, false, false
	switch {
	case !l.Live:
	case l.Self:
		n.memory = reconcile.Memory{}
		n.reign()
	default:
		n.follow()
	}
}

// state is the applied one.
func (n *node) state() cluster.State { return n.states[n.applied] }

// changed follows a change of the applied state.
func (n *node) changed() {
	n.el.Seen(n.applied)
	if s := n.state().Session; s != n.session {
		// The new master may not have what the old one was told.
		n.session = s
		for _, l := range n.local {
			l.Told, l.clearAt = cluster.ShardReported{}, 0
		}
	}
	n.glance()
	n.poke()
}

// glance lets the worker look at its plans, once for all changes of a moment.
func (n *node) glance() {
	if !n.told {
		n.told = true
		n.after(time.Millisecond, func() {
			n.told = false
			n.introduce()
			n.work()
		})
	}
}

// self is what the node tells of itself.
func (n *node) self() cluster.Node {
	return cluster.Node{ID: n.opts.ID, Host: n.opts.Host, Worker: !n.opts.NoWorker, Candidate: !n.opts.NoMaster, API: true, Downloads: true,
		Devices: []placement.Device{{Total: n.opts.Memory, Speed: placement.Speed{Bandwidth: 1e10, Compute: 1e12}}}}
}

// introduce tells the master who this node is and what files it has, if the
// state does not say so.
func (n *node) introduce() {
	if n.facts || !n.leader.Live {
		return
	}
	s := n.state()
	var news []cluster.Change
	if me, ok := s.Nodes[n.opts.ID]; !ok || !me.Online {
		news = append(news, cluster.NodeSeen{Node: n.self()})
	}
	for _, m := range n.opts.Models {
		if !slices.Contains(s.Models[m.Name].Holders, n.opts.ID) {
			news = append(news, cluster.ModelKnown{Model: m.model(n.opts.ID)})
		}
	}
	if len(news) == 0 {
		return
	}
	c, err := command.Batch("", news)
	if err != nil {
		n.w.broken("%s: %v", n.opts.ID, err)
		return
	}
	n.facts = true
	n.submit(c, func(_ answer, err error) {
		n.after(n.w.between(50*time.Millisecond, 500*time.Millisecond), func() {
			n.facts = false
			n.introduce() // nothing to say, if it arrived
		})
	})
}

// model is what the cluster knows of a model's file.
func (m Model) model(holder ids.Node) cluster.Model {
	weights := placement.Part{Shared: m.Bytes}
	out := cluster.Model{Name: m.Name, Files: []cluster.File{{Name: m.Name + ".gguf", Size: m.Bytes * int64(m.Layers), SHA256: "00"}}, Holders: []ids.Node{holder}}
	out.Profile = placement.Model{Embedding: 64, Vocabulary: 256, Units: 1, NoTensor: "its heads hang together"}
	for range m.Layers {
		out.Profile.Layers = append(out.Profile.Layers, placement.Layer{Weights: weights, Read: weights, Flops: 1e6, Cell: placement.Part{Shared: 64}})
	}
	return out
}

// peers are the members, sorted.
func (n *node) peers() []ids.Node { return slices.Sorted(maps.Keys(n.members)) }
