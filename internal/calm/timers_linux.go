package calm

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// lateness is how late a timer may be. The kernel then lets most of them wait
// for the next tick of its clock, which comes anyway on a busy core.
const lateness = 5_000_000 // nanoseconds

// LateTimers calls start, which starts a program, on a thread whose timers may
// be late; all threads of the program inherit that.
//
// A Go program whose threads are away in long calls of a library is looked
// after by a thread that wakes every few microseconds: more than twenty times
// for each token of a small model. Each time it takes a core from a thread that computes,
// for which the others wait. Bound to the clock's ticks it wakes two or three times.
func LateTimers(start func() error) error {
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
