package supervise

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

func TestHalted(t *testing.T) {
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // a stopped one too
		_ = cmd.Wait()
	})
	pid := cmd.Process.Pid
	if Halted(pid) || Halted(os.Getpid()) || Halted(0) {
		t.Error("a process that runs, or none, is taken for stopped")
	}
	if err := cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, unix.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("it was not stopped: %v, %v", status, err)
	}
	if !Halted(pid) {
		t.Error("a stopped process is not taken for one")
	}
}
