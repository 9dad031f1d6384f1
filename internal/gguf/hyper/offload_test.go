package hyper_test

import (
	"testing"

	"github.com/skein-run/skein/internal/gguf/hyper"
)

// TestOffload: more memory never takes fewer layers, what the whole model needs
// and a fifth takes all, and what the layers taken hold is never more than the
// memory there is.
func TestOffload(t *testing.T) {
	m := openModel(t, demoModel)
	spec := hyper.Spec{Context: 4096, Slots: 4}
	whole, err := hyper.For(m, spec)
	if err != nil {
		t.Fatal(err)
	}
	last, steps := 0, 0
	for free := int64(0); free < 2*whole.Total; free += whole.Total / 64 {
		n, err := hyper.Offload(m, spec, free)
		if err != nil {
			t.Fatal(err)
		}
		if n < last || n > 5 {
			t.Fatalf("%d bytes take %d layers, less took %d", free, n, last)
		}
		if n > last {
			steps++
		}
		last = n
		if n > 1 && int64(n-1)*whole.KV/4 > free {
			t.Errorf("%d layers are in %d bytes, their caches alone have %d", n, free, int64(n-1)*whole.KV/4)
		}
	}
	if last != 5 || steps < 4 {
		t.Errorf("%d layers in the end, in %d steps", last, steps)
	}
	if n, err := hyper.Offload(m, spec, whole.Total*12/10); err != nil || n != 5 {
		t.Errorf("what the whole needs and a fifth takes %d layers, %v", n, err)
	}
	if _, err := hyper.Offload(m, hyper.Spec{}, 1); err == nil {
		t.Error("no context is taken")
	}
}
