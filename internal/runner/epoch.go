package runner

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/skein-run/skein/internal/runner/link"
	"github.com/skein-run/skein/internal/runner/llama"
	"github.com/skein-run/skein/internal/runner/schedule"
	"github.com/skein-run/skein/internal/runner/shard"
	"github.com/skein-run/skein/internal/runner/wire"
)

// errSuperseded ends an epoch, or the joining to one, for a later one.
var errSuperseded = errors.New("the shards are being joined again")

// joins hands the node's last wish to join the shards to the goroutine that
// owns the engine.
type joins struct {
	wake chan struct{} // capacity 1

	mu     sync.Mutex // guards all below
	last   uint64     // largest epoch asked for
	next   *joining   // not begun yet
	cancel func()     // ends what goes on now; nil: nothing
}

// joining is a Connect frame.
type joining struct {
	ref uint64
	req wire.ConnectRequest
	ctx context.Context // done when a later one has come
}

func newJoins() *joins { return &joins{wake: make(chan struct{}, 1)} }

// ask begins a new epoch. It returns the wish that has been superseded before it
// was begun, if any.
func (j *joins) ask(ref uint64, req wire.ConnectRequest) (before *joining, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if req.Epoch <= j.last {
		return nil, fmt.Errorf("epoch %d is not after epoch %d", req.Epoch, j.last)
	}
	before, j.next, j.last = j.next, &joining{ref: ref, req: req}, req.Epoch
	if j.cancel != nil {
		j.cancel()
	}
	select {
	case j.wake <- struct{}{}:
	default:
	}
	return before, nil
}

// take waits for a wish. Its context is cancelled by the next.
func (j *joins) take() *joining {
	for {
		<-j.wake
		j.mu.Lock()
		next := j.next
		j.next = nil
		if next != nil {
			next.ctx, j.cancel = context.WithCancel(context.Background())
		}
		j.mu.Unlock()
		if next != nil {
			return next
		}
	}
}

// connect handles a Connect frame.
func (r *process) connect(f wire.Frame) error {
	var req wire.ConnectRequest
	if err := f.Decode(&req); err != nil {
		return err
	}
	if r.model == nil || r.model.member == nil {
		return r.fail(f.Ref, wire.CodeInvalid, errors.New("connect: no shard is loaded"))
	}
	m := r.model.member
	if len(req.Addresses) != len(m.layout.Shards) {
		return r.fail(f.Ref, wire.CodeInvalid, fmt.Errorf("connect: %d addresses for %d shards", len(req.Addresses), len(m.layout.Shards)))
	}
	before, err := m.joins.ask(f.Ref, req)
	if err != nil {
		return r.fail(f.Ref, wire.CodeInvalid, fmt.Errorf("connect: %w", err))
	}
	if before != nil {
		return r.fail(before.ref, wire.CodeShard, errSuperseded)
	}
	return nil
}

// serveMember joins the group and works in it, epoch after epoch. It returns
// for faults only that are this process's own.
func (r *process) serveMember(m *member) error {
	for {
		j := m.joins.take()
		mesh, err := m.door.Join(j.ctx, link.Options{
			Group: m.spec.Group, Epoch: j.req.Epoch, Self: m.layout.Index, Addresses: j.req.Addresses,
			TLS: m.tls, HalfPrecision: m.spec.HalfPrecision,
		})
		if err != nil {
			if err := r.fail(j.ref, wire.CodeShard, err); err != nil {
				return err
			}
			continue
		}
		lost, err := r.epoch(m, mesh, j)
		if err == nil {
			b := wire.Broken{Epoch: j.req.Epoch, Shard: lost.Shard, Cause: lost.Cause.Error()}
			logLine(logWarn, fmt.Sprintf("epoch %d is over: %v", b.Epoch, lost))
			err = r.conn.SendJSON(wire.TypeBroken, 0, b)
		}
		// The last words to the others take a moment, which the node is not
		// kept waiting for.
		mesh.Close()
		if err != nil {
			return err
		}
	}
}

// epoch works in a joined group until a shard is lost.
func (r *process) epoch(m *member, mesh *link.Mesh, j *joining) (*shard.LostError, error) {
	m.mesh = mesh
	defer func() { m.mesh = nil }()
	m.ctx.Clear()
	r.model.states.Clear()
	o := shard.Options{
		Layout: m.layout, Engine: m, Link: linked{mesh}, Embedding: m.file.Run.Embedding,
		VocabFirst: m.file.Run.VocabFirst, VocabCount: m.file.Run.VocabCount,
		States: r.model.states, SnapshotBytes: m.req.CacheBytes, StepSeconds: m.spec.StepSeconds, TokenSeconds: m.tokenSeconds,
	}
	if m.embed != nil {
		o.Embed = m.embed
	}
	// The end of the mesh, or of the epoch, must be noticed while nothing is
	// computed.
	over := make(chan struct{})
	var watch sync.WaitGroup
	defer watch.Wait()
	defer close(over)
	watch.Go(func() {
		select {
		case <-j.ctx.Done():
			mesh.Fail(-1, errSuperseded.Error())
		case <-mesh.Broken():
		case <-over:
		}
	})
	var err error
	if m.layout.Index == m.layout.Head {
		err = r.lead(m, o, j.ref, mesh)
	} else {
		err = r.follow(o, j.ref)
	}
	var lost *shard.LostError
	if errors.As(err, &lost) {
		return lost, nil
	}
	return nil, err
}

func (r *process) follow(o shard.Options, ref uint64) error {
	f, err := shard.NewFollower(o)
	if err != nil {
		return err
	}
	if err := r.conn.SendJSON(wire.TypeResult, ref, struct{}{}); err != nil {
		return err
	}
	return f.Run()
}

// lead runs the step loop with the group as its model.
func (r *process) lead(m *member, o shard.Options, ref uint64, mesh *link.Mesh) error {
	head, err := shard.NewHead(o, m.vocab)
	if err != nil {
		return err
	}
	reuse, err := parseReuse(m.req.PrefixReuse)
	if err != nil {
		return err
	}
	sched, err := schedule.New(schedule.Config{
		Stages: head.Stages(), Depth: head.Depth(),
		Slots: m.req.Slots, Context: r.model.info.Context, Chunk: r.model.info.ChunkTokens, Tile: schedule.TileTokens(false), Pending: m.req.PendingLimit,
		Reuse: reuse, Rewindable: m.memory == llama.MemoryAttention, CacheBytes: m.req.CacheBytes,
	})
	if err != nil {
		return err
	}
	l := r.newLoop(head, r.model.model, sched)
	r.setLoop(l)
	over := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-mesh.Broken():
			l.Lose(lostShard(mesh.Err()))
		case <-over:
		}
	})
	err = r.conn.SendJSON(wire.TypeResult, ref, struct{}{})
	if err == nil {
		err = l.Run()
	}
	r.setLoop(nil)
	close(over)
	watch.Wait()
	l.Drain(err)
	return err
}
