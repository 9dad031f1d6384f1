package hostinfo

import (
	"context"
	"fmt"
	"runtime"

	"github.com/shirou/gopsutil/v4/process"
)

// ResidentMemory is what a process holds in memory, in bytes, its share of
// mapped files included.
func ResidentMemory(ctx context.Context, pid int) (int64, error) {
	p, err := process.NewProcessWithContext(ctx, int32(pid))
	if err != nil {
		return 0, fmt.Errorf("read memory of process %d: %w", pid, err)
	}
	m, err := p.MemoryInfoWithContext(ctx)
	if err != nil {
		return 0, fmt.Errorf("read memory of process %d: %w", pid, err)
	}
	return int64(m.RSS), nil
}

// UsableCores is how many threads of this process can compute at once.
func UsableCores() int { return runtime.GOMAXPROCS(0) }
