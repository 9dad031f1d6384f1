//go:build !linux

package supervise

import (
	"os"
	"testing"
)

// watchExit returns a function that blocks until the process is gone. Waiting
// for a process that is not a child works on Windows only; elsewhere the
// caller's test is skipped, and says so.
func watchExit(t *testing.T, pid int) func() {
	t.Helper()
	p, err := os.FindProcess(pid)
	if err != nil {
		t.Error(err)
		return func() {}
	}
	return func() {
		if _, err := p.Wait(); err != nil {
			t.Skipf("NOT PROVEN HERE: this system cannot wait for another's child: %v", err)
		}
	}
}
