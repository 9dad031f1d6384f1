package generation

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/skein-run/skein/internal/chat"
	"github.com/skein-run/skein/internal/runner/wire"
	"pgregory.net/rapid"
)

var hi = []Message{{Role: "user", Content: "Hi"}}

func TestGenerate(t *testing.T) {
	tests := []struct {
		name   string
		script script
		req    Request
		text   string
		reason string
		finish string
		usage  Usage
	}{
		{"chat", script{pieces: []string{"Hel", "lo"}}, Request{Messages: hi}, "Hello", "", FinishStop, Usage{PromptTokens: 6, CompletionTokens: 2}},
		{"completion", script{pieces: []string{"a", "b"}}, Request{Prompt: prompt("xyz")}, "ab", "", FinishStop, Usage{PromptTokens: 4, CompletionTokens: 2}},
		{"begin token not doubled", script{}, Request{Prompt: prompt("<s>xyz")}, "", "", FinishStop, Usage{PromptTokens: 4}},
		{"tokens", script{pieces: []string{"a"}}, Request{Tokens: []int32{1, 2}}, "a", "", FinishStop, Usage{PromptTokens: 2, CompletionTokens: 1}},
		{"echo", script{pieces: []string{"a", "x"}}, Request{Prompt: prompt("xyz"), Echo: true, Stop: []string{"x"}}, "xyza", "", FinishStop, Usage{PromptTokens: 4, CompletionTokens: 2}},
		{"echo of tokens", script{pieces: []string{"a"}}, Request{Tokens: []int32{'h', 'i', 0xff}, Echo: true}, "hi\uFFFDa", "", FinishStop, Usage{PromptTokens: 3, CompletionTokens: 1}},
		{"echo of nothing", script{}, Request{Prompt: prompt("xyz"), Echo: true}, "xyz", "", FinishStop, Usage{PromptTokens: 4}},
		{"max tokens", script{pieces: []string{"a", "b", "c"}}, Request{Messages: hi, MaxTokens: 2}, "ab", "", FinishLength, Usage{PromptTokens: 6, CompletionTokens: 2}},
		{"stop straddles tokens", script{pieces: []string{"one E", "N", "D two", "x"}}, Request{Messages: hi, Stop: []string{"END"}}, "one ", "", FinishStop, Usage{PromptTokens: 6, CompletionTokens: 3}},
		{"stop at once", script{pieces: []string{"one E", "N", "D two", "x"}, atOnce: true}, Request{Messages: hi, Stop: []string{"END"}}, "one ", "", FinishStop, Usage{PromptTokens: 6, CompletionTokens: 3}},
		{"figures come with a stop", script{pieces: []string{"a", "b"}, done: wire.Done{CachedTokens: 5, PrefillSeconds: 2}}, Request{Messages: hi, Stop: []string{"a"}}, "", "", FinishStop, Usage{PromptTokens: 6, CompletionTokens: 1, CachedTokens: 5, PrefillSeconds: 2}},
		{"reasoning", script{pieces: []string{"<th", "ink>\n", "why", "\n", "</think>", "\n\nO", "k"}}, Request{Messages: hi}, "Ok", "why", FinishStop, Usage{PromptTokens: 6, CompletionTokens: 7, ReasoningTokens: 1}},
		{"reasoning in raw text stays", script{pieces: []string{"<think>a</think>b"}}, Request{Prompt: prompt("x")}, "<think>a</think>b", "", FinishStop, Usage{PromptTokens: 2, CompletionTokens: 1}},
		{"emoji in two tokens", script{pieces: []string{"a\xf0\x9f", "\x98\x80"}}, Request{Messages: hi}, "a😀", "", FinishStop, Usage{PromptTokens: 6, CompletionTokens: 2}},
		{"cut emoji", script{pieces: []string{"a\xf0\x9f"}, done: wire.Done{Reason: wire.ReasonLength}}, Request{Messages: hi}, "a\ufffd", "", FinishLength, Usage{PromptTokens: 6, CompletionTokens: 1}},
		{"figures", script{pieces: []string{"a"}, done: wire.Done{CachedTokens: 3, QueueSeconds: 1, PrefillSeconds: 2, DecodeSeconds: 4}}, Request{Messages: hi}, "a", "", FinishStop, Usage{PromptTokens: 6, CompletionTokens: 1, CachedTokens: 3, QueueSeconds: 1, PrefillSeconds: 2, DecodeSeconds: 4}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := play(t, newFake(tt.script), tt.req)
			if err != nil {
				t.Fatal(err)
			}
			if r.text[0] != tt.text || r.reasoning[0] != tt.reason || r.finish[0] != tt.finish {
				t.Errorf("text %q, reasoning %q, finish %s; want %q, %q, %s", r.text[0], r.reasoning[0], r.finish[0], tt.text, tt.reason, tt.finish)
			}
			if diff := cmp.Diff(&tt.usage, r.usage); diff != "" {
				t.Errorf("usage (-want +got)\n%s", diff)
			}
		})
	}
}

