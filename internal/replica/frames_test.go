package replica

import (
	"errors"
	"io"
	"strings"
	"testing"
)

// endless gives a string that never ends.
type endless struct{ sent int64 }

func (e *endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	if e.sent == 0 {
		b[0] = '"'
	}
	e.sent += int64(len(b))
	return len(b), nil
}

func TestHugeFrames(t *testing.T) {
	from := &endless{}
	var s string
	if err := newFrames(from, 1000).decode(&s); !errors.Is(err, errHuge) || from.sent > 1000 {
		t.Errorf("%v after %d bytes", err, from.sent)
	}
	// Each frame has the whole limit.
	f := newFrames(strings.NewReader(strings.Repeat(`"`+strings.Repeat("y", 90)+`"`, 50)), 100)
	for i := range 50 {
		if err := f.decode(&s); err != nil || len(s) != 90 {
			t.Fatalf("frame %d: %d bytes, %v", i, len(s), err)
		}
	}
	if err := f.decode(&s); !errors.Is(err, io.EOF) {
		t.Errorf("%v at the end", err)
	}
}
