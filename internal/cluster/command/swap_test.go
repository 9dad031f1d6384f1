package command_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
)

// swap of one for the other, placed at a.
func swap(old, model string, gb int64) command.Swap {
	l := load(model)
	l.Instances = []cluster.Instance{at("p", gb, "a")}
	return command.Swap{Unload: old, Load: l, Drain: time.Second}
}

// running is a cluster where big runs with 8 of a's 10 GB.
func running(t *testing.T) *world {
	w := three(t)
	l := load("big")
	l.Instances = []cluster.Instance{at("i", 8, "a")}
	w.do(l.Command("c1"))
	ready(w, "i")
	return w
}

func TestSwap(t *testing.T) {
	w := running(t)
	r := w.do(swap("big", "org/small", 9).Command("s"))
	want := command.Result{Command: "s", Model: "org/small", Wanted: []string{"s"}, Instances: []string{"p"}, Freed: 8 << 30}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Error(diff)
	}
	want.Again, want.Freed = true, 0
	if events, r, err := w.decide(mustCommand(swap("big", "org/small", 9).Command("s"))); err != nil || len(events) > 0 || cmp.Diff(want, r) != "" {
		t.Errorf("again: %d events, %v, %+v", len(events), err, r)
	}
	overlap := swap("big", "org/small", 2)
	overlap.Overlap = true
	w = running(t)
	if events, _, err := w.decide(mustCommand(overlap.Command("s"))); err != nil || len(events) != 2 || w.state.Instances["i"].Releasing != "" || w.state.Instances["p"].ID != "p" {
		t.Errorf("beside the old one: %d events, %v", len(events), err)
	}
}

// TestDefinedAnswers is the table of docs/manage.md: what each command says
// about a model in each state.
func TestDefinedAnswers(t *testing.T) {
	unload := func(model string) command.Command { return mustCommand(command.Unload{Model: model}.Command("c9")) }
	loads := func(model string) command.Command { return mustCommand(load(model).Command("c9")) }
	swaps := func(old, model string, gb int64) command.Command {
		return mustCommand(swap(old, model, gb).Command("c9"))
	}
	loading := func(w *world) { w.do(load("org/small").Command("c2")) }
	swapping := func(w *world) { w.do(swap("big", "org/small", 9).Command("s")) }
	undone := func(w *world) {
		swapping(w)
		w.do(command.Of("", cluster.SwapUndone{Swap: "s", Cause: "no"}))
	}
	for _, c := range []struct {
		name       string
		before     func(*world) // big runs
		command    command.Command
		code, text string // "": it is done
	}{
		{"load of what runs", nil, loads("big"), command.AlreadyLoaded, "big is loaded already (instance i, ready)"},
		{"load of what is loading", loading, loads("org/small"), command.AlreadyLoaded, "org/small is loaded already (being placed)"},
		{"unload of what is loading", loading, unload("org/small"), "", ""},
		{"unload of what is not loaded", nil, unload("org/small"), command.NotLoaded, "org/small is not loaded; loaded are: big"},
		{"unload of what there is not", nil, unload("none"), command.UnknownModel, "there is no model none"},
		{"swap of what is loading", loading, swaps("org/small", "third", 2), "", ""},
		{"swap of what is not loaded", nil, swaps("org/small", "third", 2), command.NotLoaded, "org/small is not loaded; loaded are: big"},
		{"swap of what there is not", nil, swaps("none", "org/small", 2), command.UnknownModel, "there is no model none"},
		{"swap to what there is not", nil, swaps("big", "none", 2), command.UnknownModel, "there is no model none"},
		{"swap to what is loaded", loading, swaps("big", "org/small", 2), command.AlreadyLoaded, "org/small is loaded already"},
		{"swap to itself", nil, swaps("big", "big", 2), command.Invalid, "big can't be swapped for itself"},
		{"swap without files", nil, swaps("big", "lost", 2), command.NoFiles, "has the files of lost"},
		{"swap without room", nil, swaps("big", "org/small", 11), command.StalePlan, "node a has 10.0 GB"},
		{"swap beyond what others have", func(w *world) {
			l := load("org/small")
			l.Instances = []cluster.Instance{at("j", 2, "a")}
			w.do(l.Command("c2"))
		}, swaps("big", "third", 9), command.StalePlan, "node a has 8.0 GB"},
		{"swap without a place", nil, mustCommand(command.Swap{Unload: "big", Load: load("org/small")}.Command("c9")), command.StalePlan, "plan again"},
		{"swap of a model under way", swapping, swaps("big", "third", 2), command.Conflict, "big is being swapped for org/small"},
		{"swap to a model under way", swapping, swaps("org/small", "third", 2), command.Conflict, "being swapped"},
		{"load of what goes", swapping, loads("big"), command.Conflict, "'skein models unload org/small'"},
		{"load of what comes", swapping, loads("org/small"), command.AlreadyLoaded, "being placed"},
		{"unload of what goes", swapping, unload("big"), "", ""},
		{"unload of what comes", swapping, unload("org/small"), "", ""},
		{"load of what did not come", undone, loads("org/small"), "", ""},
		{"load of what came back", undone, loads("big"), command.AlreadyLoaded, "big is loaded already"},
		{"unload of what did not come", undone, unload("org/small"), "", ""},
		{"negative drain", nil, mustCommand(command.Swap{Unload: "big", Load: load("org/small"), Drain: -1}.Command("c9")), command.Invalid, "give 0 or more"},
		{"two at once", nil, mustCommand(command.Swap{Unload: "big", Load: func() command.Load { l := load("org/small"); l.Replicas = 2; return l }()}.Command("c9")), command.Invalid, "a swap brings one"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := running(t)
			w.do(command.Of("", cluster.ModelKnown{Model: model("third", "b")}))
			w.do(command.Of("", cluster.ModelKnown{Model: model("lost")}))
			if c.before != nil {
				c.before(w)
			}
			if c.code != "" {
				index := w.state.Index
				w.refused(c.code, c.text, c.command, nil)
				if w.state.Index != index {
					t.Error("a refused command changed something")
				}
				return
			}
			w.do(c.command, nil)
		})
	}
}