func TestPrompt(t *testing.T) {
	m := newFake(script{})
	if _, err := play(t, m, Request{Messages: []Message{{Role: "system", Content: "S"}, hi[0]}}); err != nil {
		t.Fatal(err)
	}
	// The last text tokenized is the prompt; its <s> is added by the tokenizer.
	if got, want := m.texts[len(m.texts)-1], "s:S|u:Hi|"; got != want {
		t.Errorf("tokenized %q, want %q", got, want)
	}
	m = newFake(script{})
	m.info.AddBOS = false
	if _, err := play(t, m, Request{Messages: hi}); err != nil {
		t.Fatal(err)
	}
	if got, want := m.texts[len(m.texts)-1], "<s>u:Hi|"; got != want {
		t.Errorf("tokenized %q, want %q", got, want)
	}
}

func TestReasoningMarkup(t *testing.T) {
	m := newFake(script{pieces: []string{"\nwhy", "</think>", "ok"}})
	m.info.ChatTemplate += "{{ 'a:<think>\n' }}"
	m.special["</think>"] = 500 // a control token, without a piece
	r, err := play(t, m, Request{Messages: hi})
	if err != nil {
		t.Fatal(err)
	}
	if r.reasoning[0] != "why" || r.text[0] != "ok" || r.usage.ReasoningTokens != 1 {
		t.Errorf("reasoning %q, text %q, usage %+v", r.reasoning[0], r.text[0], r.usage)
	}
}

func TestChoices(t *testing.T) {
	m := newFake(
		script{pieces: []string{"a", "b"}, done: wire.Done{CachedTokens: 4, QueueSeconds: 1}},
		script{pieces: []string{"c", "d", "e"}, done: wire.Done{CachedTokens: 6, QueueSeconds: 3}},
		script{pieces: []string{"f", "STOP", "g"}, done: wire.Done{CachedTokens: 5}},
	)
	r, err := play(t, m, Request{Messages: hi, Choices: 3, Stop: []string{"STOP"}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"ab", "cde", "f"}, r.text); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(&Usage{PromptTokens: 6, CompletionTokens: 7, CachedTokens: 4, QueueSeconds: 3}, r.usage); diff != "" {
		t.Error(diff)
	}
	seeds := map[uint64]bool{}
	ids := map[uint64]bool{}
	for _, req := range m.requests {
		seeds[req.Sampling.Seed], ids[req.ID] = true, true
	}
	if !cmp.Equal(seeds, map[uint64]bool{160: true, 161: true, 162: true}) || len(ids) != 3 {
		t.Errorf("seeds %v, ids %v", seeds, ids)
	}
}

func TestSeed(t *testing.T) {
	m := newFake(script{})
	if _, err := play(t, m, Request{Messages: hi, SeedSet: true, Sampling: wire.Sampling{Seed: 7, Temperature: 0.5}}); err != nil {
		t.Fatal(err)
	}
	if got := m.requests[0].Sampling; got.Seed != 7 || got.Temperature != 0.5 {
		t.Errorf("sampling %+v", got)
	}
}

