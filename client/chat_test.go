package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/api"
)

// stream answers with server-sent events.
func stream(t *testing.T, text string) *Client {
	t.Helper()
	return node(t, "", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		fmt.Fprint(w, text)
	})
}

func collect(c *Client, ctx context.Context) ([]ChatChunk, error) {
	var got []ChatChunk
	err := c.Chat(ctx, ChatRequest{Model: "m"}, func(chunk ChatChunk) error {
		got = append(got, chunk)
		return nil
	})
	return got, err
}

func TestChat(t *testing.T) {
	c := stream(t, `: waiting

data: {"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}

data: {"model":"m","choices":[{"delta":{"reasoning_content":"hm"}}]}

event: ignored
data: {"model":"m",
data: "choices":[{"delta":{"content":"Hé"}}]}

data:{"model":"m","choices":[{"delta":{},"finish_reason":"stop"}]}

data: {"model":"m","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":1}}}

data: [DONE]

data: after the end
`)
	got, err := collect(c, t.Context())
	if err != nil {
		t.Fatal(err)
	}
	usage := &Usage{PromptTokens: 3, CompletionTokens: 2}
	usage.PromptDetails.CachedTokens = 1
	want := []ChatChunk{
		{Model: "m"}, {Model: "m", Reasoning: "hm"}, {Model: "m", Content: "Hé"},
		{Model: "m", FinishReason: "stop"}, {Model: "m", Usage: usage},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The request holds what was set and nothing else.
func TestChatRequest(t *testing.T) {
	var body map[string]any
	c := node(t, "", func(w http.ResponseWriter, r *http.Request) {
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: [DONE]\n\n")
	})
	zero, n := 0.0, 9
	err := c.Chat(t.Context(), ChatRequest{
		Model: "m", Messages: []Message{{Role: "user", Content: "hi"}}, Temperature: &zero, MaxTokens: &n,
		TemplateArgs: map[string]any{"enable_thinking": false},
	}, func(ChatChunk) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"model": "m", "messages": []any{map[string]any{"role": "user", "content": "hi"}}, "temperature": 0.0,
		"max_completion_tokens": 9.0, "chat_template_kwargs": map[string]any{"enable_thinking": false},
		"stream": true, "stream_options": map[string]any{"include_usage": true},
	}
	if diff := cmp.Diff(want, body); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestChatFailures(t *testing.T) {
	const one = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n"
	t.Run("error event", func(t *testing.T) {
		got, err := collect(stream(t, one+`data: {"error":{"message":"the runner died","type":"server_error","param":null,"code":"x"}}`+"\n\n"), t.Context())
		var refused *api.Error
		if !errors.As(err, &refused) || refused.Message != "the runner died" || len(got) != 1 {
			t.Errorf("got %v, %v", got, err)
		}
	})
	for name, text := range map[string]string{"no end": one, "empty": "", "half an event": one + `data: {"choices`} {
		t.Run(name, func(t *testing.T) {
			if _, err := collect(stream(t, text), t.Context()); !errors.Is(err, ErrCutOff) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("broken JSON", func(t *testing.T) {
		if _, err := collect(stream(t, "data: {\n\n"), t.Context()); err == nil || errors.Is(err, ErrCutOff) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no stream", func(t *testing.T) {
		c := node(t, "", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") })
		if _, err := collect(c, t.Context()); err == nil || !strings.Contains(err.Error(), "instead of a stream") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("emit's own error", func(t *testing.T) {
		stop := errors.New("stop")
		err := stream(t, one+one).Chat(t.Context(), ChatRequest{}, func(ChatChunk) error { return stop })
		if !errors.Is(err, stop) {
			t.Errorf("got %v", err)
		}
	})
}

// Ending the context in the middle ends the request on the node too.
func TestChatCancel(t *testing.T) {
	gone := make(chan struct{})
	c := node(t, "", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		close(gone)
	})
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	err := c.Chat(ctx, ChatRequest{}, func(ChatChunk) error { cancel(cause); return nil })
	if !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
	<-gone
}

func FuzzReadEvents(f *testing.F) {
	for _, s := range []string{"data: x\n\n", "data:x\r\n\r\n", ": c\n\ndata: a\ndata: b\n\n", "data", "\n\n\n", "data: \xff\n\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		total := 0
		err := readEvents(bytes.NewReader(data), func(event []byte) error { total += len(event); return nil })
		if total > len(data) {
			t.Fatalf("%d bytes of events in %d bytes", total, len(data))
		}
		if err != nil && !errors.Is(err, ErrCutOff) && !errors.Is(err, io.EOF) {
			t.Fatalf("unexpected error %v", err)
		}
	})
}
