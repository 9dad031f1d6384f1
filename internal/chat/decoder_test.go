package chat

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var think = Reasoning{Open: "<think>", Close: "</think>"}

// decode feeds pieces to a Decoder and joins what it gives.
func decode(t interface {
	Fatalf(string, ...any)
}, o DecoderOptions, pieces ...string) Output {
	d := NewDecoder(o)
	var all Output
	total, covered := 0, 0
	add := func(out Output) {
		if !utf8.ValidString(out.Text) || !utf8.ValidString(out.Reasoning) {
			t.Fatalf("invalid UTF-8 in %+v", out)
		}
		all.Text += out.Text
		all.Reasoning += out.Reasoning
		if out.Stop != "" {
			all.Stop = out.Stop
		}
		for _, r := range out.Runs {
			if last := len(all.Runs) - 1; last >= 0 && all.Runs[last].Kind == r.Kind {
				all.Runs[last].Bytes += r.Bytes
			} else {
				all.Runs = append(all.Runs, r)
			}
			covered += r.Bytes
		}
	}
	for _, p := range pieces {
		total += len(p)
		add(d.Write([]byte(p)))
		if covered > total {
			t.Fatalf("runs cover %d of %d bytes", covered, total)
		}
	}
	add(d.Close())
	if covered != total {
		t.Fatalf("runs cover %d of %d bytes", covered, total)
	}
	return all
}

