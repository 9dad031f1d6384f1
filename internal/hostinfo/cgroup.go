package hostinfo

import (
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// cgroupMemory gives the lowest memory limit over the control groups that this
// process is in, and how much of it is in use, both in bytes; 0, 0 without a
// limit. root is the root of the file system. Both versions of the interface
// are read; in a container the group's own path is often not visible, and then
// the root of the mount is the container's group.
func cgroupMemory(root fs.FS) (limit, used uint64) {
	type place struct{ mount, group, max, current, stat string }
	places := []place{
		{"sys/fs/cgroup", "", "memory.max", "memory.current", "memory.stat"},
		{"sys/fs/cgroup/memory", "", "memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat"},
	}
	data, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(data)) {
		// "0::/group" is version 2, "5:memory:/group" version 1.
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(parts) != 3:
		case parts[0] == "0" && parts[1] == "":
			places[0].group = parts[2]
		case strings.Contains(","+parts[1]+",", ",memory,"):
			places[1].group = parts[2]
		}
	}
	for _, p := range places {
		for group := path.Clean("/" + p.group); ; group = path.Dir(group) {
			dir := path.Join(p.mount, group)
			if v, ok := number(root, path.Join(dir, p.max)); ok && (limit == 0 || v < limit) {
				current, _ := number(root, path.Join(dir, p.current))
				// The page cache counts as used but is given back on demand.
				limit, used = v, current-min(current, inactiveFile(root, path.Join(dir, p.stat)))
			}
			if group == "/" {
				break
			}
		}
	}
	return limit, used
}

// number reads a file with one number; "max" is none.
func number(root fs.FS, name string) (uint64, bool) {
	data, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, false
	}
	v, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	return v, err == nil
}

func inactiveFile(root fs.FS, name string) uint64 {
	data, err := fs.ReadFile(root, name)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "inactive_file "); ok {
			v, err := strconv.ParseUint(strings.TrimSpace(rest), 10, 64)
			if err == nil {
				return v
			}
		}
	}
	return 0
}
