package sim

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/ids"
)

// Report is what a random run came to.
type Report struct {
	Seed     uint64
	Single   bool // one fault at a time
	Events   int
	Kinds    map[string]int // how many of each kind of event
	Acked    int
	Filled   int      // disks that were found full
	Problems []string // invariants that do not hold; nil: all do
	Log      []string
}

// limit is how long a cluster may take to come to rest.
const limit = 5 * time.Minute

// Random runs a cluster that a seed draws through faults and commands that it
// draws, and checks everything. In every second seed there is one fault at a
// time, each over before the next: there no acknowledged command may be lost.
// In the others anything happens at any time.
func Random(seed uint64, log bool) Report {
	rng := rand.New(rand.NewPCG(seed, 0x72616e646f6d))
	o := draw(rng, seed)
	o.Log = log
	r := &randomRun{rng: rng, World: New(o), Report: Report{Seed: seed, Single: seed%2 == 0}}
	r.run()
	r.Problems = append(r.Problems, r.Wrong()...)
	r.Acked, r.Filled, r.Log = len(r.acked), r.filled, r.log
	return r.Report
}

type randomRun struct {
	*World
	Report
	rng    *rand.Rand
	filled int
	lost   bool // a node was destroyed
}

// draw makes a cluster.
func draw(rng *rand.Rand, seed uint64) Options {
	o := Options{Seed: seed, Bytes: rng.IntN(16) == 0, LoadFails: []int{0, 0, 30, 200}[rng.IntN(4)], Crashes: []int{0, 0, 100}[rng.IntN(3)]}
	n := 1 + rng.IntN(6)
	candidates := false
	for i := range n {
		x := NodeOptions{ID: ids.Node(rune('a' + i)), Memory: int64(1+rng.IntN(8)) << 30,
			NoMaster: rng.IntN(8) == 0, NoWorker: rng.IntN(10) == 0, Force: rng.IntN(12) == 0, NoGrace: rng.IntN(4) == 0}
		if rng.IntN(5) == 0 {
			x.Host = "shared"
		}
		if rng.IntN(20) == 0 {
			x.Skew = time.Duration(rng.IntN(48)-24) * time.Hour
		}
		candidates = candidates || !x.NoMaster
		o.Nodes = append(o.Nodes, x)
	}
	o.Nodes[0].NoMaster = o.Nodes[0].NoMaster && candidates
	memory := int64(0)
	for _, x := range o.Nodes { // nodes of one host see one memory
		if x.Host == "shared" {
			memory = x.Memory
		}
	}
	for i := range o.Nodes {
		if o.Nodes[i].Host == "shared" {
			o.Nodes[i].Memory = memory
		}
	}
	for i := range 1 + rng.IntN(3) {
		m := Model{Name: fmt.Sprint("m", i), Layers: 1 + rng.IntN(6), Bytes: int64(200+rng.IntN(1000)) << 20, Fails: rng.IntN(8) == 0}
		for range 1 + rng.IntN(2) {
			holder := &o.Nodes[rng.IntN(n)]
			if !slices.Contains(holder.Models, m) {
				holder.Models = append(holder.Models, m)
			}
		}
	}
	return o
}

func (r *randomRun) pick() ids.Node { return r.names[r.rng.IntN(len(r.names))] }

func (r *randomRun) run() {
	for _, id := range r.names {
		r.Start(id)
		if r.rng.IntN(2) == 0 {
			r.Run(r.between(0, 3*time.Second))
		}
	}
	if r.rng.IntN(3) > 0 {
		r.Run(5 * time.Second)
	}
	for range 4 + r.rng.IntN(20) {
		if len(r.Wrong()) > 0 {
			return
		}
		if r.rng.IntN(2) == 0 {
			r.order()
		} else if r.Single {
			r.single()
		} else {
			r.fault()
		}
		r.Run(r.between(0, 3*time.Second))
	}
	for _, id := range r.names {
		r.Fill(id, false)
	}
	r.rest("in its parts")
	r.Heal()
	for _, id := range r.names {
		r.Start(id)
	}
	r.rest("healed")
	if len(r.Wrong()) > 0 || len(r.Problems) > 0 {
		return
	}
	r.Problems = append(r.Problems, r.replayed()...)
	r.Problems = append(r.Problems, r.Swapped(r.witness())...)
	if r.Single {
		r.Problems = append(r.Problems, r.Kept(r.witness())...)
	}
	log := r.nodes[r.witness()].entries
	r.Events, r.Kinds = len(log), map[string]int{}
	for _, e := range log {
		r.Kinds[cluster.KindOf(e.Change)]++
	}
}

