package runner

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// pin keeps all threads of the process on the given cores; those that are made
// later inherit it. No cores: any.
func pin(cpus []int) error {
	if len(cpus) == 0 {
		return nil
	}
	var set unix.CPUSet
	for _, c := range cpus {
		if c < 0 || c >= len(set)*64 {
			return fmt.Errorf("pin to core %d: there is no such core", c)
		}
		set.Set(c)
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("pin to cores %v: %w", cpus, err)
	}
	for _, t := range tasks {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			return fmt.Errorf("pin to cores %v: %w", cpus, err)
		}
		if err := unix.SchedSetaffinity(id, &set); err != nil && err != unix.ESRCH { // a thread may end meanwhile
			return fmt.Errorf("pin to cores %v: %w; name cores that this process may use", cpus, err)
		}
	}
	return nil
}
