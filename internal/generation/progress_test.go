package generation

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/skein-run/skein/internal/runner/wire"
)

// slow is a model that tells how far the prompt is, and goes on when the last
// of that was heard.
type slow struct {
	*fakeModel
	heard chan PromptProgress
}

func (s slow) Generate(ctx context.Context, req wire.GenerateRequest) (Stream, error) {
	note := NoteOf(ctx)
	if req.Progress {
		note(PromptProgress{2, 6})
		note(PromptProgress{4, 6})
		for p := range s.heard {
			if p.Done == 4 {
				break
			}
		}
	}
	stream, err := s.fakeModel.Generate(ctx, req)
	return late{stream, note}, err
}

// late notes what nobody wants to know any more.
type late struct {
	Stream
	note func(PromptProgress)
}

func (l late) Next(ctx context.Context) ([]wire.Token, *wire.Done, error) {
	tokens, done, err := l.Stream.Next(ctx)
	if done != nil {
		l.note(PromptProgress{5, 6})
	}
	return tokens, done, err
}

// Progress of the prompt comes before the text, the newest surely, and that it
// is whole with the first text; who does not ask hears nothing.
func TestProgressOfThePrompt(t *testing.T) {
	for _, asks := range []bool{true, false} {
		m := slow{newFake(script{pieces: []string{"a", "b"}}), make(chan PromptProgress, 8)}
		s := newService(t)
		p, err := s.Prepare(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		err = s.Generate(t.Context(), m, p, Request{Messages: hi, Progress: asks}, func(e Event) error {
			if e.Prompt != nil {
				got = append(got, fmt.Sprintf("%d/%d", e.Prompt.Done, e.Prompt.Total))
				m.heard <- *e.Prompt
			}
			if e.Text != "" {
				got = append(got, e.Text)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		said := strings.TrimPrefix(strings.Join(got, " "), "2/6 ") // it may be overtaken
		if want := map[bool]string{true: "4/6 6/6 a b", false: "a b"}[asks]; said != want {
			t.Errorf("asked %v: got %q, want %q", asks, said, want)
		}
	}
}

// What nobody has told yet gives way to the newest, and nothing is told after
// Stop.
func TestMeter(t *testing.T) {
	m := NewMeter()
	for i := range 1000 {
		m.Note(PromptProgress{i, 1000})
	}
	told := make(chan PromptProgress, 1000)
	m.Start(func(p PromptProgress) { told <- p })
	if p := <-told; p.Done != 999 {
		t.Errorf("told %v", p)
	}
	m.Stop()
	m.Stop()
	m.Note(PromptProgress{1, 2})
	m.Note(PromptProgress{2, 2})
	if len(told) > 0 {
		t.Errorf("told %v afterwards", <-told)
	}
	NewMeter().Stop() // never started
	NoteOf(t.Context())(PromptProgress{})
}
