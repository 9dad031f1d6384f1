package answer

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/skein-run/skein/internal/generation"
)

// What is written by hand must be what encoding/json reads as the same value.
func TestAppendString(t *testing.T) {
	check := func(t interface{ Fatalf(string, ...any) }, s string) {
		b := appendString([]byte("x"), s)[1:]
		var got string
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatalf("%q became %s: %v", s, b, err)
		}
		if want := strings.ToValidUTF8(s, "\ufffd"); !utf8.ValidString(s) {
			// One U+FFFD a byte, as encoding/json; ToValidUTF8 makes one a run.
			if strings.ReplaceAll(got, "\ufffd", "") != strings.ReplaceAll(want, "\ufffd", "") {
				t.Fatalf("%q became %q", s, got)
			}
		} else if got != s {
			t.Fatalf("%q became %q", s, got)
		}
		if bytes.ContainsAny(b, "\n\r") {
			t.Fatalf("%q has a line end: it would break an event", b)
		}
	}
	for _, s := range []string{"", "a", `"\/`, "\x00\x1f\x7f\b\f\n\r\t", "é€😀", "\u2028\u2029", "\xff", "a\xe2\x82", "\xed\xa0\x80", "</script>&"} {
		check(t, s)
	}
	rapid.Check(t, func(t *rapid.T) { check(t, rapid.String().Draw(t, "s")) })
	rapid.Check(t, func(t *rapid.T) { check(t, string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))) })
}

func TestAppendLogprob(t *testing.T) {
	for v, want := range map[float32]string{
		0: "0", -0.5: "-0.5", -1e-7: "-0.0000001", -20000: "-9999", float32(math.Inf(-1)): "-9999",
	} {
		if got := string(appendLogprob(nil, v)); got != want {
			t.Errorf("%g: %s, want %s", v, got, want)
		}
	}
	if got := string(appendLogprob(nil, float32(math.NaN()))); got != "-9999" {
		t.Errorf("NaN: %s", got)
	}
}

// tokens draws log-probabilities with any bytes in the tokens.
func tokens(t *rapid.T) []generation.TokenLogprob {
	one := rapid.Custom(func(t *rapid.T) generation.TokenLogprob {
		return generation.TokenLogprob{
			Bytes:   rapid.SliceOfN(rapid.Byte(), 0, 5).Draw(t, "bytes"),
			Logprob: float32(rapid.Float64Range(-20000, 0).Draw(t, "logprob")),
		}
	})
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) generation.TokenLogprob {
		l := one.Draw(t, "token")
		l.Top = rapid.SliceOfN(one, 0, 5).Draw(t, "top")
		return l
	}), 0, 6).Draw(t, "tokens")
}

// event draws an event that a choice of two may have.
func event(t *rapid.T) generation.Event {
	return generation.Event{
		Choice:       rapid.IntRange(0, 1).Draw(t, "choice"),
		Text:         rapid.String().Draw(t, "text"),
		Reasoning:    rapid.String().Draw(t, "reasoning"),
		Logprobs:     tokens(t),
		FinishReason: rapid.SampledFrom([]string{"", "stop", "length"}).Draw(t, "finish"),
	}
}

