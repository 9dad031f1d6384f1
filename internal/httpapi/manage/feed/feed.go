// Package feed keeps the last changes of the cluster, so that any number of
// clients can follow them and go on where they were cut off. Changes are found
// by comparing views: the state's as they happen, measurements once a second.
//
// It owns one goroutine while somebody follows and for a while after, joined
// by Close. It imports api and the cluster's core, and gets its views from a
// Source. All methods may be called from any goroutine.
package feed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/cluster/view"
)

// Source gives what views are made of.
type Source interface {
	// Snapshot gives the state and what live nodes told lately; it asks them if
	// that is older than a second.
	Snapshot(ctx context.Context) (view.Inputs, error)
	// Changes is closed at the next change of the state, the members or the
	// master. It may be nil where nobody tells.
	Changes() <-chan struct{}
}

// Options make a Feed.
type Options struct {
	Source Source
	Log    *slog.Logger
	Epoch  string        // begins every id; differs after each start of the node
	Every  time.Duration // between looks at measurements; 0: a second
	Keep   int           // events kept for clients that come back, at least; 0: 4096
	Linger time.Duration // how long changes are kept on when nobody follows; 0: a minute
}

func (o *Options) validate() error {
	switch {
	case o.Source == nil || o.Log == nil:
		return errors.New("feed: source and logger are required")
	case o.Epoch == "" || strings.Contains(o.Epoch, "."):
		return fmt.Errorf("feed: epoch %q must have letters and no dot", o.Epoch)
	case o.Every < 0 || o.Keep < 0 || o.Linger < 0:
		return errors.New("feed: intervals and the number of events must not be negative")
	}
	if o.Every == 0 {
		o.Every = time.Second
	}
	if o.Keep == 0 {
		o.Keep = 4096
	}
	if o.Linger == 0 {
		o.Linger = time.Minute
	}
	return nil
}

// ErrClosed ends streams when the node stops.
var ErrClosed = errors.New("the node is stopping")

// Feed is the changes of the cluster as this node sees them.
type Feed struct {
	o Options

	mu        sync.Mutex    // guards what follows
	view      *view.View    // the newest; nil while nobody follows
	kept      []api.Event   // the last o.Keep, oldest first
	last      uint64        // number of the newest event
	grown     chan struct{} // closed and replaced when there is more
	followers int
	cancel    context.CancelFunc // of the running goroutine; nil: there is none
	leave     *time.Timer        // ends it; nil while somebody follows
	closed    bool

	running sync.WaitGroup // goroutines
}

// New makes a feed. It looks at nothing before somebody follows.
func New(o Options) (*Feed, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	return &Feed{o: o, grown: make(chan struct{})}, nil
}

// Close ends all streams and the goroutine.
func (f *Feed) Close() {
	f.mu.Lock()
	f.closed = true
	f.stop()
	close(f.grown)
	f.grown = make(chan struct{})
	f.mu.Unlock()
	f.running.Wait()
}

// stop tells the goroutine to end, with mu held. What was kept is of no use
// after a gap.
func (f *Feed) stop() {
	if f.leave != nil {
		f.leave.Stop()
		f.leave = nil
	}
	if f.cancel != nil {
		f.cancel()
		f.cancel, f.view, f.kept = nil, nil, nil
	}
}

// Stream is one client's place in the feed. It has one reader.
type Stream struct {
	f      *Feed
	next   uint64 // number of the event to give next
	fresh  bool   // it begins with a snapshot
	reason string // why it does
}

// Follow begins a stream after the event of an id, or with a snapshot if the id
// is "" or no longer known. The caller ends it with Close.
func (f *Feed) Follow(ctx context.Context, after string) (*Stream, error) {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil, ErrClosed
	}
	s := &Stream{f: f}
	f.followers++
	if f.leave != nil {
		f.leave.Stop()
		f.leave = nil
	}
	if f.cancel != nil && f.view != nil {
		s.place(after)
		f.mu.Unlock()
		return s, nil
	}
	f.mu.Unlock()
	// The first one looks before it follows, so that an error is an answer.
	changed := f.o.Source.Changes() // before the look, so that none is missed
	in, err := f.o.Source.Snapshot(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && f.closed {
		err = ErrClosed
	}
	if err != nil {
		f.left()
		return nil, err
	}
	if f.cancel == nil {
		f.view = view.Of(in)
		f.last++ // ids from before the gap are before all that is kept
		run, cancel := context.WithCancel(context.Background())
		f.cancel = cancel
		f.running.Go(func() { f.run(run, changed) })
	}
	s.place(after)
	return s, nil
}

