//go:build !linux

package hostinfo

// CPUs lists the cores that this process may run on, by the system's numbers;
// nil when the system does not tell.
func CPUs() []int { return nil }
