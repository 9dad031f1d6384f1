package profile_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/cluster/placement/profile"
	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/gguftest"
	"github.com/skein-run/skein/internal/gguf/hyper"
	"github.com/skein-run/skein/internal/gguf/slice"
)

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
		t.Fatal(err)
	}
	m, err := gguf.Join(p)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// models lists the model files at hand; the demo model always is.
func models(t *testing.T) []string {
	t.Helper()
	out := []string{"../../../../models/demo/skein-demo-4m-q8_0.gguf"}
	folder := os.Getenv("SKEIN_TEST_ARCHS") // more of them
	if folder == "" {
		folder = "../../../../../shared/models/archs"
	}
	archs, err := filepath.Glob(filepath.Join(folder, "*.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	if len(archs) == 0 {
		t.Log("NOT CHECKED: the tiny models of other architectures are not on this machine")
	}
	out = append(out, archs...)
	out = append(out, gguftest.WidenFile(t, out[0], "f32"))
	if path := os.Getenv("SKEIN_TEST_SMOLLM2"); path != "" {
		out = append(out, path)
	}
	return out
}

// node is one with so much memory and an even speed.
func node(id string, free int64) placement.Node {
	return placement.Node{ID: id, Worker: true, Downloads: true, Has: true, Devices: []placement.Device{{
		Total: free, Available: free, Speed: placement.Speed{Bandwidth: 1e10, Compute: 1e11}}}}
}

// TestPlansAreCut places every model in several ways and cuts every shard: a
// plan that slice refuses is a bug, and so is one whose memory is below what
// the cut and the library's own sizes say.
func TestPlansAreCut(t *testing.T) {
	for _, path := range models(t) {
		m := openModel(t, path)
		name := filepath.Base(path)
		p, err := profile.Of(m, name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		t.Logf("%-28s units %2d, pipeline %q, tensor %q", name, p.Units, p.NoPipeline, p.NoTensor)
		for _, sharding := range []placement.Sharding{placement.Auto, placement.Pipeline, placement.Tensor} {
			for nodes := 1; nodes <= 4; nodes++ {
				r := placement.Request{Model: p, Context: 512, Slots: 2, Sharding: sharding, MinNodes: nodes}
				c := placement.Cluster{}
				for i := range nodes {
					c.Nodes = append(c.Nodes, node(string(rune('a'+i)), int64(i+1)<<30))
				}
				plan, err := placement.Place(c, r, time.Time{})
				if err != nil {
					var no *placement.RefusedError
					var few *placement.NotEnoughNodesError
					if !errors.As(err, &no) && !errors.As(err, &few) {
						t.Errorf("%s, %s over %d: %v", name, sharding, nodes, err)
					}
					continue
				}
				if len(plan.Shards) < nodes {
					t.Errorf("%s: %d shards for %d nodes", name, len(plan.Shards), nodes)
				}
				checkShards(t, m, name, plan, r)
			}
		}
	}
}

func checkShards(t *testing.T, m *gguf.Model, name string, plan placement.Plan, r placement.Request) {
	t.Helper()
	for _, s := range plan.Shards {
		shard, spec := m, hyper.Spec{Context: r.Context, Slots: r.Slots, Batch: 256}
		if plan.Way != placement.WayWhole {
			f, err := slice.Cut(m, s.Spec)
			if err != nil {
				t.Errorf("%s, %s: shard %+v: %v", name, plan.Way, s.Spec, err)
				continue
			}
			if shard, err = profile.Shard(f); err != nil {
				t.Fatal(err)
			}
			if f.Run.Capture != "" {
				spec.Outputs = spec.Batch
			}
		}
		exact, err := hyper.For(shard, spec)
		if err != nil {
			t.Fatal(err)
		}
		got := s.Memory
		if s.Reserve < exact.Total {
			t.Errorf("%s, %s: shard %+v is promised %d bytes and needs %d", name, plan.Way, s.Spec, s.Reserve, exact.Total)
		}
		near := func(what string, got, want int64, slack float64) {
			// Columns are cut at blocks, which parts need not divide: the headroom
			// covers 2 % of that. Stages that may have empty layers in some
			// places are planned with the most of them everywhere.
			padded := r.Model.Padding.Weights.Sum() > 0
			if float64(got) < 0.98*float64(want) || !padded && float64(got) > float64(want)*slack+4096 {
				t.Errorf("%s, %s %+v: %s is planned as %d bytes, the shard has %d", name, plan.Way, s.Spec, what, got, want)
			}
		}
		near("weights", got.Weights, exact.Weights, 1.15)
		near("KV", got.KV, exact.KV, 1.001)
		near("recurrent state", got.Recurrent, exact.Recurrent, 1.001)
	}
}