// place finds where a stream begins, with f.mu held.
func (s *Stream) place(after string) {
	f := s.f
	s.next = f.last + 1
	if after == "" {
		s.fresh = true
		return
	}
	epoch, digits, _ := strings.Cut(after, ".")
	n, err := strconv.ParseUint(digits, 10, 64)
	switch {
	case epoch != f.o.Epoch || err != nil || n > f.last:
		s.fresh, s.reason = true, fmt.Sprintf("event %.100s is not one of this node since it started; go on from this snapshot", after)
	case n+1 < f.first():
		s.fresh, s.reason = true, fmt.Sprintf("event %.100s is too old: later ones are no longer kept; go on from this snapshot", after)
	default:
		s.next = n + 1
	}
}

// first is the number of the oldest event that is kept, with mu held.
func (f *Feed) first() uint64 { return f.last - uint64(len(f.kept)) + 1 }

// Next gives the events that are there, at least one; it waits for it. A
// stream that reads too slowly gets a snapshot instead of what it missed.
func (s *Stream) Next(ctx context.Context) ([]api.Event, error) {
	f := s.f
	for {
		f.mu.Lock()
		if f.closed {
			f.mu.Unlock()
			return nil, ErrClosed
		}
		if !s.fresh && s.next < f.first() {
			s.fresh, s.reason = true, "events came faster than they were read; go on from this snapshot"
		}
		if s.fresh && f.view != nil {
			o := f.view.Overview()
			e := api.Event{ID: f.id(f.last), Type: api.EventSnapshot, Timestamp: o.Timestamp, Reason: s.reason, Cluster: &o}
			s.fresh, s.reason, s.next = false, "", f.last+1
			f.mu.Unlock()
			return []api.Event{e}, nil
		}
		if n := int(f.last + 1 - s.next); n > 0 && !s.fresh {
			// Events are only added behind these, so they may be read unlocked.
			events := f.kept[len(f.kept)-n : len(f.kept) : len(f.kept)]
			s.next = f.last + 1
			f.mu.Unlock()
			return events, nil
		}
		grown := f.grown
		f.mu.Unlock()
		select {
		case <-grown:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Close ends a stream.
func (s *Stream) Close() {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	s.f.left()
}

// left counts a follower out, with mu held. The last one leaves the feed
// running for a while: it may be one that comes back.
func (f *Feed) left() {
	f.followers--
	if f.followers > 0 || f.cancel == nil {
		return
	}
	f.leave = time.AfterFunc(f.o.Linger, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.followers == 0 {
			f.stop()
		}
	})
}

func (f *Feed) id(n uint64) string { return f.o.Epoch + "." + strconv.FormatUint(n, 10) }

// run looks for changes until ctx ends.
func (f *Feed) run(ctx context.Context, changed <-chan struct{}) {
	ticker := time.NewTicker(f.o.Every)
	defer ticker.Stop()
	failed := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-ticker.C:
		}
		changed = f.o.Source.Changes()
		in, err := f.o.Source.Snapshot(ctx)
		if err != nil {
			if ctx.Err() == nil && !failed {
				f.o.Log.Warn("changes of the cluster cannot be followed; trying on", "err", err)
			}
			failed = true
			continue
		}
		failed = false
		f.add(ctx, view.Of(in))
	}
}

func (f *Feed) add(ctx context.Context, next *view.View) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil {
		return // another run began, or the feed is closed
	}
	events := view.Diff(f.view, next)
	f.view = next
	if len(events) == 0 {
		return
	}
	for i := range events {
		f.last++
		events[i].ID = f.id(f.last)
	}
	if f.kept = append(f.kept, events...); len(f.kept) > 2*f.o.Keep {
		f.kept = slices.Clone(f.kept[len(f.kept)-f.o.Keep:])
	}
	close(f.grown)
	f.grown = make(chan struct{})
}
