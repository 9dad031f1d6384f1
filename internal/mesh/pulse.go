package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/skein-run/skein/internal/ids"
)

// pulsePath is a call that stays open for as long as both nodes live. When it
// breaks and the node can't be called again, its process is dead: that is
// known in milliseconds, where the gossip takes more than a second.
const pulsePath = "/mesh/pulse"

const bootHeader = "Skein-Boot"

// connKey is under which a request's context has its connection.
type connKey struct{}

func (m *Mesh) servePulse(w http.ResponseWriter, r *http.Request) {
	// All calls of a peer share one connection: it is closed when the peer is
	// given up.
	if c, ok := r.Context().Value(connKey{}).(net.Conn); ok {
		id := Caller(r)
		m.mu.Lock()
		if m.callers[id] == nil {
			m.callers[id] = map[net.Conn]bool{}
		}
		m.callers[id][c] = true
		m.mu.Unlock()
		defer func() {
			m.mu.Lock()
			delete(m.callers[id], c)
			m.mu.Unlock()
		}()
	}
	w.Header().Set(bootHeader, m.boot)
	w.WriteHeader(http.StatusOK)
	if err := http.NewResponseController(w).Flush(); err != nil {
		return // the caller is gone
	}
	select {
	case <-r.Context().Done():
	case <-m.ctx.Done():
	}
}

// feelPulse holds a pulse call to a member until ctx ends, and judges it by
// that.
func (m *Mesh) feelPulse(ctx context.Context, member Member) {
	pause := 50 * time.Millisecond
	failed := 0
	for {
		err := m.pulse(ctx, member, func() { failed, pause = 0, 50*time.Millisecond; m.setPulse(member, true) })
		if ctx.Err() != nil {
			return
		}
		// A reset or a refusal is an answer of a living machine: nobody is
		// there. Silence may be the network's; the gossip decides about it.
		failed++
		if answered(err) && failed > 1 {
			m.log.Debug("a node's pulse broke and can't be had again", "node", member.ID, "error", err)
			m.setPulse(member, false)
		}
		if failed > 1 {
			pause = min(2*pause, 2*time.Second)
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

func answered(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, errOtherBoot) || errors.Is(err, io.EOF)
}

var errOtherBoot = errors.New("another start of the node answered")

// pulse calls and stays until the call ends. begun is called once it stands.
func (m *Mesh) pulse(ctx context.Context, member Member, begun func()) error {
	// The answer's head has a time limit, the call itself has none.
	call, cancel := context.WithCancel(ctx)
	defer cancel()
	head := time.AfterFunc(3*time.Second, cancel)
	defer head.Stop()
	req, err := http.NewRequestWithContext(call, http.MethodGet, "https://"+string(member.ID)+pulsePath, nil)
	if err != nil {
		return err
	}
	resp, err := m.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	head.Stop()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	if resp.Header.Get(bootHeader) != member.Boot {
		return errOtherBoot
	}
	begun()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	return io.EOF
}

func (m *Mesh) setPulse(member Member, alive bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.peers[member.ID]
	if p == nil || p.member.Boot != member.Boot {
		return
	}
	p.pulse = alive
	m.judge(p)
}

// Client calls peers: the host of a URL is a node id ("https://<id>/path").
// Calls share one connection for each peer.
func (m *Mesh) Client() *http.Client { return m.client }

func (m *Mesh) newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		ForceAttemptHTTP2: true,
		HTTP2:             &http.HTTP2Config{SendPingTimeout: time.Second, PingTimeout: 3 * time.Second},
		IdleConnTimeout:   time.Minute,
		DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			host, _, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, fmt.Errorf("call %s: %w", addr, err)
			}
			return m.dial(ctx, ids.Node(host))
		},
	}}
}

// owned is a connection to a peer, which is closed when the peer is given up.
type owned struct {
	net.Conn
	m    *Mesh
	id   ids.Node
	read atomic.Int64 // when something came last, ns since the epoch; 0: nothing yet
}

// Read notes that the peer lives.
func (c *owned) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.read.Store(time.Now().UnixNano())
	}
	return n, err
}

func (m *Mesh) own(id ids.Node, conn net.Conn) *owned {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &owned{Conn: conn, m: m, id: id}
	if m.conns[id] == nil {
		m.conns[id] = map[*owned]bool{}
	}
	m.conns[id][c] = true
	return c
}

// Close ends the connection, and the care for it.
func (c *owned) Close() error {
	c.m.mu.Lock()
	delete(c.m.conns[c.id], c)
	c.m.mu.Unlock()
	return c.Conn.Close()
}
