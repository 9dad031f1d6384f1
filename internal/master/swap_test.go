package master

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/replica"
)

// TestSwap: a place in what the old model frees, or nothing changes.
func TestSwap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCell(t)
		if _, err := c.planner.Load(t.Context(), "w", load("large")); err != nil {
			t.Fatal(err)
		}
		swap := func(old, model string) command.Swap {
			return command.Swap{Unload: old, Load: load(model), Drain: time.Second}
		}
		before, _ := c.State()
		p, err := c.planner.PlanSwap(t.Context(), swap("large", "small"))
		if err != nil || len(p.Plans) != 1 || p.Result.Freed == 0 || p.Load.Context != 512 {
			t.Fatalf("%+v, %v", p, err)
		}
		for _, x := range []struct{ old, model, code string }{
			{"large", "huge", command.NoMemory}, {"large", "none", command.UnknownModel}, {"small", "large", command.NotLoaded}, {"large", "large", command.Invalid},
		} {
			var no *replica.Refusal
			if _, err := c.planner.Swap(t.Context(), "x"+x.old+x.model, swap(x.old, x.model)); !errors.As(err, &no) || no.Code != x.code {
				t.Errorf("%s for %s: %v, want %s", x.old, x.model, err, x.code)
			}
		}
		if s, _ := c.State(); s.Index != before.Index {
			t.Error("a dry run or a refused swap changed the state")
		}
		p, err = c.planner.Swap(t.Context(), "s", swap("large", "small"))
		if s, _ := c.State(); err != nil || p.Copies != 1 || !slices.Equal(p.Result.Wanted, []string{"s"}) || s.Swaps["s"].Model() != "large" {
			t.Fatalf("%+v, %v, %+v", p, err, s.Swaps)
		}
		again, err := c.planner.Swap(t.Context(), "s", swap("large", "small"))
		if err != nil || !again.Result.Again || !slices.Equal(again.Result.Instances, p.Result.Instances) {
			t.Errorf("again: %+v, %v", again, err)
		}
	})
}
