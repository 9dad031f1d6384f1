package control

import (
	"slices"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/hostinfo"
	"github.com/skein-run/skein/internal/runner/wire"
)

// assumedGPU is the speed of a GPU with a memory of its own. Nothing measures
// it: it is that of a small one of some years ago, so that a model that fits its
// memory is placed there rather than in the host's.
var assumedGPU = placement.Speed{Bandwidth: 300e9, Compute: 10e12, Batch: 5e12, Step: assumedStep}

// accelerators are what this node's engine has beside the processor.
type accelerators struct {
	own     []wire.Device // with a memory of their own
	unified bool          // one of them works in the host's memory
}

// sorted tells the devices of an engine apart. What works in the host's memory
// has no budget of its own: it would be counted twice.
func sorted(devices []wire.Device, system string) accelerators {
	var a accelerators
	for _, d := range devices {
		switch {
		case d.Type == "igpu", d.Type == "gpu" && d.Backend == "Metal" && system == "darwin/arm64", d.Type == "gpu" && d.Backend == "MTL" && system == "darwin/arm64":
			a.unified = true
		case d.Type == "gpu" && d.MemoryTotal > 0 && !slices.ContainsFunc(a.own, func(x wire.Device) bool { return sameCard(x, d) }):
			a.own = append(a.own, d)
		}
	}
	return a
}

// sameCard tells that two backends show one card: it has one memory.
func sameCard(a, b wire.Device) bool {
	return a.Backend != b.Backend && a.Description == b.Description && near(int64(a.MemoryTotal), int64(b.MemoryTotal))
}

// near allows for what drivers keep for themselves.
func near(a, b int64) bool { return max(a, b)-min(a, b) <= max(a, b)/20 }

// devices are the budgets of this node beside the host's memory. A part of a
// model has not been compared on a GPU yet, so they take whole ones.
func (a accelerators) devices() []placement.Device {
	var out []placement.Device
	for _, d := range a.own {
		out = append(out, placement.Device{ID: d.Name, Total: int64(d.MemoryTotal), Speed: assumedGPU, Whole: true})
	}
	return out
}

// drivers say whose driver tells of the cards of a backend.
var drivers = map[string]string{"CUDA": "nvidia", "ROCm": "amd", "HIP": "amd"}

// mayBe tells that a card, as its driver calls it, can be a device of the engine.
func mayBe(d wire.Device, c hostinfo.GPU) bool {
	driver, ok := drivers[d.Backend]
	return near(c.Total, int64(d.MemoryTotal)) && (!ok || driver == c.Kind)
}

// vitals are the accelerators now. What is free in them their driver tells, as
// far as a card of it can only be this one; else it is what was free at the start
// less what was put there since. Cards that the engine can't use are told too.
func (a accelerators) vitals(cards []hostinfo.GPU, taken map[string]int64) []cluster.DeviceVitals {
	cards = slices.Clone(cards)
	var out []cluster.DeviceVitals
	for _, d := range a.own {
		v := cluster.DeviceVitals{ID: d.Name, Name: d.Description, Kind: d.Backend, Total: int64(d.MemoryTotal), Available: max(0, int64(d.MemoryFree)-taken[d.Name])}
		var is []int
		for i, c := range cards {
			if mayBe(d, c) {
				is = append(is, i)
			}
		}
		alike := 0
		for _, other := range a.own {
			if other.Backend == d.Backend && near(int64(other.MemoryTotal), v.Total) {
				alike++
			}
		}
		switch {
		case len(is) == 0:
		case alike == 1 && len(is) == 1:
			v.Available = min(cards[is[0]].Free, v.Total)
			cards = slices.Delete(cards, is[0], is[0]+1)
		default:
			// Which of several equal cards this is, its driver calls by other
			// numbers: the fullest counts.
			for _, i := range is {
				v.Available = min(v.Available, cards[i].Free)
			}
		}
		out = append(out, v)
	}
	for _, c := range cards {
		if !slices.ContainsFunc(a.own, func(d wire.Device) bool { return mayBe(d, c) }) {
			out = append(out, cluster.DeviceVitals{ID: c.ID, Name: c.Name, Kind: c.Kind, Total: c.Total, Available: c.Free})
		}
	}
	return out
}

// taken is what this node's shards have allocated of each device.
func (c *Control) taken(pending map[string]int64) map[string]int64 {
	out := map[string]int64{}
	state, _ := c.replica.State()
	for _, i := range state.Instances {
		for _, s := range i.Shards {
			if s.Node == c.opts.ID && !s.Phase.Ended() {
				out[s.Device] += s.Reserve
			}
		}
	}
	for device, n := range pending {
		out[device] -= n
	}
	return out
}

// askEngine finds out what accelerators there are, once.
func (c *Control) askEngine() accelerators {
	if c.opts.Devices == nil || c.opts.Load.GPULayers >= 0 {
		return accelerators{} // none, or they were forbidden, or given by hand
	}
	info, err := c.opts.Devices(c.ctx)
	if err != nil {
		c.log.Warn("what GPUs the engine has is not known; models are placed in the host's memory", "error", err)
		return accelerators{}
	}
	for _, p := range info.Problems {
		c.log.Warn("a backend of the engine is of no use here; models are placed on what else there is", "problem", p)
	}
	return sorted(info.Devices, c.opts.System)
}
