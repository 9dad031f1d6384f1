package hostinfo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/fstest"
	"time"

	"github.com/shirou/gopsutil/v4/cpu"
)

// tree is a file system of the kernel's small files.
func tree(files map[string]string) fstest.MapFS {
	out := fstest.MapFS{}
	for name, text := range files {
		out[name] = &fstest.MapFile{Data: []byte(text + "\n")}
	}
	return out
}

func shown(v *float64) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf("%.4g", *v)
}

// machines are trees as such machines have them, with what is to be read there.
func TestTrees(t *testing.T) {
	for name, c := range map[string]struct {
		files                         map[string]string
		gpu, temperature, power, conn string
		slow                          []int
	}{
		"nothing": {nil, "-", "-", "-", "[] false false", nil},
		"Intel laptop on battery": {map[string]string{
			"sys/devices/cpu_atom/cpus":                           "4-5,7",
			"sys/class/hwmon/hwmon0/name":                         "nvme",
			"sys/class/hwmon/hwmon0/temp1_input":                  "80000",
			"sys/class/hwmon/hwmon1/name":                         "coretemp",
			"sys/class/hwmon/hwmon1/temp1_input":                  "51000",
			"sys/class/hwmon/hwmon1/temp2_input":                  "53500",
			"sys/class/hwmon/hwmon1/temp3_input":                  "0",
			"sys/class/hwmon/hwmon1/temp4_input":                  "255000",
			"sys/class/power_supply/BAT0/type":                    "Battery",
			"sys/class/power_supply/BAT0/status":                  "Discharging",
			"sys/class/power_supply/BAT0/current_now":             "1500000",
			"sys/class/power_supply/BAT0/voltage_now":             "12000000",
			"sys/class/power_supply/AC/type":                      "Mains",
			"sys/class/net/wlan0/device/uevent":                   "DRIVER=iwlwifi",
			"sys/class/net/wlan0/wireless/x":                      "",
			"sys/class/net/wlan0/operstate":                       "up",
			"sys/class/net/wlan0/type":                            "1",
			"sys/class/net/eth0/device/uevent":                    "DRIVER=e1000e",
			"sys/class/net/eth0/operstate":                        "down",
			"sys/class/net/eth0/type":                             "1",
			"sys/class/net/docker0/operstate":                     "up",
			"sys/class/net/docker0/type":                          "1",
			"sys/bus/thunderbolt/devices/0-0/unique_id":           "x",
			"sys/class/powercap/intel-rapl:0/name":                "package-0",
			"sys/class/powercap/intel-rapl:0/energy_uj":           "1000000",
			"sys/class/powercap/intel-rapl:0/max_energy_range_uj": "5000000",
		}, "-", "53.5", "18", "[wifi] true false", []int{4, 5, 7}},
		"AMD server": {map[string]string{
			"sys/class/hwmon/hwmon0/name":                         "k10temp",
			"sys/class/hwmon/hwmon0/temp1_input":                  "60125",
			"sys/class/hwmon/hwmon2/name":                         "amdgpu",
			"sys/class/hwmon/hwmon2/temp1_input":                  "71000",
			"sys/class/hwmon/hwmon2/power1_average":               "40000000",
			"sys/class/drm/card0/device/gpu_busy_percent":         "90",
			"sys/class/drm/card1/device/gpu_busy_percent":         "20",
			"sys/class/powercap/intel-rapl:0/name":                "package-0",
			"sys/class/powercap/intel-rapl:0/energy_uj":           "4000000",
			"sys/class/powercap/intel-rapl:0/max_energy_range_uj": "5000000",
			"sys/class/powercap/intel-rapl:0:0/name":              "core",
			"sys/class/powercap/intel-rapl:0:0/energy_uj":         "900000",
			"sys/class/powercap/intel-rapl:0:1/name":              "dram",
			"sys/class/powercap/intel-rapl:0:1/energy_uj":         "2000000",
			"sys/class/net/ib0/device/uevent":                     "DRIVER=mlx5_core",
			"sys/class/net/ib0/operstate":                         "up",
			"sys/class/net/ib0/type":                              "32",
			"sys/class/net/eno1/device/uevent":                    "DRIVER=igb",
			"sys/class/net/eno1/operstate":                        "up",
			"sys/class/net/eno1/type":                             "1",
			"sys/class/net/tb0/device/uevent":                     "DRIVER=thunderbolt-net",
			"sys/class/net/tb0/operstate":                         "up",
			"sys/class/net/tb0/type":                              "1",
			"sys/class/infiniband/mlx5_0/node_type":               "1",
		}, "55", "71", "42", "[ethernet infiniband thunderbolt] true true", nil}, // 1.5 W of the package, 0.5 W of its memory, and the GPU
		"ARM board": {map[string]string{
			"sys/devices/system/cpu/cpu0/cpu_capacity":    "400",
			"sys/devices/system/cpu/cpu1/cpu_capacity":    "1024",
			"sys/devices/system/cpu/cpu2/cpu_capacity":    "1000",
			"sys/devices/system/cpu/cpufreq/x":            "",
			"sys/class/thermal/thermal_zone0/temp":        "48312",
			"sys/class/power_supply/BAT0/type":            "Battery",
			"sys/class/power_supply/BAT0/status":          "Charging",
			"sys/class/power_supply/BAT0/power_now":       "9000000",
			"sys/class/drm/card0/device/gpu_busy_percent": "what?",
		}, "-", "48.31", "-", "[] false false", []int{0}},
	} {
		root := tree(c.files)
		before := sample{at: time.Unix(0, 0), energy: map[string]energy{}}
		after := sample{at: time.Unix(2, 0), energy: energies(root)}
		for zone, e := range after.energy { // 4 J in 2 s: 3 J of what begins anew at its range, 1 J of what does not
			switch {
			case e.span > 0:
				before.energy[zone] = energy{e.used + 2e6, e.span}
				after.energy[zone] = energy{e.used + 5e6 - e.span, e.span}
			default:
				before.energy[zone] = energy{e.used - 1e6, 0}
			}
		}
		l := lines(root)
		var slow []int
		for id := range efficientCores(root) {
			slow = append(slow, id)
		}
		slices.Sort(slow)
		if got := []string{shown(gpuUse(root)), shown(temperature(root)), shown(power(root, before, after)), fmt.Sprint(l.Kinds, " ", l.Thunderbolt, " ", l.RDMA)}; !slices.Equal(got, []string{c.gpu, c.temperature, c.power, c.conn}) {
			t.Errorf("%s: %q", name, got)
		}
		if !slices.Equal(slow, c.slow) {
			t.Errorf("%s: efficient cores %v", name, slow)
		}
	}
}

