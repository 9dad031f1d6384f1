package openai_test

import (
	"context"
	"flag"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/internal/generation"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew; read the diff before you commit it")

// thinks is a reasoning model's answer with every kind of event.
func thinks() func(context.Context, generation.Request, func(generation.Event) error) error {
	return script(
		generation.Event{},
		generation.Event{Reasoning: "Two and two"},
		generation.Event{Reasoning: " is four.\n", Text: "It "},
		generation.Event{Text: "is \"4\".\n", FinishReason: generation.FinishStop},
		generation.Event{Usage: &generation.Usage{
			PromptTokens: 20, CompletionTokens: 11, CachedTokens: 12, ReasoningTokens: 5,
			QueueSeconds: 0.0005, PrefillSeconds: 0.016, DecodeSeconds: 0.2,
		}},
	)
}

func logprobs() func(context.Context, generation.Request, func(generation.Event) error) error {
	token := func(id int32, text string, p float32, top ...generation.TokenLogprob) generation.TokenLogprob {
		return generation.TokenLogprob{Token: id, Bytes: []byte(text), Logprob: p, Top: top}
	}
	return script(
		generation.Event{Text: "Hi", Logprobs: []generation.TokenLogprob{
			token(5, "Hi", -0.25, token(5, "Hi", -0.25), token(6, "Yo", -1.5)),
		}},
		// A character of two tokens: the text comes with the second.
		generation.Event{Text: " é", Logprobs: []generation.TokenLogprob{
			token(7, " \xc3", -0.5, token(7, " \xc3", -0.5), token(8, " ", -2)),
			token(9, "\xa9", 0, token(9, "\xa9", 0), token(10, "\xa9", -12345)),
		}},
		generation.Event{Text: "!", Logprobs: []generation.TokenLogprob{token(11, "!", -3e-6, token(11, "!", -3e-6))}},
		generation.Event{FinishReason: generation.FinishLength, Usage: &generation.Usage{PromptTokens: 3, CompletionTokens: 4}},
	)
}

func TestGolden(t *testing.T) {
	const user = `"model":"demo","messages":[{"role":"user","content":"Hi"}]`
	broken := func(ctx context.Context, _ generation.Request, emit func(generation.Event) error) error {
		if err := emit(generation.Event{Text: "Hel"}); err != nil {
			return err
		}
		return &generation.Error{Kind: generation.KindFailed, Message: "the runner died (signal: killed); it is being restarted, send the request again"}
	}
	for _, test := range []struct {
		name, path, body string
		generate         func(context.Context, generation.Request, func(generation.Event) error) error
	}{
		{"models", "GET /v1/models", "", nil},
		{"model", "GET /v1/models/org/thinker-gguf", "", nil},
		{"chat", "POST /v1/chat/completions", `{` + user + `}`, nil},
		{"chat_n", "POST /v1/chat/completions", `{` + user + `,"n":2,"service_tier":"auto"}`, nil},
		{"chat_stream", "POST /v1/chat/completions", `{` + user + `,"stream":true}`, nil},
		{"chat_stream_usage", "POST /v1/chat/completions", `{` + user + `,"stream":true,"stream_options":{"include_usage":true}}`, nil},
		{"chat_stream_n", "POST /v1/chat/completions", `{` + user + `,"stream":true,"n":2,"stream_options":{"include_usage":true}}`, nil},
		{"chat_reasoning", "POST /v1/chat/completions", `{` + user + `}`, thinks()},
		{"chat_reasoning_stream", "POST /v1/chat/completions", `{` + user + `,"stream":true,"stream_options":{"include_usage":true}}`, thinks()},
		{"chat_logprobs", "POST /v1/chat/completions", `{` + user + `,"logprobs":true,"top_logprobs":2}`, logprobs()},
		{"chat_logprobs_stream", "POST /v1/chat/completions", `{` + user + `,"logprobs":true,"top_logprobs":2,"stream":true}`, logprobs()},
		{"chat_stream_broken", "POST /v1/chat/completions", `{` + user + `,"stream":true}`, broken},
		{"chat_broken", "POST /v1/chat/completions", `{` + user + `}`, broken},
		{"text", "POST /v1/completions", `{"model":"demo","prompt":"Hi"}`, nil},
		{"text_several", "POST /v1/completions", `{"model":"demo","prompt":["a","b"],"n":2}`, nil},
		{"text_stream", "POST /v1/completions", `{"model":"demo","prompt":[1,2,3],"stream":true,"stream_options":{"include_usage":true}}`, nil},
		{"text_logprobs", "POST /v1/completions", `{"model":"demo","prompt":"Hi","logprobs":2}`, logprobs()},
		{"text_logprobs_stream", "POST /v1/completions", `{"model":"demo","prompt":"Hi","logprobs":0,"stream":true}`, logprobs()},
		{"text_reasoning_stream", "POST /v1/completions", `{"model":"demo","prompt":"Hi","stream":true}`, thinks()},
		{"text_stream_broken", "POST /v1/completions", `{"model":"demo","prompt":"Hi","stream":true}`, broken},
	} {
		t.Run(test.name, func(t *testing.T) {
			engine := newFake()
			engine.generate = test.generate
			method, path, _ := strings.Cut(test.path, " ")
			got := transcript(test.path, test.body, call(newHandler(t, engine), method, path, test.body))
			file := filepath.Join("testdata", "golden", test.name+".txt")
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", file, diff)
			}
		})
	}
}

func transcript(request, body string, w *httptest.ResponseRecorder) string {
	var b strings.Builder
	b.WriteString("> " + request + "\n")
	if body != "" {
		b.WriteString("> " + body + "\n")
	}
	b.WriteString("< " + w.Result().Status + "\n< " + w.Header().Get("Content-Type") + "\n\n")
	b.WriteString(w.Body.String())
	return b.String()
}
