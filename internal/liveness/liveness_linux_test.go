package liveness

import (
	"os/exec"
	"testing"

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
	if !Lives(pid) || Halted(pid) {
		t.Error("a process that waits is not taken for alive")
	}
	if err := cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, unix.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("it was not stopped: %v, %v", status, err)
	}
	if Lives(pid) || !Halted(pid) {
		t.Error("a stopped process is taken for alive, or not for stopped")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // of a killed one: nothing to learn
	if Lives(pid) || Lives(0) || Halted(pid) || Halted(0) {
		t.Error("a process that is gone, or none, is taken for alive")
	}
}
