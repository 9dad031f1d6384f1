package reconcile

import (
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/ids"
)

// minContext is down to where the context is halved when memory is short.
const minContext = 512

// refresh is after how many misses the figures of a problem are told anew.
const refresh = 10

// place finds places for what has none and for what is to be moved, each in
// its turn. What can't be placed delays nothing else.
func (p *pass) place() {
	wanted := sorted(p.state.Wanted)
	slices.SortStableFunc(wanted, func(a, b string) int { return p.state.Wanted[a].Since.Compare(p.state.Wanted[b].Since) })
	for _, id := range wanted {
		w := p.state.Wanted[id]
		var moved cluster.Instance // runs, on a node that is being drained
		stays := false
		for _, i := range command.Instances(p.state, id) {
			switch {
			case !alive(i):
			case p.draining(i) == "":
				stays = true
			default:
				moved = i
			}
		}
		if stays {
			a := p.attempts[id]
			a.Misses, a.Again = 0, time.Time{}
			p.note(id, a)
			p.problem(w, "")
			continue
		}
		if swap, ok := p.state.SwapOf(id); ok && swap.New.ID == id && moved.ID == "" {
			p.bring(swap)
			continue
		}
		if _, still := p.state.Wanted[id]; still {
			p.one(w, moved)
		}
	}
}

// note keeps an attempt if there is something to remember.
func (p *pass) note(id string, a Attempt) {
	if a.Failures == 0 && a.Misses == 0 {
		delete(p.attempts, id)
		return
	}
	p.attempts[id] = a
}

// problem tells why something wanted does not run, if that is new.
func (p *pass) problem(w cluster.Wanted, text string) {
	if p.state.Wanted[w.ID].Problem != text {
		p.must(cluster.WantedProblem{Wanted: w.ID, Problem: text})
	}
}

// one places a wanted model if its time has come.
func (p *pass) one(w cluster.Wanted, moved cluster.Instance) {
	a, tried := p.attempts[w.ID]
	ground := p.nodes ^ files(p.state, w.Model)
	if a.Failures >= MaxFailures {
		if ground == a.ground {
			p.problem(w, fmt.Sprintf("it failed %d times in a row, last: %s. It is tried again when a node or a file changes; or unload it and load it again", a.Failures, a.Error))
			return
		}
		a = Attempt{counted: a.counted}
	}
	if p.Now.Before(a.Next) {
		p.attempts[w.ID] = a
		p.problem(w, fmt.Sprintf("%s. It is tried again in a moment", a.Error))
		p.wake(a.Next)
		return
	}
	if young := p.Now.Sub(w.Since); moved.ID == "" && !tried && young >= 0 && young < settle {
		p.wake(w.Since.Add(settle))
		return
	}
	if a.Misses > 0 && p.Now.Before(a.Again) && ground == a.ground && p.held >= a.held {
		p.wake(a.Again)
		return
	}
	if p.Vitals == nil {
		p.out.Ask = true
		return
	}
	plan, tokens, err := Plan(p.state, p.Vitals, p.Links, w, a.Avoid, p.Now)
	if err == nil {
		err = p.do(cluster.InstancePlaced{Instance: w.Instance(p.instanceID(w.ID), tokens, plan)})
	}
	if err == nil {
		a.Misses = 0
		p.note(w.ID, a)
		return
	}
	if p.Asked.Before(p.out.Memory.Freed) {
		p.out.Ask = true // what was told is from before memory was given back
		return
	}
	a.Misses++
	a.Again = p.Now.Add(pause(a.Misses))
	a.ground, a.held = ground, p.held
	p.attempts[w.ID] = a
	p.wake(a.Again)
	if a.Misses < patience && p.releasing() {
		return // there will be more memory in a moment
	}
	text := err.Error()
	if moved.ID != "" {
		text = fmt.Sprintf("it can't move off node %s, which is being drained: %s", p.draining(moved), text)
	}
	// Free memory changes all the time: other figures alone are news only now
	// and then.
	if a.Misses%refresh == 0 || words(w.Problem) != words(text) {
		p.problem(w, text)
	}
}

// words is a text without its figures.
func words(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsDigit(r) {
			return -1
		}
		return r
	}, text)
}

func (p *pass) releasing() bool {
	for _, i := range p.state.Instances {
		if i.Releasing != "" {
			return true
		}
	}
	return false
}

// NoFilesError says that nobody who is there has a model's files.
type NoFilesError struct {
	Model   string
	Holders []ids.Node // that are away
}

func (e *NoFilesError) Error() string {
	if len(e.Holders) == 0 {
		return fmt.Sprintf("no node has the files of %s any more; add them to a node with 'skein models add'", e.Model)
	}
	var names []string
	for _, id := range e.Holders {
		names = append(names, string(id))
	}
	return fmt.Sprintf("no node that has the files of %s is online; start one of: %s", e.Model, strings.Join(names, ", "))
}

// Plan finds a place for something wanted: the plan, and the context that it
// is for, which is less than what is wanted where memory is short. Nodes to
// avoid, and those that have a replica of the model, are used only if it must be.
// Errors are *NoFilesError and those of placement.Place, about the smallest
// context.
func Plan(s cluster.State, vitals map[ids.Node]cluster.Vitals, links []placement.Link, w cluster.Wanted, avoid []ids.Node, now time.Time) (placement.Plan, int, error) {
	return Within(s, vitals, links, w, 0, avoid, now)
}

