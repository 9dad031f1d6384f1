package supervise

import (
	"errors"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// watchExit returns a function that blocks until the process is gone.
func watchExit(t *testing.T, pid int) func() {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Errorf("pidfd of %d: %v", pid, err)
		return func() {}
	}
	return func() {
		defer unix.Close(fd)
		for {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if !errors.Is(err, syscall.EINTR) {
				if err != nil {
					t.Error(err)
				}
				return
			}
		}
	}
}
