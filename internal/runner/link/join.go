package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// maxLobby bounds the connections that wait for a Join; the oldest gives way.
const maxLobby = 1024

// Listener accepts connections for the meshes of one shard, one after another.
// Those that come before a Join wait for it.
type Listener struct {
	l    net.Listener
	done sync.WaitGroup

	joining chan struct{} // holds a token while a Join uses the lobby

	mu    sync.Mutex // guards the rest
	lobby []net.Conn
	came  chan struct{} // something is in the lobby
	err   error         // why no more come
}

// Listen opens host:port; port 0 takes a free one, which Addr tells at once.
func Listen(address string) (*Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for shards: %w; give a host of this machine and a free port", err)
	}
	out := &Listener{l: l, joining: make(chan struct{}, 1), came: make(chan struct{}, 1)}
	out.done.Go(out.accepting)
	return out, nil
}

// Addr is the address as host:port.
func (l *Listener) Addr() string { return l.l.Addr().String() }

// Close stops accepting. Meshes go on.
func (l *Listener) Close() error {
	err := l.l.Close()
	l.done.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.lobby {
		_ = c.Close() // never spoken with
	}
	l.lobby = nil
	return err
}

func (l *Listener) accepting() {
	for {
		c, err := l.l.Accept()
		l.mu.Lock()
		if err != nil {
			l.err = err
		} else {
			if len(l.lobby) == maxLobby {
				_ = l.lobby[0].Close() // never spoken with
				l.lobby = l.lobby[1:]
			}
			l.lobby = append(l.lobby, c)
		}
		l.mu.Unlock()
		select {
		case l.came <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

// visitors gives those who wait.
func (l *Listener) visitors() ([]net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.lobby
	l.lobby = nil
	return out, l.err
}

// connection is one that a Join has made.
type connection struct {
	conn net.Conn
	peer int
	bulk bool
	err  error
}

// Join connects to all other shards and returns when all of them are connected
// to each other. A shard calls those of a larger index. It ends with ctx, or
// after o.Limit, and then says who is missing and whom it refused.
func (l *Listener) Join(ctx context.Context, o Options) (*Mesh, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.Limit, fmt.Errorf("not done within %v", o.Limit))
	defer cancel()
	select {
	case l.joining <- struct{}{}:
		defer func() { <-l.joining }()
	case <-ctx.Done():
		return nil, fmt.Errorf("join group %s: another join runs: %w", o.Group, context.Cause(ctx))
	}
	fast, bulk, err := l.connect(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("join group %s as shard %d: %w", o.Group, o.Self, err)
	}
	m, err := newMesh(o, fast, bulk)
	if err != nil {
		return nil, fmt.Errorf("join group %s as shard %d: %w", o.Group, o.Self, err)
	}
	select {
	case <-m.joined:
		return m, nil
	case <-m.broken:
		err = m.Err()
	case <-ctx.Done():
		err = fmt.Errorf("shard %d is not connected with all others: %w", m.firstUnready(), context.Cause(ctx))
		_ = m.fail(o.Self, "gave up joining: "+err.Error())
	}
	m.Close()
	return nil, fmt.Errorf("join group %s as shard %d: %w", o.Group, o.Self, err)
}

// connect makes two connections with each other shard.
func (l *Listener) connect(ctx context.Context, o Options) (fast, bulk []net.Conn, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var work sync.WaitGroup
	results := make(chan connection)
	post := func(c connection) {
		select {
		case results <- c:
		case <-ctx.Done():
			if c.conn != nil {
				_ = c.conn.Close() // nobody wants it any more
			}
		}
	}
	for to := o.Self + 1; to < len(o.Addresses); to++ {
		for _, b := range []bool{false, true} {
			work.Go(func() {
				c, err := call(ctx, o, to, b, func(err error) { post(connection{peer: -1, err: err}) })
				post(connection{conn: c, peer: to, bulk: b, err: err})
			})
		}
	}
	if o.Self > 0 {
		work.Go(func() { l.welcome(ctx, o, &work, post) })
	}
	fast, bulk = make([]net.Conn, len(o.Addresses)), make([]net.Conn, len(o.Addresses))
	var notes []string // on strangers, and on shards that are late
	for missing := 2 * (len(o.Addresses) - 1); missing > 0 && err == nil; {
		select {
		case c := <-results:
			lane := fast
			if c.bulk {
				lane = bulk
			}
			switch {
			case c.err != nil && c.peer >= 0:
				err = fmt.Errorf("shard %d at %s: %w", c.peer, o.Addresses[c.peer], c.err)
			case c.err != nil:
				if len(notes) < 8 {
					notes = append(notes, c.err.Error())
				}
			case lane[c.peer] != nil:
				// It calls again, so it has lost the first one.
				_ = lane[c.peer].Close()
				lane[c.peer] = c.conn
			default:
				lane[c.peer] = c.conn
				missing--
			}
		case <-ctx.Done():
			err = missingError(o, fast, bulk, notes, context.Cause(ctx))
		}
	}
	cancel(err)
	work.Wait()
	if err != nil {
		for i := range fast {
			for _, c := range []net.Conn{fast[i], bulk[i]} {
				if c != nil {
					_ = c.Close() // the cause is told
				}
			}
		}
		return nil, nil, err
	}
	return fast, bulk, nil
}

func missingError(o Options, fast, bulk []net.Conn, notes []string, cause error) error {
	var missing []string
	for i := range fast {
		if i != o.Self && (fast[i] == nil || bulk[i] == nil) {
			missing = append(missing, fmt.Sprint(i))
		}
	}
	text := ""
	if len(notes) > 0 {
		text = "; " + strings.Join(notes, "; ")
	}
	return fmt.Errorf("no connection with shard %s: %w%s", strings.Join(missing, ", "), cause, text)
}

// retry is how long a caller waits for a shard that is not yet in its epoch.
const retry = 50 * time.Millisecond

// early says that the other side may welcome the caller later: it is still in
// another epoch, or left that one while it listened.
func early(err error) bool {
	var r refusal
	var op *net.OpError
	switch {
	case errors.As(err, &r):
		return r.Early
	case errors.As(err, &op):
		return (op.Op == "read" || op.Op == "write") && !op.Timeout()
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// call makes one connection to a shard of a larger index.
// It notes once why it has to wait.
func call(ctx context.Context, o Options, to int, bulk bool, note func(error)) (net.Conn, error) {
	var last error // why the last try was too early
	for {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", o.Addresses[to])
		if err != nil && last != nil {
			return nil, fmt.Errorf("%w; before that, %w", err, last)
		}
		if err != nil {
			return nil, err
		}
		lift := bounded(ctx, c)
		raw := c
		if !bulk {
			c = unsealed(c, o.TLS != nil)
		}
		greeted, err := greet(ctx, c, o, to, bulk)
		if ended := lift(); err == nil {
			err = ended
		}
		if err == nil {
			return greeted, nil
		}
		_ = raw.Close() // err says more
		if !early(err) {
			if last != nil {
				err = fmt.Errorf("%w; before that, %w", err, last)
			}
			return nil, err
		}
		if last == nil {
			note(fmt.Errorf("shard %d at %s: %w", to, o.Addresses[to], err))
		}
		last = err
		wait := time.NewTimer(retry)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return nil, fmt.Errorf("%w; %w", err, context.Cause(ctx))
		}
	}
}

// welcome answers those who wait in the lobby, each in a goroutine of work.
func (l *Listener) welcome(ctx context.Context, o Options, work *sync.WaitGroup, post func(connection)) {
	for {
		visitors, err := l.visitors()
		for _, c := range visitors {
			work.Go(func() {
				lift := bounded(ctx, c)
				greeted, h, err := answer(ctx, unsealed(c, o.TLS != nil), o)
				if ended := lift(); err == nil {
					err = ended
				}
				if err != nil {
					err = fmt.Errorf("refused %s: %w", c.RemoteAddr(), err)
					_ = c.Close() // err says more
					post(connection{peer: -1, err: err})
					return
				}
				post(connection{conn: greeted, peer: h.From, bulk: h.Bulk})
			})
		}
		if err != nil {
			post(connection{peer: o.Self, err: fmt.Errorf("listen for shards: %w", err)})
			return
		}
		select {
		case <-l.came:
		case <-ctx.Done():
			return
		}
	}
}

// newMesh starts a mesh over connections that are greeted, by index.
func newMesh(o Options, fast, bulk []net.Conn) (*Mesh, error) {
	sleeper, err := newSleeper()
	if err != nil {
		return nil, closeAll(err, fast, bulk)
	}
	flusher, err := newSleeper()
	if err != nil {
		sleeper.close()
		return nil, closeAll(err, fast, bulk)
	}
	return startMesh(o, fast, bulk, sleeper, flusher)
}

func closeAll(err error, conns ...[]net.Conn) error {
	for _, c := range conns {
		for _, c := range c {
			if c != nil {
				_ = c.Close() // err is the cause
			}
		}
	}
	return err
}

func startMesh(o Options, fast, bulk []net.Conn, sleeper, flusher sleeper) (*Mesh, error) {
	m := &Mesh{o: o, peers: make([]*peer, len(o.Addresses)), format: format(o.HalfPrecision), summed: o.TLS == nil,
		tick: o.Beat / 2, broken: make(chan struct{}), joined: make(chan struct{}), flush: make(chan struct{}, 1),
		sleeper: sleeper, flusher: flusher}
	m.spin = spinner{limit: o.Spin, yield: yield}
	m.waitingFor.Store(-1)
	for i := range m.peers {
		if i == o.Self {
			continue
		}
		lane, err := newLane(fast[i], sleeper.wake)
		if err != nil {
			for _, p := range m.peers[:i] {
				if p != nil {
					p.fast.close()
				}
			}
			sleeper.close()
			flusher.close()
			return nil, closeAll(fmt.Errorf("shard %d: %w", i, err), fast[i:], bulk)
		}
		m.peers[i] = newPeer(i, bulk[i])
		m.peers[i].fast = lane
	}
	m.countReady() // alone
	greeting := marshal(here())
	for _, p := range m.peers {
		if p == nil {
			continue
		}
		p.out.Lock()
		p.enqueue(header{kind: kindReady}, append(make([]byte, headerSize), greeting...))
		p.out.Unlock()
		m.readers.Go(func() { m.bulkReading(p) })
		m.writers.Go(func() { m.bulkWriting(p) })
	}
	m.others.Go(m.watching)
	m.others.Go(m.flushing)
	return m, nil
}

func (m *Mesh) firstUnready() int {
	for _, p := range m.peers {
		if p != nil && !p.ready.Load() {
			return p.index
		}
	}
	return m.o.Self
}
