package runner

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/skein-run/skein/internal/gguf/gguftest"
	"github.com/skein-run/skein/internal/runner/sample"
	"github.com/skein-run/skein/internal/runner/wire"
)

// TestResumedOnF32: what was decoded token by token is computed again as one
// prompt, as after a loss, whole or in shards, and goes on with the same tokens.
// The logits then differ by what f32 products round otherwise in other shapes; an
// f16 cache or flash attention would make that 1,000 times as much, and the best
// two tokens of a long answer are now and then closer (docs/decisions/0013).
func TestResumedOnF32(t *testing.T) {
	const most = 1e-4 // of logits up to some 20
	const length = 800
	path := gguftest.WidenFile(t, demoModel(t), "exact")
	load := wire.LoadRequest{Paths: []string{path}, Slots: 2, Context: 1024, Threads: 1, PendingLimit: 8}
	whole := startChild(t)
	whole.load(load)
	prompt := whole.tokenize("What is Skein?")
	fed, want, err := whole.eval(wire.EvalRequest{Tokens: prompt, Prompt: len(prompt), Greedy: length})
	if err != nil {
		t.Fatal(err)
	}
	tokens := append(slices.Clone(prompt[:len(prompt)-1]), fed...)
	check := func(name string, c *child, at ...int) {
		t.Helper()
		for _, resumed := range at {
			_, got, err := c.eval(wire.EvalRequest{Tokens: tokens, Prompt: resumed})
			if err != nil {
				t.Fatal(err)
			}
			want := want[resumed-len(prompt):]
			worst := 0.0
			for i := range got {
				for k := range got[i] {
					worst = max(worst, math.Abs(float64(got[i][k]-want[i][k])))
				}
				if g, w := sample.Argmax(got[i]), sample.Argmax(want[i]); g != w {
					t.Errorf("%s: resumed at %d, token %d is %d, undisturbed %d", name, resumed, resumed+i, g, w)
				}
			}
			t.Logf("%s: resumed at %d, logits differ by %.2g at most", name, resumed, worst)
			if !(worst <= most) {
				t.Errorf("%s: resumed at %d, logits differ by %.2g, at most %.2g is rounding of f32", name, resumed, worst, most)
			}
		}
	}
	check("whole", whole, 300, 700)
	layers := layersOf(t, path)
	for _, s := range []struct {
		stages int
		parts  []int
	}{{2, nil}, {1, []int{1, 1}}} {
		g, err := startGroup(t, load, cut(layers, s.stages, s.parts))
		if err != nil {
			t.Fatal(err)
		}
		check(fmt.Sprintf("%dx%d", s.stages, max(1, len(s.parts))), g.headProc(), 500)
	}
}
