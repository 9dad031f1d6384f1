package shard

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/skein-run/skein/internal/runner/sample"
)

// part is what one rank tells of one output: its part of the whole row, or what
// sampling needs of it.
type part struct {
	full []float32
	sample.Part
}

// extract takes what is needed from a part of the vocabulary that begins with
// token first. A whole part is logits itself, not a copy.
func extract(n *sample.Need, first int, logits []float32) part {
	if n.Full {
		return part{full: logits}
	}
	return part{Part: sample.Extract(*n, int32(first), logits)}
}

// join puts the parts of one output together, in order of the vocabulary.
func join(n *sample.Need, parts []part) sample.Row {
	if n.Full {
		var r sample.Row
		for _, p := range parts {
			r.Full = append(r.Full, p.full...)
		}
		return r
	}
	told := make([]sample.Part, len(parts))
	for i, p := range parts {
		told[i] = p.Part
	}
	return sample.Row{Part: sample.Merge(*n, told)}
}

// rowStore keeps the last step's parts of the vocabulary, for a draw that needs
// a whole row after all.
type rowStore struct {
	seq   uint64
	width int
	rows  []float32
}

func (s *rowStore) begin(seq uint64, width int) { s.seq, s.width, s.rows = seq, width, s.rows[:0] }

func (s *rowStore) add(logits []float32) { s.rows = append(s.rows, logits...) }

// row is the part of output i of step seq.
func (s *rowStore) row(seq uint64, i int) ([]float32, error) {
	if seq != s.seq || i < 0 || s.width == 0 || i >= len(s.rows)/s.width {
		return nil, fmt.Errorf("row %d of step %d was asked for, step %d has %d", i, seq, s.seq, len(s.rows)/max(1, s.width))
	}
	return s.rows[i*s.width : (i+1)*s.width], nil
}

// appendWhole encodes one whole part.
func appendWhole(b []byte, row []float32) []byte { return appendFloats(begin(b, tagRow), row) }

// decodeWhole appends one whole part of count logits to dst.
func decodeWhole(dst []float32, body []byte, count int) ([]float32, error) {
	r := reader{b: body}
	r.begin(tagRow)
	if r.err == nil && len(r.b) != 4*count {
		r.fail(fmt.Sprintf("%d bytes for %d logits", len(r.b), count))
	}
	if r.err != nil {
		return dst, fmt.Errorf("row: %w", r.err)
	}
	n := len(dst)
	dst = slices.Grow(dst, count)[:n+count]
	readFloats(dst[n:], r.b)
	return dst, nil
}

// appendWanted encodes the wish for the whole row of output i of step seq.
func appendWanted(b []byte, seq uint64, i int) []byte {
	b = binary.LittleEndian.AppendUint64(begin(b, tagWanted), seq)
	return binary.AppendUvarint(b, uint64(i))
}

func decodeWanted(body []byte) (seq uint64, i int, err error) {
	r := reader{b: body}
	r.begin(tagWanted)
	seq, i = r.u64(), r.small()
	if err := r.end(); err != nil {
		return 0, 0, fmt.Errorf("request for a row: %w", err)
	}
	return seq, i, nil
}

// appendParts encodes the parts of a step's outputs.
func appendParts(b []byte, parts []part) []byte {
	b = begin(b, tagRows)
	b = binary.AppendUvarint(b, uint64(len(parts)))
	for i := range parts {
		p := &parts[i]
		b = binary.AppendUvarint(b, uint64(len(p.full)))
		b = appendFloats(b, p.full)
		b = appendCandidates(b, p.Top)
		b = appendCandidates(b, p.Named)
		b = appendMass(b, &p.Mass)
		b = appendMass(b, &p.Warm)
	}
	return b
}

func appendCandidates(b []byte, c []sample.Candidate) []byte {
	b = binary.AppendUvarint(b, uint64(len(c)))
	for _, c := range c {
		b = binary.LittleEndian.AppendUint32(b, uint32(c.Token))
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(c.Logit))
	}
	return b
}

func appendMass(b []byte, m *sample.Mass) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(m.Exponent))
	b = binary.AppendUvarint(b, uint64(len(m.Sums)))
	for _, s := range m.Sums {
		b = binary.AppendUvarint(b, s)
	}
	return b
}

// decodeParts reads the parts of a step's outputs: one for each need, of a rank
// that has count tokens from first on.
func decodeParts(body []byte, needs []sample.Need, first, count int) ([]part, error) {
	r := reader{b: body}
	r.begin(tagRows)
	if n := r.count(1); r.err == nil && n != len(needs) {
		r.fail(fmt.Sprintf("%d rows for %d outputs", n, len(needs)))
	}
	parts := make([]part, len(needs))
	for i := range parts {
		p, n, want := &parts[i], &needs[i], 0
		if n.Full {
			want = count
		}
		if got := r.count(4); r.err == nil && got != want {
			r.fail(fmt.Sprintf("a row of %d logits, want %d", got, want))
		}
		if r.err == nil && want > 0 {
			p.full = make([]float32, want)
			readFloats(p.full, r.take(4*want))
		}
		p.Top = r.candidates(n.Top, first, count)
		p.Named = r.candidates(len(n.Named), first, count)
		p.Mass, p.Warm = r.mass(n.Mass), r.mass(n.Warm > 0)
	}
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("rows: %w", err)
	}
	return parts, nil
}

func (r *reader) candidates(most, first, count int) []sample.Candidate {
	n := r.count(8)
	if r.err == nil && n > most {
		r.fail("more candidates than asked for")
	}
	if r.err != nil || n == 0 {
		return nil
	}
	out := make([]sample.Candidate, n)
	for i := range out {
		out[i] = sample.Candidate{Token: int32(r.u32()), Logit: math.Float32frombits(r.u32())}
		if t := int(out[i].Token); r.err == nil && (t < first || t >= first+count) {
			r.fail(fmt.Sprintf("candidate %d is not in this part of the vocabulary", t))
		}
	}
	return out
}

func (r *reader) mass(wanted bool) sample.Mass {
	m := sample.Mass{Exponent: int32(r.u32())}
	n := r.count(1)
	if r.err == nil && n > 0 && !wanted {
		r.fail("a mass that was not asked for")
	}
	for range n {
		m.Sums = append(m.Sums, r.uvarint())
	}
	return m
}

func appendFloats(b []byte, x []float32) []byte {
	n := len(b)
	b = slices.Grow(b, 4*len(x))[:n+4*len(x)]
	for i, v := range x {
		binary.LittleEndian.PutUint32(b[n+4*i:], math.Float32bits(v))
	}
	return b
}

// readFloats fills dst from b, 4 bytes each; b may be nil after a fault.
func readFloats(dst []float32, b []byte) {
	if len(b) < 4*len(dst) {
		return
	}
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
}
