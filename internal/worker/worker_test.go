package worker

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

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/runner/wire"
	"github.com/skein-run/skein/internal/supervise"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const gb = int64(1) << 30

// fakeRunner is a Runner whose states a test sets.
type fakeRunner struct {
	entry Entry
	load  wire.LoadRequest

	mu      sync.Mutex
	state   supervise.State
	changed chan struct{}
	stops   int
	polite  bool // Stop came with a live context
}

func (r *fakeRunner) set(s supervise.State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state.Final() {
		return
	}
	r.state = s
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *fakeRunner) Watch() (supervise.State, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state, r.changed
}

func (r *fakeRunner) Stop(ctx context.Context) {
	r.mu.Lock()
	r.stops++
	r.polite = ctx.Err() == nil
	r.mu.Unlock()
	r.set(supervise.State{Phase: supervise.Stopped})
}

func (r *fakeRunner) Info() wire.ModelInfo {
	return wire.ModelInfo{Description: r.entry.Name, Context: r.load.Context, Slots: r.load.Slots}
}

func (r *fakeRunner) Stats(context.Context) (wire.Stats, error) {
	return wire.Stats{SlotsBusy: 1}, nil
}

func (r *fakeRunner) Detokenize(context.Context, []int32) (string, error) {
	return "", errors.New("not asked here")
}

func (r *fakeRunner) Tokenize(context.Context, string, bool, bool) ([]int32, error) {
	return nil, errors.New("not part of this test")
}

func (r *fakeRunner) Generate(context.Context, wire.GenerateRequest) (generation.Stream, error) {
	return nil, errors.New("not part of this test")
}

// world is a Worker on fakes: models a, b, c of 1, 2, 4 GB and some more for each
// token, on a machine of 8 GB.
type world struct {
	*Worker
	t *testing.T

	mu      sync.Mutex // guards all below
	runners []*fakeRunner
	memory  Memory
	broken  error // of Memory
	start   error // of Start
	auto    bool  // runners get ready at once
	sizes   map[string]int64
}

func (w *world) Resolve(name string) (Entry, error) {
	key := strings.TrimSuffix(strings.ToLower(name), ".gguf")
	size, ok := w.sizes[key]
	if !ok {
		return Entry{}, &generation.Error{Kind: generation.KindModelNotFound, Message: "no model " + name + "; there are a, b, c"}
	}
	return Entry{
		Name: key, Paths: []string{key + ".gguf"}, SizeBytes: size, TrainedContext: 32768,
		Estimate: func(context, slots int) (int64, error) {
			return size + int64(context*slots)*1024, nil
		},
	}, nil
}

func newWorld(t *testing.T, change func(*Options, *world)) *world {
	t.Helper()
	w := &world{
		t: t, auto: true, memory: Memory{Total: 8 * gb, Available: 8 * gb},
		sizes: map[string]int64{"a": 1 * gb, "b": 2 * gb, "c": 4 * gb},
	}
	o := Options{
		Library: w, Logger: slog.New(slog.DiscardHandler), Slots: 2, Queue: 3,
		Memory: func() (Memory, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.memory, w.broken
		},
		Start: func(e Entry, req wire.LoadRequest) (Runner, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.start != nil {
				return nil, w.start
			}
			r := &fakeRunner{entry: e, load: req, changed: make(chan struct{}), state: supervise.State{Phase: supervise.Starting}}
			if w.auto {
				r.state.Phase = supervise.Ready
			}
			w.runners = append(w.runners, r)
			return r, nil
		},
	}
	if change != nil {
		change(&o, w)
	}
	var err error
	if w.Worker, err = New(o); err != nil {
		t.Fatal(err)
	}
	return w
}

// inBubble runs f in a synctest bubble and closes the Worker after it.
func inBubble(t *testing.T, change func(*Options, *world), f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, change)
		defer func() {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			w.Close(ctx)
		}()
		f(t, w)
	})
}

func slow(_ *Options, w *world) { w.auto = false }

