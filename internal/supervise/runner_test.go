package supervise

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

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/runner/wire"
)

func memoryOptions(started *[]*fakeRunner, scripts ...script) Options {
	return Options{
		Name: "demo", Build: "test", Logger: slog.New(slog.DiscardHandler),
		Load:   wire.LoadRequest{Paths: []string{"demo.gguf"}, Slots: 4, Context: 4096},
		Launch: inMemory(started, scripts...),
	}
}

// start begins a Runner that is stopped with the test.
func start(t *testing.T, o Options) *Runner {
	t.Helper()
	r, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Stop(context.Background()) })
	return r
}

// bubble runs f in a synctest bubble with a Runner on fakes.
func bubble(t *testing.T, o func() Options, f func(t *testing.T, r *Runner)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r, err := Start(o())
		if err != nil {
			t.Fatal(err)
		}
		defer r.Stop(context.Background())
		f(t, r)
	})
}

func generate(t *testing.T, r *Runner, prompt int32, maxTokens int) generation.Stream {
	t.Helper()
	s, err := r.Generate(t.Context(), wire.GenerateRequest{Prompt: []int32{prompt}, MaxTokens: maxTokens})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// until waits for a phase.
func until(t *testing.T, r *Runner, want Phase) State {
	t.Helper()
	for {
		s, changed := r.Watch()
		if s.Phase == want {
			return s
		}
		if s.Final() {
			t.Fatalf("phase %s (%v), want %s", s.Phase, s.Err, want)
		}
		select {
		case <-changed:
		case <-t.Context().Done():
			t.Fatalf("still %s, want %s", s.Phase, want)
		}
	}
}

func wantKind(t *testing.T, err error, kind generation.Kind, parts ...string) {
	t.Helper()
	var e *generation.Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v (%T), want a generation.Error", err, err)
	}
	if e.Kind != kind {
		t.Errorf("kind %s, want %s (%v)", e.Kind, kind, err)
	}
	for _, p := range parts {
		if !strings.Contains(e.Message, p) {
			t.Errorf("message %q lacks %q", e.Message, p)
		}
	}
}

var ready = script{info: wire.ModelInfo{Description: "fake", Context: 4096, Slots: 4}}

func TestServe(t *testing.T) {
	bubble(t, func() Options { return memoryOptions(nil, ready) }, func(t *testing.T, r *Runner) {
		if err := r.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(ready.info, r.Info()); diff != "" {
			t.Error(diff)
		}
		if got := r.Engine().Version; got != "0.5.0-dev" {
			t.Errorf("engine %q", got)
		}
		ids, err := r.Tokenize(t.Context(), "ab", true, false)
		if diff := cmp.Diff([]int32{'a', 'b'}, ids); diff != "" || err != nil {
			t.Error(err, diff)
		}
		if text, err := r.Detokenize(t.Context(), ids); err != nil || text != "ab" {
			t.Errorf("text %q, %v", text, err)
		}
		if _, err = r.Tokenize(t.Context(), "refuse", true, false); err == nil {
			t.Error("no error")
		}
		wantKind(t, err, generation.KindInvalid, "no such text")

		got, text, done, err := drain(t.Context(), generate(t, r, promptCount, 5))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]int32{0, 1, 2, 3, 4}, got); diff != "" || text != "0 1 2 3 4 " {
			t.Error(text, diff)
		}
		if done.Reason != wire.ReasonLength || done.Generated != 5 {
			t.Errorf("done %+v", done)
		}
		_, _, done, err = drain(t.Context(), generate(t, r, promptFailure, 5))
		if err != nil || done.Code != wire.CodeInvalid || done.Error != "no" {
			t.Errorf("%+v, %v", done, err)
		}
		r.Stop(t.Context())
		if s := r.State(); s.Phase != Stopped || r.Err() != nil {
			t.Errorf("%+v, %v", s, r.Err())
		}
		_, err = r.Generate(t.Context(), wire.GenerateRequest{Prompt: []int32{promptCount}})
		wantKind(t, err, generation.KindUnavailable, "unloaded")
	})
}

