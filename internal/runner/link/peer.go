package link

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// frame is one that has arrived. Its payload is the receiver's.
type frame struct {
	header
	payload []byte
}

// inbox keeps frames of one kind until they are wanted.
type inbox struct {
	next   uint32 // order of the frame to be taken next
	frames map[uint32]frame
}

// peer is one other shard of the mesh.
type peer struct {
	index int
	fast  lane
	bulk  net.Conn

	silent  atomic.Int64 // ticks since something was heard
	waiting atomic.Int64 // the shard that this one waits for, by its last beat; -1: none
	ready   atomic.Bool  // it has all its connections
	near    atomic.Int64 // its process, if that is on this machine; 0: elsewhere, or not known

	in     sync.Mutex // guards the following
	boxes  [kinds]inbox
	stored int // bytes in boxes

	// Of the goroutine that receives.
	buf      []byte // from the fast lane; [r:w] is not yet looked at
	r, w     int
	received uint32               // frames received on the fast lane
	reduces  uint64               // exchanges done with this peer
	sink     func(f *frame) taken // takes pieces of an all-reduce out of turn

	out     sync.Mutex // guards the following
	pending []byte     // for the fast lane
	flushed int        // bytes of pending that are gone
	sent    uint32     // frames sent on the fast lane
	orders  [kinds]uint32
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
	p := &peer{index: index, bulk: bulk, work: make(chan struct{}, 1), buf: make([]byte, 4*(fastPayload+headerSize))}
	p.waiting.Store(-1)
	for k := range p.boxes {
		p.boxes[k].frames = map[uint32]frame{}
	}
	return p
}

// sending is a frame on its way to the bulk lane; its first bytes are left for
// the header.
type sending struct {
	header
	bytes []byte
}

// order numbers a frame among those of its kind. Under out.
func (p *peer) order(h header) header {
	h.order = p.orders[h.kind]
	p.orders[h.kind]++
	return h
}

// seal writes the header of b, a frame whose payload is in place.
func seal(b []byte, h header, count *uint32, summed bool) {
	h.length = uint32(len(b) - headerSize)
	h.count = *count
	if summed {
		h.sum = checksum(b[headerSize:])
	}
	h.put(b)
	*count++
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
		n, err := p.fast.write(p.pending[p.flushed:])
		if err != nil {
			return true, progress, err
		}
		if n == 0 {
			return true, progress, nil
		}
		progress = true
		p.flushed += n
	}
	flushed, err := p.fast.flush()
	return !flushed, progress, err
}

// enqueue puts a frame in the bulk lane's queue. Under out.
func (p *peer) enqueue(h header, b []byte) {
	p.queue = append(p.queue, sending{p.order(h), b})
	p.queued += len(b)
	select {
	case p.work <- struct{}{}:
	default:
	}
}

// store keeps a frame until it is wanted.
func (p *peer) store(f frame) error {
	p.in.Lock()
	defer p.in.Unlock()
	box := &p.boxes[f.kind]
	if _, twice := box.frames[f.order]; twice || f.order-box.next >= 1<<31 {
		return fmt.Errorf("%w: %v %d (number %d) came twice", errFrame, f.kind, f.seq, f.order)
	}
	if p.stored += len(f.payload) + headerSize; p.stored > maxWaiting {
		return fmt.Errorf("more than %d bytes wait to be received", maxWaiting)
	}
	box.frames[f.order] = f
	return nil
}

// take gives the next frame of a kind, if it is there.
func (p *peer) take(kind Kind) (frame, bool) {
	p.in.Lock()
	defer p.in.Unlock()
	box := &p.boxes[kind]
	f, ok := box.frames[box.next]
	if !ok {
		return frame{}, false
	}
	delete(box.frames, box.next)
	box.next++
	p.stored -= len(f.payload) + headerSize
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
func (p *peer) passed(f *frame) (ok bool) {
	p.in.Lock()
	defer p.in.Unlock()
	box := &p.boxes[f.kind]
	if f.order != box.next {
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
	n, err := p.fast.read(p.buf[p.w:])
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
	for p.w-p.r >= headerSize {
		h, err := parseHeader(p.buf[p.r:p.w], fastPayload)
		if err != nil {
			return err
		}
		if p.w-p.r < headerSize+int(h.length) {
			return nil
		}
		payload := p.buf[p.r+headerSize:][:h.length]
		if err := h.counted(p.received); err != nil {
			return err
		}
		if summed {
			if err := h.check(payload); err != nil {
				return err
			}
		}
		if h.kind > lastPublic && h.kind != kindReduce {
			return fmt.Errorf("%w: %v on the fast lane", errFrame, h.kind)
		}
		p.received++
		p.r += headerSize + int(h.length)
		f := frame{h, payload}
		if p.sink != nil && h.kind == kindReduce {
			switch p.sink(&f) {
			case done:
				continue
			case failed:
				return nil
			}
		}
		f.payload = append([]byte(nil), payload...)
		if err := p.store(f); err != nil {
			return err
		}
	}
	return nil
}

// readFrame reads one frame of a bulk lane, or a handshake. The buffer grows
// with what has arrived, not with what was promised.
func readFrame(r io.Reader, limit int, count uint32, summed bool) (frame, error) {
	var b [headerSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return frame{}, err // io.EOF between frames
	}
	h, err := parseHeader(b[:], limit)
	if err != nil {
		return frame{}, err
	}
	if err := h.counted(count); err != nil {
		return frame{}, err
	}
	const step = 1 << 20
	payload := make([]byte, min(int(h.length), step))
	for at := 0; ; {
		if _, err := io.ReadFull(r, payload[at:]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return frame{}, err
		}
		if at = len(payload); at == int(h.length) {
			break
		}
		payload = append(payload, make([]byte, min(int(h.length)-at, at))...)
	}
	if summed {
		if err := h.check(payload); err != nil {
			return frame{}, err
		}
	}
	return frame{h, payload}, nil
}
