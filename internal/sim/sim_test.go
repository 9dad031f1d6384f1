package sim

import (
	"strings"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/ids"
)

func TestFirst(t *testing.T) {
	w := New(Options{Seed: 1, Log: true, Nodes: []NodeOptions{
		{ID: "a", Memory: 4 << 30, Models: []Model{{"small", 2, 1 << 30}, {"large", 6, 1 << 30}}}, {ID: "b", Memory: 4 << 30}, {ID: "c", Memory: 4 << 30}}})
	for _, id := range []ids.Node{"a", "b", "c"} {
		w.Start(id)
		w.Run(time.Second)
	}
	w.Run(3 * time.Second)
	w.Load("b", command.Load{Model: "large"}, true)
	w.Run(10 * time.Second)
	w.Crash("b")
	w.Run(10 * time.Second)
	w.Start("b")
	w.Cut([]ids.Node{"a", "c"}, []ids.Node{"b"})
	w.Run(5 * time.Second)
	w.Heal()
	w.Run(20 * time.Second)
	t.Log(strings.Join(w.Transcript(), "\n"))
	t.Log(strings.Join(w.Status("c"), "\n"))
	for _, s := range append(append(w.Wrong(), w.Settled()...), w.Kept("a")...) {
		t.Error(s)
	}
	for _, id := range w.names {
		if s := w.Replayed(id); s != "" {
			t.Error(s)
		}
	}
}
