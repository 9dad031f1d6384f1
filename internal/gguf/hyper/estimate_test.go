package hyper_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/gguftest"
	"github.com/skein-run/skein/internal/gguf/hyper"
)

// measured is what llama-server v0.5.0 logged on the CPU (flash attention, not
// unified, f16 cache, as many outputs as slots) for a model and a context: its
// "model", "KV", "RS", "compute" and "output buffer size" lines, in MiB, which
// it rounds to 0.01.
type measured struct {
	model                               string
	slots, context, batch               int
	weights, kv, rs, compute, outputMiB float64
}

// Files are named relative to the archs folder, except for the two models.
func measurements() []measured {
	return []measured{
		{"demo", 4, 4096, 512, 4.26, 32, 0, 10.51, 0.03},
		// f32: the cache too, and no flash attention.
		{"demo in f32", 4, 4096, 512, 16.01, 64, 0, 75.01, 0.03},
		{"demo in f32", 1, 1024, 512, 16.01, 4, 0, 21.01, 0.01},
		{"demo in f32", 2, 2048, 256, 16.01, 16, 0, 19.5, 0.02},
		{"demo in f32", 1, 32768, 256, 16.01, 128, 0, 289.5, 0.01},
		{"demo in f32", 1, 1024, 64, 16.01, 4, 0, 2.63, 0.01},
		{"smollm2", 4, 4096, 512, 92.1, 360, 0, 17.51, 0.75},
		{"bloom-dense-f16", 4, 4096, 512, 1.9, 32, 0, 7.01, 0.00},
		{"cohere2-dense-f16", 4, 4096, 512, 2.2, 19, 0, 8.27, 0.00},
		{"deepseek2-moe-f16", 4, 4096, 512, 2.11, 36, 0, 8.51, 0.00},
		{"exaone4-dense-f16", 4, 4096, 512, 2.26, 32, 0, 7.51, 0.00},
		{"falcon-dense-f16", 4, 4096, 512, 1.89, 32, 0, 7.51, 0.00},
		{"gemma2-dense-f16", 4, 4096, 512, 2.2, 19, 0, 8.02, 0.00},
		{"gemma3-dense-f16", 4, 4096, 512, 2.27, 19, 0, 8.02, 0.00},
		{"glm4-dense-f16", 4, 4096, 512, 2.27, 32, 0, 7.52, 0.00},
		{"gpt-oss-moe-f16", 4, 4096, 512, 3.41, 19, 0, 10.27, 0.00},
		{"gpt2-dense-f16", 4, 4096, 512, 2.15, 32, 0, 7.01, 0.00},
		{"granitehybrid-dense-f16", 4, 4096, 512, 2.79, 16, 1.05, 9.52, 0.00},
		{"jamba-dense-f16", 4, 4096, 512, 3.03, 16, 1.02, 8.26, 0.00},
		{"lfm2-dense-f16", 4, 4096, 512, 2.26, 3, 0.01, 3.77, 0.00},
		{"llama-dense-f16", 4, 4096, 512, 2.27, 32, 0, 7.51, 0.00},
		{"llama-dense-q4_0", 4, 4096, 512, 1.21, 32, 0, 7.51, 0.00},
		{"llama-dense-q4_k", 4, 4096, 512, 1.14, 32, 0, 7.51, 0.00},
		{"llama-dense-q8_0", 4, 4096, 512, 1.22, 32, 0, 7.51, 0.00},
		{"llama-moe-f16", 4, 4096, 512, 3.39, 32, 0, 10.51, 0.00},
		{"mamba2-dense-f16", 4, 4096, 512, 2.17, 0, 2.09, 10.65, 0.00},
		{"minicpm-dense-f16", 4, 4096, 512, 2.27, 32, 0, 7.51, 0.00},
		{"mistral3-dense-f16", 4, 4096, 512, 2.27, 32, 0, 7.51, 0.00},
		{"nemotron_h-dense-f16", 4, 4096, 512, 2.03, 16, 1.05, 9.51, 0.00},
		{"olmo2-dense-f16", 4, 4096, 512, 2.27, 19, 0, 7.52, 0.00},
		{"phi2-dense-f16", 4, 4096, 512, 1.89, 32, 0, 7.51, 0.00},
		{"phi3-dense-f16", 4, 4096, 512, 2.26, 32, 0, 7.51, 0.00},
		{"qwen2-dense-f16", 4, 4096, 512, 2.26, 32, 0, 7.51, 0.00},
		{"qwen3-dense-f16", 4, 4096, 512, 1.89, 8, 0, 7.51, 0.00},
		{"qwen3moe-moe-f16", 4, 4096, 512, 3.39, 32, 0, 10.51, 0.00},
		{"qwen3moe-moe-q4_0", 4, 4096, 512, 1.78, 32, 0, 10.51, 0.00},
		{"qwen3moe-moe-q4_k", 4, 4096, 512, 1.67, 32, 0, 10.51, 0.00},
		{"qwen3moe-moe-q8_0", 4, 4096, 512, 1.81, 32, 0, 10.51, 0.00},
		{"qwen3next-moe-f16", 4, 4096, 512, 4.72, 16, 0.54, 10.08, 0.00},
		{"stablelm-dense-f16", 4, 4096, 512, 2.27, 32, 0, 7.51, 0.00},
		{"starcoder2-dense-f16", 4, 4096, 512, 1.9, 32, 0, 7.01, 0.00},
		{"demo", 1, 1024, 512, 4.26, 2, 0, 7.51, 0.01},
		{"smollm2", 1, 1024, 512, 92.1, 22.5, 0, 14.51, 0.19},
		{"bloom-dense-f16", 1, 1024, 512, 1.9, 2, 0, 4.01, 0.00},
		{"cohere2-dense-f16", 1, 1024, 512, 2.2, 1.75, 0, 5.27, 0.00},
		{"deepseek2-moe-f16", 1, 1024, 512, 2.11, 2.25, 0, 5.51, 0.00},
		{"exaone4-dense-f16", 1, 1024, 512, 2.26, 2, 0, 4.51, 0.00},
		{"falcon-dense-f16", 1, 1024, 512, 1.89, 2, 0, 4.51, 0.00},
		{"gemma2-dense-f16", 1, 1024, 512, 2.2, 1.75, 0, 5.02, 0.00},
		{"gemma3-dense-f16", 1, 1024, 512, 2.27, 1.75, 0, 5.02, 0.00},
		{"glm4-dense-f16", 1, 1024, 512, 2.27, 2, 0, 4.52, 0.00},
		{"gpt-oss-moe-f16", 1, 1024, 512, 3.41, 1.75, 0, 7.27, 0.00},
		{"gpt2-dense-f16", 1, 1024, 512, 2.15, 2, 0, 4.01, 0.00},
		{"granitehybrid-dense-f16", 1, 1024, 512, 2.79, 1, 0.26, 9.03, 0.00},
		{"jamba-dense-f16", 1, 1024, 512, 3.03, 1, 0.26, 7.26, 0.00},
		{"lfm2-dense-f16", 1, 1024, 512, 2.26, 0.75, 0, 3.76, 0.00},
		{"llama-dense-f16", 1, 1024, 512, 2.27, 2, 0, 4.51, 0.00},
		{"llama-moe-f16", 1, 1024, 512, 3.39, 2, 0, 7.51, 0.00},
		{"mamba2-dense-f16", 1, 1024, 512, 2.17, 0, 0.52, 9.53, 0.00},
		{"minicpm-dense-f16", 1, 1024, 512, 2.27, 2, 0, 4.51, 0.00},
		{"mistral3-dense-f16", 1, 1024, 512, 2.27, 2, 0, 4.51, 0.00},
		{"nemotron_h-dense-f16", 1, 1024, 512, 2.03, 1, 0.26, 10.03, 0.00},
		{"olmo2-dense-f16", 1, 1024, 512, 2.27, 1.75, 0, 4.52, 0.00},
		{"phi2-dense-f16", 1, 1024, 512, 1.89, 2, 0, 4.51, 0.00},
		{"phi3-dense-f16", 1, 1024, 512, 2.26, 2, 0, 4.51, 0.00},
		{"qwen2-dense-f16", 1, 1024, 512, 2.26, 2, 0, 4.51, 0.00},
		{"qwen3-dense-f16", 1, 1024, 512, 1.89, 0.5, 0, 4.51, 0.00},
		{"qwen3moe-moe-f16", 1, 1024, 512, 3.39, 2, 0, 7.51, 0.00},
		{"qwen3next-moe-f16", 1, 1024, 512, 4.72, 1, 0.13, 7.03, 0.00},
		{"stablelm-dense-f16", 1, 1024, 512, 2.27, 2, 0, 4.51, 0.00},
		{"starcoder2-dense-f16", 1, 1024, 512, 1.9, 2, 0, 4.01, 0.00},
		{"demo", 16, 2048, 512, 4.26, 64, 0, 8.51, 0.12},
		{"smollm2", 16, 2048, 512, 92.1, 720, 0, 15.51, 3.00},
		{"bloom-dense-f16", 16, 2048, 512, 1.9, 64, 0, 5.01, 0.01},
		{"cohere2-dense-f16", 16, 2048, 512, 2.2, 44, 0, 6.27, 0.01},
		{"deepseek2-moe-f16", 16, 2048, 512, 2.11, 72, 0, 6.51, 0.01},
		{"exaone4-dense-f16", 16, 2048, 512, 2.26, 64, 0, 5.51, 0.01},
		{"falcon-dense-f16", 16, 2048, 512, 1.89, 64, 0, 5.51, 0.01},
		{"gemma2-dense-f16", 16, 2048, 512, 2.2, 44, 0, 6.02, 0.01},
		{"gemma3-dense-f16", 16, 2048, 512, 2.27, 44, 0, 6.02, 0.01},
		{"glm4-dense-f16", 16, 2048, 512, 2.27, 64, 0, 5.52, 0.01},
		{"gpt-oss-moe-f16", 16, 2048, 512, 3.41, 44, 0, 8.27, 0.01},
		{"gpt2-dense-f16", 16, 2048, 512, 2.15, 64, 0, 5.01, 0.01},
		{"granitehybrid-dense-f16", 16, 2048, 512, 2.79, 32, 4.19, 12.02, 0.01},
		{"jamba-dense-f16", 16, 2048, 512, 3.03, 32, 4.09, 11.01, 0.01},
		{"lfm2-dense-f16", 16, 2048, 512, 2.26, 12, 0.03, 4.01, 0.01},
		{"llama-dense-f16", 16, 2048, 512, 2.27, 64, 0, 5.51, 0.01},
		{"llama-moe-f16", 16, 2048, 512, 3.39, 64, 0, 8.51, 0.01},
		{"mamba2-dense-f16", 16, 2048, 512, 2.17, 0, 8.38, 13.88, 0.01},
		{"minicpm-dense-f16", 16, 2048, 512, 2.27, 64, 0, 5.51, 0.01},
		{"mistral3-dense-f16", 16, 2048, 512, 2.27, 64, 0, 5.51, 0.01},
		{"nemotron_h-dense-f16", 16, 2048, 512, 2.03, 32, 4.19, 14.70, 0.01},
		{"olmo2-dense-f16", 16, 2048, 512, 2.27, 44, 0, 5.52, 0.01},
		{"phi2-dense-f16", 16, 2048, 512, 1.89, 64, 0, 5.51, 0.01},
		{"phi3-dense-f16", 16, 2048, 512, 2.26, 64, 0, 5.51, 0.01},
		{"qwen2-dense-f16", 16, 2048, 512, 2.26, 64, 0, 5.51, 0.01},
		{"qwen3-dense-f16", 16, 2048, 512, 1.89, 16, 0, 5.51, 0.01},
		{"qwen3moe-moe-f16", 16, 2048, 512, 3.39, 64, 0, 8.51, 0.01},
		{"qwen3next-moe-f16", 16, 2048, 512, 4.72, 32, 2.14, 11.29, 0.01},
		{"stablelm-dense-f16", 16, 2048, 512, 2.27, 64, 0, 5.51, 0.01},
		{"starcoder2-dense-f16", 16, 2048, 512, 1.9, 64, 0, 5.01, 0.01},
		{"demo", 4, 4096, 128, 4.26, 32, 0, 2.63, 0.03},
		{"smollm2", 4, 4096, 128, 92.1, 360, 0, 4.38, 0.75},
		{"bloom-dense-f16", 4, 4096, 128, 1.9, 32, 0, 1.75, 0.00},
		{"cohere2-dense-f16", 4, 4096, 128, 2.2, 17, 0, 2.13, 0.00},
		{"deepseek2-moe-f16", 4, 4096, 128, 2.11, 36, 0, 2.13, 0.00},
		{"exaone4-dense-f16", 4, 4096, 128, 2.26, 32, 0, 1.88, 0.00},
		{"falcon-dense-f16", 4, 4096, 128, 1.89, 32, 0, 1.88, 0.00},
		{"gemma2-dense-f16", 4, 4096, 128, 2.2, 17, 0, 1.94, 0.00},
		{"gemma3-dense-f16", 4, 4096, 128, 2.27, 17, 0, 1.94, 0.00},
		{"glm4-dense-f16", 4, 4096, 128, 2.27, 32, 0, 1.88, 0.00},
		{"gpt-oss-moe-f16", 4, 4096, 128, 3.41, 17, 0, 2.69, 0.00},
		{"gpt2-dense-f16", 4, 4096, 128, 2.15, 32, 0, 1.75, 0.00},
		{"granitehybrid-dense-f16", 4, 4096, 128, 2.79, 16, 1.05, 3.63, 0.00},
		{"jamba-dense-f16", 4, 4096, 128, 3.03, 16, 1.02, 2.82, 0.00},
		{"lfm2-dense-f16", 4, 4096, 128, 2.26, 1, 0.01, 1.00, 0.00},
		{"llama-dense-f16", 4, 4096, 128, 2.27, 32, 0, 1.88, 0.00},
		{"llama-moe-f16", 4, 4096, 128, 3.39, 32, 0, 2.63, 0.00},
		{"mamba2-dense-f16", 4, 4096, 128, 2.17, 0, 2.09, 3.47, 0.00},
		{"minicpm-dense-f16", 4, 4096, 128, 2.27, 32, 0, 1.88, 0.00},
		{"mistral3-dense-f16", 4, 4096, 128, 2.27, 32, 0, 1.88, 0.00},
		{"nemotron_h-dense-f16", 4, 4096, 128, 2.03, 16, 1.05, 3.63, 0.00},
		{"olmo2-dense-f16", 4, 4096, 128, 2.27, 17, 0, 1.94, 0.00},
		{"phi2-dense-f16", 4, 4096, 128, 1.89, 32, 0, 1.88, 0.00},
		{"phi3-dense-f16", 4, 4096, 128, 2.26, 32, 0, 1.88, 0.00},
		{"qwen2-dense-f16", 4, 4096, 128, 2.26, 32, 0, 1.88, 0.00},
		{"qwen3-dense-f16", 4, 4096, 128, 1.89, 8, 0, 1.88, 0.00},
		{"qwen3moe-moe-f16", 4, 4096, 128, 3.39, 32, 0, 2.63, 0.00},
		{"qwen3next-moe-f16", 4, 4096, 128, 4.72, 16, 0.54, 3.32, 0.00},
		{"stablelm-dense-f16", 4, 4096, 128, 2.27, 32, 0, 1.88, 0.00},
		{"starcoder2-dense-f16", 4, 4096, 128, 1.9, 32, 0, 1.75, 0.00},
	}
}