func TestContext(t *testing.T) {
	for _, tt := range []struct {
		prompt, max, sent int
		kind              Kind
	}{
		{99, 0, 0, ""}, {99, 5, 1, ""}, {98, 5, 2, ""}, {50, 5, 5, ""},
		{100, 1, 0, KindContextExceeded}, {150, 0, 0, KindContextExceeded},
	} {
		m := newFake(script{})
		// The begin token is one of the prompt's.
		_, err := play(t, m, Request{Prompt: prompt(strings.Repeat("x", tt.prompt-1)), MaxTokens: tt.max})
		var e *Error
		switch {
		case kindOf(err) != tt.kind:
			t.Errorf("%+v: %v", tt, err)
		case tt.kind == "":
			if got := m.requests[0].MaxTokens; got != tt.sent {
				t.Errorf("%+v: max tokens %d", tt, got)
			}
		case errors.As(err, &e) && (e.PromptTokens != tt.prompt || e.Context != 100 || !strings.Contains(e.Message, fmt.Sprint(tt.prompt)) || !strings.Contains(e.Message, "100")):
			t.Errorf("%+v: %+v", tt, e)
		}
	}
	_, err := play(t, newFake(script{}), Request{Messages: make([]Message, 100_000)})
	if kindOf(err) != KindContextExceeded {
		t.Errorf("100,000 messages: %v", err)
	}
}

func TestLogprobs(t *testing.T) {
	m := newFake(script{pieces: []string{"<think>", "why", "</think>", "\n", "\nHe", "l", "loE", "N", "D", "x"}})
	r, err := play(t, m, Request{Messages: hi, Logprobs: true, TopLogprobs: 2, Stop: []string{"END"}})
	if err != nil {
		t.Fatal(err)
	}
	var tokens []int32
	for _, l := range r.logprobs[0] {
		tokens = append(tokens, l.Token)
		if len(l.Top) != 2 || string(l.Top[1].Bytes) != "b" {
			t.Errorf("rivals %+v", l.Top)
		}
	}
	// "loE" is there for its "lo"; the reasoning, markup and stop are not.
	if diff := cmp.Diff([]int32{304, 305, 306}, tokens); diff != "" || r.text[0] != "Hello" {
		t.Errorf("text %q, tokens (-want +got)\n%s", r.text[0], diff)
	}
	// A token comes no earlier than the whole of its text.
	m = newFake(script{pieces: []string{"aE", "N", "x"}})
	r, err = play(t, m, Request{Messages: hi, Logprobs: true, Stop: []string{"END"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.events) != 3 || r.events[0].Text != "a" || len(r.events[0].Logprobs) != 0 || r.events[1].Text != "ENx" || len(r.events[1].Logprobs) != 3 {
		t.Errorf("events %+v", r.events)
	}
}

func TestRefusals(t *testing.T) {
	tests := []struct {
		name   string
		script script
		req    Request
		kind   Kind
		says   string
	}{
		{"nothing asked", script{}, Request{}, KindInvalid, "exactly one"},
		{"two things asked", script{}, Request{Messages: hi, Prompt: prompt("x")}, KindInvalid, "exactly one"},
		{"no messages", script{}, Request{Messages: []Message{}}, KindInvalid, "at least one"},
		{"empty prompt", script{}, Request{Tokens: []int32{}}, KindInvalid, "empty"},
		{"token out of range", script{}, Request{Tokens: []int32{1, 1000}}, KindInvalid, "1000"},
		{"negative token", script{}, Request{Tokens: []int32{-1}}, KindInvalid, "-1"},
		{"negative n", script{}, Request{Messages: hi, Choices: -1}, KindInvalid, "n must"},
		{"negative max", script{}, Request{Messages: hi, MaxTokens: -1}, KindInvalid, "max_tokens"},
		{"empty stop", script{}, Request{Messages: hi, Stop: []string{""}}, KindInvalid, "stop"},
		{"echo of a chat", script{}, Request{Messages: hi, Echo: true}, KindInvalid, "echo"},
		{"echo with logprobs", script{}, Request{Prompt: prompt("x"), Echo: true, Logprobs: true}, KindInvalid, "echo"},
		{"busy at once", script{refuse: &wire.Failure{Code: wire.CodeBusy}}, Request{Messages: hi}, KindBusy, "try again"},
		{"busy", script{done: wire.Done{Reason: wire.ReasonError, Code: wire.CodeBusy}}, Request{Messages: hi}, KindBusy, "try again"},
		{"context", script{done: wire.Done{Reason: wire.ReasonError, Code: wire.CodeContextExceeded}}, Request{Messages: hi}, KindContextExceeded, "6 tokens"},
		{"invalid", script{done: wire.Done{Reason: wire.ReasonError, Code: wire.CodeInvalid, Error: "odd"}}, Request{Messages: hi}, KindInvalid, "odd"},
		{"decode failed", script{pieces: []string{"a"}, done: wire.Done{Reason: wire.ReasonError, Code: wire.CodeInternal, Error: "decode: 1"}}, Request{Messages: hi}, KindFailed, "decode: 1"},
		{"runner dies", script{pieces: []string{"a"}, err: errors.New("signal: killed")}, Request{Messages: hi}, KindFailed, "killed"},
		{"runner cancels", script{done: wire.Done{Reason: wire.ReasonCancelled}}, Request{Messages: hi}, KindFailed, "cancelled"},
		{"a known error passes", script{refuse: &Error{Kind: KindUnavailable, Message: "starting"}}, Request{Messages: hi}, KindUnavailable, "starting"},
		{"one of two choices", script{pieces: []string{"a"}, err: errors.New("gone")}, Request{Messages: hi, Choices: 2}, KindFailed, "gone"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := play(t, newFake(tt.script), tt.req)
			if kindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v (%s), want %s with %q", err, kindOf(err), tt.kind, tt.says)
			}
			if r.usage != nil || tt.kind != KindFailed && len(r.events) > 0 {
				t.Errorf("events %+v", r.events)
			}
			var e *Error
			if errors.As(err, &e) && e.Kind == KindBusy && e.RetryAfter == 0 {
				t.Error("no Retry-After")
			}
		})
	}
}

