package runner

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/runner/wire"
)

// TestPinned: every thread of a pinned shard stays on its cores, those of the
// library too.
func TestPinned(t *testing.T) {
	path := demoModel(t)
	req := shardRequest(path)
	req.Threads = 2
	req.Shard = &wire.ShardSpec{Group: "pinned", Shards: cut(layersOf(t, path), 1, nil), Listen: "127.0.0.1:0", CPUs: []int{0}}
	c := startChild(t)
	c.load(req)
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", c.cmd.Process.Pid))
	if err != nil || len(tasks) == 0 {
		t.Fatalf("%d threads, %v", len(tasks), err)
	}
	for _, f := range tasks {
		b, err := os.ReadFile(f)
		if os.IsNotExist(err) {
			continue // it has ended
		}
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(strings.Split(string(b), "\n"), "Cpus_allowed_list:\t0") {
			t.Errorf("%s is not on core 0 alone", f)
		}
	}
	req.Shard.CPUs = []int{1 << 20}
	again := startChild(t)
	var ei wire.EngineInfo
	if err := again.call(wire.TypeEngine, engineSpec(t), &ei); err != nil {
		t.Fatal(err)
	}
	if err := again.call(wire.TypeLoad, req, &wire.ModelInfo{}); err == nil || !strings.Contains(err.Error(), "core 1048576") {
		t.Errorf("a core that is not there: %v, want an error that names it", err)
	}
}
