package link

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/skein-run/skein/internal/runner/link/frame"
	"github.com/skein-run/skein/internal/runner/link/lane"
)

// inbox keeps frames of one kind until they are wanted.
type inbox struct {
	next   uint32 // order of the frame to be taken next
	frames map[uint32]frame.Frame
}

// peer is one other shard of the mesh.
type peer struct {
	index int
	fast  lane.Lane
	bulk  net.Conn

	silent  atomic.Int64 // ticks since something was heard
	waiting atomic.Int64 // the shard that this one waits for, by its last beat; -1: none
	ready   atomic.Bool  // it has all its connections
	near    atomic.Int64 // its process, if that is on this machine; 0: elsewhere, or not known

	in     sync.Mutex // guards the following
	boxes  [frame.Kinds]inbox
	stored int // bytes in boxes

	// Of the goroutine that receives.
	buf      []byte // from the fast lane; [r:w] is not yet looked at
	r, w     int
	received uint32                     // frames received on the fast lane
	reduces  uint64                     // exchanges done with this peer
	sink     func(f *frame.Frame) taken // takes pieces of an all-reduce out of turn

	out     sync.Mutex // guards the following
	pending []byte     // for the fast lane
	flushed int        // bytes of pending that are gone
	sent    uint32     // frames sent on the fast lane
	orders  [frame.Kinds]uint32
	queue   []sending // for the bulk lane
	queued  int       // bytes in queue
	last    bool      // nothing follows in queue
	work    chan struct{}
}

// taken is what a sink says.
type taken int

const (
	keep   taken = iota // not for me, store it
	done                // consumed
	failed              // the mesh is broken
)

func newPeer(index int, bulk net.Conn) *peer {
	p := &peer{index: index, bulk: bulk, work: make(chan struct{}, 1), buf: make([]byte, 4*(fastPayload+frame.HeaderSize))}
	p.waiting.Store(-1)
	for k := range p.boxes {
		p.boxes[k].frames = map[uint32]frame.Frame{}
	}
	return p
}

// sending is a frame on its way to the bulk lane; its first bytes are left for
// the header.
type sending struct {
	frame.Header
	bytes []byte
}

// order numbers a frame among those of its kind. Under out.
func (p *peer) order(h frame.Header) frame.Header {
	h.Order = p.orders[h.Kind]
	p.orders[h.Kind]++
	return h
}

// room gives n bytes at the end of pending. Under out.
func (p *peer) room(n int) []byte {
	if p.flushed == len(p.pending) {
		p.pending, p.flushed = p.pending[:0], 0
	}
	start := len(p.pending)
	if cap(p.pending)-start < n {
		grown := make([]byte, start-p.flushed, max(2*(start-p.flushed), start-p.flushed+n, 2*fastPayload))
		copy(grown, p.pending[p.flushed:])
		start -= p.flushed
		p.pending, p.flushed = grown, 0
	}
	p.pending = p.pending[:start+n]
	return p.pending[start:]
}

// push writes what the connection takes now; left says that something waits.
func (p *peer) push() (left, progress bool, err error) {
	p.out.Lock()
	defer p.out.Unlock()
	return p.pushLocked()
}

func (p *peer) pushLocked() (left, progress bool, err error) {
	for p.flushed < len(p.pending) {
		n, err := p.fast.TryWrite(p.pending[p.flushed:])
		if err != nil {
			return true, progress, err
		}
		if n == 0 {
			return true, progress, nil
		}
		progress = true
		p.flushed += n
	}
	flushed, err := p.fast.Flush()
	return !flushed, progress, err
}

// enqueue puts a frame in the bulk lane's queue. Under out.
func (p *peer) enqueue(h frame.Header, b []byte) {
	p.queue = append(p.queue, sending{p.order(h), b})
	p.queued += len(b)
	select {
	case p.work <- struct{}{}:
	default:
	}
}

// store keeps a frame until it is wanted.
func (p *peer) store(f frame.Frame) error {
	p.in.Lock()
	defer p.in.Unlock()
	box := &p.boxes[f.Kind]
	if _, twice := box.frames[f.Order]; twice || f.Order-box.next >= 1<<31 {
		return fmt.Errorf("%w: %v %d (number %d) came twice", frame.ErrDamaged, f.Kind, f.Seq, f.Order)
	}
	if p.stored += len(f.Payload) + frame.HeaderSize; p.stored > maxWaiting {
		return fmt.Errorf("more than %d bytes wait to be received", maxWaiting)
	}
	box.frames[f.Order] = f
	return nil
}

// take gives the next frame of a kind, if it is there.
func (p *peer) take(kind Kind) (frame.Frame, bool) {
	p.in.Lock()
	defer p.in.Unlock()
	box := &p.boxes[kind]
	f, ok := box.frames[box.next]
	if !ok {
		return frame.Frame{}, false
	}
	delete(box.frames, box.next)
	box.next++
	p.stored -= len(f.Payload) + frame.HeaderSize
	return f, true
}

// peek tells whether a frame of a kind is there.
func (p *peer) peek(kind Kind) bool {
	p.in.Lock()
	defer p.in.Unlock()
	box := &p.boxes[kind]
	_, ok := box.frames[box.next]
	return ok
}

// passed counts a frame of an all-reduce that went to a sink; ok says that it
// was its turn.
func (p *peer) passed(f *frame.Frame) (ok bool) {
	p.in.Lock()
	defer p.in.Unlock()
	box := &p.boxes[f.Kind]
	if f.Order != box.next {
		return false
	}
	box.next++
	return true
}

// fill reads the fast lane once and hands out the frames that are whole.
func (p *peer) fill(summed bool) (progress bool, err error) {
	if p.r == p.w {
		p.r, p.w = 0, 0
	} else if len(p.buf)-p.w < fastPayload {
		p.w = copy(p.buf, p.buf[p.r:p.w])
		p.r = 0
	}
	n, err := p.fast.TryRead(p.buf[p.w:])
	if err != nil {
		return false, err
	}
	if n == 0 {
		return false, nil
	}
	p.silent.Store(0)
	p.w += n
	return true, p.parse(summed)
}

// parse hands out the whole frames of buf.
func (p *peer) parse(summed bool) error {
	for p.w-p.r >= frame.HeaderSize {
		h, err := frame.Parse(p.buf[p.r:p.w], fastPayload)
		if err != nil {
			return err
		}
		if p.w-p.r < frame.HeaderSize+int(h.Length) {
			return nil
		}
		payload := p.buf[p.r+frame.HeaderSize:][:h.Length]
		if err := h.Counted(p.received); err != nil {
			return err
		}
		if summed {
			if err := h.Check(payload); err != nil {
				return err
			}
		}
		if h.Kind > frame.LastPublic && h.Kind != frame.Reduce {
			return fmt.Errorf("%w: %v on the fast lane", frame.ErrDamaged, h.Kind)
		}
		p.received++
		p.r += frame.HeaderSize + int(h.Length)
		f := frame.Frame{Header: h, Payload: payload}
		if p.sink != nil && h.Kind == frame.Reduce {
			switch p.sink(&f) {
			case done:
				continue
			case failed:
				return nil
			}
		}
		f.Payload = append([]byte(nil), payload...)
		if err := p.store(f); err != nil {
			return err
		}
	}
	return nil
}
