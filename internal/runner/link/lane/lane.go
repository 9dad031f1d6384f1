package lane

import (
	"fmt"
	"io"
	"net"
	"sync"
)

// Lane moves the bytes of a fast connection without waiting. Reads come from
// one goroutine at a time, writes too.
type Lane interface {
	// TryRead gives what is there; 0 and no error: nothing now.
	TryRead(b []byte) (int, error)
	// TryWrite takes what fits; 0 and no error: full.
	TryWrite(b []byte) (int, error)
	// Flush moves on what TryWrite took and the kernel did not; done says that
	// nothing is left.
	Flush() (done bool, err error)
	// Shut ends both directions; what waits for them wakes.
	Shut()
	// Free gives the descriptor back; nobody may use the lane any more.
	Free()
}

// Sleeper lets a goroutine sleep until one of its lanes can go on.
type Sleeper interface {
	// Sleep returns when one of readers has bytes, one of writers takes some,
	// or Wake was called since the last Sleep.
	Sleep(readers, writers []Lane)
	Wake()
	// Close frees what the sleeper holds; a later Wake does nothing.
	Close()
}

// pump is a lane over any connection, by two goroutines that wait for it. It
// serves where sockets can't be polled, and in tests with a clock of their own.
type pump struct {
	conn   net.Conn
	notify func() // something has changed; also when nobody sleeps yet
	done   sync.WaitGroup

	mu   sync.Mutex // guards the rest
	in   []byte
	err  error // ends reading, after in
	out  []byte
	werr error
	more *sync.Cond // out or shutdown changed, or in was taken
	gone bool
}

// Bounds of a pump in bytes: what it reads ahead, and what it takes to write.
const (
	pumpBuffer = 4 << 20
	maxUnsent  = 1 << 30
)

func newPump(conn net.Conn, notify func()) *pump {
	p := &pump{conn: conn, notify: notify}
	p.more = sync.NewCond(&p.mu)
	p.done.Go(p.reading)
	p.done.Go(p.writing)
	return p
}

func (p *pump) reading() {
	b := make([]byte, 256<<10)
	for {
		n, err := p.conn.Read(b)
		p.mu.Lock()
		for len(p.in) > pumpBuffer && !p.gone {
			p.more.Wait()
		}
		p.in = append(p.in, b[:n]...)
		p.err = err
		p.mu.Unlock()
		p.notify()
		if err != nil {
			return
		}
	}
}

func (p *pump) writing() {
	for {
		p.mu.Lock()
		for len(p.out) == 0 && !p.gone {
			p.more.Wait()
		}
		b := p.out
		p.out = nil
		p.mu.Unlock()
		if len(b) == 0 {
			return
		}
		if _, err := p.conn.Write(b); err != nil {
			p.mu.Lock()
			p.werr = err
			p.mu.Unlock()
			p.notify()
			return
		}
	}
}

func (p *pump) TryRead(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := copy(b, p.in)
	p.in = p.in[n:]
	if n == 0 {
		return 0, p.err
	}
	p.more.Broadcast()
	return n, nil
}

// TryWrite takes everything, up to a bound.
func (p *pump) TryWrite(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.werr != nil {
		return 0, p.werr
	}
	if p.gone {
		return 0, io.ErrClosedPipe
	}
	if len(p.out) > maxUnsent {
		return 0, fmt.Errorf("%d bytes wait to be sent", len(p.out))
	}
	p.out = append(p.out, b...)
	p.more.Broadcast()
	return len(b), nil
}

func (p *pump) Flush() (bool, error) { return true, nil }

func (p *pump) Shut() {
	p.mu.Lock()
	p.gone = true
	p.more.Broadcast()
	p.mu.Unlock()
	p.conn.Close() // nothing that it could say would change what follows
}

func (p *pump) Free() {
	p.Shut()
	p.done.Wait()
}

// bell is the sleeper of pumps.
type bell chan struct{}

// NewBell gives the sleeper of pumps, which is all that a fake clock needs.
func NewBell() Sleeper { return make(bell, 1) }

func (b bell) Sleep(_, _ []Lane) { <-b }

func (b bell) Wake() {
	select {
	case b <- struct{}{}:
	default: // rings already
	}
}

func (b bell) Close() {}
