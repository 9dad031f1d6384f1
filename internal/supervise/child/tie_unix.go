//go:build unix && !linux

package child

import (
	"os"
	"os/exec"
	"syscall"
)

// tie keeps the terminal's signals from the child. That the child ends with
// its parent rests on the end of its stdin.
func tie(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}

func hold(*os.Process) (release func(), err error) { return func() {}, nil }