func TestTemplates(t *testing.T) {
	t.Run("refuses", func(t *testing.T) {
		m := newFake(script{})
		m.info.ChatTemplate = "{{ raise_exception('roles must alternate') }}"
		_, err := play(t, m, Request{Messages: hi})
		if kindOf(err) != KindInvalid || !strings.Contains(err.Error(), "roles must alternate") {
			t.Error(err)
		}
	})
	t.Run("broken, but completes", func(t *testing.T) {
		m := newFake(script{pieces: []string{"a"}})
		m.info.ChatTemplate = "{% if %}"
		_, err := play(t, m, Request{Messages: hi})
		if kindOf(err) != KindInvalid {
			t.Error(err)
		}
		if r, err := play(t, m, Request{Prompt: prompt("x")}); err != nil || r.text[0] != "a" {
			t.Error(r, err)
		}
	})
	t.Run("none", func(t *testing.T) {
		m := newFake(script{})
		m.info.ChatTemplate = ""
		var warned []string
		s, err := New(Options{Clock: newService(t).options.Clock, Seed: newService(t).options.Seed, Warn: func(s string, _ ...any) { warned = append(warned, s) }})
		if err != nil {
			t.Fatal(err)
		}
		p, err := s.Prepare(t.Context(), m)
		if err != nil || !p.Template().Fallback() || len(warned) != 1 || !strings.Contains(warned[0], "ChatML") {
			t.Error(err, warned)
		}
	})
	t.Run("arguments", func(t *testing.T) {
		m := newFake(script{})
		m.info.ChatTemplate = "{{ enable_thinking }}{{ strftime_now('%Y') }}"
		if _, err := play(t, m, Request{Messages: hi, TemplateArgs: map[string]any{"enable_thinking": false}}); err != nil {
			t.Fatal(err)
		}
		if got := m.texts[len(m.texts)-1]; got != "False2026" {
			t.Errorf("rendered %q", got)
		}
	})
}

