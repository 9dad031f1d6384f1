package interrupt

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
)

func TestFirstEndsSecondForces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		notify := make(chan os.Signal, 4)
		h := start(context.Background(), notify)
		defer h.Close()
		notify <- os.Interrupt
		synctest.Wait()
		if !errors.Is(context.Cause(h.Context()), ErrInterrupted) {
			t.Fatalf("after one signal the cause is %v", context.Cause(h.Context()))
		}
		select {
		case <-h.Force():
			t.Fatal("one signal forces")
		default:
		}
		notify <- syscall.SIGTERM
		notify <- os.Interrupt // a third one changes nothing
		synctest.Wait()
		select {
		case <-h.Force():
		default:
			t.Fatal("two signals do not force")
		}
	})
}

func TestTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		notify := make(chan os.Signal, 4)
		h := start(context.Background(), notify)
		defer h.Close()
		ch, release := h.Take()
		notify <- os.Interrupt
		notify <- os.Interrupt
		synctest.Wait()
		if h.Context().Err() != nil {
			t.Fatal("a taken interrupt ended the program")
		}
		if len(ch) != 1 {
			t.Fatalf("%d interrupts wait, want 1", len(ch))
		}
		notify <- syscall.SIGTERM
		synctest.Wait()
		if h.Context().Err() == nil {
			t.Fatal("SIGTERM was swallowed by Take")
		}
		release()
		release()
		_, again := h.Take()
		again()
	})
}

func TestReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		notify := make(chan os.Signal, 4)
		h := start(context.Background(), notify)
		_, release := h.Take()
		release()
		notify <- os.Interrupt
		synctest.Wait()
		if !errors.Is(context.Cause(h.Context()), ErrInterrupted) {
			t.Fatal("after release Ctrl-C does not end the program")
		}
		h.Close()
		h.Close()
	})
}
