package runner

import (
	"math"
	"slices"

	"github.com/skein-run/skein/internal/bytesize"
	"github.com/skein-run/skein/internal/gguf/hyper"
	"github.com/skein-run/skein/internal/runner/wire"
)

// accelerators are the devices that a load uses beside the processor.
func accelerators(all []wire.Device, req wire.LoadRequest) []wire.Device {
	var out []wire.Device
	for _, d := range all {
		if (d.Type == "gpu" || d.Type == "igpu") && req.GPULayers != 0 && (req.Device == "" || req.Device == d.Name) {
			out = append(out, d)
		}
	}
	return out
}

// onAccelerators counts the layers that lie there: the last ones, the head behind
// them being one more.
func onAccelerators(devices []wire.Device, req wire.LoadRequest, layers int, head bool) int {
	if len(accelerators(devices, req)) == 0 {
		return 0
	}
	if head {
		layers++
	}
	if req.GPULayers < 0 {
		return layers
	}
	return min(layers, req.GPULayers)
}

// fitting gives the numbers of layers to try on the accelerators that a load may
// use, the most first, and how many the model has; the output head counts as one.
func fitting(devices []wire.Device, req wire.LoadRequest) (all int, try []int) {
	use := accelerators(devices, req)
	switch {
	case req.Device != "" && !slices.ContainsFunc(devices, func(d wire.Device) bool { return d.Name == req.Device }):
		return 0, []int{-1} // the library's side says which there are
	case len(use) == 0:
		return 0, []int{0}
	}
	free := freeMemory(use)
	m, files, err := parse(req.Paths)
	defer closeAll(files)
	if err != nil {
		return 0, []int{-1} // the library may read it, or tells why not
	}
	h, err := hyper.Read(m)
	if err != nil {
		return 0, []int{-1}
	}
	chunk := chunkFor(req.ChunkTokens, m.Parameters(), true, 1, req.Context)
	n, err := hyper.Offload(m, hyper.Spec{Context: req.Context, Slots: req.Slots, Batch: max(chunk, req.Slots)}, free)
	if err != nil {
		return 0, []int{-1}
	}
	all = h.Layers + 1
	for ; n > 0; n /= 2 {
		try = append(try, n)
	}
	return all, append(try, 0)
}

// freeMemory is what devices have together. What works in the host's memory
// ("igpu", Apple's) tells of that.
func freeMemory(devices []wire.Device) int64 {
	sum := int64(0)
	for _, d := range devices {
		sum += int64(min(d.MemoryFree, math.MaxInt64/1024))
	}
	return sum
}

func freeIn(devices []wire.Device) string { return bytesize.Format(freeMemory(devices)) }
