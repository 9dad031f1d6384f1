package executor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/plan"
	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/generation/prefix"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/meter"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise"
	"github.com/skein-run/skein/internal/supervise/group/member"
)

// shard is what is on this node of one shard. Its fields are guarded by
// Executor.mu, and its methods want it held, unless they say otherwise.
type shard struct {
	e     *Executor
	key   plan.Key
	log   *slog.Logger
	local plan.Local
	op    *op // the action in progress, if it has a goroutine

	instance cluster.Instance // as it was placed; set by fetch
	model    cluster.Model    // likewise
	paths    []string
	release  func() // gives the files back; nil: none are held

	member *member.Member // nil: no process is kept running
	life   int            // of member's processes, the one that local is about; 0: none
	info   wire.ModelInfo // of that process, from plan.Loaded on

	// Connections.
	connecting uint64       // epoch of the Connect in progress
	broken     *wire.Broken // the newest that a process told of
	parted     uint64       // epoch whose end is dealt with
	cause      error        // of that end
	connected  time.Time    // when the present connection was made
	breaks     member.Breaks
	wait       time.Duration // before the next connection without a death
	timer      *time.Timer   // sets due
	due        uint64        // epoch that is to be followed by one without a death; 0: none

	// missed is since when the state lacks the instance, while it is spared;
	// spare wakes the loop at its end.
	missed time.Time
	spare  *time.Timer

	// Reports.
	telling bool   // a goroutine delivers local.Told
	clearAt uint64 // index of the state that knows local.Told; 0: not yet

	// Serving.
	serving context.Context         // while the head takes generations
	lost    context.CancelCauseFunc // ends it, with a *generation.Error
	open    int                     // generations
	drained chan struct{}           // closed when a stop need wait no longer; nil: none waits
	tokens  meter.Rate
	stream  float64 // tokens/s of the last generation
	cached  *prefix.Record

	// Progress of what is done.
	done, total int64 // bytes of the fetch
	fetched     meter.Rate
}

// op is an action that runs.
type op struct {
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when its goroutine has ended
}

// errSuperseded ends an action that something else came before.
var errSuperseded = errors.New("it is not wanted any more")

// begin runs an action; it ends with a call of finish.
func (s *shard) begin(do plan.Do, f func(ctx context.Context, o *op)) {
	ctx, cancel := context.WithCancelCause(s.e.life)
	o := &op{cancel: cancel, done: make(chan struct{})}
	s.op, s.local.Doing = o, do
	s.e.wg.Go(func() {
		defer close(o.done)
		defer cancel(nil)
		defer s.e.poke()
		f(ctx, o)
	})
}

// finish ends an action; false if it was given up meanwhile, and nothing of it
// counts.
func (s *shard) finish(o *op) bool {
	if s.op != o {
		return false
	}
	s.op, s.local.Doing = nil, ""
	return true
}

// placed gives the instance as it is now; false when the shard is no longer
// this node's.
func (s *shard) placed() (cluster.Instance, bool) {
	i, ok := s.e.state.Instances[s.key.Instance]
	ok = ok && s.key.Shard < len(i.Shards) && i.Shards[s.key.Shard].Node == s.e.opts.Self
	return i, ok
}

func (s *shard) whole() bool { return len(s.instance.Shards) == 1 }
func (s *shard) head() bool  { return s.key.Shard == s.instance.Head }

// spared tells that a shard which the state lost is left alone for a while:
// when two halves of a cluster meet, the log of one of them gives way, and its
// instances are adopted by the other a moment later.
func (s *shard) spared() bool {
	if _, ok := s.e.state.Instances[s.key.Instance]; ok || s.local.Runner < plan.Loaded || s.local.Doing == plan.Stop {
		if s.spare != nil {
			s.spare.Stop()
		}
		s.missed, s.spare = time.Time{}, nil
		return false
	}
	if s.missed.IsZero() {
		s.missed = time.Now()
		s.spare = time.AfterFunc(s.e.opts.Adopt, s.e.poke)
	}
	return time.Since(s.missed) < s.e.opts.Adopt
}

// refresh brings local up to what the state and the process say.
func (s *shard) refresh() {
	st := s.e.state
	if s.clearAt != 0 && st.Index >= s.clearAt {
		s.local.Told, s.clearAt = cluster.ShardReported{}, 0
	}
	i, mine := s.placed()
	if s.drained != nil && (!mine || i.Shards[i.Head].Phase.Ended() || s.head() && s.open == 0) {
		close(s.drained)
		s.drained = nil
	}
	if s.local.Doing == plan.Stop || s.member == nil {
		return
	}
	now, _ := s.member.Now()
	up := now.State.Phase == supervise.Loading || now.State.Phase == supervise.Ready
	if s.life != 0 && (!up || now.Life != s.life) {
		s.died(now.State.Err)
	}
	if now.State.Phase == supervise.Failed {
		if s.local.Failed == "" {
			s.local.Failed = describe(now.State.Err)
		}
		return
	}
	if up && s.life == 0 && s.local.Doing == plan.Start {
		s.life, s.local.Runner, s.local.Doing = now.Life, plan.Up, ""
	}
	if s.life != 0 && now.State.Phase == supervise.Ready && s.local.Doing == plan.Load {
		s.info = now.Info
		s.local.Runner, s.local.Link, s.local.Doing = plan.Loaded, "", ""
		if !s.whole() {
			s.local.Link = s.e.opts.Link(now.Info.Link)
		}
	}
	if mine {
		s.follow(i)
	}
}

