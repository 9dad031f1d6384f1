package calm

import (
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Start starts a program that is away in long calls of the library: its timers
// may be late, and its large memory lies in huge pages.
func Start(cmd *exec.Cmd) error {
	cmd.Env = hugePages(cmd.Environ())
	return lateTimers(cmd.Start)
}

// hugePages asks the C library to have large blocks in pages of 2 MB where the
// system leaves it to each program ("madvise" in
// /sys/kernel/mm/transparent_hugepage/enabled, the default of most
// distributions); elsewhere nothing changes. A token reads all weights once, and
// in pages of 4 kB a tenth of that time may go into finding them. What the user
// has said about it counts.
func hugePages(env []string) []string {
	const variable, tunable = "GLIBC_TUNABLES=", "glibc.malloc.hugetlb="
	given := ""
	for _, v := range env {
		if rest, ok := strings.CutPrefix(v, variable); ok {
			given = rest // the last one counts
		}
	}
	switch {
	case strings.Contains(given, tunable):
		return env
	case given != "":
		given += ":"
	}
	return append(env, variable+given+tunable+"1")
}

// lateness is how late a timer may be. The kernel then lets most of them wait
// for the next tick of its clock, which comes anyway on a busy core.
const lateness = 5_000_000 // nanoseconds

// lateTimers calls start, which starts a program, on a thread whose timers may
// be late; all threads of the program inherit that.
//
// A Go program whose threads are away in long calls of a library is looked
// after by a thread that wakes every few microseconds: more than twenty times
// for each token of a small model. Each time it takes a core from a thread that computes,
// for which the others wait. Bound to the clock's ticks it wakes two or three times.
func lateTimers(start func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err == nil && unix.Prctl(unix.PR_SET_TIMERSLACK, lateness, 0, 0, 0) == nil {
		// Setting back what was read cannot fail.
		defer func() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(before), 0, 0, 0) }()
	}
	// Where it can't be had the program runs all the same.
	return start()
}
