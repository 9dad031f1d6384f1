package liveness

import (
	"bytes"
	"fmt"
	"os"
	"strings"
)

// Lives tells that a process is there and would run if it were let.
func Lives(pid int) bool {
	s, ok := state(pid)
	return ok && !strings.ContainsRune("TtZXx", rune(s))
}

// Halted tells that a process is there and stopped by a signal.
func Halted(pid int) bool {
	s, ok := state(pid)
	return ok && s == 'T'
}

// state is the letter by which the kernel tells a process's state; see proc(5).
func state(pid int) (letter byte, ok bool) {
	if pid <= 0 {
		return 0, false
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	// The name before the state may hold anything, a parenthesis too.
	at := bytes.LastIndexByte(b, ')') + 2
	if at <= 1 || at >= len(b) {
		return 0, false
	}
	return b[at], true
}
