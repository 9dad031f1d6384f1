package command_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/ids"
)

// halves are two sides of a split that began with equal states.
type halves struct {
	t            *testing.T
	loser        *world
	winner       *world
	lost         []cluster.Event // of the loser since the split
	loserSession ids.Session
}

func split(t *testing.T, before func(*world)) *halves {
	w := three(t)
	if before != nil {
		before(w)
	}
	h := &halves{t: t, loser: &world{t: t, state: w.state}, winner: w, loserSession: ids.Session{Master: "c", Clock: 4}}
	return h
}

// lose carries out a command on the losing side.
func (h *halves) lose(c command.Command, err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
	events, _, err := h.loser.decide(c)
	if err != nil {
		h.t.Fatalf("%s: %v", c.Kind, err)
	}
	h.lost = append(h.lost, events...)
}

// drop has the losing side say that a third one's command is not done.
func (h *halves) drop(id, reason string) {
	h.lost = append(h.lost, cluster.Event{Index: h.loser.state.Index + uint64(len(h.lost)) + 1, Session: h.loserSession, Change: cluster.CommandDropped{Command: id, Reason: reason}})
}

// heal offers what was lost.
func (h *halves) heal() {
	h.t.Helper()
	for _, c := range command.Offers(h.lost) {
		if _, _, err := h.winner.decide(c); err != nil {
			h.t.Errorf("offered %s %s is refused: %v", c.Kind, c.Body, err)
		}
	}
}

func (h *halves) dropped(id, text string) {
	h.t.Helper()
	if o := h.winner.state.Commands[id]; text == "" && o.Dropped != "" || !strings.Contains(o.Dropped, text) {
		h.t.Errorf("command %s: dropped %q, want ...%s...", id, o.Dropped, text)
	}
}

func ready(w *world, id string) {
	w.t.Helper()
	for _, phase := range []cluster.Phase{cluster.Loaded, cluster.Ready} {
		for k := range w.state.Instances[id].Shards {
			w.do(command.Of("", cluster.ShardReported{Instance: id, Shard: k, Incarnation: 1, Phase: phase, Link: "h:1", Epoch: w.state.Instances[id].Epoch()}))
		}
	}
}

func TestInstanceIsAdopted(t *testing.T) {
	h := split(t, nil)
	h.winner.do(command.Of("", cluster.NodeGone{Node: "c", Cause: "cable"}))
	l := load("big")
	l.Instances = []cluster.Instance{at("i", 6, "c")}
	h.lose(l.Command("c1"))
	ready(h.loser, "i")
	before := len(h.lost)
	h.lose(command.Of("", cluster.ShardReported{Instance: "i", Incarnation: 2, Phase: cluster.Loaded, Link: "h:2"}))
	h.lose(command.Of("", cluster.ShardReported{Instance: "i", Incarnation: 2, Phase: cluster.Ready, Link: "h:2"}))
	if len(h.lost) != before+2 {
		t.Fatal("the reports made no events")
	}
	h.heal()
	i := h.winner.state.Instances["i"]
	if diff := cmp.Diff(h.loser.state.Instances["i"].Shards, i.Shards); diff != "" || i.Status() != "ready" {
		t.Errorf("adopted as %s (-lost +adopted):\n%s", i.Status(), diff)
	}
	if !h.winner.state.Nodes["c"].Online {
		t.Error("its node is not online")
	}
	h.dropped("c1", "")
}

func TestInstanceDoesNotFitAnyMore(t *testing.T) {
	h := split(t, nil)
	small := load("org/small")
	small.Instances = []cluster.Instance{at("j", 6, "c")}
	h.winner.do(small.Command("c2")) // c's memory is given away
	l := load("big")
	l.Instances = []cluster.Instance{at("i", 6, "c")}
	h.lose(l.Command("c1"))
	placed := h.lost[1]
	h.heal()
	if _, ok := h.winner.state.Wanted["c1"]; !ok {
		t.Error("the wish is lost with its place")
	}
	if _, ok := h.winner.state.Instances["i"]; ok {
		t.Error("memory is promised twice")
	}
	h.dropped(fmt.Sprintf("event:%v/%d", placed.Session, placed.Index), "needs 6.0 GB, node c has 4.0 GB")
}

