// Package sim runs whole clusters without machines: election, ordering of
// commands, the master's decisions and the workers' plans, on a network and a
// clock that are made up. A seed repeats a run to the last message.
//
// What decides is the real thing (cluster/election, command, reconcile, plan).
// What carries it out is a model: the network delays, loses and orders messages
// as connections do; the order of commands follows package replica's rules
// without its goroutines; processes take their time, fail and die. It is for
// tests and is never part of the program. A World is one goroutine's.
package sim

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/ids"
)

// NodeOptions are a node's flags and machine.
type NodeOptions struct {
	ID       ids.Node
	NoMaster bool
	Force    bool
	NoWorker bool
	Host     string // "": of its own
	Memory   int64  // bytes, of its host
	Models   []Model
	// Skew is how wrong its clock is.
	Skew time.Duration
	// NoGrace: it knows of no peers, and does not wait for them when it starts.
	NoGrace bool
}

// Model is a file on a node: so many layers of so many bytes.
type Model struct {
	Name   string
	Layers int
	Bytes  int64 // of each layer
	Fails  bool  // the library refuses it
}

// Options make a World.
type Options struct {
	Seed  uint64
	Nodes []NodeOptions
	// Bytes sends every event through its written form. It is slower.
	Bytes bool
	// Log keeps a transcript.
	Log bool
	// LoadFails is how many of a thousand loads of a shard fail, Crashes how
	// many of a thousand loaded shards die some time later.
	LoadFails, Crashes int
}

// World is a simulated cluster.
type World struct {
	opts  Options
	rng   *rand.Rand
	begin time.Time
	now   time.Time
	queue queue
	count int // of happenings, so that those of one moment have an order

	nodes map[ids.Node]*node
	names []ids.Node // sorted
	group map[ids.Node]int
	links map[[2]ids.Node]*link

	acked map[string]acked // commands of clients that were acknowledged
	made  map[string]bool  // ids of commands that made events
	given int
	log   []string
	wrong []string // invariants that were broken
}

// acked is a command that a client holds for done.
type acked struct {
	command command.Command
	node    ids.Node // that was asked
	index   uint64
}

// New makes a World whose nodes are all down.
func New(o Options) *World {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	w := &World{opts: o, rng: rand.New(rand.NewPCG(o.Seed, 0x736b65696e)), begin: begin, now: begin,
		nodes: map[ids.Node]*node{}, group: map[ids.Node]int{}, links: map[[2]ids.Node]*link{}, acked: map[string]acked{}, made: map[string]bool{}}
	for _, n := range o.Nodes {
		w.nodes[n.ID] = newNode(w, n)
		w.names = append(w.names, n.ID)
	}
	slices.Sort(w.names)
	return w
}

// happening is something at a time.
type happening struct {
	at    time.Time
	order int
	do    func()
}

type queue []happening

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if c := q[i].at.Compare(q[j].at); c != 0 {
		return c < 0
	}
	return q[i].order < q[j].order
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(happening)) }
func (q *queue) Pop() any {
	old := *q
	x := old[len(old)-1]
	old[len(old)-1] = happening{}
	*q = old[:len(old)-1]
	return x
}

// after has something happen later.
func (w *World) after(d time.Duration, do func()) {
	w.count++
	heap.Push(&w.queue, happening{w.now.Add(max(d, 0)), w.count, do})
}

// Run lets time pass.
func (w *World) Run(d time.Duration) {
	end := w.now.Add(d)
	for len(w.queue) > 0 && !w.queue[0].at.After(end) && len(w.wrong) == 0 {
		h := heap.Pop(&w.queue).(happening)
		w.now = h.at
		h.do()
	}
	w.now = end
}

// between draws a time.
func (w *World) between(low, high time.Duration) time.Duration {
	return low + time.Duration(w.rng.Int64N(int64(high-low)+1))
}

// reach tells whether messages get from one node to another.
func (w *World) reach(a, b ids.Node) bool {
	x, y := w.nodes[a], w.nodes[b]
	return x.up && y.up && (a == b || w.group[a] == w.group[b])
}

// Start runs a node from what its disk holds.
func (w *World) Start(id ids.Node) {
	n := w.nodes[id]
	if n.up || n.gone {
		return
	}
	w.note("%s starts", id)
	n.start()
	w.meet(id)
}

// Crash kills a node. What it had on disk stays.
func (w *World) Crash(id ids.Node) {
	n := w.nodes[id]
	if !n.up {
		return
	}
	w.note("%s dies", id)
	n.stop()
	// Its connections break.
	for _, peer := range w.names {
		p := w.nodes[peer]
		if p.up {
			p.after(w.between(time.Millisecond, 150*time.Millisecond), func() { p.look(id) })
		}
	}
}

// Destroy kills a node for good, with its disk.
func (w *World) Destroy(id ids.Node) {
	w.note("%s is destroyed", id)
	w.Crash(id)
	w.nodes[id].gone = true
}

// Cut splits the network: nodes see those of their own side. Nodes that are
// named nowhere are a side of their own.
func (w *World) Cut(sides ...[]ids.Node) {
	was := w.group
	w.group = map[ids.Node]int{}
	for k, side := range sides {
		for _, id := range side {
			w.group[id] = k + 1
		}
	}
	w.note("the network is %v", sides)
	for _, a := range w.names {
		for _, b := range w.names {
			if n := w.nodes[a]; a != b && n.up {
				switch before, now := was[a] == was[b], w.group[a] == w.group[b]; {
				case before && !now: // no packet says so
					n.after(w.between(500*time.Millisecond, 2*time.Second), func() { n.look(b) })
				case !before && now:
					n.after(w.between(10*time.Millisecond, time.Second), func() { n.look(b) })
					w.resume(a, b)
				}
			}
		}
	}
}

// Heal joins all sides.
func (w *World) Heal() { w.Cut(w.names) }

// meet lets a node and its peers find each other.
func (w *World) meet(id ids.Node) {
	n := w.nodes[id]
	for _, peer := range w.names {
		if peer == id {
			continue
		}
		p := w.nodes[peer]
		n.after(w.between(time.Millisecond, 300*time.Millisecond), func() { n.look(peer) })
		if p.up {
			p.after(w.between(time.Millisecond, 300*time.Millisecond), func() { p.look(id) })
		}
	}
}

// note adds a line to the transcript.
func (w *World) note(format string, args ...any) {
	if w.opts.Log {
		w.log = append(w.log, fmt.Sprintf("%8.3fs  ", w.now.Sub(w.begin).Seconds())+fmt.Sprintf(format, args...))
	}
}

// Transcript gives the lines since the last call.
func (w *World) Transcript() []string {
	out := w.log
	w.log = nil
	return out
}

// broken notes that an invariant does not hold; the run ends there.
func (w *World) broken(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.note("BROKEN: %s", text)
	w.wrong = append(w.wrong, text)
}

// Wrong are the invariants that were broken.
func (w *World) Wrong() []string { return w.wrong }
