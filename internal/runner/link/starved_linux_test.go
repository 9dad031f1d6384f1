package link

import (
	"os/exec"
	"testing"
	"time"
)

// A shard of this machine that is silent and alive gets longer, one that is
// silent elsewhere does not, and in the end neither is waited for.
func TestStarvedIsNotSilent(t *testing.T) {
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it runs
		_ = cmd.Wait()
	})
	m := &Mesh{o: Options{Silence: time.Second}, tick: 100 * time.Millisecond}
	p := &peer{index: 1}
	p.near.Store(int64(cmd.Process.Pid))
	if got := ticksUntilLost(m, p); got != patience*10 {
		t.Errorf("alive on this machine, it was lost after %d ticks", got)
	}
	p.near.Store(0)
	if got := ticksUntilLost(m, p); got != 10 {
		t.Errorf("elsewhere, it was lost after %d ticks", got)
	}
}

// ticksUntilLost counts until p is silent for too long.
func ticksUntilLost(m *Mesh, p *peer) int {
	for n := range 1000 {
		if m.tooSilent(p, int64(n)) {
			return n
		}
	}
	return 0
}