// TestFailedInstanceIsNotTriedAgain: what was placed in the losing half, failed
// there and was released is not placed by the winner; the wish is, and what runs
// is adopted.
func TestFailedInstanceIsNotTriedAgain(t *testing.T) {
	h := split(t, nil)
	l := load("big")
	l.Instances = []cluster.Instance{at("i", 2, "c")}
	h.lose(l.Command("c1"))
	h.lose(command.Of("", cluster.ShardReported{Instance: "i", Incarnation: 1, Phase: cluster.Failed, Error: "no driver"}))
	h.lose(command.Of("", cluster.InstanceReleased{Instance: "i", Cause: "its shard failed"}))
	again := at("k", 2, "c")
	again.Wanted, again.Model = "c1", "big"
	h.lose(command.Of("", cluster.InstancePlaced{Instance: again}))
	ready(h.loser, "k")
	h.heal()
	if i := h.winner.state.Instances["k"]; i.ID != "k" {
		t.Error("what runs was not adopted")
	}
	if _, ok := h.winner.state.Wanted["c1"]; !ok {
		t.Error("the wish is lost")
	}
	for _, c := range command.Offers(h.lost) {
		if strings.Contains(string(c.Body), `"id":"i"`) {
			t.Errorf("the failed one is offered: %s", c.Body)
		}
	}
}

func TestBothSidesLoaded(t *testing.T) {
	h := split(t, nil)
	l := load("big")
	l.Instances = []cluster.Instance{at("i", 2, "a")}
	h.winner.do(l.Command("c1"))
	l.Instances = []cluster.Instance{at("j", 2, "c")}
	h.lose(l.Command("c2"))
	h.heal()
	if got := slices.Sorted(maps.Keys(h.winner.state.Wanted)); !cmp.Equal(got, []string{"c1"}) {
		t.Errorf("wanted: %v", got)
	}
	h.dropped("c2", "big was loaded on the other side too, as c1")
	// Who asks for it again is told.
	h.winner.refused(command.Dropped, "give it again under another id", mustCommand(l.Command("c2")), nil)
	// A replica is another wish.
	h = split(t, func(w *world) { w.do(load("big").Command("c1")) })
	l = load("big")
	l.Replicas = 2
	h.lose(l.Command("c2"))
	h.heal()
	if len(h.winner.state.Wanted) != 2 {
		t.Errorf("wanted: %v", h.winner.state.Wanted)
	}
}

// TestDroppedByALogThatLosesToo: a half that took over what a third one had, and
// dropped it, may lose to yet another. The reason goes on with it.
func TestDroppedByALogThatLosesToo(t *testing.T) {
	h := split(t, nil)
	h.drop("c9", "big was loaded on the other side too, as c1")
	h.drop("event:e@4/59", "nobody waits for it")
	h.heal()
	h.dropped("c9", "big was loaded on the other side too, as c1")
	if o, ok := h.winner.state.Commands["event:e@4/59"]; ok {
		t.Errorf("a fact that nobody waits for was offered: %+v", o)
	}
	// Where the command was done, it was not dropped.
	h = split(t, nil)
	h.winner.do(load("big").Command("c9"))
	h.drop("c9", "no room")
	h.heal()
	if o := h.winner.state.Commands["c9"]; o.Dropped != "" {
		t.Errorf("what was done is told as dropped: %+v", o)
	}
}

func TestBothSidesPlacedAgain(t *testing.T) {
	before := func(w *world) {
		l := load("big")
		l.Instances = []cluster.Instance{at("i", 2, "a", "c")}
		w.do(l.Command("w"))
		ready(w, "i")
	}
	side := func(d func(command.Command, error), gone ids.Node, place cluster.Instance) {
		place.Wanted, place.Model = "w", "big"
		d(command.Of("", cluster.NodeGone{Node: gone, Cause: "cable"}))
		d(command.Of("", cluster.InstanceReleased{Instance: "i", Cause: "a shard is lost"}))
		d(command.Of("", cluster.InstancePlaced{Instance: place}))
	}
	for _, served := range []bool{false, true} {
		h := split(t, before)
		side(func(c command.Command, err error) { h.winner.do(c, err) }, "c", at("k", 3, "a"))
		side(h.lose, "a", at("l", 3, "c"))
		if served {
			ready(h.winner, "k")
		}
		h.heal()
		_, adopted := h.winner.state.Instances["l"]
		if adopted == served {
			t.Errorf("the winner's serves: %v; the loser's is adopted: %v", served, adopted)
		}
		if i := h.winner.state.Instances["k"]; i.Releasing != "" {
			t.Error("what the loser released for want of its peers is released")
		}
		if served && !slices.ContainsFunc(slices.Collect(maps.Values(h.winner.state.Commands)), func(o cluster.CommandOutcome) bool {
			return strings.Contains(o.Dropped, "runs as instance k, which is kept; the shards of l are stopped")
		}) {
			t.Errorf("no event says why: %+v", h.winner.state.Commands)
		}
	}
}

