// Package member is one process of a model that several may share: a
// supervise.Runner that knows which shard it holds, counts the processes that
// held it, and is joined with the other shards. It is what a group of shards
// under one node and the shards of a cluster have in common; who decides when
// to join is up to them.
//
// It must not import child, remote, the network or llama.cpp. All methods may
// be called from any goroutine; it has none of its own.
package member

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/liveness"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise"
)

// Options say which shard it is and how it is run. Zero durations take the
// default named.
type Options struct {
	// Runner is how the process is kept running. Its name is the model's;
	// Load.Shard is filled in.
	Runner supervise.Options
	// Group names the shards that belong together.
	Group string
	Index int          // of this shard in Specs
	Specs []slice.Spec // of all shards; nil: the whole model, alone
	Where string       // host:port of its machine, for people; "": this one

	Listen        string        // host:port for links; "": 127.0.0.1, any port
	TLS           *wire.LinkTLS // of its links; nil: none, or its machine's own
	CPUs          []int         // cores it is pinned to; empty: any
	StepSeconds   float64       // as in wire.ShardSpec
	HalfPrecision bool          // likewise

	PingLimit    time.Duration // for a sign of life; 3 s
	ConnectLimit time.Duration // for the answer to Connect; 30 s
}

// Member is one shard, or a whole model, in a process that is kept running.
type Member struct {
	*supervise.Runner
	ping, connect time.Duration
	local         bool // its process is on this machine

	mu    sync.Mutex
	lives int // processes so far; guarded by mu
}

// Start begins to serve a shard and returns at once. Stop must be called in the
// end.
func Start(o Options) (*Member, error) {
	m := &Member{ping: o.PingLimit, connect: o.ConnectLimit, local: o.Where == ""}
	if m.ping == 0 {
		m.ping = 3 * time.Second
	}
	if m.connect == 0 {
		m.connect = 30 * time.Second
	}
	r := o.Runner
	if o.Specs != nil {
		if o.Index < 0 || o.Index >= len(o.Specs) {
			return nil, fmt.Errorf("shard %d of %d", o.Index, len(o.Specs))
		}
		if err := CheckOrder(o.Specs); err != nil {
			return nil, err
		}
		r.Name = fmt.Sprintf("%s (%s)", r.Name, Describe(o.Specs, o.Index, o.Where))
		listen := o.Listen
		if listen == "" {
			listen = "127.0.0.1:0"
		}
		r.Load.Shard = &wire.ShardSpec{
			Group: o.Group, Index: o.Index, Shards: o.Specs, Head: Head(o.Specs), Listen: listen, TLS: o.TLS, CPUs: o.CPUs,
			StepSeconds: o.StepSeconds, HalfPrecision: o.HalfPrecision,
		}
	}
	r.Launching = func() {
		m.mu.Lock()
		m.lives++
		m.mu.Unlock()
	}
	var err error
	if m.Runner, err = supervise.Start(r); err != nil {
		return nil, err
	}
	return m, nil
}

// Now is a member at one moment.
type Now struct {
	Life  int // number of the process that State is about, from 1; 0: none yet
	State supervise.State
	Info  wire.ModelInfo // of the last process that loaded
}

// Now gives the present moment, and a channel that is closed when it is over.
func (m *Member) Now() (Now, <-chan struct{}) {
	for {
		before := m.count()
		s, changed := m.Watch()
		info := m.Info()
		if after := m.count(); before == after {
			return Now{Life: before, State: s, Info: info}, changed
		}
		// A process was started meanwhile: the state may be of either.
	}
}

func (m *Member) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lives
}

// Ping asks the process that is there now for a sign of life, and kills it when
// it gives none in time, or at once when the system knows that it is stopped:
// the other shards have waited for it already.
func (m *Member) Ping(ctx context.Context) error {
	if m.local && liveness.Halted(m.State().PID) {
		m.Kill("was stopped by a signal")
	}
	return m.ask(ctx, m.ping, "gave no sign of life for", m.Runner.Ping)
}

// Connect joins the process that is there now with the other shards, and kills
// it when it does not answer in time.
func (m *Member) Connect(ctx context.Context, req wire.ConnectRequest) error {
	return m.ask(ctx, m.connect, "did not connect within", func(ctx context.Context) error {
		return m.Runner.Connect(ctx, req)
	})
}

// ask returns a process's answer. After an error that is its death, its state
// tells so already: asking again at once would only find the same.
func (m *Member) ask(ctx context.Context, limit time.Duration, what string, ask func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	before, changed := m.Watch()
	err := ask(limited)
	if err == nil {
		return nil
	}
	gone := Died(err)
	if limited.Err() != nil && ctx.Err() == nil && !gone {
		err, gone = &supervise.Crash{Cause: fmt.Sprintf("%s %v", what, limit)}, true
		m.Kill(err.Error())
	}
	for s := before; gone && s.Phase == supervise.Ready && s.PID == before.PID; {
		select {
		case <-changed:
		case <-ctx.Done():
			return err
		}
		s, changed = m.Watch()
	}
	return err
}

// Died tells whether err is the end of a process, and not an answer of it.
func Died(err error) bool {
	var crash *supervise.Crash
	return errors.As(err, &crash) || errors.Is(err, supervise.ErrNoProcess)
}

// Head is the shard that owns the schedule: logits are in the last stage, and
// all its ranks hold the same.
func Head(specs []slice.Spec) int { return len(specs) - specs[len(specs)-1].Ranks() }

// CheckOrder wants stages that follow each other without a gap, each with all
// its ranks in order.
func CheckOrder(specs []slice.Spec) error {
	if len(specs) == 0 {
		return errors.New("no shards")
	}
	next, rank, ranks := 0, 0, 0
	for i, s := range specs {
		switch {
		case s.First >= s.End || s.First != next || s.Rank != rank:
			return fmt.Errorf("shard %d holds layers %d to %d, rank %d; expected one that begins at layer %d with rank %d", i, s.First, s.End-1, s.Rank, next, rank)
		case rank == 0:
			ranks = s.Ranks()
		case s.End != specs[i-1].End || !slices.Equal(s.Parts, specs[i-1].Parts):
			return fmt.Errorf("shard %d is cut in another way than the rank before it", i)
		}
		if rank++; rank == ranks {
			next, rank = s.End, 0
		}
	}
	if rank != 0 {
		return fmt.Errorf("the last stage has %d of its %d ranks", rank, ranks)
	}
	return nil
}

// Describe names a shard for a person: "shard 1: layers 15-29, rank 0 of 2 on
// host:port".
func Describe(specs []slice.Spec, i int, where string) string {
	s := specs[i]
	text := fmt.Sprintf("shard %d: layers %d-%d", i, s.First, s.End-1)
	if n := s.Ranks(); n > 1 {
		text += fmt.Sprintf(", rank %d of %d", s.Rank, n)
	}
	if where != "" {
		text += " on " + where
	}
	return text
}

// Breaks counts connections in a row that ended, or were not made, while no
// process died. A process counts its own deaths.
type Breaks struct {
	StableAfter time.Duration // connected for so long, the record is clean
	BackoffMin  time.Duration // doubled each time
	Limit       int           // so many are the end
	Count       int
}

// Held tells that a connection held for so long.
func (b *Breaks) Held(d time.Duration) {
	if d >= b.StableAfter {
		b.Count = 0
	}
}

// Add counts a break; it gives how long to wait before the next connection, and
// whether there should be none.
func (b *Breaks) Add() (wait time.Duration, over bool) {
	b.Count++
	return b.BackoffMin << min(b.Count-1, 16), b.Count >= b.Limit
}
