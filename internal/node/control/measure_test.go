package control

import "testing"

// What bounds a stream is memory, or where that is fast, arithmetic.
func TestSpeedPlaced(t *testing.T) {
	slow := speed{Bandwidth: 10e9, Arithmetic: 250e9}.placed()
	if slow.Bandwidth != 10e9 || slow.Compute != 250e9 || slow.Batch != 125e9 {
		t.Errorf("slow memory: %+v", slow)
	}
	fast := speed{Bandwidth: 500e9, Arithmetic: 250e9}.placed()
	if want := 125e9 * 4.5 / 16; fast.Bandwidth != want {
		t.Errorf("fast memory: streams read %g bytes/s, arithmetic allows %g", fast.Bandwidth, want)
	}
	if v := assumed.placed(); v.Bandwidth <= 0 || v.Compute <= 0 || v.Step <= 0 {
		t.Errorf("assumed: %+v", v)
	}
}