// replayed reads every log again, those that are equal once: that all live
// states are equal has been seen.
func (r *randomRun) replayed() (problems []string) {
	var read [][]cluster.Event
	for _, id := range r.names {
		n := r.nodes[id]
		if n.gone || slices.ContainsFunc(read, func(log []cluster.Event) bool { return reflect.DeepEqual(log, n.entries) }) {
			continue
		}
		read = append(read, n.entries)
		if text := r.Replayed(id); text != "" {
			problems = append(problems, text)
		}
	}
	return problems
}

// witness is a node that is up.
func (r *randomRun) witness() ids.Node {
	return r.names[slices.IndexFunc(r.names, func(id ids.Node) bool { return r.nodes[id].up })]
}

// order has a client ask for something.
func (r *randomRun) order() {
	at := r.pick()
	var models []string
	for _, n := range r.opts.Nodes {
		for _, m := range n.Models {
			models = append(models, m.Name)
		}
	}
	model := models[r.rng.IntN(len(models))]
	switch r.rng.IntN(8) {
	case 6, 7:
		r.Swap(at, models[r.rng.IntN(len(models))], model)
	case 0:
		r.Unload(at, model)
	case 1:
		r.Change(at, cluster.NodeDrained{Node: r.pick(), Resume: r.rng.IntN(2) == 0})
	default:
		r.Load(at, command.Load{Model: model, Replicas: r.rng.IntN(3), MinNodes: r.rng.IntN(6) / 3}, r.rng.IntN(4) > 0)
	}
}

// sides draws a cut.
func (r *randomRun) sides() [][]ids.Node {
	out := make([][]ids.Node, 2+r.rng.IntN(2))
	hosts := map[string]int{} // no cut goes through a machine
	for _, id := range r.names {
		k, ok := hosts[r.nodes[id].opts.Host]
		if !ok {
			k = r.rng.IntN(len(out))
			hosts[r.nodes[id].opts.Host] = k
		}
		out[k] = append(out[k], id)
	}
	return out
}

// fault is anything at any time.
func (r *randomRun) fault() {
	switch r.rng.IntN(9) {
	case 7, 8:
		r.Fill(r.pick(), r.rng.IntN(3) > 0)
	case 0, 1:
		r.Crash(r.pick())
	case 2:
		r.Start(r.pick())
	case 3:
		r.Cut(r.sides()...)
	case 4:
		r.Heal()
	case 5:
		r.Promote(r.pick(), r.pick())
	case 6: // off and on again, quicker than anybody may notice
		id := r.pick()
		r.Crash(id)
		r.Run(r.between(0, 200*time.Millisecond))
		r.Start(id)
	}
}

// single is one fault, with commands meanwhile, and its end.
func (r *randomRun) single() {
	during := func() {
		for range r.rng.IntN(4) {
			r.order()
			r.Run(r.between(0, 2*time.Second))
		}
	}
	switch r.rng.IntN(6) {
	case 5:
		id := r.pick()
		r.Fill(id, true)
		r.order()
		during()
		r.Run(5 * time.Second)
		r.handedOver(id)
		during()
		r.Fill(id, false)
	case 4:
		if r.lost || len(r.names) < 3 {
			return
		}
		r.lost = true
		for range r.rng.IntN(4) {
			r.order()
		}
		r.Run(r.between(0, 50*time.Millisecond))
		r.Destroy(r.pick())
	case 0, 1:
		id := r.pick()
		r.order()
		r.Run(r.between(0, 50*time.Millisecond))
		r.Crash(id)
		during()
		r.Run(r.between(0, 5*time.Second))
		r.Start(id)
	case 2:
		r.Cut(r.sides()...)
		during()
		r.Run(r.between(0, 10*time.Second))
		r.Heal()
	case 3:
		r.Promote(r.pick(), r.pick())
	}
	during()
	r.rest("after a fault")
}

// handedOver holds that a node which found its disk full does not lead where
// another could.
func (r *randomRun) handedOver(id ids.Node) {
	n := r.nodes[id]
	if !n.up || !n.failed {
		return
	}
	r.filled++
	if !n.leader.Self {
		return
	}
	for peer := range n.members {
		if p := r.nodes[peer]; p.up && !p.failed && !p.opts.NoMaster {
			r.broken("%s leads with a full disk, and %s has room", id, peer)
		}
	}
}

// rest waits until the cluster is as it must be.
func (r *randomRun) rest(when string) {
	var wrong []string
	for begin := r.now; r.now.Sub(begin) < limit; {
		r.Run(5 * time.Second)
		if len(r.Wrong()) > 0 {
			return
		}
		if wrong = r.Settled(); len(wrong) == 0 {
			return
		}
	}
	for _, text := range wrong {
		r.broken("%s: %s", when, text)
	}
}