func (w *world) acquire(name string) *Handle {
	w.t.Helper()
	h, err := w.Acquire(w.t.Context(), name)
	if err != nil {
		w.t.Fatal(err)
	}
	return h
}

// runner is the i-th that was started.
func (w *world) runner(i int) *fakeRunner {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.runners[i]
}

func (w *world) started() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.runners)
}

// state is the listed state of a model; its zero value when it is not listed.
func (w *world) state(name string) ModelState {
	synctest.Wait()
	for _, s := range w.Models() {
		if s.Name == name {
			return s
		}
	}
	return ModelState{}
}

func wantKind(t *testing.T, err error, kind generation.Kind, parts ...string) *generation.Error {
	t.Helper()
	e := new(generation.Error)
	if !errors.As(err, &e) {
		t.Fatalf("error %v (%T), want %s", err, err, kind)
	}
	if e.Kind != kind {
		t.Errorf("kind %s, want %s (%v)", e.Kind, kind, err)
	}
	for _, p := range parts {
		if !strings.Contains(e.Message, p) {
			t.Errorf("message %q lacks %q", e.Message, p)
		}
	}
	return e
}

func TestRequestsShareOneLoad(t *testing.T) {
	inBubble(t, slow, func(t *testing.T, w *world) {
		got := make(chan error, 4)
		ask := func(ctx context.Context, name string) {
			h, err := w.Acquire(ctx, name)
			if err == nil {
				defer h.Release()
				if h.Name() != "a" || h.Model() != generation.Model(w.runner(0)) {
					err = fmt.Errorf("got %s", h.Name())
				}
			}
			got <- err
		}
		first, leave := context.WithCancel(t.Context())
		go ask(first, "a")
		synctest.Wait()
		go ask(t.Context(), "A")
		go ask(t.Context(), "A.gguf")
		w.runner(0).set(supervise.State{Phase: supervise.Loading, Progress: 0.25, PID: 7})
		if s := w.state("a"); s.Status != StatusLoading || s.Text != "loading (25%)" || s.PID != 7 {
			t.Errorf("%+v", s)
		}
		leave() // the first one's leaving does not end the load
		if err := <-got; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		w.runner(0).set(supervise.State{Phase: supervise.Ready})
		for range 2 {
			if err := <-got; err != nil {
				t.Error(err)
			}
		}
		if n := w.started(); n != 1 {
			t.Errorf("%d loads", n)
		}
		if s := w.state("a"); s.Status != StatusReady || s.Running != 0 || s.Progress != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// A load that nobody waits for any more is finished all the same.
func TestAbandonedLoadGoesOn(t *testing.T) {
	inBubble(t, slow, func(t *testing.T, w *world) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := w.Acquire(ctx, "a")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		w.runner(0).set(supervise.State{Phase: supervise.Ready})
		if s := w.state("a"); s.Status != StatusReady {
			t.Errorf("%+v", s)
		}
		w.acquire("a").Release()
		if w.started() != 1 {
			t.Error("loaded again")
		}
	})
}

func TestQueueLimit(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		first := w.acquire("a")
		handles := []*Handle{first}
		for range 4 {
			handles = append(handles, w.acquire("a"))
		}
		if s := w.state("a"); s.Status != StatusRunning || s.Running != 2 || s.Waiting != 3 {
			t.Errorf("%+v", s)
		}
		_, err := w.Acquire(t.Context(), "a")
		if e := wantKind(t, err, generation.KindBusy, "2 requests run and 3 wait"); e.RetryAfter != 1 {
			t.Errorf("retry after %d", e.RetryAfter)
		}
		if other, err := w.Acquire(t.Context(), "b"); err != nil {
			t.Errorf("another model's queue: %v", err)
		} else {
			other.Release()
		}
		timer := time.NewTimer(15 * time.Second)
		<-timer.C
		first.Release()
		first.Release() // counts once
		handles = append(handles, w.acquire("a"))
		_, err = w.Acquire(t.Context(), "a")
		if e := wantKind(t, err, generation.KindBusy); e.RetryAfter != 8 {
			t.Errorf("retry after %d s, want half of the 15 s that a request takes", e.RetryAfter)
		}
		for _, h := range handles {
			h.Release()
		}
		if s := w.state("a"); s.Status != StatusReady || s.Running+s.Waiting != 0 {
			t.Errorf("%+v", s)
		}
		if r := w.runner(0); r.load.PendingLimit < 5 {
			t.Errorf("the runner's own limit of %d would be met first", r.load.PendingLimit)
		}
	})
}