func TestManyStreamsKeepTheirTokens(t *testing.T) {
	bubble(t, func() Options { return memoryOptions(nil, ready) }, func(t *testing.T, r *Runner) {
		// One stream is never read while the others run: it holds nobody up.
		idle := generate(t, r, promptCount, 300)
		var wg sync.WaitGroup
		for range 64 {
			s := generate(t, r, promptCount, 100)
			wg.Go(func() {
				ids, _, done, err := drain(t.Context(), s)
				if err != nil || done.Generated != 100 {
					t.Errorf("%+v, %v", done, err)
				}
				for i, id := range ids {
					if int(id) != i {
						t.Errorf("token %d is %d", i, id)
						return
					}
				}
			})
		}
		wg.Wait()
		if ids, _, _, err := drain(t.Context(), idle); err != nil || len(ids) != 300 {
			t.Errorf("%d tokens, %v", len(ids), err)
		}
	})
}

func TestCancel(t *testing.T) {
	for _, how := range []string{"context", "close"} {
		t.Run(how, func(t *testing.T) {
			bubble(t, func() Options { return memoryOptions(nil, ready) }, func(t *testing.T, r *Runner) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				s, err := r.Generate(ctx, wire.GenerateRequest{Prompt: []int32{promptWait}, MaxTokens: 100})
				if err != nil {
					t.Fatal(err)
				}
				if tokens, _, err := s.Next(ctx); err != nil || len(tokens) != 1 {
					t.Fatal(tokens, err)
				}
				if how == "close" {
					s.Close()
					s.Close()
				} else {
					cancel()
					if _, _, err := s.Next(ctx); err != nil && !errors.Is(err, context.Canceled) {
						t.Fatal(err)
					}
					_, _, done, err := drain(t.Context(), s)
					if err != nil || done.Reason != wire.ReasonCancelled {
						t.Fatal(done, err)
					}
				}
				synctest.Wait()
				stats, err := r.Stats(t.Context())
				if err != nil || stats.SlotsBusy != 0 {
					t.Errorf("%+v, %v", stats, err)
				}
				p := r.current
				p.mu.Lock()
				defer p.mu.Unlock()
				if n := len(p.streams) + len(p.calls); n != 0 {
					t.Errorf("%d streams and calls left", n)
				}
			})
		})
	}
}

// A death in the middle: the stream ends with the cause, and the next request works.
func TestDeathInTheMiddle(t *testing.T) {
	for _, c := range []struct {
		name   string
		prompt int32
		want   string
		after  time.Duration // fake time until it is noticed
	}{
		{"abort", promptAbort, "signal: aborted: fake.cpp:1: GGML_ASSERT(x != 0) failed", 0},
		{"silent", promptSilent, "gave no sign of life for 1m0s", time.Minute},
		{"stuck", promptStuck, "made no step while busy for 1m0s", time.Minute},
		{"garbage", promptGarbage, "not a frame", 0},
		{"flood", promptFlood, "more than the", 0},
		{"closed output", promptEOF, "closed its output", 5 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func() Options { return memoryOptions(nil, ready) }, func(t *testing.T, r *Runner) {
				bystander := generate(t, r, promptWait, 10)
				if tokens, _, err := bystander.Next(t.Context()); err != nil || len(tokens) != 1 {
					t.Fatal(tokens, err)
				}
				begin := time.Now()
				_, _, _, err := drain(t.Context(), generate(t, r, c.prompt, 10))
				wantKind(t, err, generation.KindFailed, c.want, "demo", "send the request again")
				if d := time.Since(begin); d < c.after || d > c.after+2*time.Second {
					t.Errorf("noticed after %v", d)
				}
				var crash *Crash
				if !errors.As(err, &crash) {
					t.Errorf("no crash in %v", err)
				}
				_, _, _, err = drain(t.Context(), bystander)
				wantKind(t, err, generation.KindFailed, c.want)
				s := until(t, r, Restarting)
				if s.Attempt != 1 || s.Err == nil {
					t.Errorf("%+v", s)
				}
				if ids, _, _, err := drain(t.Context(), generate(t, r, promptCount, 3)); err != nil || len(ids) != 3 {
					t.Errorf("after the restart: %v, %v", ids, err)
				}
			})
		})
	}
}

func TestTokenizeThatKillsIsNotRepeated(t *testing.T) {
	bubble(t, func() Options { return memoryOptions(nil, ready) }, func(t *testing.T, r *Runner) {
		_, err := r.Tokenize(t.Context(), "abort", false, false)
		wantKind(t, err, generation.KindFailed, "GGML_ASSERT")
		if err := r.Wait(t.Context()); err != nil || r.State().Attempt != 1 {
			t.Errorf("%v, %+v", err, r.State())
		}
	})
}