// TestUnloadInASwap: without the new model the old one comes back, without the
// old one the new one stays.
func TestUnloadInASwap(t *testing.T) {
	w := running(t)
	w.do(swap("big", "org/small", 9).Command("s"))
	r := w.do(command.Unload{Model: "org/small"}.Command("c2"))
	if _, ok := w.state.Wanted["c1"]; !ok || len(w.state.Wanted) != 1 || r.Restored != "big" || r.Model != "org/small" {
		t.Errorf("without the new one: %+v, %+v", w.state.Wanted, r)
	}
	if w.state.Swaps["s"].Undone != "org/small was unloaded" {
		t.Errorf("%+v", w.state.Swaps)
	}
	w = running(t)
	w.do(swap("big", "org/small", 9).Command("s"))
	r = w.do(command.Unload{Model: "big"}.Command("c2"))
	if _, ok := w.state.Wanted["s"]; !ok || len(w.state.Wanted) != 1 || len(w.state.Swaps) != 0 || r.Model != "big" {
		t.Errorf("without the old one: %+v, %+v", w.state.Wanted, r)
	}
}

// TestSwapIsOffered: a swap that the losing half of a split took is done by the
// winner, or leaves an event that says why not.
func TestSwapIsOffered(t *testing.T) {
	before := func(w *world) {
		l := load("big")
		l.Instances = []cluster.Instance{at("i", 8, "a")}
		w.do(l.Command("c1"))
	}
	h := split(t, before)
	h.lose(swap("big", "org/small", 9).Command("s"))
	h.heal()
	h.dropped("s", "")
	if w := h.winner.state.Swaps["s"]; w.New.Model != "org/small" || h.winner.state.Instances["i"].Releasing == "" {
		t.Errorf("%+v", h.winner.state)
	}
	h = split(t, before)
	h.lose(swap("big", "org/small", 9).Command("s"))
	h.lose(command.Unload{Model: "org/small"}.Command("c2"))
	h.winner.do(command.Unload{Model: "big"}.Command("c3"))
	h.heal()
	h.dropped("s", "c1 is not wanted")
	h.dropped("c2", "it was so already")
}