// Any event gives well-formed chunks, and what they say put together is what
// the same events say when they are not streamed.
func TestStreamEqualsWhole(t *testing.T) {
	type choice struct {
		Index   int `json:"index"`
		Message struct {
			Content   string `json:"content"`
			Reasoning string `json:"reasoning_content"`
		} `json:"message"`
		Delta struct {
			Content   string `json:"content"`
			Reasoning string `json:"reasoning_content"`
		} `json:"delta"`
		Text     string `json:"text"`
		Logprobs *struct {
			Content     []any `json:"content"`
			Tokens      []any `json:"tokens"`
			TokenLogs   []any `json:"token_logprobs"`
			TopLogprobs []any `json:"top_logprobs"`
			TextOffset  []any `json:"text_offset"`
		} `json:"logprobs"`
		Finish *string `json:"finish_reason"`
	}
	type response struct {
		Choices []choice          `json:"choices"`
		Usage   *generation.Usage `json:"-"`
	}
	type said struct {
		Text, Reasoning string
		Finish          string
		Logprobs        [][]any
	}
	add := func(all []said, c choice) {
		s := &all[c.Index]
		s.Text += c.Text + c.Delta.Content + c.Message.Content
		s.Reasoning += c.Delta.Reasoning + c.Message.Reasoning
		if c.Finish != nil && *c.Finish != "" {
			s.Finish = *c.Finish
		}
		if c.Logprobs != nil {
			for i, list := range [][]any{c.Logprobs.Content, c.Logprobs.Tokens, c.Logprobs.TokenLogs, c.Logprobs.TopLogprobs, c.Logprobs.TextOffset} {
				s.Logprobs[i] = append(s.Logprobs[i], list...)
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		events := rapid.SliceOfN(rapid.Custom(event), 0, 8).Draw(t, "events")
		head := Header{ID: "i", Model: "m\n"}
		shape := Shape{Chat: rapid.Bool().Draw(t, "chat"), Choices: 2, Logprobs: true, Top: true, Usage: rapid.Bool().Draw(t, "usage")}

		enc := NewStream(head, shape, nil)
		whole := NewWhole(head, shape)
		streamed := []said{{Logprobs: make([][]any, 5)}, {Logprobs: make([][]any, 5)}}
		for _, ev := range events {
			if err := whole.Add(ev); err != nil {
				t.Fatal(err)
			}
			for _, chunk := range chunks(t, enc.Event(&ev)) {
				var r response
				if err := json.Unmarshal(chunk, &r); err != nil {
					t.Fatalf("%s: %v", chunk, err)
				}
				if bytes.Contains(chunk, []byte(`"usage":null}`)) != shape.Usage {
					t.Fatalf("usage: %s", chunk)
				}
				for _, c := range r.Choices {
					add(streamed, c)
				}
			}
		}
		for _, chunk := range chunks(t, enc.Finish(generation.Usage{})) {
			if string(chunk) != "[DONE]" && !json.Valid(chunk) {
				t.Fatalf("not JSON: %s", chunk)
			}
		}
		var r response
		if err := json.Unmarshal(whole.Bytes(generation.Usage{}), &r); err != nil {
			t.Fatalf("%s: %v", whole.Bytes(generation.Usage{}), err)
		}
		once := []said{{Logprobs: make([][]any, 5)}, {Logprobs: make([][]any, 5)}}
		for _, c := range r.Choices {
			add(once, c)
		}
		if diff := cmp.Diff(once, streamed); diff != "" {
			t.Fatalf("streamed differs (-whole +streamed):\n%s", diff)
		}
	})
}

// chunks takes SSE data apart.
func chunks(t interface{ Fatalf(string, ...any) }, events []byte) [][]byte {
	var all [][]byte
	for len(events) > 0 {
		one, rest, ok := bytes.Cut(events, []byte("\n\n"))
		data, isData := bytes.CutPrefix(one, []byte("data: "))
		if !ok || !isData {
			t.Fatalf("not an event: %q", one)
		}
		all = append(all, data)
		events = rest
	}
	return all
}

// The cost of a token on the way out must stay far below that of making it;
// `go test -bench Event -benchmem` shows it.
func BenchmarkEvent(b *testing.B) {
	enc := NewStream(Header{ID: "chatcmpl-ABCDEFGHIJ", Created: 1800000000, Model: "demo", Fingerprint: "skein"}, Shape{Chat: true, Choices: 1}, nil)
	ev := generation.Event{Text: " token"}
	b.ReportAllocs()
	for b.Loop() {
		enc.Event(&ev)
	}
}

// A token in the steady state allocates nothing.
func TestEventDoesNotAllocate(t *testing.T) {
	enc := NewStream(Header{ID: "chatcmpl-ABC", Model: "demo"}, Shape{Chat: true, Choices: 1, Usage: true}, nil)
	ev := generation.Event{Text: " naïve \"token\"\n"}
	enc.Event(&ev)
	if n := testing.AllocsPerRun(100, func() { enc.Event(&ev) }); n != 0 {
		t.Errorf("%.0f allocations an event", n)
	}
}
