package hostinfo

import (
	"context"
	"encoding/csv"
	"fmt"
	"io/fs"
	"os/exec"
	"path"
	"strconv"
	"strings"
	"time"
)

// GPU is one with a memory of its own, now.
type GPU struct {
	ID          string   // "nvidia0", "amd1": not the engine's name of it
	Name        string   // "" if the driver does not say
	Kind        string   // whose driver: "nvidia", "amd"
	Use         *float64 // percent
	Temperature *float64 // degrees Celsius
	Power       *float64 // W
	Total, Free int64    // bytes
}

// smiTimeout is for a driver that has to wake its GPUs first.
const smiTimeout = 10 * time.Second

// smiFields are what nvidia-smi is asked for, in parseSMI's order.
const smiFields = "index,name,utilization.gpu,temperature.gpu,power.draw,memory.total,memory.free"

// nvidiaGPUs is a function that asks NVIDIA's driver in a short-lived child;
// nil where its program is not installed.
func nvidiaGPUs() func(context.Context) ([]GPU, error) {
	program, err := exec.LookPath("nvidia-smi")
	if err != nil {
		return nil
	}
	return func(ctx context.Context) ([]GPU, error) {
		ctx, cancel := context.WithTimeout(ctx, smiTimeout)
		defer cancel()
		cmd := exec.CommandContext(ctx, program, "--query-gpu="+smiFields, "--format=csv,noheader,nounits")
		cmd.WaitDelay = time.Second
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("ask nvidia-smi: %w", err)
		}
		return parseSMI(string(out))
	}
}

// parseSMI reads the answer of nvidia-smi, a line for each GPU. What a GPU does
// not tell stands there in brackets.
func parseSMI(text string) ([]GPU, error) {
	r := csv.NewReader(strings.NewReader(text))
	r.TrimLeadingSpace, r.FieldsPerRecord = true, strings.Count(smiFields, ",")+1
	r.LazyQuotes = true
	rows, err := r.ReadAll()
	if err != nil {
		return nil, fmt.Errorf("read the answer of nvidia-smi: %w", err)
	}
	var out []GPU
	for _, row := range rows {
		number := func(i int) *float64 {
			v, err := strconv.ParseFloat(strings.TrimSpace(row[i]), 64)
			if err != nil || !(v >= 0 && v < 1e9) {
				return nil
			}
			return &v
		}
		g := GPU{ID: "nvidia" + strings.TrimSpace(row[0]), Name: strings.TrimSpace(row[1]), Kind: "nvidia", Use: number(2), Temperature: number(3), Power: number(4)}
		if total, free := number(5), number(6); total != nil && free != nil {
			g.Total, g.Free = int64(*total)<<20, int64(*free)<<20
		}
		out = append(out, g)
	}
	return out, nil
}

// amdGPUs lists the GPUs whose driver tells of their memory in /sys. Their use,
// temperature and power are read with the others' there.
func amdGPUs(root fs.FS) []GPU {
	var out []GPU
	for _, name := range list(root, "sys/class/drm/card[0-9]*/device/mem_info_vram_total") {
		dir := path.Dir(name)
		total, ok := amount(root, name)
		used, known := amount(root, path.Join(dir, "mem_info_vram_used"))
		if !ok || !known || total <= 0 {
			continue
		}
		out = append(out, GPU{
			ID: "amd" + strings.TrimPrefix(path.Base(path.Dir(dir)), "card"), Name: text(root, path.Join(dir, "product_name")), Kind: "amd",
			Total: int64(total), Free: int64(max(0, total-used)),
		})
	}
	return out
}
