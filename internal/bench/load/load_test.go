package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestEvents(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     []string
		err      error
	}{
		{"two", "data: a\n\ndata: b\n\n", []string{"a", "b"}, io.EOF},
		{"carriage returns", "data: a\r\n\r\n", []string{"a"}, io.EOF},
		{"no space", "data:a\n\n", []string{"a"}, io.EOF},
		{"only one space goes", "data:  a\n\n", []string{" a"}, io.EOF},
		{"comments and other fields", ": loading\n\nevent: x\nid: 3\ndata: a\n\n", []string{"a"}, io.EOF},
		{"lines of one event", "data: a\ndata: b\n\n", []string{"a\nb"}, io.EOF},
		{"empty data", "data:\n\n", []string{""}, io.EOF},
		{"long line", "data: " + strings.Repeat("x", 100_000) + "\n\n", []string{strings.Repeat("x", 100_000)}, io.EOF},
		{"cut in an event", "data: a\n", nil, io.ErrUnexpectedEOF},
		{"cut in a line", "data: a\n\ndata: b", []string{"a"}, io.ErrUnexpectedEOF},
		{"nothing", "", nil, io.EOF},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, r := range []io.Reader{strings.NewReader(c.in), iotest.OneByteReader(strings.NewReader(c.in))} {
				e := newEventReader(r)
				var got []string
				data, err := e.next()
				for ; err == nil; data, err = e.next() {
					got = append(got, string(data))
				}
				if !errors.Is(err, c.err) {
					t.Errorf("ended with %v, want %v", err, c.err)
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

func TestEndlessEvent(t *testing.T) {
	endless := io.MultiReader(strings.NewReader("data: "), neverEnding{})
	if _, err := newEventReader(endless).next(); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("got %v, want the limit", err)
	}
}

type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) {
	return copy(p, bytes.Repeat([]byte("x"), len(p))), nil
}

func FuzzEvents(f *testing.F) {
	f.Add([]byte("data: a\n\n"))
	f.Add([]byte(": c\r\ndata: a\r\ndata\n\n\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		e := newEventReader(bytes.NewReader(in))
		total := 0
		for {
			data, err := e.next()
			if err != nil {
				return
			}
			if total += len(data); total > len(in) {
				t.Fatalf("%d bytes of data from %d bytes", total, len(in))
			}
		}
	})
}

func TestSummarize(t *testing.T) {
	for _, c := range []struct{ in, want []float64 }{
		{[]float64{3, 1, 2}, []float64{2, 1, 3}},
		{[]float64{4, 1, 2, 3}, []float64{2.5, 1, 4}},
		{[]float64{7}, []float64{7, 7, 7}},
		{nil, []float64{0, 0, 0}},
	} {
		s := Summarize(c.in)
		if diff := cmp.Diff(c.want, []float64{s.Median, s.Min, s.Max}); diff != "" {
			t.Errorf("%v: %s", c.in, diff)
		}
	}
}

// TestQuantile: as many values lie below a quantile as its name says.
func TestQuantile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Float64Range(-1e6, 1e6), 1, 50).Draw(t, "values")
		q := rapid.Float64Range(0, 1).Draw(t, "q")
		got := Quantile(values, q)
		below, above := 0, 0
		for _, v := range values {
			if v < got {
				below++
			}
			if v > got {
				above++
			}
		}
		n := float64(len(values))
		if float64(below) > q*(n-1)+1 || float64(above) > (1-q)*(n-1)+1 {
			t.Fatalf("quantile %v of %v is %v: %d below, %d above", q, values, got, below, above)
		}
	})
}

func TestRatioHasNoInfinity(t *testing.T) {
	got := Ratios([]float64{1, 2, 3}, []float64{2, 0})
	if diff := cmp.Diff([]float64{0.5, 0}, got); diff != "" {
		t.Error(diff)
	}
	if _, err := json.Marshal(Summarize(got)); err != nil {
		t.Error(err)
	}
}

// at makes a trace with texts at these milliseconds after base.
func at(base time.Time, tokens int, millis ...int) *Trace {
	t := &Trace{Sent: base, Usage: Usage{CompletionTokens: tokens}}
	for _, ms := range millis {
		t.Tokens = append(t.Tokens, base.Add(time.Duration(ms)*time.Millisecond))
	}
	t.End = t.last()
	return t
}

