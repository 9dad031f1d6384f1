package reconcile

import (
	"slices"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/ids"
)

// tellFor is how long it is told why a swap was undone.
const tellFor = 10 * time.Minute

// swaps carries swaps on: one whose new model is ready is over, and one whose
// new model fails is undone.
func (p *pass) swaps() {
	for _, id := range sorted(p.state.Swaps) {
		w := p.state.Swaps[id]
		if w.Undone != "" {
			if at := w.Ended.Add(tellFor); p.Now.Before(at) {
				p.wake(at)
			} else {
				p.must(cluster.SwapForgotten{Swap: id})
			}
			continue
		}
		for _, i := range command.Instances(p.state, w.New.ID) {
			if i.Status() == "ready" {
				p.must(cluster.SwapEnded{Swap: id})
				break
			}
			if f := slices.IndexFunc(i.Shards, func(x cluster.Shard) bool { return x.Phase == cluster.Failed }); f >= 0 {
				p.must(cluster.SwapUndone{Swap: id, Cause: ending(f, i.Shards[f])})
				break
			}
		}
	}
}

// bring places what comes by a swap: where it was decided, as soon as there is
// room, and if that can't be any more, wherever it can. If it can't be anywhere,
// the swap is undone.
func (p *pass) bring(w cluster.Swap) {
	if !w.Placed && p.do(cluster.InstancePlaced{Instance: w.Place}) == nil {
		return
	}
	if !w.Overlap && p.goes(w) {
		return // its memory comes back when it has ended
	}
	if p.Vitals == nil {
		p.out.Ask = true
		return
	}
	if len(p.Vitals) == 0 {
		p.wake(p.Now.Add(firstPause)) // nobody could be asked
		return
	}
	plan, tokens, err := Plan(p.state, p.Vitals, p.Links, w.New, nil, p.Now)
	if err == nil {
		err = p.do(cluster.InstancePlaced{Instance: w.New.Instance(p.instanceID(w.New.ID), tokens, plan)})
	}
	switch {
	case err == nil:
	case p.Asked.Before(p.out.Memory.Freed):
		p.out.Ask = true // what was told is from before memory was given back
	case p.releasing():
		p.wake(p.Now.Add(firstPause)) // there will be more memory in a moment
	default:
		p.must(cluster.SwapUndone{Swap: w.ID, Cause: err.Error()})
	}
}

// goes tells whether anything of what a swap ends still runs.
func (p *pass) goes(w cluster.Swap) bool {
	for _, i := range p.state.Instances {
		if slices.ContainsFunc(w.Old, func(o cluster.Wanted) bool { return o.ID == i.Wanted }) && i.Memory() > 0 {
			return true
		}
	}
	return false
}

// SwapPlan finds a place for a model that takes the place of another. overlap
// tells that the place is free beside the old one, and about as good. Errors are those
// of Plan, about the memory that there is when the old one has ended.
func SwapPlan(s cluster.State, vitals map[ids.Node]cluster.Vitals, links []placement.Link, old []cluster.Wanted, next cluster.Wanted, now time.Time) (p placement.Plan, tokens int, overlap bool, err error) {
	beside, besideTokens, full := Plan(s, vitals, links, next, nil, now)
	without, freed := leave(s, vitals, old)
	if p, tokens, err = Plan(without, freed, links, next, nil, now); err != nil {
		return p, 0, false, err
	}
	if full == nil && besideTokens >= tokens && beside.Predicted.Decode >= nearly*p.Predicted.Decode {
		return beside, besideTokens, true, nil
	}
	return p, tokens, false, nil
}

// nearly is how fast a place beside the old model must be, of the best that there
// is without it: that nobody waits is worth a little speed.
const nearly = 0.95

// headroom is by how much more is promised than is needed; see placement.
const headroom = 1.1

// leave gives the state and the vitals as they will be when the instances of
// something wanted have ended. What they have taken is what they were promised,
// without the headroom.
func leave(s cluster.State, vitals map[ids.Node]cluster.Vitals, old []cluster.Wanted) (cluster.State, map[ids.Node]cluster.Vitals) {
	type memory struct{ host, device string }
	host := func(id ids.Node) string {
		if h := s.Nodes[id].Host; h != "" {
			return h
		}
		return string(id)
	}
	taken := map[memory]int64{}
	pending := map[ids.Node]map[string]int64{}
	instances := map[string]cluster.Instance{}
	for id, i := range s.Instances {
		if !slices.ContainsFunc(old, func(o cluster.Wanted) bool { return o.ID == i.Wanted }) {
			instances[id] = i
			continue
		}
		for _, x := range i.Shards {
			switch {
			case x.Phase.Ended():
			case x.Phase.Before(cluster.Loaded):
				if pending[x.Node] == nil {
					pending[x.Node] = map[string]int64{}
				}
				pending[x.Node][x.Device] += x.Reserve
			default:
				taken[memory{host(x.Node), x.Device}] += int64(float64(x.Reserve) / headroom)
			}
		}
	}
	s.Instances = instances
	out := map[ids.Node]cluster.Vitals{}
	for id, v := range vitals {
		v.Devices = slices.Clone(v.Devices)
		for k := range v.Devices {
			d := &v.Devices[k]
			d.Available = min(d.Available+taken[memory{host(id), d.ID}], max(d.Total, d.Available))
			d.Pending = max(0, d.Pending-pending[id][d.ID])
		}
		out[id] = v
	}
	return s, out
}