// Steps that come keep a runner alive however long a generation takes, and an
// idle one is never suspected.
func TestPatience(t *testing.T) {
	var started []*fakeRunner
	bubble(t, func() Options { return memoryOptions(&started, ready) }, func(t *testing.T, r *Runner) {
		if _, _, done, err := drain(t.Context(), generate(t, r, promptSlow, 10)); err != nil || done.Reason != wire.ReasonLength {
			t.Fatal(done, err)
		}
		idle := time.NewTimer(24 * time.Hour)
		<-idle.C
		if _, _, _, err := drain(t.Context(), generate(t, r, promptCount, 10)); err != nil {
			t.Fatal(err)
		}
	})
	if len(started) != 1 {
		t.Errorf("%d processes", len(started))
	}
}

func TestStepLimitGrowsWithTheModel(t *testing.T) {
	var o Options
	if got := o.stepLimit(wire.ModelInfo{Parameters: 10e9, ChunkTokens: 512}); got != time.Minute+512*time.Second {
		t.Error(got)
	}
	if got := o.stepLimit(wire.ModelInfo{Parameters: 1 << 63, ChunkTokens: 1 << 30}); got != time.Minute+24*time.Hour {
		t.Error(got)
	}
}

func TestLoadProgress(t *testing.T) {
	sc := ready
	for i := range 1001 {
		sc.progress = append(sc.progress, float64(i)/1000)
	}
	bubble(t, func() Options {
		sc.holdLoad = make(chan struct{})
		return memoryOptions(nil, sc)
	}, func(t *testing.T, r *Runner) {
		last, seen := -1.0, 0
		for last < 1 {
			s, changed := r.Watch()
			if s.Phase == Loading {
				if s.Progress < last {
					t.Errorf("progress fell from %v to %v", last, s.Progress)
				}
				last, seen = s.Progress, seen+1
			}
			if last < 1 {
				<-changed
			}
		}
		if seen > 102 {
			t.Errorf("%d progress states", seen)
		}
		close(sc.holdLoad)
		if s := until(t, r, Ready); s.Progress != 0 || s.PID != 1001 {
			t.Errorf("%+v", s)
		}
	})
}

