package mesh

import (
	"testing"
	"time"
)

// TestHeardNodeIsNotGivenUp: what the gossip says of a node from which something
// came lately waits, and its connections stay; if nothing comes any more it is given
// up after all.
func TestHeardNodeIsNotGivenUp(t *testing.T) {
	a := start(t, "a", nil)
	b := start(t, "b", joins(a))
	a.expect(t, "b", true)
	b.expect(t, "a", true)
	if got := get(t, a, "b"); got != "b called by a" {
		t.Fatal(got)
	}
	a.mu.Lock()
	a.gone("b")
	p := a.peers["b"]
	if !p.told || !p.doubted || len(a.conns["b"]) == 0 {
		t.Errorf("a node that answered just now is given up: %+v", p)
	}
	// As long ago as no process is late.
	old := time.Now().Add(-time.Hour).UnixNano()
	for c := range a.conns["b"] {
		c.read.Store(old)
	}
	if a.alive(p) {
		t.Error("a node that is silent for an hour counts as alive")
	}
	a.mu.Unlock()
}

// TestUnconnectedNodeInLateProcess: a node that there was no time to connect to is
// waited for as long as this process is late, and no longer.
func TestUnconnectedNodeInLateProcess(t *testing.T) {
	m := &Mesh{}
	p := &peer{member: Member{ID: "b"}, verdict: time.Now()}
	if m.alive(p) {
		t.Error("this process is not late, and doubts")
	}
	m.late.recent[0].Store(int64(time.Second))
	if !m.alive(p) {
		t.Error("this process is late by a second, and does not doubt")
	}
	p.verdict = time.Now().Add(-patience * time.Second)
	if m.alive(p) {
		t.Error("it doubts for ever")
	}
}
