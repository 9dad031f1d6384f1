package view_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/view"
	"github.com/skein-run/skein/internal/ids"
)

// Refusals are told when they are new and when they have become twice as many,
// and listed between the commands that were done.
func TestRefusals(t *testing.T) {
	at := func(s int) time.Time { return now.Add(time.Duration(s) * time.Second) }
	with := func(count int, more ...cluster.Refusal) *view.View {
		in := view.Inputs{Now: now, Vitals: map[ids.Node]cluster.Vitals{}}
		in.State.Audit = []cluster.Audit{{Index: 1, At: at(-5), By: "ops", Via: "a", What: "load m", Result: "done", Command: "c"}}
		list := append([]cluster.Refusal{}, more...)
		if count > 0 {
			list = append(list, cluster.Refusal{Key: "ci", What: "POST /x", Code: "insufficient_role", Reason: "no", Count: count, First: at(-9), Last: at(-9 + count)})
		}
		in.Vitals["a"] = cluster.Vitals{Refusals: list}
		return view.Of(in)
	}
	var told []string
	last := with(0)
	for count := 1; count <= 9; count++ {
		next := with(count)
		for _, e := range view.Diff(last, next) {
			if e.Type == api.EventAudit {
				told = append(told, fmt.Sprintf("%s %s %s %s %d", e.Change, e.Audit.Key, e.Audit.NodeID, e.Audit.Result, e.Audit.Count))
			}
		}
		last = next
	}
	want := []string{"added ci a refused: no 1", "changed ci a refused: no 2", "changed ci a refused: no 4", "changed ci a refused: no 8"}
	if d := cmp.Diff(want, told); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
	var order []string
	for _, a := range with(1, cluster.Refusal{Key: "z", What: "POST /y", Reason: "no", Count: 3, Last: at(-1)}).Audit().Audit {
		order = append(order, fmt.Sprint(a.Key, " ", a.Count))
	}
	if d := cmp.Diff([]string{"ci 1", "ops 1", "z 3"}, order); d != "" {
		t.Errorf("list (-want +got):\n%s", d)
	}
}
