package hostinfo

import (
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Lines are the kinds of a machine's connections.
type Lines struct {
	Kinds       []string // of those that are up: ethernet, wifi, thunderbolt, infiniband; sorted
	Thunderbolt bool     // the machine has Thunderbolt or USB4
	RDMA        bool
}

// text reads a small file of the kernel; "" if it is not there or not for us.
func text(root fs.FS, name string) string {
	data, err := fs.ReadFile(root, name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// amount reads a file with one number of any sign.
func amount(root fs.FS, name string) (float64, bool) {
	v, err := strconv.ParseFloat(text(root, name), 64)
	return v, err == nil
}

// list gives what matches a pattern, in order.
func list(root fs.FS, pattern string) []string {
	found, err := fs.Glob(root, pattern)
	if err != nil {
		return nil // our own patterns are well formed
	}
	slices.Sort(found)
	return found
}

// efficientCores tells which cores are slower than others: Intel's hybrid
// processors list them, ARM's cores have a capacity each.
func efficientCores(root fs.FS) map[int]bool {
	out := map[int]bool{}
	if cpus := text(root, "sys/devices/cpu_atom/cpus"); cpus != "" {
		for part := range strings.SplitSeq(cpus, ",") {
			first, last, isRange := strings.Cut(part, "-")
			from, err := strconv.Atoi(first)
			to := from
			if err == nil && isRange {
				to, err = strconv.Atoi(last)
			}
			if err != nil || to-from > 1<<16 {
				return nil
			}
			for id := from; id <= to; id++ {
				out[id] = true
			}
		}
		return out
	}
	capacities, most := map[int]float64{}, 0.0
	for _, dir := range list(root, "sys/devices/system/cpu/cpu[0-9]*") {
		id, err := strconv.Atoi(strings.TrimPrefix(path.Base(dir), "cpu"))
		if c, ok := amount(root, path.Join(dir, "cpu_capacity")); err == nil && ok {
			capacities[id], most = c, max(most, c)
		}
	}
	for id, c := range capacities {
		// Cores that differ a little are of one kind, chosen by its clock.
		if c < 0.75*most {
			out[id] = true
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// gpuUse is the mean use of the GPUs whose drivers tell (amdgpu).
func gpuUse(root fs.FS) *float64 {
	sum, n := 0.0, 0.0
	for _, name := range list(root, "sys/class/drm/card[0-9]*/device/gpu_busy_percent") {
		if v, ok := amount(root, name); ok && v >= 0 && v <= 100 {
			sum, n = sum+v, n+1
		}
	}
	if n == 0 {
		return nil
	}
	mean := sum / n
	return &mean
}

// sensors are drivers of the temperature of processors and GPUs, others are of
// disks, radios and chargers.
var sensors = []string{"coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal", "amdgpu", "nouveau", "xe", "i915"}

// temperature is that of the hottest of processor and GPUs. Where no driver
// says that it is of them, the system's thermal zones stand for it.
func temperature(root fs.FS) *float64 {
	var best *float64
	take := func(name string) {
		if v, ok := amount(root, name); ok {
			// Sensors that are not connected say 0, or something absurd.
			if c := v / 1000; c > 0 && c < 150 && (best == nil || c > *best) {
				best = &c
			}
		}
	}
	for _, dir := range list(root, "sys/class/hwmon/hwmon*") {
		if slices.Contains(sensors, text(root, path.Join(dir, "name"))) {
			for _, name := range list(root, path.Join(dir, "temp*_input")) {
				take(name)
			}
		}
	}
	if best == nil {
		for _, name := range list(root, "sys/class/thermal/thermal_zone*/temp") {
			take(name)
		}
	}
	return best
}

// energy is a counter of RAPL in µJ, which begins anew at its range.
type energy struct{ used, span float64 }

// energies reads the counters of packages and memory, or of the whole platform
// alone where there is one. Mostly only root may read them.
func energies(root fs.FS) map[string]energy {
	out, whole := map[string]energy{}, map[string]energy{}
	for _, dir := range list(root, "sys/class/powercap/*-rapl:*") {
		used, ok := amount(root, path.Join(dir, "energy_uj"))
		if !ok {
			continue
		}
		span, _ := amount(root, path.Join(dir, "max_energy_range_uj"))
		switch zone := text(root, path.Join(dir, "name")); {
		case zone == "psys":
			whole[dir] = energy{used, span}
		case strings.HasPrefix(zone, "package") || zone == "dram":
			out[dir] = energy{used, span}
		}
	}
	if len(whole) > 0 {
		return whole
	}
	return out
}

// power is what the machine takes. One on battery knows it as a whole.
func power(root fs.FS, before, after sample) *float64 {
	sum, known := 0.0, false
	add := func(watts float64) { sum, known = sum+watts, true }
	for _, dir := range list(root, "sys/class/power_supply/*") {
		if text(root, path.Join(dir, "type")) != "Battery" || text(root, path.Join(dir, "status")) != "Discharging" {
			continue
		}
		if v, ok := amount(root, path.Join(dir, "power_now")); ok {
			add(v / 1e6)
		} else if i, ok := amount(root, path.Join(dir, "current_now")); ok {
			if u, ok := amount(root, path.Join(dir, "voltage_now")); ok {
				add(i / 1e6 * u / 1e6)
			}
		}
	}
	if known {
		return &sum
	}
	seconds := after.at.Sub(before.at).Seconds()
	for zone, a := range after.energy {
		b, ok := before.energy[zone]
		if !ok || seconds <= 0 {
			continue
		}
		used := a.used - b.used
		if used < 0 {
			used += a.span
		}
		if used >= 0 {
			add(used / 1e6 / seconds)
		}
	}
	for _, dir := range list(root, "sys/class/hwmon/hwmon*") {
		if text(root, path.Join(dir, "name")) != "amdgpu" {
			continue
		}
		for _, name := range []string{"power1_average", "power1_input"} {
			if v, ok := amount(root, path.Join(dir, name)); ok {
				add(v / 1e6)
				break
			}
		}
	}
	if !known {
		return nil
	}
	return &sum
}

// lines tells what the machine is connected by. Bridges, tunnels and the like
// have no device behind them and do not count.
func lines(root fs.FS) Lines {
	out := Lines{
		Thunderbolt: len(list(root, "sys/bus/thunderbolt/devices/*")) > 0,
		RDMA:        len(list(root, "sys/class/infiniband/*")) > 0,
	}
	for _, dir := range list(root, "sys/class/net/*") {
		device, err := fs.Stat(root, path.Join(dir, "device"))
		state := text(root, path.Join(dir, "operstate"))
		if err != nil || !device.IsDir() || state != "up" && state != "unknown" {
			continue
		}
		kind := ""
		switch _, err := fs.Stat(root, path.Join(dir, "wireless")); {
		case err == nil:
			kind = "wifi"
		case strings.Contains(text(root, path.Join(dir, "device/uevent")), "DRIVER=thunderbolt"):
			kind, out.Thunderbolt = "thunderbolt", true
		case text(root, path.Join(dir, "type")) == "1":
			kind = "ethernet"
		case text(root, path.Join(dir, "type")) == "32":
			kind = "infiniband"
		}
		if kind != "" && !slices.Contains(out.Kinds, kind) {
			out.Kinds = append(out.Kinds, kind)
		}
	}
	slices.Sort(out.Kinds)
	return out
}
