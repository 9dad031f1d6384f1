package worker

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skein-run/skein/internal/generation"
)

func TestUnloadDrains(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		h := w.acquire("a")
		begin, done := time.Now(), make(chan int64)
		go func() {
			freed, err := w.Unload(t.Context(), "A", 30*time.Second)
			if err != nil {
				t.Error(err)
			}
			done <- freed
		}()
		if s := w.state("a"); s.Status != StatusUnloading || s.Memory == 0 {
			t.Errorf("%+v", s)
		}
		_, err := w.Acquire(t.Context(), "a")
		wantKind(t, err, generation.KindUnavailable, "being unloaded")
		go func() { // a second Unload waits for the first
			freed, err := w.Unload(t.Context(), "a", 0)
			if err != nil {
				t.Error(err)
			}
			done <- freed
		}()
		timer := time.AfterFunc(10*time.Second, h.Release)
		defer timer.Stop()
		if freed := <-done; freed < gb {
			t.Errorf("freed %d", freed)
		}
		<-done
		if d := time.Since(begin); d != 10*time.Second {
			t.Errorf("took %v", d)
		}
		if r := w.runner(0); r.stops != 1 || !r.polite {
			t.Errorf("%d stops, polite %v", r.stops, r.polite)
		}
		if len(w.Models()) != 0 {
			t.Errorf("%+v", w.Models())
		}
		w.acquire("a").Release() // loads anew
		if w.started() != 2 {
			t.Error("not loaded again")
		}
	})
}

func TestUnloadGivesUpDraining(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		h := w.acquire("a")
		begin := time.Now()
		if _, err := w.Unload(t.Context(), "a", 30*time.Second); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begin); d != 30*time.Second {
			t.Errorf("took %v", d)
		}
		h.Release()
	})
}

func TestUnloadBreaksALoadOff(t *testing.T) {
	inBubble(t, slow, func(t *testing.T, w *world) {
		got := make(chan error, 1)
		go func() {
			_, err := w.Acquire(t.Context(), "a")
			got <- err
		}()
		synctest.Wait()
		begin := time.Now()
		if _, err := w.Unload(t.Context(), "a", time.Hour); err != nil {
			t.Fatal(err)
		}
		wantKind(t, <-got, generation.KindUnavailable, "being unloaded")
		if time.Since(begin) != 0 {
			t.Error("it drained a load")
		}
	})
}

func TestClose(t *testing.T) {
	t.Run("drains", func(t *testing.T) {
		inBubble(t, nil, func(t *testing.T, w *world) {
			h := w.acquire("a")
			w.acquire("b").Release()
			timer := time.AfterFunc(3*time.Second, h.Release)
			defer timer.Stop()
			begin := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			go func() {
				synctest.Wait()
				_, err := w.Acquire(t.Context(), "a")
				wantKind(t, err, generation.KindUnavailable, "stopping")
			}()
			w.Close(ctx)
			if d := time.Since(begin); d != 3*time.Second {
				t.Errorf("took %v", d)
			}
			for i := range 2 {
				if r := w.runner(i); r.stops != 1 || !r.polite {
					t.Errorf("runner %d: %d stops, polite %v", i, r.stops, r.polite)
				}
			}
		})
	})
	t.Run("cuts off", func(t *testing.T) {
		inBubble(t, nil, func(t *testing.T, w *world) {
			h := w.acquire("a")
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			begin := time.Now()
			w.Close(ctx)
			if d := time.Since(begin); d != 10*time.Second || w.runner(0).polite {
				t.Errorf("took %v, polite %v", d, w.runner(0).polite)
			}
			h.Release()
		})
	})
	t.Run("during a load", func(t *testing.T) {
		inBubble(t, slow, func(t *testing.T, w *world) {
			got := make(chan error, 1)
			go func() {
				_, err := w.Acquire(t.Context(), "a")
				got <- err
			}()
			synctest.Wait()
			w.Close(t.Context())
			wantKind(t, <-got, generation.KindUnavailable, "stopping")
		})
	})
}

func TestWatchWakes(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		_, changed := w.Watch()
		h := w.acquire("a")
		<-changed
		synctest.Wait()
		states, changed := w.Watch()
		if len(states) != 1 || states[0].Status != StatusRunning || !states[0].Ready() {
			t.Errorf("%+v", states)
		}
		h.Release()
		<-changed
		if s := w.state("a"); s.Status != StatusReady {
			t.Errorf("%+v", s)
		}
	})
}

func TestGateIsLeftWithTheContext(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, w *world) {
		w.gate <- struct{}{}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := w.Acquire(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		<-w.gate
	})
}
