package profile_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/skein-run/skein/internal/cluster/placement/profile"
	"github.com/skein-run/skein/internal/gguf/hyper"
	"github.com/skein-run/skein/internal/gguf/slice"
)

// TestShardsAgainstLibrary compares the estimate for a shard with what the
// library allocated for it: llama-server v0.5.0 on the CPU with the shard as a
// file, batches of 256, its "buffer size" lines in MiB, rounded to 0.01. Stated
// tolerance: weights, KV, recurrent state and output exact within 0.02 MiB;
// compute never below the library's and at most 1.2 times as much or 1 MiB more,
// but 2.2 times where the server asked for the outputs of one token only (a stage
// hands on all of them, for which the last layer needs as much as the others).
func TestShardsAgainstLibrary(t *testing.T) {
	parts := func(first, end, rank int, parts ...int) slice.Spec {
		return slice.Spec{First: first, End: end, Rank: rank, Parts: parts}
	}
	checked := 0
	for _, w := range []struct {
		model                            string
		spec                             slice.Spec
		slots, context                   int
		weights, kv, rs, compute, output float64
	}{
		{"smollm2", parts(0, 15, 0), 4, 4096, 31.73, 180, 0, 8.76, 0.03},
		{"smollm2", parts(0, 15, 0), 1, 1024, 31.73, 11.25, 0, 7.26, 0.03},
		{"smollm2", parts(15, 30, 0), 4, 4096, 60.40, 180, 0, 8.76, 0.75},
		{"smollm2", parts(15, 30, 0), 1, 1024, 60.40, 11.25, 0, 7.26, 0.19},
		{"smollm2", parts(0, 30, 0, 2, 1), 4, 4096, 61.45, 240, 0, 7.07, 0.50},
		{"smollm2", parts(0, 30, 0, 2, 1), 1, 1024, 61.45, 15, 0, 5.57, 0.12},
		{"smollm2", parts(0, 30, 1, 2, 1), 4, 4096, 30.79, 120, 0, 4.88, 0.25},
		{"smollm2", parts(0, 30, 1, 2, 1), 1, 1024, 30.79, 7.5, 0, 3.38, 0.06},
		{"demo", parts(0, 1, 0), 4, 4096, 0.82, 8, 0, 3.26, 0.03},
		{"demo", parts(0, 1, 0), 1, 1024, 0.82, 0.5, 0, 1.76, 0.03},
		{"demo", parts(1, 4, 0), 4, 4096, 2.93, 24, 0, 5.26, 0.03},
		{"demo", parts(1, 4, 0), 1, 1024, 2.93, 1.5, 0, 3.76, 0.01},
		{"demo", parts(0, 4, 1, 1, 1), 4, 4096, 1.87, 16, 0, 3.88, 0.02},
		{"demo", parts(0, 4, 1, 1, 1), 1, 1024, 1.87, 1, 0, 2.38, 0},
		{"qwen3moe-moe-f16", parts(0, 2, 0, 1, 1), 4, 4096, 1.67, 16, 0, 4.01, 0},
		{"gemma2-dense-f16", parts(0, 1, 0), 4, 4096, 1.09, 2, 0, 1.76, 0.03},
		{"jamba-dense-f16", parts(1, 2, 0), 4, 4096, 2.96, 16, 1.02, 6.55, 0},
		{"jamba-dense-f16", parts(1, 2, 0), 1, 1024, 2.96, 1, 0.26, 4.27, 0},
		{"llama-dense-f16", parts(0, 2, 0, 1, 1), 4, 4096, 1.11, 16, 0, 3.26, 0},
	} {
		path := "../../../../models/demo/skein-demo-4m-q8_0.gguf"
		switch w.model {
		case "demo":
		case "smollm2":
			path = os.Getenv("SKEIN_TEST_SMOLLM2")
		default:
			path = filepath.Join("../../../../../shared/models/archs", w.model+".gguf")
		}
		if _, err := os.Stat(path); err != nil {
			t.Logf("NOT CHECKED: %s is not on this machine", w.model)
			continue
		}
		checked++
		f, err := slice.Cut(openModel(t, path), w.spec)
		if err != nil {
			t.Errorf("%s: %v", w.model, err)
			continue
		}
		shard, err := profile.Shard(f)
		if err != nil {
			t.Fatal(err)
		}
		spec := hyper.Spec{Context: w.context, Slots: w.slots, Batch: 256}
		if f.Run.Capture != "" {
			spec.Outputs = spec.Batch
		}
		e, err := hyper.For(shard, spec)
		if err != nil {
			t.Fatal(err)
		}
		mib := func(v int64) float64 { return float64(v) / (1 << 20) }
		near := func(what string, got int64, want float64) {
			if d := mib(got) - want; d > 0.02 || d < -0.02 {
				t.Errorf("%s %+v, %d x %d: %s is estimated as %.2f MiB, the library takes %.2f", w.model, w.spec, w.slots, w.context, what, mib(got), want)
			}
		}
		near("weights", e.Weights, w.weights)
		near("KV", e.KV, w.kv)
		near("recurrent state", e.Recurrent, w.rs)
		near("output", e.Output, w.output)
		most := max(1.2*w.compute, w.compute+1)
		if f.Run.Capture != "" {
			most = 2.2 * w.compute
		}
		if got := mib(e.Compute); got < 0.995*w.compute || got > most {
			t.Errorf("%s %+v, %d x %d: compute is estimated as %.2f MiB, the library takes %.2f", w.model, w.spec, w.slots, w.context, got, w.compute)
		}
	}
	if checked == 0 {
		t.Error("no measured model was found, not even the demo model")
	}
}

// TestDemo: the model that everyone has can be cut both ways.
func TestDemo(t *testing.T) {
	p, err := profile.Of(openModel(t, "../../../../models/demo/skein-demo-4m-q8_0.gguf"), "demo")
	if err != nil {
		t.Fatal(err)
	}
	if p.NoPipeline != "" || p.NoTensor != "" || p.Units != 4 || len(p.Layers) != 4 || p.Least != nil || p.Layers[0].Reductions != 2 {
		t.Errorf("the demo model has four layers of four KV heads that end in two sums each, got %+v", p)
	}
}
