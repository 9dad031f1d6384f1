package nettest

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// sleeper gives a sleep for the calling goroutine, and what ends its use.
// Go's timers are rounded up to a millisecond when the process idles.
func sleeper(precise bool) (sleep func(time.Duration), stop func()) {
	if !precise {
		return timers, func() {}
	}
	runtime.LockOSThread()
	// 50 µs of slack are the default; a failure leaves that.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1000, 0, 0, 0)
	return func(d time.Duration) {
		until := time.Now().Add(d)
		for d > 0 {
			t := unix.NsecToTimespec(int64(d))
			_ = unix.Nanosleep(&t, nil) // interrupted: the loop goes on
			d = time.Until(until)
		}
	}, runtime.UnlockOSThread
}
