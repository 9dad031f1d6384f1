package link

import (
	"fmt"
	"slices"

	"github.com/skein-run/skein/internal/runner/link/frame"
)

// directLimit is the size in bytes up to which more than two ranks send all to
// all; beyond it each rank sums one segment. Latency counts below, bytes above.
const directLimit = 32 << 10

// reduction is the scratch of an all-reduce.
type reduction struct {
	moves []move
	parts [][]float32 // values of the others, by rank
}

// move is one exchange with one peer: out goes there, in comes from there.
type move struct {
	p       *peer
	out     []float32
	sent    int // values of out that are encoded
	outPart int // pieces of out that are encoded
	in      int // values to come
	got     int
	inPart  int
	seq     uint64
	take    func(at int, piece []byte) // of values
}

// piece is how many values travel in one frame.
func (m *Mesh) piece() int { return fastPayload / m.format.Size() }

// AllReduce makes of data the sum over ranks, which are shards' indices and
// this one among them, in place. All of ranks call it in the same order and
// with the same length. Values are added in the order of ranks as given, which
// must be the same everywhere, so all get the same bits.
func (m *Mesh) AllReduce(ranks []int, data []float32) error {
	m.receiving.Lock()
	defer m.receiving.Unlock()
	me := slices.Index(ranks, m.o.Self)
	if me < 0 {
		return fmt.Errorf("link: shard %d is not among the ranks %v of its all-reduce", m.o.Self, ranks)
	}
	if int64(len(data))*4 > frame.MaxPayload {
		return fmt.Errorf("link: all-reduce of %d values; at most %d are possible", len(data), frame.MaxPayload/4)
	}
	for i, r := range ranks {
		if i == me {
			continue
		}
		if _, err := m.peer(r); err != nil || slices.Index(ranks, r) != i {
			return fmt.Errorf("link: all-reduce among %v, which are not different shards of %d", ranks, len(m.peers))
		}
	}
	if len(ranks) == 1 || len(data) == 0 {
		return m.Err()
	}
	m.format.Round(data)
	switch {
	case len(ranks) == 2:
		return m.reduceTwo(ranks[1-me], data)
	case len(data)*m.format.Size() <= directLimit:
		return m.reduceDirect(ranks, me, data)
	}
	return m.reduceSegments(ranks, me, data)
}

// reduceTwo adds what comes to what is there, piece by piece: the sum of two is
// the same in either order.
func (m *Mesh) reduceTwo(other int, data []float32) error {
	m.parts.moves = append(m.parts.moves[:0], move{p: m.peers[other], out: data, in: len(data), take: func(at int, piece []byte) {
		m.format.Add(data[at:at+len(piece)/m.format.Size()], piece)
	}})
	return m.exchange(m.parts.moves)
}

// part gives scratch for n values of rank i.
func (r *reduction) part(i, n int) []float32 {
	for len(r.parts) <= i {
		r.parts = append(r.parts, nil)
	}
	if cap(r.parts[i]) < n {
		r.parts[i] = make([]float32, n)
	}
	r.parts[i] = r.parts[i][:n]
	return r.parts[i]
}

// gather sends own to all other ranks and keeps what they send, n values each,
// in parts. own of one rank may differ from that of another.
func (m *Mesh) gather(ranks []int, me, n int, own func(rank int) []float32) error {
	m.parts.moves = m.parts.moves[:0]
	for i, r := range ranks {
		if i == me {
			continue
		}
		part := m.parts.part(i, n)
		m.parts.moves = append(m.parts.moves, move{p: m.peers[r], out: own(i), in: n, take: func(at int, piece []byte) {
			m.format.Decode(part[at:at+len(piece)/m.format.Size()], piece)
		}})
	}
	return m.exchange(m.parts.moves)
}

// sum makes of own the sum of own and parts in the order of ranks.
func (m *Mesh) sum(me int, own []float32) {
	if me == 0 {
		for _, part := range m.parts.parts[1:] {
			addTo(own, own, part)
		}
		return
	}
	total := m.parts.parts[0]
	for i, part := range m.parts.parts[1:] {
		if i+1 == me {
			part = own
		}
		if i+2 == len(m.parts.parts) {
			addTo(own, total, part)
		} else {
			addTo(total, total, part)
		}
	}
}

// addTo makes dst = a + b; dst may be one of them.
func addTo(dst, a, b []float32) {
	a, b = a[:len(dst)], b[:len(dst)]
	for i := range dst {
		dst[i] = a[i] + b[i]
	}
}

func (m *Mesh) reduceDirect(ranks []int, me int, data []float32) error {
	m.parts.part(len(ranks)-1, 0)
	m.parts.parts = m.parts.parts[:len(ranks)]
	if err := m.gather(ranks, me, len(data), func(int) []float32 { return data }); err != nil {
		return err
	}
	m.sum(me, data)
	return nil
}

