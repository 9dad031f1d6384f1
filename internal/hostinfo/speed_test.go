package hostinfo

import (
	"context"
	"testing"
)

func TestMemoryBandwidth(t *testing.T) {
	b, err := MemoryBandwidth(t.Context())
	// No machine of this century reads less than 100 MB/s or more than 100 TB/s.
	if err != nil || b < 100e6 || b > 100e12 {
		t.Errorf("%g bytes/s, %v", b, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := MemoryBandwidth(ctx); err == nil {
		t.Error("measured after it was cancelled")
	}
}

func TestArithmetic(t *testing.T) {
	v, err := Arithmetic(t.Context())
	// A core of this century does between 100 Mflop/s and 10 Tflop/s.
	if err != nil || v < 100e6 || v > 10e12*float64(UsableCores()) {
		t.Errorf("%g operations/s, %v", v, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Arithmetic(ctx); err == nil {
		t.Error("measured after it was cancelled")
	}
}
