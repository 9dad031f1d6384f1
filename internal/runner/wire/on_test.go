package wire

import "testing"

func TestLoadOn(t *testing.T) {
	r := LoadRequest{Slots: 2, GPULayers: 7, Device: "CUDA1"}
	if g := r.On("CUDA0"); g.Device != "CUDA0" || g.GPULayers != AllLayers || g.Slots != 2 {
		t.Errorf("%+v", g)
	}
	if c := r.On(Processor); c.Device != "" || c.GPULayers != 0 {
		t.Errorf("%+v", c)
	}
}
