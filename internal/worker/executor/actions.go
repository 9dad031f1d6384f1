package executor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/plan"
	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/generation/prefix"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/meter"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise/group/member"
)

// fetch brings the files.
func (s *shard) fetch() {
	i, _ := s.placed()
	m, ok := s.e.state.Models[i.Model]
	if !ok {
		s.local.Failed = fmt.Sprintf("there is no model %s any more", i.Model)
		return
	}
	s.instance, s.model = i, m
	var spec *slice.Spec
	if !s.whole() {
		spec = &i.Shards[s.key.Shard].Spec
	}
	s.done, s.total, s.fetched = 0, 0, meter.Rate{}
	s.begin(plan.Fetch, func(ctx context.Context, o *op) {
		paths, release, err := s.e.opts.Files.Bring(ctx, m, spec, func(done, total int64) {
			s.e.mu.Lock()
			defer s.e.mu.Unlock()
			s.fetched.Add(float64(done-s.done), time.Now())
			s.done, s.total = done, total
		})
		s.e.mu.Lock()
		defer s.e.mu.Unlock()
		if !s.finish(o) || ctx.Err() != nil {
			if err == nil {
				release()
			}
			return
		}
		if err != nil {
			s.local.Failed = err.Error()
			s.log.Error("the model's files cannot be brought here", "model", m.Name, "error", err)
			return
		}
		s.paths, s.release, s.local.Fetched = paths, release, true
	})
}

// start has a process with this incarnation. One that died is started again by
// its member, with back-off; a shard that is new here gets a member.
func (s *shard) start(incarnation int) {
	s.local.Incarnation, s.local.Doing, s.life = incarnation, plan.Start, 0
	if s.member != nil {
		return
	}
	m, err := member.Start(s.options())
	if err != nil {
		s.local.Failed, s.local.Doing = err.Error(), ""
		return
	}
	s.member = m
	s.cached = prefix.NewRecord(maxPrefixes)
	s.e.wg.Go(func() {
		for {
			now, changed := m.Now()
			s.e.poke()
			if now.State.Final() {
				return
			}
			<-changed
		}
	})
}

// pendingPerRequest is how many generations one request may hold back in the
// runner (its n): the runner's own limit must never be the one that is met.
const pendingPerRequest = 128

// cachePerNeed bounds the memory for spilled prefixes by that of the shard.
const cachePerNeed = 4

// options say how the shard's process runs.
func (s *shard) options() member.Options {
	o, i := &s.e.opts, s.instance
	own := i.Shards[s.key.Shard]
	r := o.Runner
	r.Name, r.Logger, r.Broken = i.Model, o.Logger, s.onBroken
	for _, f := range s.model.Files {
		r.LoadBytes += f.Size
	}
	r.LoadBytes /= int64(len(i.Shards))
	r.Load = o.Load
	r.Load.Paths, r.Load.Slots, r.Load.Context = s.paths, i.Slots, i.Context
	r.Load.PendingLimit = (i.Slots + o.Queue) * pendingPerRequest
	r.Load.CacheBytes = s.cacheBytes(own.Reserve)
	switch r.Load.Device = own.Device; {
	case own.Device == "" && !o.Unified() && o.Load.GPULayers < 0:
		r.Load.GPULayers = 0 // it is placed in the host's memory; a number given by hand stays
	case own.Device != "":
		r.Load.GPULayers = wire.AllLayers // its memory was counted there, and nowhere else
	}
	if r.Load.Threads > 0 {
		// Shards of one machine share its cores.
		r.Load.Threads = max(1, r.Load.Threads/s.neighbours())
	}
	m := member.Options{Runner: r, Group: i.ID, Index: s.key.Shard, Listen: net.JoinHostPort(o.Listen, "0"), TLS: o.TLS, StepSeconds: i.Predicted.StepSeconds}
	if !s.whole() {
		m.Specs = s.specs()
	}
	return m
}

// neighbours counts the instance's shards on this machine.
func (s *shard) neighbours() int {
	host := func(x cluster.Shard) string {
		if n := s.e.state.Nodes[x.Node]; n.Host != "" {
			return n.Host
		}
		return string(x.Node)
	}
	n := 0
	for _, x := range s.instance.Shards {
		if host(x) == host(s.instance.Shards[s.key.Shard]) {
			n++
		}
	}
	return max(n, 1)
}

