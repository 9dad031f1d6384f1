package group

import (
	"context"
	"errors"
	"fmt"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise/group/member"
)

// Whatever is lost, the head says so and ends its generations. Only of its own
// loss it can't tell: when it is stopped or cut off, the other shards have
// noticed long before this process could, so what waits for the head ends by
// what they say. Whether it must be killed is another question, with more time.

// onBroken runs in the readers of the members' processes.
func (g *Group) onBroken(b wire.Broken) {
	g.mu.Lock()
	if b.Epoch == g.epoch {
		g.parted = b.Epoch
		if g.broken == nil {
			g.broken = &b
		}
		if b.Shard == head(g.opts.Shards) {
			g.headless(g.headLost(b.Cause))
		}
	}
	g.mu.Unlock()
	g.poke()
}

// headLost is what those who wait for the head are told.
func (g *Group) headLost(cause string) error {
	if cause == "" {
		cause = errLinks.Error()
	}
	i := head(g.opts.Shards)
	return &generation.Error{
		Kind:    generation.KindFailed,
		Message: fmt.Sprintf("a shard of %s was lost (%s: %s); send the request again", g.opts.Name, g.opts.describe(i), cause),
		Err:     &Lost{Index: i, Shard: g.opts.describe(i), Err: errors.New(cause)},
	}
}

// begin starts an epoch. The mutex must be held.
func (g *Group) begin() (epoch uint64) {
	g.epoch++
	g.broken = nil
	g.life, g.headless = context.WithCancelCause(context.Background())
	return g.epoch
}

// present is the present epoch, and the life of the head in it.
func (g *Group) present() (epoch uint64, life context.Context) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.epoch, g.life
}

// together tells whether nothing is known against the present epoch.
func (g *Group) together() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.parted != g.epoch
}

// stream is a generation of the head that ends when the head is lost.
type stream struct {
	generation.Stream
	group *Group
	epoch uint64 // that it began in
	joint member.Joint
}

// Next implements generation.Stream.
func (s *stream) Next(ctx context.Context) ([]wire.Token, *wire.Done, error) {
	tokens, done, err := s.joint.Next(ctx, s.Stream.Next)
	if done != nil && done.Code == wire.CodeShard {
		// The head tells its clients first, and the group after it has left
		// the others. Who asks again in between must not find it alone.
		s.group.mu.Lock()
		s.group.parted = max(s.group.parted, s.epoch)
		s.group.mu.Unlock()
	}
	return tokens, done, err
}

// Close implements generation.Stream.
func (s *stream) Close() {
	s.Stream.Close()
	s.joint.End()
}
