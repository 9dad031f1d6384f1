package llama

import (
	"flag"
	"path/filepath"
	"testing"

	"github.com/skein-run/skein/internal/gguf/slice"
)

// What it costs to be asked about every node of the graph: decode of one token
// without hooks, with hooks that match nothing, and with two exchanges a layer
// that do nothing. -bench-model names a model file.
func BenchmarkHooks(b *testing.B) {
	nothing := func([]float32) error { return nil }
	for _, c := range []struct {
		name  string
		hooks *Hooks
	}{
		{"none", nil},
		{"asked", &Hooks{Reduce: []slice.Reduction{{Weight: "no.weight"}, {Node: "no_node"}}, Exchange: nothing}},
		{"reduced", &Hooks{Reduce: sums, Exchange: nothing}},
	} {
		b.Run(c.name, func(b *testing.B) {
			lib, err := library()
			if err != nil {
				b.Fatal(err)
			}
			path := demoPath
			if *benchModel != "" {
				path = filepath.Clean(*benchModel)
			}
			m, err := lib.LoadModel([]string{path}, ModelOptions{})
			if err != nil {
				b.Fatal(err)
			}
			defer m.Close()
			ctx := hookedContext(b, m, 1, c.hooks)
			pos := 0
			step := func() {
				if pos == 200 {
					ctx.Clear()
					pos = 0
				}
				if err := ctx.Decode(tokens(pos, 17)); err != nil {
					b.Fatal(err)
				}
				pos++
			}
			step()
			b.ReportAllocs()
			for b.Loop() {
				step()
			}
		})
	}
}

var benchModel = flag.String("bench-model", "", "model file of benchmarks; the demo model otherwise")
