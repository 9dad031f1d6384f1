package feed_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/view"
	"github.com/skein-run/skein/internal/httpapi/manage/feed"
	"github.com/skein-run/skein/internal/ids"
)

// source is a cluster that a test changes.
type source struct {
	mu      sync.Mutex
	in      view.Inputs   // guarded by mu
	err     error         // guarded by mu
	changed chan struct{} // guarded by mu
	looks   int           // guarded by mu
}

func newSource() *source {
	return &source{changed: make(chan struct{}), in: view.Inputs{Master: "a", Live: map[ids.Node]bool{}}}
}

func (s *source) Snapshot(context.Context) (view.Inputs, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looks++
	in := s.in
	in.Now = time.Now()
	return in, s.err
}

func (s *source) Changes() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// set changes the number of models; tell says whether the source tells of it.
func (s *source) set(n int, tell bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in.State.Wanted = map[string]cluster.Wanted{}
	for i := range n {
		id := fmt.Sprintf("m%d", i)
		s.in.State.Wanted[id] = cluster.Wanted{ID: id, Model: id}
	}
	if tell {
		close(s.changed)
		s.changed = make(chan struct{})
	}
}

func (s *source) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.looks
}

func newFeed(t *testing.T, s feed.Source, keep int) *feed.Feed {
	t.Helper()
	f, err := feed.New(feed.Options{Source: s, Log: slog.New(slog.DiscardHandler), Epoch: "e", Keep: keep})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func follow(t *testing.T, f *feed.Feed, after string) *feed.Stream {
	t.Helper()
	s, err := f.Follow(t.Context(), after)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func next(t *testing.T, s *feed.Stream) []api.Event {
	t.Helper()
	events, err := s.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return events
}

// A stream begins with a snapshot, goes on with changes, and can be taken up
// again by another one.
func TestFollowAndResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSource()
		f := newFeed(t, src, 0)
		defer f.Close()
		s := follow(t, f, "")
		first := next(t, s)
		if len(first) != 1 || first[0].Type != api.EventSnapshot || first[0].Cluster.MasterNodeID != "a" || first[0].Reason != "" {
			t.Fatalf("first %+v", first)
		}
		begun := time.Now()
		src.set(2, true)
		events := next(t, s)
		if len(events) != 2 || events[0].Model.ModelID != "m0" || events[1].Change != api.ChangeAdded {
			t.Fatalf("then %+v", events)
		}
		if time.Since(begun) > 0 {
			t.Errorf("a change of the state was seen after %v", time.Since(begun))
		}
		s.Close()
		// It goes on while nobody follows, for a while.
		src.set(3, false)
		time.Sleep(2 * time.Second)
		s = follow(t, f, events[0].ID)
		again := next(t, s)
		if len(again) != 2 || again[0].ID != events[1].ID || again[1].Model.ModelID != "m2" {
			t.Fatalf("again %+v", again)
		}
		s.Close()
		s = follow(t, f, first[0].ID)
		if all := next(t, s); len(all) != 3 || all[0].ID != events[0].ID {
			t.Fatalf("from the snapshot on: %+v", all)
		}
		s.Close()
		// Nobody came for long.
		time.Sleep(2 * time.Minute)
		looks := src.count()
		time.Sleep(time.Hour)
		if n := src.count() - looks; n > 0 {
			t.Errorf("%d looks though nobody follows", n)
		}
		s = follow(t, f, again[1].ID)
		defer s.Close()
		if e := next(t, s); e[0].Type != api.EventSnapshot || !strings.Contains(e[0].Reason, "too old") || len(e[0].Cluster.Models) != 3 {
			t.Fatalf("after an hour: %+v", e)
		}
	})
}

func TestIDsThatAreNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSource()
		f := newFeed(t, src, 2)
		defer f.Close()
		slow := follow(t, f, "")
		defer slow.Close()
		first := next(t, slow)[0].ID
		for n := range 6 {
			src.set(n+1, true)
			synctest.Wait()
		}
		if e := next(t, slow); e[0].Type != api.EventSnapshot || !strings.Contains(e[0].Reason, "faster than they were read") {
			t.Errorf("a slow reader gets %+v", e)
		}
		for id, why := range map[string]string{first: "too old", "other.1": "not one of this node", "e.999": "not one of this node", "e.": "not one", "x": "not one", "e.-1": "not one"} {
			s := follow(t, f, id)
			if e := next(t, s); len(e) != 1 || e[0].Type != api.EventSnapshot || !strings.Contains(e[0].Reason, why) {
				t.Errorf("after %q: %+v", id, e)
			}
			s.Close()
		}
	})
}

// What fails for a while is tried on; what fails at first is an answer.
func TestFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSource()
		f := newFeed(t, src, 0)
		src.err = errors.New("no state")
		if _, err := f.Follow(t.Context(), ""); err == nil || err.Error() != "no state" {
			t.Errorf("without a state: %v", err)
		}
		src.err = nil
		s := follow(t, f, "")
		next(t, s)
		src.mu.Lock()
		src.err = errors.New("no state")
		src.mu.Unlock()
		time.Sleep(3 * time.Second)
		src.mu.Lock()
		src.err = nil
		src.mu.Unlock()
		src.set(1, false)
		if e := next(t, s); e[0].Model.ModelID != "m0" {
			t.Errorf("after a failure: %+v", e)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("nothing came: %v", err)
		}
		ended := make(chan error)
		go func() {
			_, err := s.Next(t.Context())
			ended <- err
		}()
		synctest.Wait()
		f.Close()
		if err := <-ended; !errors.Is(err, feed.ErrClosed) {
			t.Errorf("closed: %v", err)
		}
		if _, err := f.Follow(t.Context(), ""); !errors.Is(err, feed.ErrClosed) {
			t.Errorf("follow when closed: %v", err)
		}
		s.Close()
	})
}

// Many followers that come and go, under the race detector.
func TestManyFollowers(t *testing.T) {
	src := newSource()
	f := newFeed(t, src, 8)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			after, seen := "", 0
			for seen < 40 {
				s, err := f.Follow(t.Context(), after)
				if err != nil {
					t.Error(err)
					return
				}
				for range 4 {
					events, err := s.Next(t.Context())
					if err != nil {
						t.Error(err)
						return
					}
					seen += len(events)
					after = events[len(events)-1].ID
				}
				s.Close()
			}
		})
	}
	stop := make(chan struct{})
	group2 := sync.WaitGroup{}
	group2.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
				src.set(n%5, true)
			}
		}
	})
	group.Wait()
	close(stop)
	group2.Wait()
	f.Close()
}

func TestOptions(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for _, o := range []feed.Options{{Log: log, Epoch: "e"}, {Source: newSource(), Epoch: "e"}, {Source: newSource(), Log: log}, {Source: newSource(), Log: log, Epoch: "a.b"}, {Source: newSource(), Log: log, Epoch: "e", Keep: -1}} {
		if _, err := feed.New(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}
