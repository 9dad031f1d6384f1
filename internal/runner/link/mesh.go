package link

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skein-run/skein/internal/runner/link/frame"
	"github.com/skein-run/skein/internal/runner/link/lane"
	"github.com/skein-run/skein/internal/runner/link/precision"
	"github.com/skein-run/skein/internal/runner/link/rendezvous"
)

// Kind says what a frame is about. Frames of one kind have an order of their own.
type Kind = frame.Kind

// The kinds that callers use.
const (
	KindPlan       = frame.Plan
	KindActivation = frame.Activation
	KindResult     = frame.Result
	KindControl    = frame.Control
)

// Sizes in bytes.
const (
	// fastPayload bounds a frame on the fast lane, and a piece of an all-reduce.
	fastPayload = 64 << 10
	// maxWaiting bounds what waits for one peer, to be sent or to be received.
	maxWaiting = 1 << 30
)

// Options of a Join.
type Options struct {
	Group string // names the group; strangers are refused
	Epoch uint64 // grows with each join of the group; older ones are refused
	Self  int    // index of this shard in Addresses
	// Addresses are host:port of all shards' listeners, in order.
	Addresses []string
	// TLS of both sides, see NewTLS; nil: plain TCP with checksums.
	TLS *tls.Config
	// HalfPrecision sends activations and sums as f16, which is not exact.
	HalfPrecision bool
	// Limit bounds the joining; 0: 10 s.
	Limit time.Duration
	// Beat is how often a shard tells that it lives; 0: 200 ms.
	Beat time.Duration
	// Silence is after how long without any byte a shard counts as lost; 0:
	// 1.7 s. It is counted in this process's own waking time. A process of this
	// same machine that lives and is not stopped is starved, and gets three
	// times as long.
	Silence time.Duration
	// Spin is how long a receiver polls before it sleeps; 0: 200 µs, negative:
	// not at all. A core that the peer needs should not be polled on: see
	// the figures in docs/sharding.md.
	Spin time.Duration
}

func (o *Options) validate() error {
	if o.Limit == 0 {
		o.Limit = 10 * time.Second
	}
	if o.Beat == 0 {
		o.Beat = 200 * time.Millisecond
	}
	if o.Silence == 0 {
		o.Silence = 1700 * time.Millisecond
	}
	if o.Spin == 0 {
		o.Spin = 200 * time.Microsecond
	}
	switch {
	case o.Group == "" || len(o.Group) > 256:
		return errors.New("a link group needs a name of 1 to 256 bytes")
	case o.Self < 0 || o.Self >= len(o.Addresses):
		return fmt.Errorf("shard %d is not among %d addresses", o.Self, len(o.Addresses))
	case len(o.Addresses) > maxShards:
		return fmt.Errorf("%d shards in a group; at most %d are possible", len(o.Addresses), maxShards)
	case o.Beat < 0 || o.Limit < 0 || o.Silence < 2*o.Beat:
		return fmt.Errorf("a silence of %v with beats each %v; it must be at least twice as long", o.Silence, o.Beat)
	}
	return nil
}

// party is what the shards must agree on before they are a mesh.
func (o *Options) party() rendezvous.Party {
	return rendezvous.Party{Group: o.Group, Epoch: o.Epoch, Self: o.Self, Addresses: o.Addresses, TLS: o.TLS, HalfPrecision: o.HalfPrecision}
}

// maxShards bounds a group; each shard has two connections to each other.
const maxShards = 256

// BrokenError is why a mesh broke; all its calls give it from then on.
type BrokenError struct {
	Culprit int    // the shard that failed; -1: not known
	Cause   string // of one line
}

func (e *BrokenError) Error() string {
	if e.Culprit < 0 {
		return "link: " + e.Cause
	}
	return fmt.Sprintf("link: shard %d: %s", e.Culprit, e.Cause)
}

// ErrInterrupted ends a Receive after Interrupt.
var ErrInterrupted = errors.New("link: interrupted")

// Mesh joins this shard to all others of its group, for one epoch.
type Mesh struct {
	o      Options
	peers  []*peer // by index; nil at Self
	format precision.Format
	summed bool // payloads carry checksums: there is no TLS to guard them
	tick   time.Duration

	interrupted atomic.Bool
	asleep      atomic.Bool  // the receiving goroutine sleeps
	waitingFor  atomic.Int64 // shard that the receiving goroutine waits for; -1: none
	deadline    atomic.Int64 // ticks left for the step; 0: none
	bound       atomic.Int64 // the deadline as it was given, in ns

	broken   chan struct{} // closed when err is set
	cause    atomic.Pointer[BrokenError]
	once     sync.Once
	joined   chan struct{} // closed when all peers are ready
	allReady sync.Once

	sleeper lane.Sleeper  // of the receiving goroutine
	flusher lane.Sleeper  // of the flushing goroutine
	flush   chan struct{} // something waits in a pending
	readers sync.WaitGroup
	writers sync.WaitGroup
	others  sync.WaitGroup
	closing sync.Once

	receiving sync.Mutex     // held in Receive, Poll, AllReduce
	lanes     [2][]lane.Lane // scratch of sleep; guarded by receiving
	spin      lane.Spinner   // guarded by receiving
	parts     reduction      // scratch of AllReduce; guarded by receiving
}

