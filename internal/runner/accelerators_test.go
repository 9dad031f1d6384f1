package runner

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/engine"
	"github.com/skein-run/skein/internal/runner/wire"
)

func TestAccelerators(t *testing.T) {
	all := []wire.Device{{Name: "CUDA0", Type: "gpu"}, {Name: "CPU", Type: "cpu"}, {Name: "Vulkan0", Type: "igpu"}, {Name: "BLAS", Type: "accel"}}
	for _, c := range []struct {
		layers int
		device string
		want   []string
	}{
		{-1, "", []string{"CUDA0", "Vulkan0"}}, {3, "", []string{"CUDA0", "Vulkan0"}}, {-1, "Vulkan0", []string{"Vulkan0"}},
		{0, "", nil}, {0, "CUDA0", nil}, {-1, "CUDA7", nil},
	} {
		var got []string
		for _, d := range accelerators(all, wire.LoadRequest{GPULayers: c.layers, Device: c.device}) {
			got = append(got, d.Name)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func TestLayersOnAccelerators(t *testing.T) {
	all := []wire.Device{{Name: "CUDA0", Type: "gpu"}, {Name: "CPU", Type: "cpu"}}
	for _, c := range []struct {
		layers, of int
		head       bool
		want       int
	}{{-1, 4, true, 5}, {-1, 2, false, 2}, {3, 4, true, 3}, {wire.AllLayers, 4, true, 5}, {0, 4, true, 0}} {
		if got := onAccelerators(all, wire.LoadRequest{GPULayers: c.layers}, c.of, c.head); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
	if got := onAccelerators(all[1:], wire.LoadRequest{GPULayers: -1}, 4, true); got != 0 {
		t.Errorf("%d layers lie on no accelerator", got)
	}
}

// TestFitting: all layers where there is room, fewer where there is less, and in
// the end the processor alone.
func TestFitting(t *testing.T) {
	req := wire.LoadRequest{Paths: []string{demoModel(t)}, Slots: 1, Context: 1024, GPULayers: -1}
	for _, c := range []struct {
		free uint64
		want []int
	}{{1 << 30, []int{5, 2, 1, 0}}, {1 << 20, []int{0}}, {11 << 20, []int{2, 1, 0}}} {
		all, try := fitting([]wire.Device{{Name: "CUDA0", Type: "gpu", MemoryFree: c.free}}, req)
		if all != 5 || !slices.Equal(try, c.want) {
			t.Errorf("%d bytes are free: %v of %d layers", c.free, try, all)
		}
	}
	if all, try := fitting([]wire.Device{{Name: "CPU", Type: "cpu", MemoryFree: 1 << 40}}, req); all != 0 || !slices.Equal(try, []int{0}) {
		t.Errorf("without an accelerator: %v of %d", try, all)
	}
	// What only the library may understand is left to it.
	req.Paths = []string{"no-such-file.gguf"}
	if _, try := fitting([]wire.Device{{Name: "CUDA0", Type: "gpu", MemoryFree: 1 << 30}}, req); !slices.Equal(try, []int{-1}) {
		t.Errorf("a file that is not there: %v", try)
	}
}

// gpuEngine is an engine with a GPU that it can use, which is asked for by
// name: a test must not find one by accident and depend on it.
func gpuEngine(t *testing.T) (wire.EngineSpec, string) {
	t.Helper()
	dir := os.Getenv("SKEIN_TEST_GPU_ENGINE")
	if dir == "" {
		t.Skip("NOT RUN: SKEIN_TEST_GPU_ENGINE names no folder of libraries with a GPU backend (docs/gpu.md)")
	}
	e, err := engine.Inspect(dir, engine.Host())
	if err != nil {
		t.Fatalf("SKEIN_TEST_GPU_ENGINE: %v", err)
	}
	c := startChild(t)
	var info wire.EngineInfo
	if err := c.call(wire.TypeEngine, e.Spec(), &info); err != nil {
		t.Fatal(err)
	}
	use := accelerators(info.Devices, wire.LoadRequest{GPULayers: -1})
	if len(use) == 0 {
		t.Skipf("NOT RUN: the libraries in %s see no GPU, only %+v", dir, info.Devices)
	}
	t.Logf("on %s, %s", use[0].Name, use[0].Description)
	return e.Spec(), use[0].Name
}

// TestOnGPU holds what --gpu-layers promises on a device that is there: the same
// answer wherever the layers lie, and none of the device with 0.
func TestOnGPU(t *testing.T) {
	spec, device := gpuEngine(t)
	for name, c := range map[string]struct {
		layers int
		device string
		lie    int
		chunk  int
	}{
		"as many as fit": {-1, "", 5, 512}, "all on one": {wire.AllLayers, device, 5, 512}, "none": {0, "", 0, 256}, "head alone": {1, device, 1, 512},
	} {
		t.Run(name, func(t *testing.T) {
			child := startChild(t)
			var engine wire.EngineInfo
			if err := child.call(wire.TypeEngine, spec, &engine); err != nil {
				t.Fatal(err)
			}
			var info wire.ModelInfo
			req := wire.LoadRequest{Paths: []string{demoModel(t)}, Slots: 1, Context: 512, Threads: 1, PendingLimit: 8, GPULayers: c.layers, Device: c.device}
			if err := child.call(wire.TypeLoad, req, &info); err != nil {
				t.Fatal(err)
			}
			if info.GPULayers != c.lie || info.ChunkTokens != c.chunk {
				t.Errorf("%d layers on the device, chunks of %d; want %d, %d", info.GPULayers, info.ChunkTokens, c.lie, c.chunk)
			}
			a := child.generate(wire.GenerateRequest{ID: 1, Prompt: child.tokenize(chatML("What is the capital of France?")), Sampling: greedy(), MaxTokens: 12})[1]
			if !strings.Contains(a.text, "Paris") {
				t.Errorf("answer %q", a.text)
			}
		})
	}
	t.Run("no such device", func(t *testing.T) {
		child := startChild(t)
		if err := child.call(wire.TypeEngine, spec, new(wire.EngineInfo)); err != nil {
			t.Fatal(err)
		}
		err := child.call(wire.TypeLoad, wire.LoadRequest{Paths: []string{demoModel(t)}, Slots: 1, Context: 512, GPULayers: wire.AllLayers, Device: "Vulkan7"}, new(wire.ModelInfo))
		var f *wire.Failure
		if !errors.As(err, &f) || !strings.Contains(f.Message, "no device Vulkan7") {
			t.Errorf("%v", err)
		}
	})
}

// TestIdleBackend: a backend that cannot be loaded is told of, with the reason;
// ggml itself passes over it in silence.
func TestIdleBackend(t *testing.T) {
	from := engineSpec(t)
	dir := t.TempDir()
	files, err := os.ReadDir(from.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.Symlink(filepath.Join(from.Dir, f.Name()), filepath.Join(dir, f.Name())); err != nil {
			t.Skipf("NOT RUN: no links can be made here: %v", err)
		}
	}
	name := "libggml-vulkan.so"
	switch runtime.GOOS {
	case "darwin":
		name = "libggml-vulkan.dylib"
	case "windows":
		name = "ggml-vulkan.dll"
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte("no library"), 0o600); err != nil {
		t.Fatal(err)
	}
	from.Dir = dir
	in, err := json.Marshal(from)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(repo(t), "bin", "skein"), "runner", "--probe")
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var info wire.EngineInfo
	if err := json.Unmarshal(out, &info); err != nil {
		t.Fatal(err)
	}
	if len(info.Devices) == 0 || len(info.Problems) != 1 || !strings.Contains(info.Problems[0], "vulkan backend cannot be loaded: ") {
		t.Errorf("%+v", info)
	}
}