// cacheBytes is the memory for spilled prefixes, a luxury: at most half of what
// nothing else was promised, and no more than a small model could ever fill.
func (s *shard) cacheBytes(reserve int64) int64 {
	want := s.e.opts.Load.CacheBytes
	if want <= 0 || s.e.opts.Available == nil {
		return 0
	}
	free, err := s.e.opts.Available()
	if err != nil {
		s.log.Warn("the free memory is not known; prefixes are not spilled", "error", err)
		return 0
	}
	for _, pending := range s.e.pending() {
		free -= pending
	}
	return max(0, min(want, free/2, reserve*cachePerNeed))
}

// connect joins the process with the other shards.
func (s *shard) connect(epoch uint64, addresses []string) {
	s.connecting = epoch
	m, life := s.member, s.life
	s.begin(plan.Connect, func(ctx context.Context, o *op) {
		err := m.Ping(ctx)
		if err == nil {
			err = m.Connect(ctx, wire.ConnectRequest{Epoch: epoch, Addresses: addresses})
		}
		s.e.mu.Lock()
		defer s.e.mu.Unlock()
		if !s.finish(o) || ctx.Err() != nil || s.life != life {
			return
		}
		switch {
		case err == nil:
			s.local.Runner, s.local.Epoch, s.connected = plan.Connected, epoch, time.Now()
			if b := s.broken; b != nil && b.Epoch == epoch {
				s.broke(epoch, s.blame(*b))
			}
		case member.Died(err): // its state tells
		default:
			s.broke(epoch, fmt.Errorf("connect: %w", err))
		}
	})
}

// serve warms the process up, if it is one that takes generations.
func (s *shard) serve() {
	if !s.whole() && !s.head() {
		s.local.Runner = plan.Serving
		return
	}
	m, life, epoch, info := s.member, s.life, s.local.Epoch, s.info
	s.begin(plan.Serve, func(ctx context.Context, o *op) {
		err := warmUp(ctx, m, info)
		s.e.mu.Lock()
		defer s.e.mu.Unlock()
		if !s.finish(o) || ctx.Err() != nil || s.life != life || s.local.Epoch != epoch {
			return
		}
		switch {
		case err == nil && (s.whole() || s.parted < epoch):
			s.local.Runner = plan.Serving
			s.serving, s.lost = context.WithCancelCause(context.Background())
		case err == nil: // it broke meanwhile
		case member.Died(err) || s.e.life.Err() != nil:
		case s.whole():
			s.local.Failed = fmt.Sprintf("the model does not answer: %v", err)
		default:
			s.broke(epoch, fmt.Errorf("the first token: %w", err))
		}
	})
}

// warmUp computes a token, so that the first request finds everything touched.
func warmUp(ctx context.Context, m generation.Model, info wire.ModelInfo) error {
	req := wire.GenerateRequest{Prompt: []int32{max(info.BOS, 0)}, MaxTokens: 1, IgnoreEnd: true, Sampling: wire.NeutralSampling()}
	req.Sampling.Temperature = 0
	stream, err := m.Generate(ctx, req)
	if err != nil {
		return err
	}
	defer stream.Close()
	for {
		_, done, err := stream.Next(ctx)
		switch {
		case err != nil:
			return err
		case done != nil && done.Reason == wire.ReasonError:
			return errors.New(done.Error)
		case done != nil:
			return nil
		}
	}
}

// stop ends what runs: the action in progress, then the process.
func (s *shard) stop() {
	before, m := s.op, s.member
	if before != nil {
		before.cancel(errSuperseded)
	}
	if s.timer != nil {
		s.timer.Stop()
	}
	var drained chan struct{}
	limit := s.e.opts.DrainLimit
	if i, _ := s.placed(); i.Drain != nil {
		limit = *i.Drain
	}
	if limit > 0 && s.drains() {
		drained = make(chan struct{})
		s.drained = drained
	}
	s.begin(plan.Stop, func(ctx context.Context, o *op) {
		if before != nil {
			<-before.done
		}
		if drained != nil {
			t := time.NewTimer(limit)
			select {
			case <-drained:
			case <-t.C:
			case <-ctx.Done():
			}
			t.Stop()
		}
		s.e.mu.Lock()
		s.unserve("it is unloaded")
		s.e.mu.Unlock()
		if m != nil {
			limited, cancel := context.WithTimeout(s.e.force, s.e.opts.StopLimit)
			m.Stop(limited)
			cancel()
		}
		s.e.mu.Lock()
		defer s.e.mu.Unlock()
		s.drained, s.member, s.life, s.info, s.due = nil, nil, 0, wire.ModelInfo{}, 0
		s.local.Runner, s.local.Link, s.local.Epoch = plan.None, "", 0
		s.finish(o)
	})
	s.e.poke() // there may be nothing to wait for
}