// follow reacts to the instance's epoch.
func (s *shard) follow(i cluster.Instance) {
	if s.local.Doing == plan.Connect && s.connecting != i.Epoch() {
		s.op.cancel(errSuperseded)
	}
	// A state with an earlier epoch has not heard of this one yet: the instance
	// was adopted from the other half of a split.
	if s.local.Runner >= plan.Connected && !s.whole() && s.local.Epoch < i.Epoch() {
		// Another shard has a new process, or the others have seen what this
		// one has not: its streams lead nowhere.
		s.unserve("the shards are connected anew")
	}
	s.renew(i)
}

// renew lets the process count as a new one, if it is time to: an epoch broke,
// nobody died, and nobody else did.
func (s *shard) renew(i cluster.Instance) {
	if s.due == 0 {
		return
	}
	shard := i.Shards[s.key.Shard]
	if i.Epoch() != s.due || s.local.Incarnation != shard.Incarnation || s.local.Runner < plan.Loaded {
		s.due = 0
		return
	}
	if s.local.Doing != "" {
		return
	}
	s.due = 0
	var over bool
	if s.wait, over = s.breaks.Add(); over {
		s.local.Failed = fmt.Sprintf("the shards cannot be kept together: broke %d times, last: %v", s.breaks.Count, s.cause)
		return
	}
	s.log.Warn("the shards are apart, connecting them again", "cause", s.cause, "attempt", s.breaks.Count)
	s.local.Incarnation++
	s.local.Runner, s.local.Epoch = plan.Loaded, 0
}

// died takes note of the end of the process that local is about.
func (s *shard) died(err error) {
	s.unserve(fmt.Sprintf("its process died: %v", err))
	s.life, s.info, s.due = 0, wire.ModelInfo{}, 0
	s.local.Runner, s.local.Link, s.local.Epoch = plan.None, "", 0
	if s.op != nil {
		s.op.cancel(err)
		return
	}
	s.local.Doing = ""
}

// broke takes note of the end, or the failure, of a connection.
func (s *shard) broke(epoch uint64, cause error) {
	if s.parted >= epoch {
		return
	}
	s.parted, s.cause = epoch, cause
	if s.local.Epoch == epoch {
		s.breaks.Held(time.Since(s.connected))
		if s.breaks.Count == 0 {
			s.wait = 0
		}
	}
	s.unserve(cause.Error())
	// If somebody died, the cluster hears of it in the meantime. Not all begin
	// an epoch at once: the head first.
	delay := s.wait + s.e.opts.Settle
	if !s.head() {
		delay += 3 * s.e.opts.Settle
	}
	s.log.Info("the connection of the shards broke", "epoch", epoch, "cause", cause)
	if s.timer != nil {
		s.timer.Stop()
	}
	s.timer = time.AfterFunc(delay, func() {
		s.e.mu.Lock()
		s.due = epoch
		s.e.mu.Unlock()
		s.e.poke()
	})
}

// onBroken runs in the process's reader, without the mutex.
func (s *shard) onBroken(b wire.Broken) {
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	if s.broken == nil || b.Epoch >= s.broken.Epoch {
		s.broken = &b
	}
	if s.local.Runner >= plan.Connected && s.local.Epoch == b.Epoch {
		s.broke(b.Epoch, s.blame(b))
	}
}

// blame turns what a shard saw into an error.
func (s *shard) blame(b wire.Broken) error {
	cause := errors.New("the links between the shards broke")
	if b.Cause != "" {
		cause = errors.New(b.Cause)
	}
	if b.Shard < 0 || b.Shard >= len(s.instance.Shards) {
		return cause
	}
	return fmt.Errorf("%s on node %s: %w", member.Describe(s.specs(), b.Shard, ""), s.instance.Shards[b.Shard].Node, cause)
}

// unserve ends what the head serves.
func (s *shard) unserve(why string) {
	if s.serving == nil {
		return
	}
	s.lost(&generation.Error{
		Kind: generation.KindFailed, Err: errors.New(why),
		Message: fmt.Sprintf("%s was lost on node %s (%s); send the request again", s.instance.Model, s.e.opts.Self, why),
	})
	s.serving, s.lost = nil, nil
	s.cached.Clear()
}

// forget drops what is left; nothing of the shard runs.
func (s *shard) forget() {
	s.local.Told = cluster.ShardReported{} // nobody wants to know any more
	if s.timer != nil {
		s.timer.Stop()
	}
	if s.release != nil {
		s.release()
		s.release = nil
	}
}

func (s *shard) specs() []slice.Spec {
	out := make([]slice.Spec, len(s.instance.Shards))
	for i, x := range s.instance.Shards {
		out[i] = x.Spec
	}
	return out
}

// describe gives why a process failed, with its last words.
func describe(err error) string {
	if err == nil {
		return "its process ended"
	}
	text := err.Error()
	var lines []string
	if crash, ok := errors.AsType[*supervise.Crash](err); ok {
		lines = crash.Stderr
	}
	const last = 3
	for n, line := range lines[max(0, len(lines)-last):] {
		if n == 0 {
			text += "; its last words: " + line
		} else {
			text += " | " + line
		}
	}
	return text
}
