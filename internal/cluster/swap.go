package cluster

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Swap is a model that takes the place of another, as one decision: at its end
// one of the two is wanted, whatever happens meanwhile.
type Swap struct {
	ID    string   `json:"id"`
	Old   []Wanted `json:"old"`   // all that is wanted of the model that goes
	New   Wanted   `json:"new"`   // the model that comes
	Place Instance `json:"place"` // where it was found room for, while Old still has it
	// Overlap: there is room for both, and Old is wanted until New is ready.
	// Otherwise Old ends first, and nothing else gets the memory of Place.
	Overlap bool          `json:"overlap,omitempty"`
	Drain   time.Duration `json:"drain"` // for open generations of Old
	Since   time.Time     `json:"since"`
	// Placed: New has had a place since. It may have lost it.
	Placed bool `json:"placed,omitempty"`
	// Undone is why New did not come and Old is wanted again; such a swap is
	// over since Ended, and kept so that people can read why.
	Undone string    `json:"undone,omitempty"`
	Ended  time.Time `json:"ended,omitzero"`
}

// Model is the one that goes.
func (w Swap) Model() string { return w.Old[0].Model }

// goes tells whether something wanted is part of what goes.
func (w Swap) goes(wanted string) bool {
	return slices.ContainsFunc(w.Old, func(o Wanted) bool { return o.ID == wanted })
}

// Swapping is the swap under way that a model is part of; false: none.
func (s State) Swapping(model string) (Swap, bool) {
	for _, id := range sortedKeys(s.Swaps) {
		if w := s.Swaps[id]; w.Undone == "" && (w.Model() == model || w.New.Model == model) {
			return w, true
		}
	}
	return Swap{}, false
}

// SwapOf is the swap under way that something wanted is part of; false: none.
func (s State) SwapOf(wanted string) (Swap, bool) {
	for _, id := range sortedKeys(s.Swaps) {
		if w := s.Swaps[id]; w.Undone == "" && (w.New.ID == wanted || w.goes(wanted)) {
			return w, true
		}
	}
	return Swap{}, false
}

// SwapBegan decides a swap. Of Old only the ids are looked at.
type SwapBegan struct {
	Swap Swap `json:"swap"` // without Since, Placed, Undone and Ended
}

func (SwapBegan) kind() string { return "swap_began" }

func (c SwapBegan) fits(s State) error {
	w := c.Swap
	if w.ID == "" || len(w.Old) == 0 || w.Drain < 0 {
		return fmt.Errorf("swap %q needs an id, a model that goes, and no negative time for its generations", w.ID)
	}
	if _, ok := s.Swaps[w.ID]; ok {
		return fmt.Errorf("there is a swap %s", w.ID)
	}
	model := s.Wanted[w.Old[0].ID].Model
	for _, o := range s.Wanted {
		switch {
		case o.Model == model && !w.goes(o.ID):
			return fmt.Errorf("%s is wanted too, for %s; all of it must go", o.ID, model)
		case o.Model == w.New.Model:
			return fmt.Errorf("%s is wanted already, as %s", o.Model, o.ID)
		}
	}
	for k, o := range w.Old {
		if x, ok := s.Wanted[o.ID]; !ok || x.Model != model || slices.ContainsFunc(w.Old[:k], func(p Wanted) bool { return p.ID == o.ID }) {
			return fmt.Errorf("%s is not wanted", o.ID)
		}
	}
	if other, ok := s.Swapping(model); ok {
		return fmt.Errorf("%s is being swapped, as %s", model, other.ID)
	}
	if err := (ModelWanted{w.New}).fits(s); err != nil {
		return err
	}
	i := w.Place
	if _, ok := s.Instances[i.ID]; ok || i.ID == "" || i.Wanted != w.New.ID || i.Model != w.New.Model {
		return fmt.Errorf("instance %q of %q for %s is none of this swap", i.ID, i.Wanted, i.Model)
	}
	reserved := s.reserved("")
	if !w.Overlap {
		s.going(w, func(b budget, n int64) { reserved[b] -= n })
	}
	return s.room(i, reserved)
}

