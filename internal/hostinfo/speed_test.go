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
