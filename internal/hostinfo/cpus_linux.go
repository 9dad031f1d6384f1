package hostinfo

import "golang.org/x/sys/unix"

// CPUs lists the cores that this process may run on, by the system's numbers;
// nil when the system does not tell.
func CPUs() []int {
	var set unix.CPUSet
	if unix.SchedGetaffinity(0, &set) != nil {
		return nil
	}
	var out []int
	for i := 0; len(out) < set.Count(); i++ {
		if set.IsSet(i) {
			out = append(out, i)
		}
	}
	return out
}
