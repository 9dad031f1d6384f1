package group

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise"
	"github.com/skein-run/skein/internal/supervise/group/member"
)

// Group keeps one model served by its shards.
type Group struct {
	opts    Options
	cancel  context.CancelFunc // ends run
	done    chan struct{}      // closed when run ended
	force   chan struct{}      // closed: Stop's time is up
	once    sync.Once          // closes force
	members []*member.Member
	head    *member.Member
	wake    chan struct{} // capacity 1: a member or a link changed

	mu      sync.Mutex // guards all below
	state   supervise.State
	changed chan struct{} // closed and replaced with every state
	epoch   uint64        // of the last Connect
	broken  *wire.Broken  // the first about epoch; nil: none
	parted  uint64        // epoch that is known to be over: requests wait for the next
	// life ends when a shard tells that the head was lost in epoch, by headless.
	life     context.Context
	headless context.CancelCauseFunc
}

var _ generation.Model = (*Group)(nil)

// Lost tells which shard is the reason of what happened.
type Lost struct {
	Index int
	Shard string // "shard 1: layers 15-29"
	Err   error
}

func (l *Lost) Error() string { return fmt.Sprintf("%s: %v", l.Shard, l.Err) }

// Unwrap gives the runner's own error.
func (l *Lost) Unwrap() error { return l.Err }

// Start begins to serve a model and returns at once; Watch and Wait tell how
// it goes. Stop must be called in the end.
func Start(o Options) (*Group, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	g := &Group{
		opts: o.withDefaults(), cancel: cancel, done: make(chan struct{}), force: make(chan struct{}),
		wake: make(chan struct{}, 1), changed: make(chan struct{}),
		state: supervise.State{Phase: supervise.Starting, Since: time.Now()},
	}
	g.life, g.headless = context.WithCancelCause(context.Background())
	id := rand.Text()
	for i := range g.opts.Shards {
		mo := g.opts.memberOptions(i, id)
		mo.Runner.Broken = g.onBroken
		m, err := member.Start(mo)
		if err != nil {
			cancel()
			g.stopMembers(ctx)
			return nil, fmt.Errorf("start %s: %w", g.opts.describe(i), err)
		}
		g.members = append(g.members, m)
	}
	g.head = g.members[member.Head(g.opts.specs())]
	go g.run(ctx)
	return g, nil
}

// Stop ends all shards: they are asked to exit, killed when ctx ends, and
// reaped before Stop returns. Open streams end with an error. Idempotent.
func (g *Group) Stop(ctx context.Context) {
	g.cancel()
	select {
	case <-g.done:
		return
	case <-ctx.Done():
		g.once.Do(func() { close(g.force) })
	}
	<-g.done
}

// stopMembers ends every runner, politely until ctx ends.
func (g *Group) stopMembers(ctx context.Context) {
	var wg sync.WaitGroup
	for _, m := range g.members {
		wg.Go(func() { m.Stop(ctx) })
	}
	wg.Wait()
}

// Done is closed when the Group will never serve again and nothing of it is
// left.
func (g *Group) Done() <-chan struct{} { return g.done }

// State is the present state: Ready when the shards are joined, Restarting
// from the moment one of them is missed.
func (g *Group) State() supervise.State {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state
}

// Watch gives the present state and a channel that is closed with the next
// change.
func (g *Group) Watch() (supervise.State, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state, g.changed
}

// Err tells why the Group failed, a *Lost; nil before and after Stop.
func (g *Group) Err() error {
	if s := g.State(); s.Phase == supervise.Failed {
		return s.Err
	}
	return nil
}

// Member is the state of one shard.
type Member struct {
	Name  string // "shard 1: layers 15-29"
	Where string // host:port of its machine; "": this one
	State supervise.State
	Info  wire.ModelInfo // zero before its first load
}

// Members tells of every shard, in order.
func (g *Group) Members() []Member {
	out := make([]Member, len(g.members))
	for i, m := range g.members {
		out[i] = Member{Name: g.opts.describe(i), Where: g.opts.Shards[i].Where, State: m.State(), Info: m.Info()}
	}
	return out
}