// Only crashes in a row count against a load.
func TestLoadCrashesMustBeInARow(t *testing.T) {
	crash, dying := script{dieAtLoad: true}, ready
	dying.dieAfterReady = time.Second
	bubble(t, func() Options { return memoryOptions(nil, crash, dying, crash, ready) }, func(t *testing.T, r *Runner) {
		for r.State().Attempt < 3 {
			s, changed := r.Watch()
			if s.Final() {
				t.Fatalf("gave up: %+v", s)
			}
			<-changed
		}
		if err := r.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestRefusalIsFinal(t *testing.T) {
	model := &wire.Failure{Code: wire.CodeModel, Message: "unknown model architecture: 'zork'"}
	engine := &wire.Failure{Code: wire.CodeEngine, Message: "libllama 0.4.0 found, 0.5.0 is needed; run skein engine install"}
	for _, c := range []struct {
		name   string
		script script
		want   string
	}{
		{"model", script{refuseLoad: model}, model.Message},
		{"engine", script{refuseEngine: engine}, engine.Message},
		{"version", script{version: wire.Version + 1}, fmt.Sprintf("speaks runner protocol %d", wire.Version+1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			var started []*fakeRunner
			bubble(t, func() Options { return memoryOptions(&started, c.script) }, func(t *testing.T, r *Runner) {
				wantKind(t, r.Wait(t.Context()), generation.KindUnavailable, "demo", c.want)
				<-r.Done()
				var refused *Refused
				if !errors.As(r.Err(), &refused) {
					t.Fatalf("error %v", r.Err())
				}
				if c.name == "model" && len(refused.Stderr) != 1 {
					t.Errorf("stderr %q", refused.Stderr)
				}
			})
			if len(started) != 1 {
				t.Errorf("%d processes, want 1", len(started))
			}
		})
	}
}

func TestTransientLoadFailureIsRetried(t *testing.T) {
	internal := script{refuseLoad: &wire.Failure{Code: wire.CodeInternal, Message: "odd"}}
	bubble(t, func() Options { return memoryOptions(nil, internal, ready) }, func(t *testing.T, r *Runner) {
		if s := until(t, r, Restarting); !strings.Contains(s.Err.Error(), "odd") {
			t.Error(s.Err)
		}
		if err := r.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestCrashLoop(t *testing.T) {
	dying := ready
	dying.dieAfterReady = time.Second
	for _, c := range []struct {
		name   string
		script script
		want   int
	}{
		{"at load", script{dieAtLoad: true}, 2},
		{"hang at load", script{hangAtLoad: true}, 2},
		{"hang at start", script{hangAtHello: true}, 2},
		{"while serving", dying, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			var started []*fakeRunner
			bubble(t, func() Options { return memoryOptions(&started, c.script) }, func(t *testing.T, r *Runner) {
				<-r.Done()
				s := r.State()
				var loop *CrashLoop
				if s.Phase != Failed || !errors.As(s.Err, &loop) {
					t.Fatalf("%+v", s)
				}
				if loop.Crashes != c.want || len(started) != c.want {
					t.Errorf("%d crashes, %d processes, want %d", loop.Crashes, len(started), c.want)
				}
				if !strings.HasPrefix(c.name, "hang") && !cmp.Equal(loop.Last.Stderr, []string{"fake.cpp:1: GGML_ASSERT(x != 0) failed", "a line of backtrace"}) {
					t.Errorf("stderr %q", loop.Last.Stderr)
				}
				wantKind(t, r.Wait(t.Context()), generation.KindUnavailable, "crashed")
			})
		})
	}
}

// Back-off doubles up to its cap, and a runner that was stable starts afresh.
func TestBackoff(t *testing.T) {
	dying := ready
	dying.dieAfterReady = 50 * time.Second // less than stable, too rare for a crash loop
	stable := ready
	stable.dieAfterReady = 2 * time.Minute
	scripts := []script{dying, dying, dying, dying, dying, dying, dying, dying, dying, dying, stable, ready}
	var waits []time.Duration
	bubble(t, func() Options { return memoryOptions(nil, scripts...) }, func(t *testing.T, r *Runner) {
		for range len(scripts) - 1 {
			s := until(t, r, Restarting)
			waits = append(waits, time.Until(s.NextTry))
			if time.Until(s.NextTry) > longestWait {
				wantKind(t, r.Wait(t.Context()), generation.KindUnavailable, "started again in")
			}
			until(t, r, Ready)
		}
	})
	want := []time.Duration{200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000, 200}
	for i := range want {
		want[i] *= time.Millisecond
	}
	if diff := cmp.Diff(want, waits); diff != "" {
		t.Error(diff)
	}
}

func TestStop(t *testing.T) {
	t.Run("during load", func(t *testing.T) {
		bubble(t, func() Options { return memoryOptions(nil, script{hangAtLoad: true, ignoreClose: true}) }, func(t *testing.T, r *Runner) {
			until(t, r, Loading)
			begin := time.Now()
			r.Stop(t.Context())
			if d := time.Since(begin); d != 5*time.Second {
				t.Errorf("took %v", d)
			}
		})
	})
	t.Run("during back-off", func(t *testing.T) {
		bubble(t, func() Options { return memoryOptions(nil, script{dieAtLoad: true}) }, func(t *testing.T, r *Runner) {
			until(t, r, Restarting)
			r.Stop(t.Context())
			if s := r.State(); s.Phase != Stopped {
				t.Errorf("%+v", s)
			}
		})
	})
	t.Run("with open streams and no patience", func(t *testing.T) {
		sc := ready
		sc.ignoreClose = true
		bubble(t, func() Options { return memoryOptions(nil, sc) }, func(t *testing.T, r *Runner) {
			s := generate(t, r, promptWait, 10)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			begin := time.Now()
			r.Stop(ctx)
			if d := time.Since(begin); d != 0 {
				t.Errorf("took %v", d)
			}
			_, _, _, err := drain(t.Context(), s)
			wantKind(t, err, generation.KindUnavailable, "unloaded")
		})
	})
}

func TestValidate(t *testing.T) {
	_, err := Start(Options{BackoffMin: -1, CrashLimit: -1})
	for _, part := range []string{"executable", "model name", "logger", "model file", "negative duration", "negative limit"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error %v lacks %q", err, part)
		}
	}
}
