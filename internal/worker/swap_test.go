package worker

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/supervise"
)

// swap decides and carries out in the background; the channel tells the end.
func (w *world) swap(old, name string, drain time.Duration) (*Swap, <-chan error) {
	w.t.Helper()
	s, err := w.Swap(w.t.Context(), old, name, Spec{}, drain)
	if err != nil {
		w.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Do(w.t.Context()) }()
	return s, done
}

// Where both fit, the old model serves until the new one is ready.
func TestSwapWithRoomForBoth(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.acquire("a").Release()
		w.mu.Lock()
		w.auto = false
		w.mu.Unlock()
		s, done := w.swap("A", "B.gguf", 0)
		if !s.Both || s.Freed < gb || s.Next.Name != "b" || s.Next.Memory < 2*gb {
			t.Errorf("%+v", s)
		}
		if old, next := w.state("a"), w.state("b"); old.Status != StatusReady || next.Status != StatusLoading {
			t.Errorf("old %s, new %s", old.Status, next.Status)
		}
		w.runner(1).set(supervise.State{Phase: supervise.Ready})
		if err := <-done; err != nil {
			t.Error(err)
		}
		if old, next := w.state("a"), w.state("b"); old.Status != "" || next.Status != StatusReady {
			t.Errorf("old %s, new %s", old.Status, next.Status)
		}
	})
}

// Where one fits, the old one ends first, open requests go on for their time,
// and nobody else is given the memory meanwhile.
func TestSwapWithRoomForOne(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.acquire("a").Release()
		h := w.acquire("c") // 4 GB of 8, and 1
		begin := time.Now()
		w.sizes["d"] = 5 * gb
		s, done := w.swap("c", "d", 20*time.Second)
		if s.Both {
			t.Error("there is no room for both")
		}
		other := make(chan error, 1)
		go func() {
			_, _, err := w.Load(t.Context(), "b", Spec{})
			other <- err
		}()
		timer := time.AfterFunc(10*time.Second, h.Release)
		defer timer.Stop()
		if old := w.state("c"); old.Status != StatusUnloading {
			t.Errorf("old %s", old.Status)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if d := time.Since(begin); d != 10*time.Second {
			t.Errorf("took %v", d)
		}
		if next := w.state("d"); next.Status != StatusReady {
			t.Errorf("new %s", next.Status)
		}
		// 1 and 5 of 8 GB are taken: b comes with what is left, or not at all.
		<-other
		var sum int64
		for _, m := range w.Models() {
			sum += m.Memory
		}
		if sum > w.memory.Total {
			t.Errorf("%d bytes are promised of %d", sum, w.memory.Total)
		}
	})
}

// A new model that fails brings the old one back, as it was, and is listed with
// its reason.
func TestSwapUndone(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		if _, _, err := w.Load(t.Context(), "c", Spec{Context: 1024, Slots: 1}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.sizes["d"] = 5 * gb
		w.mu.Lock()
		w.auto = false
		w.mu.Unlock()
		_, done := w.swap("c", "d", 0)
		synctest.Wait()
		w.runner(1).set(supervise.State{Phase: supervise.Failed, Err: errors.New("no such architecture")})
		err := <-done
		if err == nil || !strings.Contains(err.Error(), "no such architecture") || !strings.Contains(err.Error(), "c is loaded again") {
			t.Errorf("%v", err)
		}
		w.runner(2).set(supervise.State{Phase: supervise.Ready})
		if old := w.state("c"); old.Status != StatusReady || old.Context != 1024 || old.Slots != 1 {
			t.Errorf("old %+v", old)
		}
		if next := w.state("d"); next.Status != StatusFailed || !strings.Contains(next.Error, "no such architecture") {
			t.Errorf("new %+v", next)
		}
		w.acquire("c").Release() // the gate is open again
		if _, _, err := w.Load(t.Context(), "a", Spec{}); err != nil {
			t.Error(err)
		}
	})
}

// What can't be done changes nothing, and keeps nothing.
func TestSwapRefused(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.acquire("a").Release()
		w.acquire("b").Release()
		w.sizes["huge"] = 80 * gb
		for _, tt := range []struct {
			old, name string
			kind      generation.Kind
			text      string
		}{
			{"c", "huge", generation.KindModelNotFound, "c is not loaded"}, {"a", "none", generation.KindModelNotFound, "no model none"},
			{"a", "b", generation.KindInvalid, "b is loaded already"}, {"a", "huge", generation.KindNoMemory, "Need 88.0 GB"},
		} {
			_, err := w.Swap(t.Context(), tt.old, tt.name, Spec{}, 0)
			wantKind(t, err, tt.kind, tt.text)
		}
		s, err := w.Swap(t.Context(), "a", "c", Spec{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		s.Drop()
		if len(w.Models()) != 2 || w.started() != 2 {
			t.Errorf("%+v", w.Models())
		}
		w.acquire("c").Release()
	})
}

// A plan is what a load would do, and does nothing.
func TestPlan(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.sizes["huge"] = 80 * gb
		_, _, err := w.Plan(t.Context(), "none", Spec{})
		wantKind(t, err, generation.KindModelNotFound, "no model none")
		_, _, err = w.Plan(t.Context(), "huge", Spec{})
		wantKind(t, err, generation.KindNoMemory, "Need 88.0 GB")
		_, _, err = w.Plan(t.Context(), "a", Spec{Slots: -1})
		wantKind(t, err, generation.KindInvalid, "slots")
		planned, would, err := w.Plan(t.Context(), "a", Spec{Slots: 3})
		if err != nil || !would || len(w.Models()) != 0 || w.started() != 0 {
			t.Fatalf("%v, would %v; models %+v", err, would, w.Models())
		}
		loaded, _, err := w.Load(t.Context(), "a", Spec{Slots: 3})
		if err != nil || loaded.Memory != planned.Memory || loaded.Context != planned.Context || planned.Slots != 3 {
			t.Errorf("%v; planned %+v, loaded %+v", err, planned, loaded)
		}
		if again, would, err := w.Plan(t.Context(), "a", Spec{}); err != nil || would || again.Name != "a" {
			t.Errorf("of what is loaded: %+v, %v, %v", again, would, err)
		}
	})
}