func TestDecoder(t *testing.T) {
	harmony := Reasoning{Channels: true}
	tests := []struct {
		name   string
		o      DecoderOptions
		in     []string
		text   string
		reason string
		stop   string
	}{
		{name: "plain", in: []string{"Hello ", "world"}, text: "Hello world"},
		{name: "no reasoning format", in: []string{"<think>a</think>b"}, text: "<think>a</think>b"},
		{name: "reasoning", o: DecoderOptions{Reasoning: think}, in: []string{"<think>\nwhy\n</think>\n\nbecause"}, reason: "why", text: "because"},
		{name: "tags straddle", o: DecoderOptions{Reasoning: think}, in: []string{"\n<", "thi", "nk>", "why", "</", "think", ">", "\n", "ok"}, reason: "why", text: "ok"},
		{name: "opened by the prompt", o: DecoderOptions{Reasoning: think, Inside: true}, in: []string{"\nwhy\n\n</think>\n\nok"}, reason: "why", text: "ok"},
		{name: "opened twice", o: DecoderOptions{Reasoning: think, Inside: true}, in: []string{"\n<think>why</think>ok"}, reason: "why", text: "ok"},
		{name: "opened by the prompt, partial tag", o: DecoderOptions{Reasoning: think, Inside: true}, in: []string{" <thi"}, reason: "<thi"},
		{name: "never closed", o: DecoderOptions{Reasoning: think}, in: []string{"<think>why\n\nreally \n"}, reason: "why\n\nreally"},
		{name: "half closed", o: DecoderOptions{Reasoning: think}, in: []string{"<think>why </thi"}, reason: "why </thi"},
		{name: "empty", o: DecoderOptions{Reasoning: think}, in: []string{"<think>\n\n</think>\n\nok"}, text: "ok"},
		{name: "only in front", o: DecoderOptions{Reasoning: think}, in: []string{"the tag <think>x</think> is"}, text: "the tag <think>x</think> is"},
		{name: "once only", o: DecoderOptions{Reasoning: think}, in: []string{"<think>a</think><think>b</think>"}, reason: "a", text: "<think>b</think>"},
		{name: "leading space of an answer stays", o: DecoderOptions{Reasoning: think}, in: []string{"\n", " <thin ice"}, text: "\n <thin ice"},
		{name: "only space", o: DecoderOptions{Reasoning: think}, in: []string{" ", "\n"}, text: " \n"},
		{name: "stop", o: DecoderOptions{Stops: []string{"END"}}, in: []string{"one EN", "D two"}, text: "one ", stop: "END"},
		{name: "no stop after all", o: DecoderOptions{Stops: []string{"END"}}, in: []string{"one EN", "E"}, text: "one ENE"},
		{name: "partial stop at the end", o: DecoderOptions{Stops: []string{"END"}}, in: []string{"one EN"}, text: "one EN"},
		{name: "stop first in output", o: DecoderOptions{Stops: []string{"a"}}, in: []string{"abc"}, stop: "a"},
		{name: "overlap", o: DecoderOptions{Stops: []string{"aab"}}, in: []string{"a", "a", "a", "b"}, text: "a", stop: "aab"},
		{name: "the one complete first", o: DecoderOptions{Stops: []string{"abcdef", "cd"}}, in: []string{"abcdef"}, text: "ab", stop: "cd"},
		{name: "the longer of two", o: DecoderOptions{Stops: []string{"d", "bcd"}}, in: []string{"abcd"}, text: "a", stop: "bcd"},
		{name: "not in the reasoning", o: DecoderOptions{Reasoning: think, Stops: []string{"\n"}}, in: []string{"<think>a\nb</think>\nc\nd"}, reason: "a\nb", text: "c", stop: "\n"},
		{name: "emoji in two", in: []string{"a\xf0\x9f", "\x98\x80b"}, text: "a😀b"},
		{name: "cut emoji", in: []string{"a\xf0\x9f\x98"}, text: "a\ufffd"},
		{name: "broken bytes", in: []string{"\xff\xc0\xe2\x82z\xed\xa0\x80"}, text: "\ufffd\ufffd\ufffdz\ufffd\ufffd\ufffd"},
		{name: "stop cuts a character", o: DecoderOptions{Stops: []string{"x"}}, in: []string{"a\xf0\x9fx"}, text: "a\ufffd", stop: "x"},
		{name: "channels", o: DecoderOptions{Reasoning: harmony}, in: []string{"<|channel|>analysis<|mess", "age|>why<|end|><|start|>assistant<|channel|>final<|message|>ok<|return|>"}, reason: "why", text: "ok"},
		{name: "channels without end marks", o: DecoderOptions{Reasoning: harmony}, in: []string{"<|channel|>analysis<|message|>why<|start|>assistant<|channel|>final<|message|>ok"}, reason: "why", text: "ok"},
		{name: "channels, none used", o: DecoderOptions{Reasoning: harmony}, in: []string{"a < b <| c"}, text: "a < b <| c"},
		{name: "channels, cut in the analysis", o: DecoderOptions{Reasoning: harmony}, in: []string{"<|channel|>analysis<|message|>why<|st"}, reason: "why<|st"},
		{name: "channels with a stop", o: DecoderOptions{Reasoning: harmony, Stops: []string{"y"}}, in: []string{"<|channel|>analysis<|message|>why<|start|>assistant<|channel|>final<|message|>only"}, reason: "why", text: "onl", stop: "y"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := decode(t, tt.o, tt.in...)
			got.Runs = nil
			want := Output{Text: tt.text, Reasoning: tt.reason, Stop: tt.stop}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestDecoderHoldsNoMore: what cannot become a stop any more is released at
// once.
func TestDecoderHoldsNoMore(t *testing.T) {
	d := NewDecoder(DecoderOptions{Stops: []string{"END", "\n\n"}})
	for _, step := range []struct{ in, want string }{
		{"one", "one"}, {" E", " "}, {"N", ""}, {"E", "EN"}, {"x", "Ex"}, {"\n", ""}, {"y", "\ny"},
	} {
		if got := d.Write([]byte(step.in)).Text; got != step.want {
			t.Fatalf("after %q: released %q, want %q", step.in, got, step.want)
		}
	}
}

// pieces cuts s at drawn places.
func pieces(t *rapid.T, s string) []string {
	var out []string
	for len(s) > 0 {
		n := rapid.IntRange(1, min(len(s), 7)).Draw(t, "cut")
		out = append(out, s[:n])
		s = s[n:]
	}
	return out
}

func TestDecoderAnySplit(t *testing.T) {
	fragments := []string{"<think>", "</think>", "<", "think>", "\n", " ", "a", "ab", "END", "EN", "D", "😀", "\xf0\x9f", "\xff", "é",
		channelMark, messageMark, startMark, endMark, "analysis", "final", "assistant"}
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(rapid.SampledFrom(fragments), 0, 16).Draw(t, "text"), "")
		o := DecoderOptions{
			Reasoning: rapid.SampledFrom([]Reasoning{{}, think, {Channels: true}}).Draw(t, "reasoning"),
			Inside:    rapid.Bool().Draw(t, "inside"),
			Stops:     rapid.SliceOfN(rapid.SampledFrom([]string{"END", "ab", "b", "\n\n", "😀", "aab"}), 0, 3).Draw(t, "stops"),
		}
		want := decode(t, o, text)
		if got := decode(t, o, pieces(t, text)...); !cmp.Equal(want, got) {
			t.Fatalf("split differs (-one piece +pieces)\n%s", cmp.Diff(want, got))
		}
	})
}

