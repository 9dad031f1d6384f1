package request

import (
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"testing"
	"unicode/utf8"

	"github.com/skein-run/skein/internal/httpapi"
)

var seeds = []string{
	``, `[]`, `null`, `{}`, `{"model":1}`, `{"model":"m"} x`, `{"model":"m","model":"n"}`, "{\"model\":\"\xff\"}",
	`{"model":"m","messages":[{"role":"user","content":"Hi"}]}`,
	`{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"\ud800"}]},{"role":"assistant","content":null,"reasoning_content":"x"},{"role":"tool","content":"1","tool_call_id":"c"}],"stream":true,"stream_options":{"include_usage":true}}`,
	`{"model":"m","messages":[{"role":"user","content":"Hi"}],"temperature":1e999,"top_p":-0,"n":1.0,"seed":-9223372036854775808}`,
	`{"model":"m","messages":[{"role":"user","content":"Hi"}],"logit_bias":{"1":-100},"stop":["a","b"],"logprobs":true,"top_logprobs":5,"metadata":{"a":"b"}}`,
	`{"model":"m","messages":[{"role":"user","content":"Hi"}],"tools":[ ],"response_format":{"type":"text"},"chat_template_kwargs":{"a":[1,{"b":2.5}]}}`,
	`{"model":"m","prompt":"Hi","echo":true}`, `{"model":"m","prompt":["a","b"],"n":2,"best_of":2}`,
	`{"model":"m","prompt":[1,2,3],"logprobs":0}`, `{"model":"m","prompt":[[1],[2,3]],"max_tokens":5}`, `{"model":"m","prompt":[[1],"a"]}`,
}

func fuzzSeeds(f *testing.F) {
	for _, seed := range seeds {
		f.Add([]byte(seed))
	}
}

// checkDecoded holds what every accepted request and every refusal promises.
func checkDecoded(t *testing.T, body []byte, c Common, err error) {
	t.Helper()
	if err != nil {
		var e *httpapi.Error
		if !errors.As(err, &e) || e.Status != http.StatusBadRequest || e.Message == "" || e.Code == "" {
			t.Fatalf("%q: error %#v is not a full 400", body, err)
		}
		return
	}
	if !json.Valid(body) || !utf8.Valid(body) {
		t.Fatalf("%q was accepted", body)
	}
	r, s := c.Request, c.Request.Sampling
	if c.Model == "" || r.Choices < 1 || r.Choices > 16 || r.MaxTokens < 0 || len(r.Stop) > maxStops {
		t.Fatalf("%q: request %+v", body, r)
	}
	for _, in := range []struct{ v, low, high float32 }{
		{s.Temperature, 0, 2}, {s.TopP, 0, 1}, {s.MinP, 0, 1}, {s.TypicalP, 0, 1}, {s.RepeatPenalty, 0.01, maxRepeat},
		{s.FrequencyPenalty, -2, 2}, {s.PresencePenalty, -2, 2},
	} {
		if math.IsNaN(float64(in.v)) || in.v < in.low || in.v > in.high {
			t.Fatalf("%q: sampling %+v", body, s)
		}
	}
	for _, stop := range r.Stop {
		if stop == "" || !utf8.ValidString(stop) {
			t.Fatalf("%q: stop %q", body, stop)
		}
	}
}

func FuzzChat(f *testing.F) {
	fuzzSeeds(f)
	d := NewDecoder(Limits{Messages: 16384, Choices: 16, Prompts: 2048}, slog.New(slog.DiscardHandler))
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := d.Chat(body)
		checkDecoded(t, body, c.Common, err)
		if err != nil {
			return
		}
		if len(c.Request.Messages) == 0 {
			t.Fatalf("%q: no messages", body)
		}
		for _, m := range c.Request.Messages {
			if m.Role == "" || !utf8.ValidString(m.Content) {
				t.Fatalf("%q: message %+v", body, m)
			}
		}
	})
}

func FuzzCompletion(f *testing.F) {
	fuzzSeeds(f)
	d := NewDecoder(Limits{Messages: 16384, Choices: 16, Prompts: 2048}, slog.New(slog.DiscardHandler))
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := d.Completion(body)
		checkDecoded(t, body, c.Common, err)
		if err != nil {
			return
		}
		if len(c.prompts) == 0 {
			t.Fatalf("%q: no prompts", body)
		}
		for _, p := range c.prompts {
			if (p.text == nil) == (len(p.tokens) == 0) {
				t.Fatalf("%q: prompt %+v is not exactly one of text and tokens", body, p)
			}
		}
	})
}
