//go:build !linux

package supervise

// Halted tells that a process of this machine is there and stopped by a signal;
// here the system is not asked.
func Halted(int) bool { return false }
