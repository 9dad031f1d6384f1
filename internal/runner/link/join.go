package link

import (
	"context"
	"fmt"

	"github.com/skein-run/skein/internal/runner/link/frame"
	"github.com/skein-run/skein/internal/runner/link/lane"
	"github.com/skein-run/skein/internal/runner/link/place"
	"github.com/skein-run/skein/internal/runner/link/precision"
	"github.com/skein-run/skein/internal/runner/link/rendezvous"
)

// Listener accepts connections for the meshes of one shard, one after another.
// Those that come before a Join wait for it. Close stops accepting; meshes go on.
type Listener struct {
	*rendezvous.Listener
	joining chan struct{} // holds a token while a Join runs
}

// Listen opens host:port; port 0 takes a free one, which Addr tells at once.
func Listen(address string) (*Listener, error) {
	l, err := rendezvous.Listen(address)
	if err != nil {
		return nil, err
	}
	return &Listener{Listener: l, joining: make(chan struct{}, 1)}, nil
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
	pairs, err := l.Meet(ctx, o.party())
	if err != nil {
		return nil, fmt.Errorf("join group %s as shard %d: %w", o.Group, o.Self, err)
	}
	m, err := newMesh(o, pairs)
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

// newMesh starts a mesh over connections that are greeted, by index.
func newMesh(o Options, pairs []rendezvous.Pair) (*Mesh, error) {
	sleeper, err := lane.NewSleeper()
	if err != nil {
		closeAll(pairs)
		return nil, err
	}
	flusher, err := lane.NewSleeper()
	if err != nil {
		sleeper.Close()
		closeAll(pairs)
		return nil, err
	}
	return startMesh(o, pairs, sleeper, flusher)
}

func closeAll(pairs []rendezvous.Pair) {
	for _, p := range pairs {
		p.Close()
	}
}

// startMesh takes all that it is given, and gives it back when it fails.
func startMesh(o Options, pairs []rendezvous.Pair, sleeper, flusher lane.Sleeper) (*Mesh, error) {
	m := &Mesh{o: o, peers: make([]*peer, len(o.Addresses)), format: precision.Format(o.HalfPrecision), summed: o.TLS == nil,
		tick: o.Beat / 2, broken: make(chan struct{}), joined: make(chan struct{}), flush: make(chan struct{}, 1),
		sleeper: sleeper, flusher: flusher, spin: lane.NewSpinner(o.Spin)}
	m.waitingFor.Store(-1)
	for i, pair := range pairs {
		if i == o.Self {
			continue
		}
		fast, err := lane.New(pair.Fast, sleeper.Wake)
		if err != nil {
			for at, p := range m.peers[:i] {
				if p != nil {
					p.fast.Free()
					pairs[at].Fast = nil
				}
			}
			sleeper.Close()
			flusher.Close()
			closeAll(pairs)
			return nil, fmt.Errorf("shard %d: %w", i, err)
		}
		m.peers[i] = newPeer(i, pair.Bulk)
		m.peers[i].fast = fast
	}
	m.countReady() // alone
	greeting := marshal(place.Here())
	for _, p := range m.peers {
		if p == nil {
			continue
		}
		p.out.Lock()
		p.enqueue(frame.Header{Kind: frame.Ready}, append(make([]byte, frame.HeaderSize), greeting...))
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
