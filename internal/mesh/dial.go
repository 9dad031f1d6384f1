package mesh

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/skein-run/skein/internal/ids"
)

const (
	// handshake bounds the making of a connection to a peer, which may accept
	// one and then be silent.
	handshake = 5 * time.Second
	// handshakes of a node go on at once, so that each is over soon: where a large
	// cluster starts, or comes back after a cut, all of them together would be so
	// slow that they run out of time, and begin anew, for ever.
	handshakes = 4
	// patient is how long a handshake keeps its place among those: a peer that is
	// silent must not keep it from others.
	patient = time.Second
	// queued is how long a call waits for its turn to make a connection.
	queued = 30 * time.Second
	// shared is how long a call that wanted a connection of its own has to see
	// that it goes over another one's.
	shared = time.Second
)

// way is how calls get a connection to one peer: the first makes it, the
// others wait for it.
type way struct {
	turn chan struct{} // capacity 1: held by the one that makes a connection
	made int           // how many were; guarded by Mesh.mu
}

var errShared = errors.New("another call made a connection meanwhile")

// dial makes a connection to a peer.
func (m *Mesh) dial(ctx context.Context, id ids.Node) (net.Conn, error) {
	m.mu.Lock()
	w := m.ways[id]
	if w == nil {
		w = &way{turn: make(chan struct{}, 1)}
		m.ways[id] = w
	}
	before := w.made
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, queued)
	defer cancel()
	select {
	case w.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("call node %s: %w", id, context.Cause(ctx))
	case <-m.ctx.Done():
		return nil, fmt.Errorf("call node %s: this node stops", id)
	}
	m.mu.Lock()
	done := w.made != before
	p := m.peers[id]
	at := ""
	if p != nil {
		at = p.member.PeerAddr()
	}
	m.mu.Unlock()
	if done {
		<-w.turn
		// The transport hands the connection to the call that waits; what it
		// wanted here is of no use any more.
		t := time.NewTimer(shared)
		defer t.Stop()
		select {
		case <-t.C:
		case <-m.ctx.Done():
		}
		return nil, fmt.Errorf("call node %s: %w", id, errShared)
	}
	defer func() { <-w.turn }()
	if at == "" {
		return nil, fmt.Errorf("call node %s: it is not a member of this cluster", id)
	}
	conn, err := m.connect(ctx, id, at)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	w.made++
	m.mu.Unlock()
	return conn, nil
}

func (m *Mesh) connect(ctx context.Context, id ids.Node, at string) (net.Conn, error) {
	late := patience * m.late.worst() // all takes longer then, for the peer too
	select {
	case m.busy <- struct{}{}:
		t := time.AfterFunc(patient+late, func() { <-m.busy })
		defer func() {
			if t.Stop() {
				<-m.busy
			}
		}()
	case <-ctx.Done():
		return nil, fmt.Errorf("call node %s: %w", id, context.Cause(ctx))
	}
	ctx, cancel := context.WithTimeout(ctx, handshake+late)
	defer cancel()
	dialer := &net.Dialer{Timeout: 2 * time.Second, KeepAlive: 5 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", at)
	if err != nil {
		return nil, err
	}
	secure := tls.Client(m.own(id, conn), m.identity.client(id))
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, secure.NetConn().Close())
	}
	return secure, nil
}
