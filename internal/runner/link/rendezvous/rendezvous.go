// Package rendezvous brings the shards of a group together: each listens, calls
// those of a larger index, and has two connections with each other shard in the
// end. Both sides of a connection say who they are and which epoch they are in;
// who does not belong here is told why, and so is this side's caller.
//
// What the connections are for it does not know; it must not import the link.
package rendezvous

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/runner/link/lane"
)

// Party is what all shards of a group must agree on, and which of them this is.
type Party struct {
	Group string // names the group; strangers are refused
	Epoch uint64 // grows with each meeting of the group; older ones are refused
	Self  int    // index of this shard in Addresses
	// Addresses are host:port of all shards' listeners, in order.
	Addresses []string
	// TLS of both sides; nil: none.
	TLS *tls.Config
	// HalfPrecision is how the shards will send values.
	HalfPrecision bool
}

// Pair is the two connections with one other shard, greeted, in TLS if there is
// any. Fast ones are made of lane.Unsealed.
type Pair struct{ Fast, Bulk net.Conn }

// Close ends what there is of a pair. Its error would say nothing about why.
func (p Pair) Close() {
	for _, c := range []net.Conn{p.Fast, p.Bulk} {
		if c != nil {
			_ = c.Close()
		}
	}
}

// maxLobby bounds the connections that wait for a Meet; the oldest gives way.
const maxLobby = 1024

// Listener accepts connections for the meetings of one shard, one after another.
// Those that come before a Meet wait for it.
type Listener struct {
	l    net.Listener
	done sync.WaitGroup

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
	out := &Listener{l: l, came: make(chan struct{}, 1)}
	out.done.Go(out.accepting)
	return out, nil
}

// Addr is the address as host:port.
func (l *Listener) Addr() string { return l.l.Addr().String() }

// Close stops accepting. Connections that were met go on.
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

// connection is one that a Meet has made.
type connection struct {
	conn net.Conn
	peer int
	bulk bool
	err  error
}

// Meet makes two connections with each other shard, by index; its own stays empty.
// A shard calls those of a larger index. One Meet may run at a time. When ctx ends
// before all are there, it says who is missing and whom it refused.
func (l *Listener) Meet(ctx context.Context, o Party) ([]Pair, error) {
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
	pairs, err := collect(ctx, o, results)
	cancel(err)
	work.Wait()
	if err != nil {
		for _, p := range pairs {
			p.Close()
		}
		return nil, err
	}
	return pairs, nil
}

// collect takes results until all pairs are whole. It gives what there is.
func collect(ctx context.Context, o Party, results <-chan connection) ([]Pair, error) {
	pairs := make([]Pair, len(o.Addresses))
	var notes []string // on strangers, and on shards that are late
	for missing := 2 * (len(o.Addresses) - 1); missing > 0; {
		var c connection
		select {
		case c = <-results:
		case <-ctx.Done():
			return pairs, missingError(o, pairs, notes, context.Cause(ctx))
		}
		switch {
		case c.err != nil && c.peer >= 0:
			return pairs, fmt.Errorf("shard %d at %s: %w", c.peer, o.Addresses[c.peer], c.err)
		case c.err != nil:
			if len(notes) < 8 {
				notes = append(notes, c.err.Error())
			}
			continue
		}
		half := &pairs[c.peer].Fast
		if c.bulk {
			half = &pairs[c.peer].Bulk
		}
		if *half == nil {
			missing--
		} else {
			_ = (*half).Close() // it calls again, so it has lost the first one
		}
		*half = c.conn
	}
	return pairs, nil
}

func missingError(o Party, pairs []Pair, notes []string, cause error) error {
	var missing []string
	for i, p := range pairs {
		if i != o.Self && (p.Fast == nil || p.Bulk == nil) {
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
func call(ctx context.Context, o Party, to int, bulk bool, note func(error)) (net.Conn, error) {
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
			c = lane.Unsealed(c, o.TLS != nil)
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
func (l *Listener) welcome(ctx context.Context, o Party, work *sync.WaitGroup, post func(connection)) {
	for {
		visitors, err := l.visitors()
		for _, c := range visitors {
			work.Go(func() {
				lift := bounded(ctx, c)
				greeted, h, err := answer(ctx, lane.Unsealed(c, o.TLS != nil), o)
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