// Within is Plan with at most so many nodes; 0: any number.
func Within(s cluster.State, vitals map[ids.Node]cluster.Vitals, links []placement.Link, w cluster.Wanted, most int, avoid []ids.Node, now time.Time) (placement.Plan, int, error) {
	var replicas []ids.Node
	for _, i := range s.Instances {
		if i.Model == w.Model && i.Wanted != w.ID && alive(i) {
			for _, x := range i.Shards {
				replicas = append(replicas, x.Node)
			}
		}
	}
	both := append(slices.Clone(avoid), replicas...)
	return shortened(s, vitals, links, w, func(c placement.Cluster, r placement.Request) (p placement.Plan, err error) {
		r.MaxNodes = most
		for _, out := range [][]ids.Node{both, avoid, nil} {
			if out != nil && len(out) == 0 {
				continue
			}
			r.Exclude = nil
			for _, id := range out {
				if !slices.Contains(r.Require, string(id)) {
					r.Exclude = append(r.Exclude, string(id))
				}
			}
			if p, err = placement.Place(c, r, now); err == nil {
				return p, nil
			}
		}
		return p, err
	})
}

// Exactly is Plan for a split that was decided elsewhere.
func Exactly(s cluster.State, vitals map[ids.Node]cluster.Vitals, links []placement.Link, w cluster.Wanted, seats []placement.Seat, now time.Time) (placement.Plan, int, error) {
	return shortened(s, vitals, links, w, func(c placement.Cluster, r placement.Request) (placement.Plan, error) {
		return placement.Exactly(c, r, seats, now)
	})
}

// shortened places something wanted with the longest context for which there
// is memory.
func shortened(s cluster.State, vitals map[ids.Node]cluster.Vitals, links []placement.Link, w cluster.Wanted, place func(placement.Cluster, placement.Request) (placement.Plan, error)) (placement.Plan, int, error) {
	m, ok := s.Models[w.Model]
	if !ok {
		return placement.Plan{}, 0, fmt.Errorf("there is no model %s", w.Model)
	}
	if !slices.ContainsFunc(m.Holders, func(id ids.Node) bool { return s.Nodes[id].Online }) {
		return placement.Plan{}, 0, &NoFilesError{Model: w.Model, Holders: m.Holders}
	}
	c := s.Placement(w.Model, reports(s, vitals), links)
	r := placement.Request{Model: m.Profile, Slots: w.Slots, Sharding: w.Sharding, MinNodes: w.MinNodes}
	r.Model.Name = w.Model
	for _, id := range w.Require {
		if n, known := s.Nodes[id]; known && !n.Online {
			return placement.Plan{}, 0, &placement.NodeError{Node: string(id), Why: "it is not online; start it, or unload the model and load it elsewhere"}
		}
		r.Require = append(r.Require, string(id))
	}
	longest := w.Context
	if n := m.Profile.Trained; n > 0 {
		longest = min(longest, n) // beyond it the model answers nonsense
	}
	for tokens := longest; ; tokens = max(tokens/2, minContext) {
		r.Context = tokens
		p, err := place(c, r)
		if err == nil {
			return p, tokens, nil
		}
		var short *placement.NoMemoryError
		if !errors.As(err, &short) || tokens <= minContext {
			return placement.Plan{}, 0, err
		}
	}
}

// reports are what nodes told, with what the ledger knows better: shards that
// were promised memory and have not loaded yet, which a node may not have
// counted when it was asked.
func reports(s cluster.State, vitals map[ids.Node]cluster.Vitals) map[ids.Node]cluster.Report {
	out := cluster.Reports(vitals)
	type memory struct {
		node   ids.Node
		device string
	}
	pending := map[memory]int64{}
	for _, i := range s.Instances {
		for _, x := range i.Shards {
			if x.Phase.Before(cluster.Loaded) {
				pending[memory{x.Node, x.Device}] += x.Reserve
			}
		}
	}
	for key, n := range pending {
		if r, ok := out[key.node]; ok {
			r.Pending[key.device] = max(r.Pending[key.device], n)
		}
	}
	return out
}

// held is what shards hold in the ledger, in all.
func held(s cluster.State) int64 {
	var n int64
	for _, i := range s.Instances {
		n += i.Memory()
	}
	return n
}

// fingerprint is another one when nodes are, as far as places depend on them.
func fingerprint(s cluster.State) uint64 {
	h := fnv.New64a()
	for _, id := range sorted(s.Nodes) {
		n := s.Nodes[id]
		fmt.Fprintf(h, "%s %s %t %t %t %t %v\n", id, n.Host, n.Online, n.Worker, n.Draining, n.Downloads, n.Devices)
	}
	return h.Sum64()
}

// files is another number when others have a model's files.
func files(s cluster.State, model string) uint64 {
	h := fnv.New64a()
	for _, id := range s.Models[model].Holders {
		fmt.Fprintf(h, "%s\n", id)
	}
	return h.Sum64()
}

// Refusal is the refusal of a load for an error of Plan.
func Refusal(err error) *command.Refusal {
	r := &command.Refusal{Code: command.Unplaceable, Message: err.Error()}
	var (
		files  *NoFilesError
		memory *placement.NoMemoryError
		nodes  *placement.NotEnoughNodesError
		bad    *placement.InvalidError
	)
	switch {
	case errors.As(err, &files):
		r.Code = command.NoFiles
	case errors.As(err, &nodes):
		r.Code = command.NotEnoughNodes
	case errors.As(err, &memory):
		r.Code = command.NoMemory
	case errors.As(err, &bad):
		r.Code = command.Invalid
	}
	return r
}