// Use is of the time between two readings; a reading is kept for a second.
func TestMeter(t *testing.T) {
	now := time.Unix(1000, 0)
	busy, idle := 0.0, 0.0
	var fails error
	asked := 0
	times := func(context.Context) ([]cpu.TimesStat, error) {
		asked++
		return []cpu.TimesStat{{CPU: "cpu0", User: busy, Idle: idle}, {CPU: "cpu1", System: busy, Iowait: idle / 2, Idle: idle / 2}, {CPU: "cpu-total"}}, fails
	}
	m := newMeter(t.Context(), tree(map[string]string{"sys/devices/cpu_atom/cpus": "1"}), times, func() time.Time { return now })
	busy, idle, now = 1, 3, now.Add(4*time.Second)
	g := m.Read(t.Context())
	if shown(g.FastCores) != "25" || shown(g.EfficientCores) != "25" || g.GPU != nil || g.Power != nil || g.Temperature != nil {
		t.Errorf("%s %s %+v", shown(g.FastCores), shown(g.EfficientCores), g)
	}
	was := asked
	busy, now = 2, now.Add(meterKeep/2)
	if g = m.Read(t.Context()); shown(g.FastCores) != "25" || asked != was {
		t.Errorf("half a second later: %s, asked %d times", shown(g.FastCores), asked-was)
	}
	now = now.Add(meterKeep)
	if g = m.Read(t.Context()); shown(g.FastCores) != "100" {
		t.Errorf("busy: %s", shown(g.FastCores))
	}
	// After long a pair is taken, in which nothing happens here.
	busy, now = 50, now.Add(time.Hour)
	if g = m.Read(t.Context()); g.FastCores != nil {
		t.Errorf("an old sample was used: %s", shown(g.FastCores))
	}
	fails, now = errors.New("no"), now.Add(2*time.Second)
	if g = m.Read(t.Context()); g.FastCores != nil {
		t.Errorf("without counters: %s", shown(g.FastCores))
	}
}

// This machine is read without an error, whatever it has.
func TestMeterHere(t *testing.T) {
	m := NewMeter(t.Context())
	g := m.Read(t.Context())
	for name, v := range map[string]*float64{"fast": g.FastCores, "slow": g.EfficientCores, "gpu": g.GPU} {
		if v != nil && (*v < 0 || *v > 100) {
			t.Errorf("%s: %v", name, *v)
		}
	}
	t.Logf("fast %s slow %s gpu %s temperature %s power %s lines %+v", shown(g.FastCores), shown(g.EfficientCores), shown(g.GPU), shown(g.Temperature), shown(g.Power), g.Lines)
}
