package nettest

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Path is what a relay does to the bytes that pass, in each direction.
type Path struct {
	// Delay is added to each way, so a round trip takes twice as long.
	Delay time.Duration
	// Loss is the share of reads (of up to 64 kB) that are lost. TCP hides a
	// loss; what shows is that the direction stands still for Stall.
	Loss  float64
	Stall time.Duration // 0: 200 ms, the first retransmission
	Seed  uint64        // of the losses
	// Tamper changes the bytes; nil: not.
	Tamper Tamper
	// Precise sleeps on a thread of its own, for delays below a few ms, which
	// Go's timers round up. Not for tests with a fake clock.
	Precise bool
}

// Direction of a connection through a relay.
type Direction struct {
	Connection int  // counted from 0 as they come
	Back       bool // from the target to the caller
}

// Relay listens at an address and passes each connection on to a target.
type Relay struct {
	path   Path
	listen net.Listener
	dial   func() (net.Conn, error)
	done   sync.WaitGroup

	mu     sync.Mutex // guards the rest
	conns  []net.Conn
	closed bool
	cut    chan struct{} // closed while bytes pass; open: cut
	errs   []error
}

// NewRelay passes connections to a free loopback port on to target (host:port).
func NewRelay(target string, path Path) (*Relay, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for a relay: %w", err)
	}
	return NewRelayOn(l, func() (net.Conn, error) { return net.Dial("tcp", target) }, path), nil
}

// NewRelayOn passes connections of l, which it closes, on to what dial makes.
func NewRelayOn(l net.Listener, dial func() (net.Conn, error), path Path) *Relay {
	r := newRelay(path)
	r.listen, r.dial = l, dial
	r.done.Go(r.accepting)
	return r
}

func newRelay(path Path) *Relay {
	r := &Relay{path: path, cut: make(chan struct{})}
	close(r.cut)
	if r.path.Stall == 0 {
		r.path.Stall = 200 * time.Millisecond
	}
	return r
}

// Splice joins two connections that exist, which it closes.
func Splice(caller, target net.Conn, path Path) *Relay {
	r := newRelay(path)
	r.join(0, caller, target)
	return r
}

// Addr is where the relay listens.
func (r *Relay) Addr() string { return r.listen.Addr().String() }

// Cut lets no more bytes pass; connections stay open, as when a cable is cut.
func (r *Relay) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.cut:
		r.cut = make(chan struct{})
	default:
	}
}

// Mend lets bytes pass again, and those that were held.
func (r *Relay) Mend() {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.cut:
	default:
		close(r.cut)
	}
}

// Close ends all connections and joins the goroutines. The error says what
// went wrong in the relay itself.
func (r *Relay) Close() error {
	r.mu.Lock()
	r.closed = true
	if r.listen != nil {
		_ = r.listen.Close() // accepting ends by it
	}
	for _, c := range r.conns {
		_ = c.Close() // an end may have closed it
	}
	r.mu.Unlock()
	r.Mend()
	r.done.Wait()
	return errors.Join(r.errs...)
}

func (r *Relay) accepting() {
	for n := 0; ; n++ {
		caller, err := r.listen.Accept()
		if err != nil {
			return
		}
		target, err := r.dial()
		if err != nil {
			_ = caller.Close() // the caller sees it end
			r.mu.Lock()
			r.errs = append(r.errs, fmt.Errorf("relay: %w", err))
			r.mu.Unlock()
			continue
		}
		r.join(n, caller, target)
	}
}

func (r *Relay) join(n int, caller, target net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		_, _ = caller.Close(), target.Close()
		return
	}
	r.conns = append(r.conns, caller, target)
	r.pass(Direction{Connection: n}, caller, target)
	r.pass(Direction{Connection: n, Back: true}, target, caller)
}

// parcel is what one read gave.
type parcel struct {
	due   time.Time
	bytes []byte
	end   bool // of the whole connection, not only of this direction
}

// pass starts the two goroutines of a direction: one reads, one writes what is
// due, so that a delay does not lower the throughput.
func (r *Relay) pass(d Direction, from, to net.Conn) {
	queue := make(chan parcel, 1024)
	random := rand.New(rand.NewPCG(r.path.Seed, uint64(2*d.Connection)))
	if d.Back {
		random = rand.New(rand.NewPCG(r.path.Seed, uint64(2*d.Connection+1)))
	}
	r.done.Go(func() {
		defer close(queue)
		var offset int64
		b := make([]byte, 64<<10)
		for {
			n, err := from.Read(b)
			p := parcel{due: time.Now().Add(r.path.Delay), bytes: append([]byte(nil), b[:n]...)}
			if n > 0 && random.Float64() < r.path.Loss {
				p.due = p.due.Add(r.path.Stall)
			}
			if r.path.Tamper != nil && n > 0 {
				p.bytes, p.end = r.path.Tamper(d, offset, p.bytes)
			}
			offset += int64(n)
			queue <- p
			if err != nil || p.end {
				return
			}
		}
	})
	r.done.Go(func() {
		defer func() {
			if half, ok := to.(interface{ CloseWrite() error }); ok {
				_ = half.CloseWrite() // it may have ended already
			} else {
				_ = to.Close()
			}
			for range queue { // the reader must not stand still
			}
		}()
		sleep, stop := sleeper(r.path.Precise)
		defer stop()
		for p := range queue {
			sleep(time.Until(p.due))
			r.mu.Lock()
			open := r.cut
			r.mu.Unlock()
			<-open
			if _, err := to.Write(p.bytes); err != nil {
				_ = from.Close() // so the other end learns it
				return
			}
			if p.end {
				_, _ = from.Close(), to.Close()
				return
			}
		}
	})
}

// timers is the sleeper that any platform and a fake clock have.
func timers(d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	<-timer.C
}

var _ io.Closer = (*Relay)(nil)