func TestQueueLimitHoldsDuringLoad(t *testing.T) {
	inBubble(t, slow, func(t *testing.T, w *world) {
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				h, err := w.Acquire(t.Context(), "a")
				if err != nil {
					t.Error(err)
					return
				}
				h.Release()
			})
		}
		synctest.Wait()
		_, err := w.Acquire(t.Context(), "a")
		wantKind(t, err, generation.KindBusy)
		w.runner(0).set(supervise.State{Phase: supervise.Ready})
		wg.Wait()
	})
}

func TestUnknownModel(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		_, err := w.Acquire(t.Context(), "zork")
		wantKind(t, err, generation.KindModelNotFound, "there are a, b, c")
		_, _, err = w.Load(t.Context(), "zork", Spec{})
		wantKind(t, err, generation.KindModelNotFound)
		_, err = w.Unload(t.Context(), "a", 0)
		wantKind(t, err, generation.KindModelNotFound, "a is not loaded; nothing is")
		w.acquire("b").Release()
		_, err = w.Unload(t.Context(), "a", 0)
		wantKind(t, err, generation.KindModelNotFound, "loaded: b")
		wantKind(t, w.Wait(t.Context(), "zork"), generation.KindModelNotFound)
	})
}

func TestLoad(t *testing.T) {
	inBubble(t, slow, func(t *testing.T, w *world) {
		s, started, err := w.Load(t.Context(), "a", Spec{Context: 2048, Slots: 1})
		if err != nil || !started || s.Status != StatusLoading || s.Context != 2048 || s.Slots != 1 {
			t.Fatalf("%+v, %v, %v", s, started, err)
		}
		go w.runner(0).set(supervise.State{Phase: supervise.Ready})
		if err := w.Wait(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		if s, started, err = w.Load(t.Context(), "a", Spec{Context: 4096}); err != nil || started || s.Context != 2048 {
			t.Errorf("%+v, %v, %v", s, started, err)
		}
		if st, err := w.Stats(t.Context(), "A"); err != nil || st.SlotsBusy != 1 {
			t.Errorf("%+v, %v", st, err)
		}
		_, _, err = w.Load(t.Context(), "b", Spec{Context: -1})
		wantKind(t, err, generation.KindInvalid)
	})
}

func TestFailure(t *testing.T) {
	crash := &supervise.Crash{Cause: "signal: aborted", Headline: "x.cpp:1: GGML_ASSERT(y) failed", Stderr: []string{"one", "x.cpp:1: GGML_ASSERT(y) failed", "two", "three"}}
	refused := func(code string) error {
		return &supervise.Refused{Failure: wire.Failure{Code: code, Message: "the library's sentence"}, Stderr: []string{"word"}}
	}
	for _, c := range []struct {
		name  string
		err   error
		kind  generation.Kind
		parts []string
		lines int
	}{
		{"crash loop", &supervise.CrashLoop{Crashes: 2, Last: crash}, generation.KindUnavailable, []string{"a failed", "crashed 2 times", "GGML_ASSERT", "two | three"}, 4},
		{"model", refused(wire.CodeModel), generation.KindUnavailable, []string{"the library's sentence", "another model"}, 1},
		{"engine", refused(wire.CodeEngine), generation.KindUnavailable, []string{"the library's sentence"}, 1},
		{"memory", refused(wire.CodeMemory), generation.KindNoMemory, []string{"the library's sentence", "unload a model"}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, slow, func(t *testing.T, w *world) {
				got := make(chan error, 1)
				go func() {
					_, err := w.Acquire(t.Context(), "a")
					got <- err
				}()
				synctest.Wait()
				w.runner(0).set(supervise.State{Phase: supervise.Failed, Err: c.err})
				err := <-got
				if e := wantKind(t, err, c.kind, c.parts...); e.RetryAfter != 30 || !errors.Is(err, c.err) {
					t.Errorf("retry after %d, cause %v", e.RetryAfter, e.Err)
				}
				s := w.state("a")
				if s.Status != StatusFailed || s.Memory != 0 || s.Running != 0 || len(s.Stderr) != c.lines || s.Error == "" {
					t.Errorf("%+v", s)
				}
				_, err = w.Acquire(t.Context(), "a") // within the window: the same answer, no new try
				wantKind(t, err, c.kind, c.parts...)
				if w.started() != 1 {
					t.Fatal("tried again within the window")
				}
				timer := time.NewTimer(31 * time.Second)
				<-timer.C
				w.mu.Lock()
				w.auto = true
				w.mu.Unlock()
				w.acquire("a").Release()
				if s := w.state("a"); s.Status != StatusReady || s.Error != "" {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

func TestLoadAfterFailureNeedsNoPatience(t *testing.T) {
	inBubble(t, slow, func(t *testing.T, w *world) {
		if _, _, err := w.Load(t.Context(), "a", Spec{}); err != nil {
			t.Fatal(err)
		}
		w.runner(0).set(supervise.State{Phase: supervise.Failed, Err: errors.New("no")})
		synctest.Wait()
		if s, started, err := w.Load(t.Context(), "a", Spec{}); err != nil || !started || s.Status != StatusLoading {
			t.Errorf("%+v, %v, %v", s, started, err)
		}
		w.runner(1).set(supervise.State{Phase: supervise.Failed, Err: errors.New("no")})
		synctest.Wait()
		if _, err := w.Unload(t.Context(), "a", 0); err != nil || len(w.Models()) != 0 {
			t.Errorf("a failure cannot be dismissed: %v, %+v", err, w.Models())
		}
	})
}

func TestRestartingRunnerKeepsItsPlace(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		h := w.acquire("a")
		defer h.Release()
		r := w.runner(0)
		r.set(supervise.State{Phase: supervise.Restarting, Err: &supervise.Crash{Cause: "signal: killed", Stderr: []string{"bye"}}})
		s := w.state("a")
		want := ModelState{
			Name: "a", Status: StatusRestarting, Text: "restarting: signal: killed", Memory: s.Memory, Context: 8192, Slots: 2,
			Running: 1, Error: "signal: killed", Stderr: []string{"bye"}, Info: r.Info(),
		}
		if diff := cmp.Diff(want, s, cmpopts.IgnoreFields(ModelState{}, "Since")); diff != "" {
			t.Error(diff)
		}
		if s.Memory == 0 {
			t.Error("its memory was given away")
		}
		w.acquire("a").Release() // the runner itself makes requests wait
		r.set(supervise.State{Phase: supervise.Loading})
		if s := w.state("a"); s.Status != StatusRestarting {
			t.Errorf("%+v", s)
		}
		r.set(supervise.State{Phase: supervise.Ready})
		if s := w.state("a"); s.Status != StatusRunning || s.Error != "" {
			t.Errorf("%+v", s)
		}
	})
}

func TestStartFails(t *testing.T) {
	inBubble(t, func(_ *Options, w *world) { w.start = errors.New("no engine; run skein engine install") }, func(t *testing.T, w *world) {
		_, err := w.Acquire(t.Context(), "a")
		wantKind(t, err, generation.KindUnavailable, "no engine; run skein engine install")
		if len(w.Models()) != 0 {
			t.Errorf("%+v", w.Models())
		}
	})
}

func TestValidate(t *testing.T) {
	_, err := New(Options{Slots: -1, Context: -1, FailureWindow: -1})
	for _, part := range []string{"required", "slots", "context", "failure window"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error %v lacks %q", err, part)
		}
	}
}