// TestEstimateAgainstLibrary compares the estimate with what the library
// allocated. Stated tolerance: weights, KV, recurrent state and output exact
// within the log's rounding (0.02 MiB); compute never below the library's and
// at most 1.35 times as much, for models with recurrent layers 2.6 times (the
// library frees masks early where its last attention layer comes early).
func TestEstimateAgainstLibrary(t *testing.T) {
	checked := 0
	for _, w := range measurements() {
		path := w.path(t)
		if _, err := os.Stat(path); err != nil {
			t.Logf("NOT CHECKED: %s is not on this machine", w.model)
			continue
		}
		checked++
		m := openModel(t, path)
		e, err := hyper.For(m, hyper.Spec{Context: w.context, Slots: w.slots, Batch: w.batch})
		if err != nil {
			t.Errorf("%s: %v", w.model, err)
			continue
		}
		h, err := hyper.Read(m)
		if err != nil {
			t.Fatal(err)
		}
		mib := func(v int64) float64 { return float64(v) / (1 << 20) }
		near := func(what string, got int64, want float64) {
			if d := mib(got) - want; d > 0.02 || d < -0.02 {
				t.Errorf("%s, %d x %d: %s is estimated as %.2f MiB, the library takes %.2f", w.model, w.slots, w.context, what, mib(got), want)
			}
		}
		if strings.Contains(w.model, "q4_") {
			// The library repacks these types; its log then has both the mapped
			// range and the repacked copy.
			if r := w.weights / mib(e.Weights); r < 1 || r > 2 {
				t.Errorf("%s: weights are estimated as %.2f MiB, the library logs %.2f", w.model, mib(e.Weights), w.weights)
			}
		} else {
			near("weights", e.Weights, w.weights)
		}
		near("KV", e.KV, w.kv)
		near("recurrent state", e.Recurrent, w.rs)
		near("output", e.Output, w.outputMiB)
		most := 1.35
		if k := h.Memory(); k == hyper.MemoryRecurrent || k == hyper.MemoryHybrid {
			most = 2.6
		}
		if r := mib(e.Compute) / w.compute; r < 0.995 || r > most {
			t.Errorf("%s, %d x %d, batch %d: compute is estimated as %.2f MiB, the library takes %.2f (%.2f)", w.model, w.slots, w.context, w.batch, mib(e.Compute), w.compute, r)
		}
		if e.Total != e.Weights+e.KV+e.Recurrent+e.Compute+e.Output {
			t.Errorf("%s: total %d is not the sum of %+v", w.model, e.Total, e)
		}
	}
	if checked == 0 {
		t.Error("no measured model was found, not even the demo model")
	}
}

func (w measured) path(t *testing.T) string {
	switch w.model {
	case "demo in f32":
		return gguftest.WidenFile(t, demoModel, "f32")
	case "demo":
		return demoModel
	case "smollm2":
		return os.Getenv("SKEIN_TEST_SMOLLM2")
	}
	return filepath.Join("../../../../shared/models/archs", w.model+".gguf")
}

const demoModel = "../../../models/demo/skein-demo-4m-q8_0.gguf"

// openModel parses a file and closes it with the test.
func openModel(t *testing.T, path string) *gguf.Model {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	p, err := gguf.Parse(f, st.Size())
	if err != nil {
		t.Fatalf("%s: %v", filepath.Base(path), err)
	}
	m, err := gguf.Join(p)
	if err != nil {
		t.Fatalf("%s: %v", filepath.Base(path), err)
	}
	return m
}