func TestOfferedFactsAreNotPromises(t *testing.T) {
	h := split(t, nil)
	h.lose(command.Of("", cluster.NodeSeen{Node: node("d", 4)}))
	h.lose(command.Of("", cluster.NodeGone{Node: "a", Cause: "cable"}))
	h.lose(command.Of("", cluster.NodeSeen{Node: node("b", 99)}))
	h.lose(command.Of("", cluster.FilesMoved{Model: "big", Node: "b"}))
	h.winner.do(command.Of("", cluster.ModelForgotten{Model: "big"}))
	h.heal()
	s := h.winner.state
	if !s.Nodes["a"].Online || s.Nodes["b"].Devices[0].Total != 10<<30 {
		t.Error("what the winner knows of nodes was overwritten")
	}
	if !s.Nodes["d"].Online {
		t.Error("a node that joined the losing half is lost")
	}
	if len(s.Commands) > 0 {
		t.Errorf("facts left %v", s.Commands)
	}
}

// TestNothingDisappearsInSilence: whatever both sides did, every command of
// the losing half that a user gave is done, or leaves its reason; and the
// ledger holds.
func TestNothingDisappearsInSilence(t *testing.T) {
	dropped, adopted := 0, 0
	rapid.Check(t, func(r *rapid.T) {
		h := split(t, nil)
		nodes := []ids.Node{"a", "b", "c"}
		draw := func(side string, n int) command.Command {
			id := fmt.Sprint(side, n)
			if rapid.IntRange(0, 9).Draw(r, "same id") == 0 {
				id = fmt.Sprint("both", n)
			}
			model := rapid.SampledFrom([]string{"big", "org/small"}).Draw(r, "model")
			node := rapid.SampledFrom(nodes).Draw(r, "node")
			switch rapid.IntRange(0, 5).Draw(r, "kind") {
			case 0:
				return mustCommand(command.Unload{Model: model}.Command(id))
			case 1:
				return mustCommand(command.Of(id, cluster.NodeDrained{Node: node, Resume: rapid.Bool().Draw(r, "resume")}))
			case 2:
				return mustCommand(command.Of("", cluster.NodeGone{Node: node, Cause: "cable"}))
			case 3:
				return mustCommand(command.Of("", cluster.NodeSeen{Node: h.winner.state.Nodes[node]}))
			}
			l := load(model)
			l.Replicas = rapid.IntRange(0, 2).Draw(r, "replicas")
			if rapid.Bool().Draw(r, "placed") {
				l.Instances = []cluster.Instance{at("i"+id, rapid.Int64Range(1, 8).Draw(r, "gb"), rapid.Permutation(nodes).Draw(r, "nodes")[:2]...)}
			}
			return mustCommand(l.Command(id))
		}
		var acked []string
		loads := map[string]bool{}
		for n := range rapid.IntRange(0, 8).Draw(r, "loser's") {
			c := draw("l", n)
			events, result, err := h.loser.decide(c)
			if err != nil || len(events) == 0 {
				continue
			}
			h.lost = append(h.lost, events...)
			if c.ID != "" {
				acked = append(acked, c.ID)
				loads[c.ID] = len(result.Wanted) > 0 && c.Kind == "load"
			}
		}
		for n := range rapid.IntRange(0, 8).Draw(r, "winner's") {
			_, _, _ = h.winner.decide(draw("w", n)) // what does not fit is refused
		}
		seen := map[string]bool{} // was wanted at some time after the offers
		for _, c := range command.Offers(h.lost) {
			events, _, err := h.winner.decide(c)
			if err != nil {
				t.Fatalf("offered %s is refused: %v", c.Kind, err)
			}
			if again, _, err := h.winner.decide(c); err != nil || len(again) > 0 {
				t.Fatalf("offered again, %s makes %d events, %v", c.Kind, len(again), err)
			}
			for id := range h.winner.state.Wanted {
				seen[id] = true
			}
			if c.Kind == "instance_placed" && len(events) > 0 {
				if cluster.KindOf(events[len(events)-1].Change) == c.Kind {
					adopted++
				} else {
					dropped++
				}
			}
		}
		for _, id := range acked {
			o, known := h.winner.state.Commands[id]
			if !known || loads[id] && !strings.HasPrefix(id, "both") && !seen[id] && o.Dropped == "" {
				t.Fatalf("command %s disappeared: %+v", id, o)
			}
		}
	})
	if dropped == 0 || adopted == 0 {
		t.Errorf("%d adopted and %d dropped: too little happened", adopted, dropped)
	}
}