func TestClientGoes(t *testing.T) {
	gone := errors.New("client gone")
	for _, choices := range []int{1, 3} {
		m := newFake(script{pieces: []string{"a"}, hang: true})
		s := newService(t)
		p, err := s.Prepare(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		result := make(chan error)
		go func() {
			result <- s.Generate(ctx, m, p, Request{Model: "m", Messages: hi, Choices: choices}, func(Event) error { return nil })
		}()
		for range choices {
			<-m.waiting
		}
		open := s.Open()
		if len(open) != choices {
			t.Fatalf("%d generations are recorded, want %d", len(open), choices)
		}
		for _, o := range open {
			if len(o.Prompt) != 6 || !cmp.Equal(o.Produced, []int32{300}) || o.Model != "m" || !o.Started.Equal(start) {
				t.Errorf("snapshot %+v", o)
			}
		}
		cancel(gone)
		if err := <-result; !errors.Is(err, gone) {
			t.Errorf("got %v", err)
		}
		if m.open != 0 || len(s.Open()) != 0 {
			t.Errorf("%d streams open, %d recorded", m.open, len(s.Open()))
		}
	}
}

func TestEmitFails(t *testing.T) {
	m := newFake(script{pieces: []string{"a", "b"}, hang: true})
	s := newService(t)
	p, err := s.Prepare(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken pipe")
	for _, choices := range []int{1, 2} {
		err := s.Generate(t.Context(), m, p, Request{Messages: hi, Choices: choices}, func(Event) error { return broken })
		if err != broken {
			t.Errorf("got %v", err)
		}
		if m.open != 0 {
			t.Errorf("%d streams are open", m.open)
		}
	}
}

func TestNew(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("no clock accepted")
	}
	if _, err := New(Options{Clock: newService(t).options.Clock}); err == nil {
		t.Error("no seeds accepted")
	}
}

// TestStreamedEqualsWhole: however the bytes are cut into tokens and the
// tokens into frames, the text is the same.
func TestStreamedEqualsWhole(t *testing.T) {
	fragments := []string{"<think>", "</think>", "\n", "a", "END", "E", "ND", "😀", "\xf0", "b c"}
	s := newService(t)
	m := newFake()
	p, err := s.Prepare(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		parts := rapid.SliceOfN(rapid.SampledFrom(fragments), 0, 12).Draw(rt, "text")
		whole := strings.Join(parts, "")
		stops := rapid.SliceOfN(rapid.SampledFrom([]string{"END", "a\n", "😀"}), 0, 2).Draw(rt, "stops")
		var tokens []string
		for rest := whole; rest != ""; {
			n := rapid.IntRange(1, min(4, len(rest))).Draw(rt, "cut")
			tokens = append(tokens, rest[:n])
			rest = rest[n:]
		}
		d := chat.NewDecoder(chat.DecoderOptions{Reasoning: p.Template().Reasoning(), Stops: stops})
		first, last := d.Write([]byte(whole)), d.Close()
		want := first.Text + last.Text
		thought := first.Reasoning + last.Reasoning
		run := newFake(script{pieces: tokens, atOnce: rapid.Bool().Draw(rt, "at once")})
		var text, reasoning, spelt string
		err := s.Generate(t.Context(), run, p, Request{Messages: hi, Stop: stops, Logprobs: true}, func(e Event) error {
			text += e.Text
			reasoning += e.Reasoning
			for _, l := range e.Logprobs {
				spelt += string(l.Bytes)
			}
			return nil
		})
		if err != nil {
			rt.Fatal(err)
		}
		if text != want || reasoning != thought {
			rt.Fatalf("streamed %q and %q, whole %q and %q", text, reasoning, want, thought)
		}
		if valid := !strings.Contains(text, "\ufffd"); valid && !strings.Contains(spelt, text) {
			rt.Fatalf("logprobs spell %q, the text is %q", spelt, text)
		}
	})
}
