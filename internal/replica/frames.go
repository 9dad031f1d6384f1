package replica

import (
	"encoding/json"
	"errors"
	"io"
)

// Bounds of what a peer sends at once, in bytes: a state as a snapshot, or many
// entries; and a confirmation.
const (
	maxFrame = 256 << 20
	maxAck   = 1 << 10
)

var errHuge = errors.New("a peer sends a frame that is larger than any there is")

// frames reads values of a stream. A peer that sends one without end is told
// apart before it has filled the memory.
type frames struct {
	in    *json.Decoder
	from  io.Reader
	limit int64
	left  int64
}

func newFrames(from io.Reader, limit int64) *frames {
	f := &frames{from: from, limit: limit}
	f.in = json.NewDecoder(f)
	return f
}

// Read is for the decoder.
func (f *frames) Read(b []byte) (int, error) {
	if f.left <= 0 {
		return 0, errHuge
	}
	n, err := f.from.Read(b[:min(int64(len(b)), f.left)])
	f.left -= int64(n)
	return n, err
}

func (f *frames) decode(v any) error {
	f.left = f.limit
	return f.in.Decode(v)
}
