package worker

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/supervise"
)

func TestContextFitsMemory(t *testing.T) {
	for _, c := range []struct {
		name      string
		option    int
		spec      Spec
		available int64 // MB; a needs 1,126 and 2.2 KB a token with two slots
		want      int
		warning   string
	}{
		{"default", 0, Spec{}, 8192, 8192, ""},
		{"asked", 16384, Spec{}, 8192, 16384, ""},
		{"asked for one load", 16384, Spec{Context: 1000}, 8192, 1000, ""},
		{"more than trained", 65536, Spec{}, 8192, 32768, "lowered from 65536 to 32768 tokens a slot: the model was trained"},
		{"halved", 0, Spec{}, 1137, 4096, "lowered from 8192 to 4096 tokens a slot, as memory allows"},
		{"smallest", 0, Spec{}, 1128, 512, "lowered from 8192 to 512"},
		{"never below the smallest", 1000, Spec{}, 1128, 512, "lowered from 1000 to 512"},
		{"both reasons", 65536, Spec{}, 1145, 8192, "trained for no more; context lowered from 32768 to 8192"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(o *Options, w *world) {
				o.Context = c.option
				w.memory.Available = c.available << 20
			}, func(t *testing.T, w *world) {
				s, _, err := w.Load(t.Context(), "a", c.spec)
				if err != nil {
					t.Fatal(err)
				}
				if s.Context != c.want || !strings.Contains(s.Warning, c.warning) || (s.Warning == "") != (c.warning == "") {
					t.Errorf("context %d, warning %q", s.Context, s.Warning)
				}
				if s.Memory > c.available<<20 {
					t.Errorf("reserved %d of %d", s.Memory, c.available<<20)
				}
			})
		})
	}
}

func TestNoMemory(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.acquire("b").Release()
		w.acquire("c").Release()
		_, err := w.Acquire(t.Context(), "c") // loaded already: no question of memory
		if err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		w.sizes["big"], w.sizes["bigger"], w.sizes["huge"] = 3*gb, 6*gb, 9*gb
		w.mu.Unlock()
		_, err = w.Acquire(t.Context(), "big")
		wantKind(t, err, generation.KindNoMemory, "Need 3.3 GB, have 1.4 GB. Loaded: c (4.4 GB), b (2.2 GB). Unload b to free memory.")
		_, err = w.Acquire(t.Context(), "bigger")
		wantKind(t, err, generation.KindNoMemory, "Need 6.6 GB, have 1.4 GB.", "Unload models to free memory.")
		_, err = w.Acquire(t.Context(), "huge")
		wantKind(t, err, generation.KindNoMemory, "Need 9.9 GB, have 1.4 GB.", "huge does not fit this machine", "smaller model")
		var cause *NoMemory
		if !errors.As(err, &cause) || len(cause.Loaded) != 2 || cause.Loaded[0].Name != "c" || cause.Needed <= cause.Free {
			t.Errorf("cause %+v", cause)
		}
		if n := len(w.Models()); n != 2 {
			t.Errorf("%d models listed", n)
		}
		if _, err := w.Unload(t.Context(), "b", 0); err != nil {
			t.Fatal(err)
		}
		w.acquire("big").Release()
	})
}

// What a load has reserved is not free, though the machine still says so.
func TestReservationsCount(t *testing.T) {
	inBubble(t, slow, func(t *testing.T, w *world) {
		if _, _, err := w.Load(t.Context(), "c", Spec{}); err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		w.memory.Total = 0 // unknown: only the measurement counts
		w.sizes["d"] = 4 * gb
		w.mu.Unlock()
		_, _, err := w.Load(t.Context(), "d", Spec{})
		wantKind(t, err, generation.KindNoMemory, "have 3.6 GB")
		w.runner(0).set(supervise.State{Phase: supervise.Failed, Err: errors.New("no")})
		synctest.Wait()
		if _, _, err := w.Load(t.Context(), "d", Spec{}); err != nil {
			t.Errorf("a failed load kept its memory: %v", err)
		}
	})
}

func TestUnknownMemoryAndEstimate(t *testing.T) {
	inBubble(t, func(_ *Options, w *world) { w.broken = errors.New("no /proc") }, func(t *testing.T, w *world) {
		_, err := w.Acquire(t.Context(), "a")
		wantKind(t, err, generation.KindUnavailable, "no /proc")
	})
	if withHeadroom(1<<62) < 1<<62 {
		t.Error("headroom overflows")
	}
}

func TestPrefixCacheTakesWhatIsLeft(t *testing.T) {
	inBubble(t, func(o *Options, w *world) {
		o.Load.CacheBytes = 4 * gb
		w.memory.Available = 3 * gb
	}, func(t *testing.T, w *world) {
		s, _, err := w.Load(t.Context(), "a", Spec{})
		if err != nil {
			t.Fatal(err)
		}
		cache := w.runner(0).load.CacheBytes
		if cache <= 0 || cache > gb || s.Memory > 3*gb || s.Warning != "" {
			t.Errorf("cache %d, %+v", cache, s)
		}
	})
}

// Memory is never over-committed, whatever is loaded, fails and is unloaded.
func TestMemoryIsNeverOvercommitted(t *testing.T) {
	type step struct {
		action, name string
		context      int
	}
	rapid.Check(t, func(rt *rapid.T) {
		// Drawn before the bubble, which rapid cannot work in.
		total := rapid.Int64Range(gb/2, 16*gb).Draw(rt, "total")
		cache := rapid.Int64Range(0, 2*gb).Draw(rt, "cache")
		steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) step {
			return step{
				action:  rapid.SampledFrom([]string{"load", "load", "ready", "fail", "unload"}).Draw(rt, "action"),
				name:    rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "name"),
				context: rapid.IntRange(0, 40000).Draw(rt, "context"),
			}
		}), 1, 12).Draw(rt, "steps")
		var worst int64
		inBubble(t, func(o *Options, w *world) {
			w.auto = false
			w.memory = Memory{Total: total, Available: total}
			o.Load.CacheBytes = cache
		}, func(t *testing.T, w *world) {
			for _, s := range steps {
				switch s.action {
				case "load":
					if _, _, err := w.Load(t.Context(), s.name, Spec{Context: s.context}); err != nil {
						wantKind(t, err, generation.KindNoMemory)
					}
				case "ready", "fail":
					state := supervise.State{Phase: supervise.Ready}
					if s.action == "fail" {
						state = supervise.State{Phase: supervise.Failed, Err: errors.New("no")}
					}
					if n := w.started(); n > 0 {
						w.runner(n - 1).set(state)
					}
				case "unload":
					if _, err := w.Unload(t.Context(), s.name, 0); err != nil {
						wantKind(t, err, generation.KindModelNotFound)
					}
				}
				synctest.Wait()
				var sum int64
				for _, m := range w.Models() {
					sum += m.Memory
				}
				worst = max(worst, sum)
			}
		})
		if worst > total {
			rt.Fatalf("%d bytes reserved of %d", worst, total)
		}
	})
}
