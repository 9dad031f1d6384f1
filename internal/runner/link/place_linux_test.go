package link

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What the system knows of a process that says nothing: it is there, it is
// stopped, it is gone.
func TestLives(t *testing.T) {
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it may have ended
	if !lives(pid) {
		t.Error("a process that waits is not taken for alive")
	}
	if err := cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, unix.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("it was not stopped: %v, %v", status, err)
	}
	if lives(pid) {
		t.Error("a stopped process is taken for alive")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // of a killed one: nothing to learn
	if lives(pid) || lives(0) {
		t.Error("a process that is gone, or none, is taken for alive")
	}
}

func TestPlace(t *testing.T) {
	own := here()
	if own.Machine == "" || own.Process != os.Getpid() {
		t.Fatalf("here is %+v", own)
	}
	for at, want := range map[place]int{
		{own.Machine, own.Process + 1}: own.Process + 1,
		own:                            0, // not another
		{"", own.Process + 1}:          0,
		{"elsewhere", own.Process + 1}: 0,
		{own.Machine, -1}:              0,
	} {
		if got := at.near(own); got != want {
			t.Errorf("%+v is process %d, want %d", at, got, want)
		}
	}
}

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