func TestDecodeWindow(t *testing.T) {
	base := time.Unix(1000, 0)
	// All run from 300 to 600: three texts of the first, two of the second,
	// each of which stands for two tokens.
	got, err := decoded([]*Trace{
		at(base, 7, 100, 200, 300, 400, 500, 600, 700),
		at(base, 6, 300, 450, 600),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := Decoded{Rate: (3 + 4) / 0.3, TTFT: 0.3, Coverage: 10.0 / 13, Window: 0.3, WorstGap: 0.15}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b float64) bool { return a-b < 1e-9 && b-a < 1e-9 })); diff != "" {
		t.Error(diff)
	}
	if _, err := decoded([]*Trace{at(base, 2, 100, 200), at(base, 2, 300, 400)}); err == nil || !strings.Contains(err.Error(), "as many slots") {
		t.Errorf("streams one after another: got %v", err)
	}
	if _, err := decoded([]*Trace{at(base, 5, 100)}); err == nil {
		t.Error("one text has no rate, but there is no error")
	}
}

func TestWorstGapTouchesTheWindow(t *testing.T) {
	base := time.Unix(1000, 0)
	tr := at(base, 5, 0, 100, 500, 600, 2000)
	for _, c := range []struct{ from, to, want int }{
		{150, 400, 400}, // lies within one gap
		{510, 590, 100},
		{0, 3000, 1400},
		{2500, 3000, 0},
	} {
		got := tr.worstGap(base.Add(time.Duration(c.from)*time.Millisecond), base.Add(time.Duration(c.to)*time.Millisecond))
		if got != time.Duration(c.want)*time.Millisecond {
			t.Errorf("%d..%d: %v, want %d ms", c.from, c.to, got, c.want)
		}
	}
}

