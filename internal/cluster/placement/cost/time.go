package cost

import "math"

// Speed is how fast a device computes, as Calibrate gets it from measurement.
type Speed struct {
	Bandwidth float64 `json:"bandwidth"` // bytes/s at which weights and caches are read in decoding
	Compute   float64 `json:"compute"`   // flop/s of prompt chunks
	// Batch is flop/s of each further stream in a decode batch; 0: as Compute.
	Batch float64 `json:"batch"`
	Step  float64 `json:"step"` // s that each step costs beside that: sampling, threads, frames
}

// Usable tells whether the device was measured.
func (v Speed) Usable() bool {
	return v.Bandwidth > 0 && v.Compute > 0 && v.Batch >= 0 && v.Step >= 0
}

// readOf is what one token reads of a piece's weights, bytes.
func (s *Sums) readOf(p Piece) float64 {
	n := float64(minus(s.read[p.End], s.read[p.First]).of(p.Units, p.All))
	if s.last(p) {
		n += float64(s.m.HeadRead.of(p.Units, p.All))
	}
	return n
}

// readBy is what a batch of tokens reads: experts overlap, all the rest is
// read once.
func (s *Sums) readBy(p Piece, tokens float64) float64 {
	one := s.readOf(p)
	all := float64(minus(s.weights[p.End], s.weights[p.First]).of(p.Units, p.All))
	if s.last(p) {
		all += float64(s.m.HeadRead.of(p.Units, p.All))
	}
	if all <= one {
		return one
	}
	// A share of the weights is read by each token, the tokens independently:
	// the share that nobody reads shrinks with each.
	return all * (1 - math.Pow(1-one/all, tokens))
}

// flopsOf is the work of one token; the head's rows are worked on only where
// logits are wanted.
func (s *Sums) flopsOf(p Piece, logits bool) float64 {
	share := float64(p.Units) / float64(p.All)
	n := (s.flops[p.End] - s.flops[p.First]) * share
	if logits && s.last(p) {
		n += 2 * float64(s.m.Vocabulary) * float64(s.m.Embedding) * share
	}
	return n
}

// cachedOf is what a token reads of the caches of one stream at a depth, bytes.
func (s *Sums) cachedOf(p Piece, depth int) float64 {
	part := func(of []Part) float64 { return float64(minus(of[p.End], of[p.First]).of(p.Units, p.All)) }
	window := depth
	if s.m.Window > 0 {
		window = min(depth, s.m.Window)
	}
	return part(s.cells)*float64(depth) + part(s.window)*float64(window) + part(s.state)
}

// Decode is the time of one seat for a step of that many streams.
func (s *Sums) Decode(p Piece, v Speed, streams float64, depth int) float64 {
	batch := v.Batch
	if batch == 0 {
		batch = v.Compute
	}
	return v.Step + (s.readBy(p, streams)+streams*s.cachedOf(p, depth))/v.Bandwidth + (streams-1)*s.flopsOf(p, true)/batch
}

// Chunk is the time of one seat for a chunk of a prompt.
func (s *Sums) Chunk(p Piece, v Speed, tokens float64) float64 {
	return v.Step + max(s.readBy(p, tokens)/v.Bandwidth, tokens*s.flopsOf(p, false)/v.Compute)
}

// Position is what a token reads of the layers before j, bytes; the output head
// counts as part of the last.
func (s *Sums) Position(j int) float64 {
	at := float64(s.read[j].Sum())
	if j == len(s.m.Layers) {
		at += float64(s.m.HeadRead.Sum())
	}
	return at
}

// Reductions is how many sums over the ranks a stage of these layers ends in.
func (s *Sums) Reductions(first, end int) int { return s.reductions[end] - s.reductions[first] }

// Weights are the bytes of all layers and the output head.
func (s *Sums) Weights() float64 {
	return float64(s.weights[len(s.m.Layers)].Sum()) + float64(s.m.Head.Sum())
}