// reduceSegments lets each rank sum one segment, and then sends the sums to all.
func (m *Mesh) reduceSegments(ranks []int, me int, data []float32) error {
	segment := func(i int) []float32 {
		return data[i*len(data)/len(ranks) : (i+1)*len(data)/len(ranks)]
	}
	own := segment(me)
	m.parts.part(len(ranks)-1, 0)
	m.parts.parts = m.parts.parts[:len(ranks)]
	if err := m.gather(ranks, me, len(own), segment); err != nil {
		return err
	}
	m.sum(me, own)
	m.format.Round(own)
	m.parts.moves = m.parts.moves[:0]
	for i, r := range ranks {
		if i == me {
			continue
		}
		dst := segment(i)
		m.parts.moves = append(m.parts.moves, move{p: m.peers[r], out: own, in: len(dst), take: func(at int, piece []byte) {
			m.format.Decode(dst[at:at+len(piece)/m.format.Size()], piece)
		}})
	}
	return m.exchange(m.parts.moves)
}

// exchange carries out moves at the same time: it reads while it writes, so
// that no two ranks wait for each other with full buffers.
func (m *Mesh) exchange(moves []move) error {
	for i := range moves {
		v := &moves[i]
		v.seq = v.p.reduces
		v.p.reduces++
		v.p.sink = func(f *frame.Frame) taken {
			if v.got == v.in || !v.p.passed(f) {
				return keep
			}
			if m.accept(v, f) != nil {
				return failed
			}
			return done
		}
		defer func() { v.p.sink = nil }()
		for v.got < v.in { // what came early
			f, ok := v.p.take(frame.Reduce)
			if !ok {
				break
			}
			if err := m.accept(v, &f); err != nil {
				return err
			}
		}
	}
	defer m.waitingFor.Store(-1)
	m.spin.Begin()
	for {
		progress, finished := false, true
		readers, writers := m.lanes[0][:0], m.lanes[1][:0]
		for i := range moves {
			v := &moves[i]
			if v.sent < len(v.out) || v.out != nil {
				left, moved, err := m.forward(v)
				if err != nil {
					return m.lost(v.p, err)
				}
				progress = progress || moved
				if left {
					finished = false
					writers = append(writers, v.p.fast)
				}
			}
			if v.got < v.in {
				finished = false
				m.waitingFor.Store(int64(v.p.index))
				moved, err := v.p.fill(m.summed)
				if err != nil {
					return m.lost(v.p, err)
				}
				progress = progress || moved
				readers = append(readers, v.p.fast)
			}
		}
		m.lanes[0], m.lanes[1] = readers, writers
		if err := m.Err(); err != nil || finished {
			return err
		}
		if progress {
			m.spin.Begin()
			continue
		}
		if !m.spin.Again() {
			m.asleep.Store(true)
			if m.cause.Load() == nil {
				m.sleeper.Sleep(readers, writers)
			}
			m.asleep.Store(false)
		}
	}
}

// forward encodes the next piece when the last one is gone, and writes.
func (m *Mesh) forward(v *move) (left, progress bool, err error) {
	v.p.out.Lock()
	defer v.p.out.Unlock()
	for {
		if v.p.flushed == len(v.p.pending) && v.sent < len(v.out) {
			m.encodePiece(v)
		}
		left, moved, err := v.p.pushLocked()
		progress = progress || moved
		if err != nil || left || v.sent == len(v.out) {
			if !left {
				v.out = nil
				v.sent = 0
			}
			return left, progress, err
		}
	}
}

// encodePiece puts the next piece of v in the peer's pending. Under out.
func (m *Mesh) encodePiece(v *move) {
	n := min(len(v.out)-v.sent, m.piece())
	b := v.p.room(frame.HeaderSize + n*m.format.Size())
	m.format.Encode(b[frame.HeaderSize:], v.out[v.sent:v.sent+n])
	frame.Seal(b, v.p.order(frame.Header{Kind: frame.Reduce, Seq: v.seq, Part: uint16(v.outPart)}), &v.p.sent, m.summed)
	v.sent += n
	v.outPart++
}

// accept takes one piece.
func (m *Mesh) accept(v *move, f *frame.Frame) error {
	n := min(v.in-v.got, m.piece())
	if f.Seq != v.seq || int(f.Part) != v.inPart || len(f.Payload) != n*m.format.Size() {
		return m.fail(v.p.index, fmt.Sprintf("sent piece %d of all-reduce %d, %d bytes, where piece %d of %d, %d bytes, was expected: the two are not in the same step",
			f.Part, f.Seq, len(f.Payload), v.inPart, v.seq, n*m.format.Size()))
	}
	// In a sum in place, what is added to must have been encoded before.
	if v.out != nil && v.sent < min(v.got+n, len(v.out)) {
		v.p.out.Lock()
		for v.sent < min(v.got+n, len(v.out)) {
			m.encodePiece(v)
		}
		v.p.out.Unlock()
	}
	v.take(v.got, f.Payload)
	v.got += n
	v.inPart++
	return nil
}