func (c SwapBegan) apply(s State, e Event) State {
	w := c.Swap
	w.Old = slices.Clone(w.Old)
	for k := range w.Old {
		w.Old[k] = s.Wanted[w.Old[k].ID]
	}
	w.Since, w.Placed, w.Undone, w.Ended = e.At, false, "", time.Time{}
	if !w.Overlap {
		for _, o := range w.Old {
			s = s.unwant(o.ID, "swapped for "+w.New.Model, &w.Drain)
		}
	}
	s = ModelWanted{w.New}.apply(s, e)
	w.New = s.Wanted[w.New.ID]
	s.Swaps = put(s.Swaps, w.ID, w)
	return s
}

// SwapEnded ends a swap: New stays, and what is left of Old goes.
type SwapEnded struct {
	Swap string `json:"swap"`
}

func (SwapEnded) kind() string { return "swap_ended" }

func (c SwapEnded) fits(s State) error { return s.underWay(c.Swap) }

func (c SwapEnded) apply(s State, _ Event) State {
	w := s.Swaps[c.Swap]
	s.Swaps = without(s.Swaps, w.ID)
	if w.Overlap {
		for _, o := range w.Old {
			s = s.unwant(o.ID, "swapped for "+w.New.Model, &w.Drain)
		}
	}
	return s
}

// SwapUndone gives a swap up: New goes, and Old is wanted as before.
type SwapUndone struct {
	Swap  string `json:"swap"`
	Cause string `json:"cause"`
}

func (SwapUndone) kind() string { return "swap_undone" }

func (c SwapUndone) fits(s State) error {
	if c.Cause == "" {
		return errors.New("it needs a cause")
	}
	return s.underWay(c.Swap)
}

func (c SwapUndone) apply(s State, e Event) State {
	w := s.Swaps[c.Swap]
	w.Undone, w.Ended = c.Cause, e.At
	s.Swaps = put(s.Swaps, w.ID, w)
	s = s.unwant(w.New.ID, fmt.Sprintf("the swap of %s for it was undone: %s", w.Model(), c.Cause), nil)
	if !w.Overlap {
		for _, o := range w.Old {
			o.Problem = ""
			s.Wanted = put(s.Wanted, o.ID, o)
		}
	}
	return s
}

// SwapForgotten drops what was kept of a swap that was undone.
type SwapForgotten struct {
	Swap string `json:"swap"`
}

func (SwapForgotten) kind() string { return "swap_forgotten" }

func (c SwapForgotten) fits(s State) error {
	if s.Swaps[c.Swap].Undone == "" {
		return fmt.Errorf("there is no swap %s that was undone", c.Swap)
	}
	return nil
}

func (c SwapForgotten) apply(s State, _ Event) State {
	s.Swaps = without(s.Swaps, c.Swap)
	return s
}

func (s State) underWay(swap string) error {
	if w, ok := s.Swaps[swap]; !ok || w.Undone != "" {
		return fmt.Errorf("there is no swap %s under way", swap)
	}
	return nil
}

// going counts the memory that a swap's old instances still have.
func (s State) going(w Swap, add func(budget, int64)) {
	for _, i := range s.Instances {
		if !w.goes(i.Wanted) {
			continue
		}
		for _, x := range i.Shards {
			if !x.Phase.Ended() {
				add(budget{s.hostOf(x.Node), x.Device}, x.Reserve)
			}
		}
	}
}

// held is the memory that a swap keeps free for New: what its place needs more
// than Old still has there.
func (s State) held(w Swap) map[budget]int64 {
	out := map[budget]int64{}
	if w.Undone != "" || w.Placed || w.Overlap {
		return out
	}
	for _, x := range w.Place.Shards {
		out[budget{s.hostOf(x.Node), x.Device}] += x.Reserve
	}
	s.going(w, func(b budget, n int64) {
		if _, ok := out[b]; ok {
			out[b] = max(0, out[b]-n)
		}
	})
	return out
}

// check says which invariants a swap breaks; "": none.
func (w Swap) check(s State) string {
	if len(w.Old) == 0 {
		return "nothing goes"
	}
	if w.Undone != "" {
		return ""
	}
	if x, ok := s.Wanted[w.New.ID]; !ok || x.Model != w.New.Model {
		return "what comes is not wanted"
	}
	for _, o := range w.Old {
		if _, ok := s.Wanted[o.ID]; ok != w.Overlap {
			return fmt.Sprintf("with overlap %t, %s is wanted: %t", w.Overlap, o.ID, ok)
		}
		if _, ok := s.Models[o.Model]; !ok {
			return fmt.Sprintf("model %s is unknown", o.Model)
		}
	}
	return ""
}
