package hostinfo

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"testing/fstest"
)

func TestRead(t *testing.T) {
	f, err := Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if f.OS != runtime.GOOS || f.Arch != runtime.GOARCH {
		t.Errorf("platform %s/%s", f.OS, f.Arch)
	}
	if f.CoresUsable < 1 || f.CoresPhysical < 1 || f.CoresLogical < f.CoresPhysical || f.CoresUsable > f.CoresLogical {
		t.Errorf("cores: %d usable of %d logical, %d physical", f.CoresUsable, f.CoresLogical, f.CoresPhysical)
	}
	if f.MemoryTotal < 64<<20 || f.MemoryAvailable == 0 || f.MemoryAvailable > f.MemoryTotal {
		t.Errorf("memory: %d of %d available", f.MemoryAvailable, f.MemoryTotal)
	}
}

func TestDisk(t *testing.T) {
	dir := t.TempDir()
	s, err := Disk(t.Context(), filepath.Join(dir, "not", "there", "yet"))
	if err != nil {
		t.Fatal(err)
	}
	if s.Path != dir || s.Total == 0 || s.Free > s.Total {
		t.Errorf("got %+v for %s", s, dir)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" { // which reports a missing path here
		if _, err := Disk(t.Context(), filepath.Join(file, "below")); err == nil {
			t.Error("a path below a file was accepted")
		}
	}
}

func TestCgroupMemory(t *testing.T) {
	for name, c := range map[string]struct {
		files       map[string]string
		limit, used uint64
	}{
		"no groups": {nil, 0, 0},
		"no limit":  {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, 0, 0},
		"container": {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1000\n", "sys/fs/cgroup/memory.current": "700\n",
			"sys/fs/cgroup/memory.stat": "anon 400\ninactive_file 200\n"}, 1000, 500},
		"lowest of the parents": {map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "900\n",
			"sys/fs/cgroup/a/memory.max": "500\n", "sys/fs/cgroup/a/memory.current": "100\n"}, 500, 100},
		"version 1": {map[string]string{"proc/self/cgroup": "4:cpu,memory:/x\n1:name=systemd:/x\n", "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "800\n",
			"sys/fs/cgroup/memory/x/memory.usage_in_bytes": "300\n"}, 800, 300},
		"group not visible": {map[string]string{"proc/self/cgroup": "0::/../elsewhere\n", "sys/fs/cgroup/memory.max": "600\n"}, 600, 0},
		"cache above usage": {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "600\n", "sys/fs/cgroup/memory.current": "10",
			"sys/fs/cgroup/memory.stat": "inactive_file 20\n"}, 600, 0},
		"nonsense": {map[string]string{"proc/self/cgroup": "what\n0::/\n", "sys/fs/cgroup/memory.max": "lots\n"}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			root := fstest.MapFS{}
			for n, content := range c.files {
				root[n] = &fstest.MapFile{Data: []byte(content)}
			}
			limit, used := cgroupMemory(root)
			if limit != c.limit || used != c.used {
				t.Errorf("got %d of %d, want %d of %d", used, limit, c.used, c.limit)
			}
		})
	}
}

func TestLimit(t *testing.T) {
	f := Facts{MemoryTotal: 1000, MemoryAvailable: 800}
	f.limit(2000, 5)
	f.limit(0, 0)
	if f.MemoryLimited || f.MemoryTotal != 1000 {
		t.Errorf("a limit above the machine counted: %+v", f)
	}
	f.limit(500, 100)
	if !f.MemoryLimited || f.MemoryTotal != 500 || f.MemoryAvailable != 400 {
		t.Errorf("got %+v", f)
	}
	f.limit(300, 900)
	if f.MemoryAvailable != 0 {
		t.Errorf("used above the limit leaves %d", f.MemoryAvailable)
	}
}