// Self is this shard's index, Size the number of shards.
func (m *Mesh) Self() int { return m.o.Self }

// Size is the number of shards, this one among them.
func (m *Mesh) Size() int { return len(m.o.Addresses) }

// Broken is closed when the mesh is broken; Err then says why.
func (m *Mesh) Broken() <-chan struct{} { return m.broken }

// Err is nil while the mesh is whole, then a *BrokenError.
func (m *Mesh) Err() error {
	if e := m.cause.Load(); e != nil {
		return e
	}
	return nil
}

// Fail breaks the mesh: all shards get the culprit (-1: not known) and the
// cause. The first one counts.
func (m *Mesh) Fail(culprit int, cause string) {
	m.fail(culprit, cause)
}

// SetDeadline gives the time within which the step must be done; 0 ends it.
// When it passes, the mesh breaks, and the culprit is who keeps the others
// waiting, as the beats tell. It is counted in this process's own waking time.
func (m *Mesh) SetDeadline(d time.Duration) {
	m.bound.Store(int64(d))
	ticks := int64(0)
	if d > 0 {
		ticks = int64((d+m.tick-1)/m.tick) + 1
	}
	m.deadline.Store(ticks)
}

// Interrupt ends the running Receive, or the next one, with ErrInterrupted.
func (m *Mesh) Interrupt() {
	m.interrupted.Store(true)
	m.sleeper.Wake()
}

func (m *Mesh) peer(index int) (*peer, error) {
	if index < 0 || index >= len(m.peers) || m.peers[index] == nil {
		return nil, fmt.Errorf("link: shard %d has no link to shard %d in a group of %d", m.o.Self, index, len(m.peers))
	}
	return m.peers[index], nil
}

// Send sends payload, which it copies, and does not wait for the network.
// Frames of one kind are received in the order they were sent; seq is the
// caller's label, which the receiver must ask for.
func (m *Mesh) Send(to int, kind Kind, seq uint64, payload []byte) error {
	return m.send(to, kind, seq, len(payload), func(b []byte) { copy(b, payload) })
}

// SendFloats sends values in the mesh's precision.
func (m *Mesh) SendFloats(to int, kind Kind, seq uint64, values []float32) error {
	return m.send(to, kind, seq, len(values)*m.format.Size(), func(b []byte) { m.format.Encode(b, values) })
}

func (m *Mesh) send(to int, kind Kind, seq uint64, size int, write func([]byte)) error {
	if kind == 0 || kind > frame.LastPublic {
		return fmt.Errorf("link: %v is not for callers", kind)
	}
	if size > frame.MaxPayload {
		return fmt.Errorf("link: %v of %d bytes; at most %d fit a frame", kind, size, frame.MaxPayload)
	}
	p, err := m.peer(to)
	if err != nil {
		return err
	}
	if err := m.Err(); err != nil {
		return err
	}
	h := frame.Header{Kind: kind, Seq: seq}
	if size > fastPayload {
		b := make([]byte, frame.HeaderSize+size)
		write(b[frame.HeaderSize:])
		return m.sendBulk(p, h, b)
	}
	p.out.Lock()
	full := len(p.pending)-p.flushed > maxWaiting
	left := false
	if !full && !p.last {
		b := p.room(frame.HeaderSize + size)
		write(b[frame.HeaderSize:])
		frame.Seal(b, p.order(h), &p.sent, m.summed)
		left, _, err = p.pushLocked()
	}
	p.out.Unlock()
	switch {
	case full:
		return m.fail(to, fmt.Sprintf("has left %d bytes unread", maxWaiting))
	case err != nil:
		return m.lost(p, err)
	case left:
		m.flushLater()
	}
	return m.Err()
}

// sendBulk queues a frame with room for its header at the start.
func (m *Mesh) sendBulk(p *peer, h frame.Header, b []byte) error {
	p.out.Lock()
	full := p.queued > maxWaiting
	if !full && !p.last {
		p.enqueue(h, b)
	}
	p.out.Unlock()
	if full {
		return m.fail(p.index, fmt.Sprintf("has left %d bytes unread", maxWaiting))
	}
	// The caller goes on to compute in the library, where the scheduler leaves
	// it its processor until a timer finds out: the writer has its turn before.
	runtime.Gosched()
	return m.Err()
}

