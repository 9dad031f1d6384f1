package place

import (
	"os"
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
	if !Lives(pid) {
		t.Error("a process that waits is not taken for alive")
	}
	if err := cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, unix.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("it was not stopped: %v, %v", status, err)
	}
	if Lives(pid) {
		t.Error("a stopped process is taken for alive")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // of a killed one: nothing to learn
	if Lives(pid) || Lives(0) {
		t.Error("a process that is gone, or none, is taken for alive")
	}
}

func TestPlace(t *testing.T) {
	own := Here()
	if own.Machine == "" || own.Process != os.Getpid() {
		t.Fatalf("Here is %+v", own)
	}
	for at, want := range map[Place]int{
		{own.Machine, own.Process + 1}: own.Process + 1,
		own:                            0, // not another
		{"", own.Process + 1}:          0,
		{"elsewhere", own.Process + 1}: 0,
		{own.Machine, -1}:              0,
	} {
		if got := at.Near(own); got != want {
			t.Errorf("%+v is process %d, want %d", at, got, want)
		}
	}
}
