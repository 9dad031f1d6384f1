// Package hostinfo reads the facts of this machine: processor, memory, disks,
// and with a Meter what changes all the time: use, temperature, power. It owns
// the merging of what the kernel reports with the limits of a container, and
// the reading of Linux' /sys. It imports nothing of ours; but for a Meter it
// keeps no state, and any goroutine may call it. What the engine can use of
// GPUs is not its business: ggml's own device list is asked in a
// short-lived child (skein engine devices).
package hostinfo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/disk"
	"github.com/shirou/gopsutil/v4/host"
	"github.com/shirou/gopsutil/v4/mem"
)

// Facts describe a machine at one moment. Sizes are in bytes.
type Facts struct {
	OS     string `json:"os"`     // Go's name: linux, darwin, windows
	Arch   string `json:"arch"`   // Go's name: amd64, arm64
	System string `json:"system"` // "debian 12.5"
	Kernel string `json:"kernel"`
	Chip   string `json:"chip"` // the processor's marketing name, "" when unknown

	CoresPhysical int `json:"cores_physical"`
	CoresLogical  int `json:"cores_logical"`
	// CoresUsable is what this process may use: less than CoresLogical under a
	// CPU quota or an affinity mask.
	CoresUsable int `json:"cores_usable"`

	// MemoryTotal and MemoryAvailable hold for this process: the machine's, or
	// its container's where that is less. Available is what can be used
	// without swapping.
	MemoryTotal     uint64 `json:"memory_total"`
	MemoryAvailable uint64 `json:"memory_available"`
	// MemoryLimited tells that a container's limit made them less.
	MemoryLimited bool `json:"memory_limited"`
}

// Read asks the operating system. Facts that are nice to have (names) stay
// empty when unknown; memory and cores are an error.
func Read(ctx context.Context) (Facts, error) {
	f := Facts{OS: runtime.GOOS, Arch: runtime.GOARCH, CoresUsable: runtime.GOMAXPROCS(0)}
	memory, err := mem.VirtualMemoryWithContext(ctx)
	if err != nil {
		return f, fmt.Errorf("read memory: %w", err)
	}
	f.MemoryTotal, f.MemoryAvailable = memory.Total, memory.Available
	if runtime.GOOS == "linux" {
		f.limit(cgroupMemory(os.DirFS("/")))
	}
	if f.CoresLogical, err = cpu.CountsWithContext(ctx, true); err != nil {
		return f, fmt.Errorf("count cores: %w", err)
	}
	if f.CoresPhysical, err = cpu.CountsWithContext(ctx, false); err != nil || f.CoresPhysical == 0 {
		// Some virtual machines and ARM kernels do not tell them apart.
		f.CoresPhysical = f.CoresLogical
	}
	f.CoresUsable = min(f.CoresUsable, f.CoresLogical)
	if chips, err := cpu.InfoWithContext(ctx); err == nil && len(chips) > 0 {
		f.Chip = strings.Join(strings.Fields(chips[0].ModelName), " ")
	}
	if name, _, version, err := host.PlatformInformationWithContext(ctx); err == nil {
		f.System = strings.TrimSpace(name + " " + version)
	}
	if kernel, err := host.KernelVersionWithContext(ctx); err == nil {
		f.Kernel = kernel
	}
	return f, nil
}

// limit applies a container's memory limit, if there is one below the
// machine's.
func (f *Facts) limit(limit, used uint64) {
	if limit == 0 || limit >= f.MemoryTotal {
		return
	}
	f.MemoryLimited = true
	f.MemoryTotal = limit
	f.MemoryAvailable = min(f.MemoryAvailable, limit-min(used, limit))
}

// Space is the room on the file system that holds a path, in bytes.
type Space struct {
	Path  string `json:"path"` // the existing folder that was asked
	Total uint64 `json:"total"`
	Free  uint64 `json:"free"` // for this user
}

// Disk gives the room where path is, or will be: the nearest parent that
// exists is asked.
func Disk(ctx context.Context, path string) (Space, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return Space{}, fmt.Errorf("read disk space: %w", err)
	}
	for {
		_, err := os.Stat(path)
		if err == nil {
			break
		}
		parent := filepath.Dir(path)
		if !errors.Is(err, fs.ErrNotExist) || parent == path {
			return Space{}, fmt.Errorf("read disk space: %w", err)
		}
		path = parent
	}
	usage, err := disk.UsageWithContext(ctx, path)
	if err != nil {
		return Space{}, fmt.Errorf("read disk space of %s: %w", path, err)
	}
	return Space{Path: path, Total: usage.Total, Free: usage.Free}, nil
}
