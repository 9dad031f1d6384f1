package supervise

import (
	"bytes"
	"fmt"
	"os"
)

// Halted tells that a process of this machine is there and stopped by a signal.
func Halted(pid int) bool {
	if pid <= 0 {
		return false
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// The name before the state may hold anything, a parenthesis too.
	at := bytes.LastIndexByte(b, ')') + 2
	return at > 1 && at < len(b) && b[at] == 'T'
}
