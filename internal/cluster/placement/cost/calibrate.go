package cost

import "fmt"

// Measured is what a probe finds out about a device: how fast it runs a whole
// model, as `skein engine bench` or `skein shard bench` measure it. The model
// may be any; the nearer it is to those that are placed (types of weights,
// size), the better the predictions, since kernels differ by type.
//
// What to measure, on an otherwise idle machine with the threads that a shard
// would have, medians of five runs:
//
//   - Decode: one stream, 128 tokens after a prompt of Depth tokens. It gives
//     Speed.Bandwidth.
//   - Aggregate: Streams streams at once, as before. It gives Speed.Batch.
//   - Prefill: a prompt of 512 tokens. It gives Speed.Compute.
//
// A Line is measured between two programs, not by ping: the median round trip
// of a frame of 16 KB, halved, for Latency; and a transfer of 16 MB for
// Bandwidth.
type Measured struct {
	Decode    float64 // tokens/s
	Depth     int     // tokens in the stream's memory meanwhile, on average
	Streams   int     // of Aggregate; below 2: not measured
	Aggregate float64 // tokens/s of all streams
	Prefill   float64 // tokens/s
	Step      float64 // s of a step that do not come from computing, if known
}

// Calibrate turns measurements of the whole model into a Speed, so that the
// model's own prediction on that device is what was measured.
func Calibrate(m Model, got Measured) (Speed, error) {
	if err := m.Validate(); err != nil {
		return Speed{}, fmt.Errorf("calibrate with %s: %w", m.Name, err)
	}
	if !(got.Decode > 0) || !(got.Prefill > 0) || got.Step < 0 || got.Step >= 1/got.Decode {
		return Speed{}, fmt.Errorf("calibrate with %s: decode %g and prefill %g tokens/s must be above 0, a step's %g s less than a token's time", m.Name, got.Decode, got.Prefill, got.Step)
	}
	s := NewSums(m, Use{Context: max(got.Depth, 1), Slots: max(got.Streams, 1), Batch: 1})
	p := Piece{First: 0, End: len(m.Layers), Units: 1, All: 1, Whole: true}
	cached := s.cachedOf(p, got.Depth)
	v := Speed{Step: got.Step}
	v.Bandwidth = (s.readOf(p) + cached) / (1/got.Decode - got.Step)
	v.Compute = s.flopsOf(p, false) * got.Prefill
	if n := float64(got.Streams); got.Streams > 1 && got.Aggregate > 0 {
		step := n/got.Aggregate - got.Step
		more := step - (s.readBy(p, n)+n*cached)/v.Bandwidth
		if more > 0 {
			v.Batch = (n - 1) * s.flopsOf(p, true) / more
		}
	}
	return v, nil
}