// fake answers like a server; each request is handed to serve.
func fake(t *testing.T, serve func(body map[string]any, send func(string), ctx context.Context)) *Client {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body map[string]any
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body["path"] = r.URL.Path
		if body["model"] == "gone" {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"error":{"message":"no such model"}}`)
			return
		}
		serve(body, func(data string) {
			fmt.Fprintf(w, "data: %s\n\n", data)
			w.(http.Flusher).Flush()
		}, r.Context())
	}))
	t.Cleanup(server.Close)
	c, err := NewClient(server.URL+"/v1/", "m", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func text(s string) string { return fmt.Sprintf(`{"choices":[{"text":%q}]}`, s) }

const usage = `{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":4}}}`

func TestStream(t *testing.T) {
	c := fake(t, func(body map[string]any, send func(string), _ context.Context) {
		switch body["prompt"] {
		case "broken":
			send(text("a"))
			send(`{"error":{"message":"the runner died"}}`)
			return
		case "cut":
			send(text("a"))
			return
		case nil:
			if body["path"] != "/v1/chat/completions" {
				t.Errorf("messages went to %v", body["path"])
			}
			send(`{"choices":[{"delta":{"role":"assistant","content":""}}]}`)
			send(`{"choices":[{"delta":{"reasoning_content":"hm "}}]}`)
			send(`{"choices":[{"delta":{"content":"yes"},"finish_reason":null}]}`)
		default:
			if body["path"] != "/v1/completions" || body["ignore_eos"] != true || body["max_tokens"] != 3.0 || body["temperature"] != 0.0 {
				t.Errorf("request was %v", body)
			}
			send(text("a"))
			send(text(""))
			send(text("b"))
		}
		send(`{"choices":[{"text":"","finish_reason":"length"}],"usage":null}`)
		send(usage)
		send("[DONE]")
	})
	got, err := c.Stream(t.Context(), Request{Prompt: "x", MaxTokens: 3, IgnoreEnd: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.Text != "ab" || len(got.Tokens) != 2 || got.Finish != "length" || got.Usage.PromptTokens != 5 || got.Usage.CompletionTokens != 3 || got.Usage.Details.CachedTokens != 4 {
		t.Errorf("got %+v", got)
	}
	if got.TTFT() < 0 || got.first().After(got.End) || got.Sent.After(got.first()) {
		t.Errorf("times are out of order: %+v", got)
	}
	if got, err = c.Stream(t.Context(), Request{Messages: []Message{{"user", "hi"}}}, nil); err != nil || got.Text != "hm yes" || len(got.Tokens) != 2 {
		t.Errorf("chat: got %+v, %v", got, err)
	}
	if _, err = c.Stream(t.Context(), Request{Prompt: "broken"}, nil); err == nil || !strings.Contains(err.Error(), "the runner died") {
		t.Errorf("an error event gave %v", err)
	}
	if _, err = c.Stream(t.Context(), Request{Prompt: "cut"}, nil); err == nil || !strings.Contains(err.Error(), "without [DONE]") {
		t.Errorf("a cut stream gave %v", err)
	}
	c.model = "gone"
	var status *StatusError
	if _, err = c.Stream(t.Context(), Request{Prompt: "x"}, nil); !errors.As(err, &status) || status.Status != 404 || status.Message != "no such model" {
		t.Errorf("a refusal gave %v", err)
	}
}

func TestLeavingAStream(t *testing.T) {
	left := make(chan struct{})
	c := fake(t, func(_ map[string]any, send func(string), ctx context.Context) {
		for range 3 {
			send(text("a"))
		}
		<-ctx.Done()
		close(left)
	})
	got, err := c.Stream(t.Context(), Request{Prompt: "x"}, func(events int) bool { return events < 3 })
	if err != nil || got.Text != "aaa" {
		t.Errorf("got %+v, %v", got, err)
	}
	<-left
}

// TestInterrupt has streams that go on until the prompt was answered, and a
// prompt that is answered only after a pause which every stream must feel.
func TestInterrupt(t *testing.T) {
	const streams = 3
	arrived, answered := make(chan struct{}), make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Add(streams)
	c := fake(t, func(body map[string]any, send func(string), ctx context.Context) {
		if body["prompt"] == "long" {
			close(arrived)
			waiting.Wait()
			send(text("first"))
			close(answered)
			send("[DONE]")
			return
		}
		for range settled {
			send(text("a"))
		}
		<-arrived
		send(text("a"))
		waiting.Done()
		<-answered
		for ctx.Err() == nil {
			send(text("a"))
		}
	})
	requests := []Request{{Prompt: "1"}, {Prompt: "2"}, {Prompt: "3"}}
	got, err := c.Interrupt(t.Context(), requests, Request{Prompt: "long"})
	if err != nil {
		t.Fatal(err)
	}
	if got.WorstGap <= 0 || got.TTFT <= 0 {
		t.Errorf("got %+v", got)
	}
}

func TestInterrupted(t *testing.T) {
	base := time.Unix(1000, 0)
	prompt := at(base.Add(time.Second), 1, 500) // sent at 1000 ms, first token at 1500
	got, err := interrupted([]*Trace{
		at(base, 9, 700, 800, 900, 1100, 1400, 1550),
		at(base, 9, 600, 850, 1700, 1800, 4000),
	}, prompt, base.Add(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	want := Interrupted{WorstGap: 0.85, QuietGap: 0.85, TTFT: 0.5, Rate: 2 / 0.5}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := interrupted([]*Trace{at(base, 9, 700, 1400)}, prompt, base.Add(time.Second)); err == nil {
		t.Error("a stream that ended too early is taken")
	}
}

func TestInterruptNeedsRunningStreams(t *testing.T) {
	c := fake(t, func(_ map[string]any, send func(string), _ context.Context) {
		send(text("a"))
		send("[DONE]")
	})
	if _, err := c.Interrupt(t.Context(), []Request{{Prompt: "1"}}, Request{Prompt: "long"}); err == nil || !strings.Contains(err.Error(), "slots") {
		t.Errorf("streams that end at once gave %v", err)
	}
}

func TestWords(t *testing.T) {
	vocabulary := []string{"<s>", "Ġ", "Ġthe", "Ġ12", "the", "ĠThe", "Ġab"}
	for i := range 60 {
		vocabulary = append(vocabulary, fmt.Sprintf("▁wor%c%c", 'a'+i%26, 'a'+i/26))
	}
	w, err := NewWords(vocabulary)
	if err != nil || len(w) != 61 {
		t.Fatalf("%d words, %v", len(w), err)
	}
	a, again, b := w.Prompt(64, 1), w.Prompt(64, 1), w.Prompt(64, 2)
	if len(a) != 64 || !cmp.Equal(a, again) || cmp.Equal(a, b) {
		t.Errorf("prompts %v, %v, %v", a, again, b)
	}
	if _, err := NewWords(vocabulary[:8]); err == nil {
		t.Error("a vocabulary without words is taken")
	}
}
