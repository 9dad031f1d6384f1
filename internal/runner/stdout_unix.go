//go:build !windows

package runner

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// claimStdout keeps standard output for frames: descriptor 1 itself becomes a
// second standard error, since C code may print there.
func claimStdout() (*os.File, error) {
	fd, err := unix.Dup(1)
	if err != nil {
		return nil, fmt.Errorf("duplicate stdout: %w", err)
	}
	unix.CloseOnExec(fd)
	if err := redirect(2, 1); err != nil {
		return nil, fmt.Errorf("redirect stdout: %w", err)
	}
	return os.NewFile(uintptr(fd), "frames"), nil
}
