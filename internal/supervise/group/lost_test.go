package group

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/runner/wire"
)

// When the head itself is stopped or cut off, those who wait for it are told as
// soon as another shard has noticed, and not only when it is killed.
func TestFrozenHead(t *testing.T) {
	bubble(t, 2, 1, nil, func(t *testing.T, w *world, g *Group) {
		if err := g.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		s, err := g.Generate(t.Context(), wire.GenerateRequest{Prompt: []int32{1}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if tokens, _, err := s.Next(t.Context()); err != nil || len(tokens) != 1 {
			t.Fatal(tokens, err)
		}
		close(w.live(1).frozen)
		evaluated := make(chan error, 1)
		go func() {
			evaluated <- g.Eval(t.Context(), wire.EvalRequest{Tokens: []int32{4, 6}, Prompt: 1}, func(int32, []float32) {})
		}()
		synctest.Wait()
		began := time.Now()
		w.live(0).lose(1, "silent for 1.5s")
		for _, wait := range []func() error{
			func() error { _, _, err := s.Next(t.Context()); return err },
			func() error { return <-evaluated },
		} {
			var lost *Lost
			var told *generation.Error
			if err := wait(); !errors.As(err, &told) || told.Kind != generation.KindFailed || !errors.As(err, &lost) || lost.Index != 1 ||
				!strings.Contains(err.Error(), "shard 1: layers 2-3: silent for 1.5s") {
				t.Errorf("error %v", err)
			}
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("told after %v", took)
		}
		synctest.Wait()
		// It waits for the next epoch.
		if got, _, err := text(t.Context(), g, wire.GenerateRequest{Prompt: []int32{1}, MaxTokens: 2}); err != nil || got != "1 1 " {
			t.Errorf("text %q, %v", got, err)
		}
		if len(w.joins()) != 2 || w.births(1) != 2 {
			t.Errorf("%d joins and %d heads, want 2 and 2", len(w.joins()), w.births(1))
		}
		// A caller who gives up is told so, and not of any shard.
		s, err = g.Generate(t.Context(), wire.GenerateRequest{Prompt: []int32{1}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, _, err := s.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithCancel(t.Context())
		cancel()
		if _, _, err := s.Next(short); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	})
}

// Who asks again as soon as a generation was lost waits for the next epoch, also
// while the head has not told the group yet.
func TestAskAgainAtOnce(t *testing.T) {
	bubble(t, 2, 1, nil, func(t *testing.T, w *world, g *Group) {
		if err := g.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		s, err := g.Generate(t.Context(), wire.GenerateRequest{Prompt: []int32{1}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, _, err := s.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.live(1).end("shard 0 closed its connection")
		if _, done, err := s.Next(t.Context()); err != nil || done == nil || done.Code != wire.CodeShard {
			t.Fatalf("the generation ended with %+v, %v", done, err)
		}
		answered := make(chan string, 1)
		go func() {
			got, _, err := text(t.Context(), g, wire.GenerateRequest{Prompt: []int32{1}, MaxTokens: 2})
			answered <- fmt.Sprint(got, err)
		}()
		synctest.Wait()
		if len(answered) > 0 {
			t.Errorf("answered %q in an epoch that is over", <-answered)
		}
		w.live(1).tell(0, "closed its connection")
		if got := <-answered; got != "1 1 <nil>" {
			t.Errorf("answered %q", got)
		}
		if n := len(w.joins()); n != 2 {
			t.Errorf("joined %d times, want 2", n)
		}
	})
}
