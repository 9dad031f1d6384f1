package control

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/hostinfo"
	"github.com/skein-run/skein/internal/runner/wire"
)

const gib = 1 << 30

func card(name, backend string, free, total uint64) wire.Device {
	return wire.Device{Name: name, Description: "A card", Backend: backend, Type: "gpu", MemoryFree: free, MemoryTotal: total}
}

var processor = wire.Device{Name: "CPU", Backend: "CPU", Type: "cpu", MemoryFree: 8 * gib, MemoryTotal: 16 * gib}

// TestAccelerators: a card is a budget; what works in the host's memory is none,
// and one card that two backends show is one.
func TestAccelerators(t *testing.T) {
	a := sorted([]wire.Device{card("CUDA0", "CUDA", 20*gib, 24*gib), card("Vulkan0", "Vulkan", 20*gib, 24*gib), processor}, "linux/amd64")
	if d := a.devices(); len(d) != 1 || d[0].ID != "CUDA0" || d[0].Total != 24*gib || !d[0].Whole || a.unified {
		t.Errorf("%+v", a)
	}
	a = sorted([]wire.Device{card("CUDA0", "CUDA", 20*gib, 24*gib), card("CUDA1", "CUDA", 24*gib, 24*gib), processor}, "linux/amd64")
	if d := a.devices(); len(d) != 2 {
		t.Errorf("two equal cards are %+v", d)
	}
	igpu := card("Vulkan0", "Vulkan", 8*gib, 16*gib)
	igpu.Type = "igpu"
	for system, d := range map[string]wire.Device{"linux/amd64": igpu, "darwin/arm64": card("MTL0", "MTL", 10*gib, 12*gib)} {
		if a := sorted([]wire.Device{d, processor}, system); !a.unified || len(a.devices()) > 0 {
			t.Errorf("on %s %s is counted beside the host's memory: %+v", system, d.Name, a)
		}
	}
	if a := sorted([]wire.Device{processor}, "linux/amd64"); a.unified || len(a.devices()) > 0 {
		t.Errorf("%+v", a)
	}
}

// TestFreeVideoMemory: the driver tells it where it is clear of which card, and
// what is uncertain never counts as more.
func TestFreeVideoMemory(t *testing.T) {
	one := sorted([]wire.Device{card("CUDA0", "CUDA", 23*gib, 24*gib)}, "linux/amd64")
	two := sorted([]wire.Device{card("CUDA0", "CUDA", 23*gib, 24*gib), card("CUDA1", "CUDA", 23*gib, 24*gib)}, "linux/amd64")
	nvidia := func(id string, free int64) hostinfo.GPU {
		return hostinfo.GPU{ID: id, Name: "A card", Kind: "nvidia", Total: 24*gib - 1<<28, Free: free}
	}
	amd := hostinfo.GPU{ID: "amd0", Kind: "amd", Total: 16 * gib, Free: 15 * gib}
	told := func(id string, free int64) cluster.DeviceVitals {
		return cluster.DeviceVitals{ID: id, Name: "A card", Kind: "CUDA", Total: 24 * gib, Available: free}
	}
	for _, c := range []struct {
		name  string
		have  accelerators
		cards []hostinfo.GPU
		taken map[string]int64
		want  []cluster.DeviceVitals
	}{
		{"the driver tells", one, []hostinfo.GPU{nvidia("nvidia0", 5*gib)}, map[string]int64{"CUDA0": 2 * gib}, []cluster.DeviceVitals{told("CUDA0", 5*gib)}},
		{"no driver", one, nil, map[string]int64{"CUDA0": 20 * gib}, []cluster.DeviceVitals{told("CUDA0", 3*gib)}},
		{"more than there was", one, nil, map[string]int64{"CUDA0": 30 * gib}, []cluster.DeviceVitals{told("CUDA0", 0)}},
		{"equal cards", two, []hostinfo.GPU{nvidia("nvidia0", 20*gib), nvidia("nvidia1", 4*gib)}, nil, []cluster.DeviceVitals{told("CUDA0", 4*gib), told("CUDA1", 4*gib)}},
		{"another's card", one, []hostinfo.GPU{nvidia("nvidia0", 9*gib), amd}, nil, []cluster.DeviceVitals{told("CUDA0", 9*gib), {ID: "amd0", Kind: "amd", Total: 16 * gib, Available: 15 * gib}}},
		{"no engine for it", accelerators{}, []hostinfo.GPU{amd}, nil, []cluster.DeviceVitals{{ID: "amd0", Kind: "amd", Total: 16 * gib, Available: 15 * gib}}},
	} {
		if d := cmp.Diff(c.want, c.have.vitals(c.cards, c.taken)); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
}