func (m *Mesh) flushLater() {
	select {
	case m.flush <- struct{}{}:
	default:
	}
}

// flushing moves what the fast lanes had no room for.
func (m *Mesh) flushing() {
	var busy []lane.Lane
	for {
		select {
		case <-m.broken:
			return
		case <-m.flush:
		}
		for m.cause.Load() == nil {
			busy = busy[:0]
			for _, p := range m.peers {
				if p == nil {
					continue
				}
				left, _, err := p.push()
				if err != nil {
					m.lostLater(p, err)
					return
				}
				if left {
					busy = append(busy, p.fast)
				}
			}
			if len(busy) == 0 {
				break
			}
			m.flusher.Sleep(nil, busy)
		}
	}
}

// Receive waits for the next frame of a kind, which must be labelled seq, and
// gives its payload, which is the caller's. It ends with the mesh.
func (m *Mesh) Receive(from int, kind Kind, seq uint64) ([]byte, error) {
	p, err := m.peer(from)
	if err == nil && (kind == 0 || kind > frame.LastPublic) {
		err = fmt.Errorf("link: %v is not for callers", kind)
	}
	if err != nil {
		return nil, err
	}
	m.receiving.Lock()
	defer m.receiving.Unlock()
	f, err := m.receive(p, kind)
	if err != nil {
		return nil, err
	}
	if f.Seq != seq {
		return nil, m.fail(from, fmt.Sprintf("sent %v %d where %d was expected", kind, f.Seq, seq))
	}
	return f.Payload, nil
}

// ReceiveFloats is Receive into values; the frame must have as many.
func (m *Mesh) ReceiveFloats(from int, kind Kind, seq uint64, values []float32) error {
	b, err := m.Receive(from, kind, seq)
	if err != nil {
		return err
	}
	if len(b) != len(values)*m.format.Size() {
		return m.fail(from, fmt.Sprintf("sent %v %d of %d values where %d were expected", kind, seq, len(b)/m.format.Size(), len(values)))
	}
	m.format.Decode(values, b)
	return nil
}

// Poll tells whether a frame of a kind is there, so that Receive won't wait.
func (m *Mesh) Poll(from int, kind Kind) (bool, error) {
	p, err := m.peer(from)
	if err != nil {
		return false, err
	}
	m.receiving.Lock()
	defer m.receiving.Unlock()
	if p.peek(kind) {
		return true, nil
	}
	if err := m.Err(); err != nil {
		return false, err
	}
	if _, err := p.fill(m.summed); err != nil {
		return false, m.lost(p, err)
	}
	return p.peek(kind), nil
}

func (m *Mesh) receive(p *peer, kind Kind) (frame.Frame, error) {
	m.waitingFor.Store(int64(p.index))
	defer m.waitingFor.Store(-1)
	m.spin.Begin()
	for {
		if f, ok := p.take(kind); ok {
			return f, nil
		}
		if err := m.Err(); err != nil {
			return frame.Frame{}, err
		}
		if m.interrupted.Swap(false) {
			return frame.Frame{}, ErrInterrupted
		}
		progress, err := p.fill(m.summed)
		if err != nil {
			return frame.Frame{}, m.lost(p, err)
		}
		if progress || m.spin.Again() {
			continue
		}
		m.lanes[0] = append(m.lanes[0][:0], p.fast)
		m.sleep(m.lanes[0], nil, func() bool { return p.peek(kind) })
	}
}

// sleep sleeps unless something came in between: who puts something in a box,
// breaks or interrupts wakes whom it sees asleep.
func (m *Mesh) sleep(readers, writers []lane.Lane, ready func() bool) {
	m.asleep.Store(true)
	if !ready() && m.cause.Load() == nil && !m.interrupted.Load() {
		m.sleeper.Sleep(readers, writers)
	}
	m.asleep.Store(false)
}

// wake wakes the receiving goroutine if it sleeps.
func (m *Mesh) wake() {
	if m.asleep.Load() {
		m.sleeper.Wake()
	}
}

// beatBody is what a beat carries: the shard waited for, plus one.
func beatBody(waiting int64) []byte { return []byte{byte(waiting + 1), byte((waiting + 1) >> 8)} }

// abortBody is the JSON of an abort.
type abortBody struct {
	Culprit int    `json:"culprit"`
	Cause   string `json:"cause"`
}

func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // of plain structs
	}
	return b
}