// drains tells whether open generations may go on for a while: of an instance
// that is whole and is unloaded, until the head has none.
func (s *shard) drains() bool {
	i, mine := s.placed()
	if !mine || i.Releasing == "" || s.local.Runner != plan.Serving || s.member == nil {
		return false
	}
	for _, x := range i.Shards {
		if x.Phase != cluster.Ready {
			return false
		}
	}
	return s.whole() || s.local.Epoch == i.Epoch() && s.parted < i.Epoch()
}

// report has something told to the cluster. A newer report takes the place of
// one that is not delivered yet.
func (s *shard) report(r cluster.ShardReported) {
	s.local.Told, s.clearAt = r, 0
	if !s.telling {
		s.telling = true
		s.e.wg.Go(s.tell)
	}
}

// worthTelling is how long a report may stay undelivered before a person is told:
// without a master for a moment, as after a start, all is well.
const worthTelling = 5 * time.Second

// tell delivers local.Told, again and again until the cluster has taken or
// refused it. It is called without the mutex.
func (s *shard) tell() {
	o := &s.e.opts
	wait := o.RetryMin
	var last error
	var since time.Time // of the first failure
	for {
		s.e.mu.Lock()
		r := s.local.Told
		if r == (cluster.ShardReported{}) || s.clearAt != 0 || s.e.life.Err() != nil {
			s.telling = false
			s.e.mu.Unlock()
			return
		}
		asked := s.e.state
		s.e.mu.Unlock()
		index, err := s.submit(r)
		s.e.mu.Lock()
		if s.local.Told != r {
			s.e.mu.Unlock()
			wait = o.RetryMin
			continue
		}
		var no *command.Refusal
		if refused := errors.As(err, &no); err == nil || refused {
			// A refused report is about a state that is newer than the one that it
			// was made of, which may be here by now; without an index nothing was
			// changed. What a master said that is one no longer may not be in the
			// log that stands, whose index may never come so far: that counts for
			// nothing.
			s.clearAt = max(index, 1)
			if refused || index == 0 {
				s.clearAt = asked.Index + 1
			}
			if s.e.state.Session != asked.Session {
				s.clearAt = 1
			}
			if refused {
				s.log.Debug("a report was refused", "phase", r.Phase, "error", err)
			}
			s.telling = false
			s.e.mu.Unlock()
			s.e.poke()
			return
		}
		s.e.mu.Unlock()
		if since.IsZero() {
			since = time.Now()
		}
		switch {
		case time.Since(since) < worthTelling:
			s.log.Debug("a report is not delivered yet", "phase", r.Phase, "error", err)
		case last == nil || last.Error() != err.Error():
			s.log.Warn("a report is not delivered, sending it again", "phase", r.Phase, "error", err)
			last = err
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-s.e.life.Done():
			t.Stop()
		}
		wait = min(2*wait, o.RetryMax)
	}
}

func (s *shard) submit(r cluster.ShardReported) (uint64, error) {
	c, err := command.Of("", r)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(s.e.life, s.e.opts.SubmitLimit)
	defer cancel()
	return s.e.opts.Cluster.Submit(ctx, c)
}

// pending sums up what shards here were promised and have not allocated yet, by
// device.
func (e *Executor) pending() map[string]int64 {
	out := map[string]int64{}
	for _, s := range e.shards {
		if i, mine := s.placed(); mine && s.local.Runner < plan.Loaded && !i.Shards[s.key.Shard].Phase.Ended() {
			out[i.Shards[s.key.Shard].Device] += i.Shards[s.key.Shard].Reserve
		}
	}
	return out
}