// TestStopsAgainstSearch compares the matcher with a search in the whole text.
func TestStopsAgainstSearch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOfN(rapid.SampledFrom([]rune("abc")), 0, 30, -1).Draw(t, "text")
		stops := rapid.SliceOfN(rapid.StringOfN(rapid.SampledFrom([]rune("abc")), 1, 4, -1), 1, 4).Draw(t, "stops")
		want, stop := text, ""
		for end := 1; end <= len(text) && stop == ""; end++ {
			for _, s := range stops {
				if strings.HasSuffix(text[:end], s) && len(s) > len(stop) {
					stop = s
				}
			}
			if stop != "" {
				want = text[:end-len(stop)]
			}
		}
		got := decode(t, DecoderOptions{Stops: stops}, pieces(t, text)...)
		if got.Text != want || got.Stop != stop {
			t.Fatalf("got %q ended by %q, want %q ended by %q", got.Text, got.Stop, want, stop)
		}
	})
}

// TestUTF8AgainstStandard: valid text passes unchanged, and invalid bytes give
// what the standard library gives for the valid parts.
func TestUTF8AgainstStandard(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := string(rapid.SliceOf(rapid.Byte()).Draw(t, "raw"))
		got := decode(t, DecoderOptions{}, pieces(t, raw)...).Text
		if utf8.ValidString(raw) && got != raw {
			t.Fatalf("valid text %q became %q", raw, got)
		}
		// Maximal subparts differ from single bytes in the number of
		// replacements only.
		squash := func(s string) string {
			return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == utf8.RuneError }), "\ufffd")
		}
		if squash(got) != squash(strings.ToValidUTF8(raw, "\ufffd")) {
			t.Fatalf("%q became %q", raw, got)
		}
	})
}

func FuzzDecoder(f *testing.F) {
	f.Add([]byte("<think>a</think>b END c"), "END", uint8(3), true)
	f.Add([]byte("\xf0\x9f\x98\x80<|channel|>analysis<|message|>x"), "x", uint8(1), false)
	f.Fuzz(func(t *testing.T, raw []byte, stop string, cut uint8, inside bool) {
		for _, r := range []Reasoning{{}, think, {Channels: true}} {
			o := DecoderOptions{Reasoning: r, Inside: inside, Stops: []string{stop, "b E"}}
			var parts []string
			for rest := string(raw); len(rest) > 0; {
				n := min(len(rest), int(cut%9)+1)
				parts = append(parts, rest[:n])
				rest = rest[n:]
			}
			want, got := decode(t, o, string(raw)), decode(t, o, parts...)
			if !cmp.Equal(want, got) {
				t.Fatal(cmp.Diff(want, got))
			}
			if stop != "" && utf8.ValidString(stop) && !strings.Contains(stop, "\ufffd") && strings.Contains(got.Text, stop) {
				t.Fatalf("text %q contains the stop %q", got.Text, stop)
			}
		}
	})
}