// Info describes the model as the head loaded it. Bytes is what all shards
// hold together; parts that several of them need count several times.
func (g *Group) Info() wire.ModelInfo {
	info := g.head.Info()
	info.Link, info.Bytes = "", 0
	for _, m := range g.members {
		one := m.Info()
		info.Bytes += one.Bytes
		info.LoadSeconds = max(info.LoadSeconds, one.LoadSeconds)
	}
	info.Layers = g.opts.Shards[len(g.opts.Shards)-1].Spec.End
	return info
}

// longestWait is how long a request waits for a group that is to be joined
// again; beyond, the client is told when to come back.
const longestWait = 5 * time.Second

// Wait returns when the group is joined, or will never be.
func (g *Group) Wait(ctx context.Context) error {
	for {
		s, changed := g.Watch()
		switch {
		case s.Phase == supervise.Ready && g.together():
			return nil
		case s.Phase == supervise.Failed:
			return unavailable(0, s.Err, "%s is not available: %v", g.opts.Name, s.Err)
		case s.Phase == supervise.Stopped:
			return unavailable(1, nil, "%s is unloaded", g.opts.Name)
		case s.Phase == supervise.Restarting && time.Until(s.NextTry) > longestWait:
			wait := int(math.Ceil(time.Until(s.NextTry).Seconds()))
			return unavailable(wait, s.Err, "a shard of %s was lost (%v); it is tried again in %d s", g.opts.Name, s.Err, wait)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", g.opts.Name, context.Cause(ctx))
		}
	}
}

func unavailable(retryAfter int, err error, format string, args ...any) error {
	return &generation.Error{Kind: generation.KindUnavailable, Message: fmt.Sprintf(format, args...), RetryAfter: retryAfter, Err: err}
}

// Generate implements generation.Model: it waits for a group that is loading
// or will be back soon, and asks the head. When a shard is lost, the stream
// ends with wire.CodeShard or with an error.
func (g *Group) Generate(ctx context.Context, req wire.GenerateRequest) (generation.Stream, error) {
	if err := g.Wait(ctx); err != nil {
		return nil, err
	}
	epoch, life := g.present()
	s, err := g.head.Generate(ctx, req)
	if err != nil {
		return nil, err
	}
	return &stream{Stream: s, group: g, epoch: epoch, joint: member.NewJoint(life)}, nil
}

// Eval has the logits of tokens computed, see supervise.Runner.Eval.
func (g *Group) Eval(ctx context.Context, req wire.EvalRequest, each func(token int32, logits []float32)) error {
	if err := g.Wait(ctx); err != nil {
		return err
	}
	_, life := g.present()
	ctx, told := member.Within(ctx, life)
	return told(g.head.Eval(ctx, req, each))
}

// Tokenize implements generation.Model.
func (g *Group) Tokenize(ctx context.Context, text string, addSpecial, parseSpecial bool) ([]int32, error) {
	if err := g.Wait(ctx); err != nil {
		return nil, err
	}
	return g.head.Tokenize(ctx, text, addSpecial, parseSpecial)
}

// Detokenize implements generation.Model.
func (g *Group) Detokenize(ctx context.Context, ids []int32) (string, error) {
	if err := g.Wait(ctx); err != nil {
		return "", err
	}
	return g.head.Detokenize(ctx, ids)
}

// Stats asks the head's scheduler.
func (g *Group) Stats(ctx context.Context) (wire.Stats, error) {
	if err := g.Wait(ctx); err != nil {
		return wire.Stats{}, err
	}
	return g.head.Stats(ctx)
}

// Engine describes the library as the head loaded it.
func (g *Group) Engine() wire.EngineInfo { return g.head.Engine() }

func (g *Group) set(s supervise.State) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s.Phase == g.state.Phase {
		s.Since = g.state.Since
	} else {
		s.Since = time.Now()
	}
	s.PID = g.head.State().PID
	g.state = s
	close(g.changed)
	g.changed = make(chan struct{})
}

func (g *Group) poke() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// errLinks is the reason when no shard is to blame.
var errLinks = errors.New("the links between the shards broke")
