package hostinfo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/shirou/gopsutil/v4/cpu"
)

func show(gpus []GPU) (out []string) {
	for _, g := range gpus {
		out = append(out, fmt.Sprint(g.ID, "|", g.Name, "|", g.Kind, "|", shown(g.Use), " ", shown(g.Temperature), " ", shown(g.Power), " ", g.Total>>20, " ", g.Free>>20))
	}
	return out
}

func TestGPUs(t *testing.T) {
	got, err := parseSMI("0, NVIDIA H100 80GB HBM3, 37, 45, 123.45, 81559, 80000\n1, NVIDIA T400 4GB, [N/A], 50, [Not Supported], 4096, 4000\n")
	want := []string{"nvidia0|NVIDIA H100 80GB HBM3|nvidia|37 45 123.5 81559 80000", "nvidia1|NVIDIA T400 4GB|nvidia|- 50 - 4096 4000"}
	if err != nil || !slices.Equal(show(got), want) {
		t.Errorf("%q, %v", show(got), err)
	}
	if _, err := parseSMI("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n"); err == nil {
		t.Error("a complaint was taken for an answer")
	}
	if got, err := parseSMI(""); err != nil || len(got) != 0 {
		t.Errorf("no GPU: %v, %v", got, err)
	}
	root := tree(map[string]string{
		"sys/class/drm/card1/device/mem_info_vram_total": "17163091968", "sys/class/drm/card1/device/mem_info_vram_used": "1048576",
		"sys/class/drm/card0/device/mem_info_vram_total": "no",
	})
	if got := show(amdGPUs(root)); !slices.Equal(got, []string{"amd1||amd|- - - 16368 16367"}) {
		t.Errorf("%q", got)
	}
}

// Nobody waits for the driver: what it tells comes with the next reading, and
// one that fails is left alone for a while.
func TestMeterAsksTheDriver(t *testing.T) {
	now := time.Unix(1000, 0)
	m := newMeter(t.Context(), nil, func(context.Context) ([]cpu.TimesStat, error) { return nil, nil }, func() time.Time { return now })
	use, watts, asked := 50.0, 100.0, 0
	var fails error
	m.gpus = func(context.Context) ([]GPU, error) {
		asked++
		return []GPU{{ID: "nvidia0", Use: &use, Power: &watts, Total: 1 << 30}}, fails
	}
	read := func(after time.Duration) Gauges {
		now = now.Add(after)
		g := m.Read(t.Context())
		m.asking.Wait()
		return g
	}
	if g := read(0); g.GPU != nil || asked != 1 {
		t.Errorf("at once: %s, asked %d times", shown(g.GPU), asked)
	}
	if g := read(meterKeep); shown(g.GPU) != "50" || shown(g.Power) != "100" || len(g.GPUs) != 1 || asked != 1 {
		t.Errorf("then: %s %s %v, asked %d times", shown(g.GPU), shown(g.Power), g.GPUs, asked)
	}
	fails = errors.New("no")
	if g := read(gpuKeep); shown(g.GPU) != "50" || asked != 2 {
		t.Errorf("later: %s, asked %d times", shown(g.GPU), asked)
	}
	if g := read(gpuOld); g.GPU != nil || asked != 2 {
		t.Errorf("after it failed: %s, asked %d times", shown(g.GPU), asked)
	}
	read(gpuPause)
	m.Close()
	if read(2 * gpuPause); asked != 3 {
		t.Errorf("asked %d times in the end", asked)
	}
}
