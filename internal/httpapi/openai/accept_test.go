package openai_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/httpapi/openai"
	"github.com/skein-run/skein/internal/runner/wire"
)

// base is what a request without parameters asks of the engine.
func base() generation.Request {
	return generation.Request{Model: "demo", Choices: 1, Sampling: wire.NeutralSampling()}
}

// TestAcceptedParameters: each makes the difference in the neutral request that
// it should, and nothing else.
func TestAcceptedParameters(t *testing.T) {
	unchanged := func(*generation.Request) {}
	for fields, change := range map[string]func(r *generation.Request){
		`"n":1`:                                    unchanged,
		`"temperature":0`:                          func(r *generation.Request) { r.Sampling.Temperature = 0 },
		`"temperature":2`:                          func(r *generation.Request) { r.Sampling.Temperature = 2 },
		`"temperature":null`:                       unchanged,
		`"temperature":2,"temperature":0.5`:        func(r *generation.Request) { r.Sampling.Temperature = 0.5 },
		`"top_p":0.25`:                             func(r *generation.Request) { r.Sampling.TopP = 0.25 },
		`"top_k":40`:                               func(r *generation.Request) { r.Sampling.TopK = 40 },
		`"top_k":4e1`:                              func(r *generation.Request) { r.Sampling.TopK = 40 },
		`"top_k":40.0`:                             func(r *generation.Request) { r.Sampling.TopK = 40 },
		`"min_p":0.5`:                              func(r *generation.Request) { r.Sampling.MinP = 0.5 },
		`"typical_p":0.5`:                          func(r *generation.Request) { r.Sampling.TypicalP = 0.5 },
		`"repeat_penalty":1.5`:                     func(r *generation.Request) { r.Sampling.RepeatPenalty = 1.5 },
		`"repetition_penalty":1.5`:                 func(r *generation.Request) { r.Sampling.RepeatPenalty = 1.5 },
		`"repeat_last_n":-1`:                       func(r *generation.Request) { r.Sampling.RepeatLastN = -1 },
		`"frequency_penalty":-2`:                   func(r *generation.Request) { r.Sampling.FrequencyPenalty = -2 },
		`"presence_penalty":2`:                     func(r *generation.Request) { r.Sampling.PresencePenalty = 2 },
		`"seed":0`:                                 func(r *generation.Request) { r.SeedSet = true },
		`"seed":-1`:                                func(r *generation.Request) { r.SeedSet, r.Sampling.Seed = true, 1<<64-1 },
		`"seed":9223372036854775807`:               func(r *generation.Request) { r.SeedSet, r.Sampling.Seed = true, 1<<63-1 },
		`"logit_bias":{"5":-100,"7":0.5}`:          func(r *generation.Request) { r.Sampling.LogitBias = map[int32]float32{5: -100, 7: 0.5} },
		`"logit_bias":{}`:                          unchanged,
		`"n":16`:                                   func(r *generation.Request) { r.Choices = 16 },
		`"max_tokens":7`:                           func(r *generation.Request) { r.MaxTokens = 7 },
		`"max_completion_tokens":7`:                func(r *generation.Request) { r.MaxTokens = 7 },
		`"max_tokens":7,"max_completion_tokens":7`: func(r *generation.Request) { r.MaxTokens = 7 },
		`"stop":"END"`:                             func(r *generation.Request) { r.Stop = []string{"END"} },
		`"stop":["a","é"]`:                         func(r *generation.Request) { r.Stop = []string{"a", "é"} },
		`"stop":[]`:                                unchanged,
		`"stop":null`:                              unchanged,
		`"ignore_eos":true`:                        func(r *generation.Request) { r.IgnoreEnd = true },
		`"user":"me","safety_identifier":"x","prompt_cache_key":"y","metadata":{"a":"b"}`: unchanged,
		`"model":"DEMO"`: unchanged,
		`"tools":[],"functions":[ ],"tool_choice":"none","function_call":"auto","parallel_tool_calls":true`:   unchanged,
		`"response_format":{"type":"text"},"modalities":["text"],"store":false,"verbosity":"medium"`:          unchanged,
		`"service_tier":"default","prompt_cache_retention":"in_memory","suffix":"","audio":null,"tools":null`: unchanged,
		`"stream":true,"stream_options":{"include_obfuscation":false,"include_usage":null}`:                   unchanged,
		`"stream_options":null`:      unchanged,
		`"something_else":{"a":[1]}`: unchanged,
	} {
		t.Run(fields, func(t *testing.T) {
			want := base()
			want.Messages, want.ID = []generation.Message{{Role: "user", Content: "Hi"}}, "chatcmpl-ID"
			want.Progress = strings.Contains(fields, `"stream":true`) // for exo's clients
			change(&want)
			engine := newFake()
			if w := post(newHandler(t, engine), "/v1/chat/completions", `{"model":"demo","messages":[{"role":"user","content":"Hi"}],`+fields+`}`); w.Code != 200 {
				t.Fatalf("status %d: %s", w.Code, w.Body)
			}
			if diff := cmp.Diff(want, engine.last(t)); diff != "" {
				t.Errorf("chat request (-want +got):\n%s", diff)
			}

			want.Messages, want.ID, want.Progress = nil, "cmpl-ID", false
			prompt := "Hi"
			want.Prompt = &prompt
			if want.MaxTokens == 0 {
				want.MaxTokens = 16
			}
			engine = newFake()
			if w := post(newHandler(t, engine), "/v1/completions", `{"model":"demo","prompt":"Hi",`+fields+`}`); w.Code != 200 {
				t.Fatalf("status %d: %s", w.Code, w.Body)
			}
			if diff := cmp.Diff(want, engine.last(t)); diff != "" {
				t.Errorf("text request (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAcceptedChat(t *testing.T) {
	hi := []generation.Message{{Role: "user", Content: "Hi"}}
	const user = `"messages":[{"role":"user","content":"Hi"}]`
	for fields, change := range map[string]func(r *generation.Request){
		`"messages":[
			{"role":"system","content":"Be brief."},
			{"role":"developer","content":"In verse.","name":"dev"},
			{"role":"user","content":[{"type":"text","text":"Hel"},{"type":"text","text":"lo"}],"name":"Ann"},
			{"role":"assistant","content":null,"reasoning_content":"Hm.","refusal":null,"annotations":[],"audio":null,"function_call":null,"tool_calls":[]},
			{"role":"tool","content":"42","tool_call_id":"call_1"},
			{"role":"user","content":""}]`: func(r *generation.Request) {
			r.Messages = []generation.Message{
				{Role: "system", Content: "Be brief."},
				{Role: "developer", Content: "In verse.", Name: "dev"},
				{Role: "user", Content: "Hel\nlo", Name: "Ann"},
				{Role: "assistant", ReasoningContent: "Hm."},
				{Role: "tool", Content: "42", ToolCallID: "call_1"},
				{Role: "user"},
			}
		},
		`"messages":[{"role":"user","content":"\u00e9\ud83d\ude00\u0000\n\"","what":"?"}]`: func(r *generation.Request) {
			r.Messages = []generation.Message{{Role: "user", Content: "é😀\x00\n\""}}
		},
		user + `,"logprobs":true`:                   func(r *generation.Request) { r.Logprobs = true },
		user + `,"logprobs":true,"top_logprobs":20`: func(r *generation.Request) { r.Logprobs, r.TopLogprobs = true, 20 },
		user + `,"logprobs":false`:                  func(*generation.Request) {},
		user + `,"reasoning_effort":"medium"`:       func(*generation.Request) {},
		user + `,"chat_template_kwargs":{"enable_thinking":false,"x":[1,2.5,{"a":1e400}],"s":"t","n":null}`: func(r *generation.Request) {
			r.TemplateArgs = map[string]any{
				"enable_thinking": false, "s": "t", "n": nil,
				"x": []any{int64(1), 2.5, map[string]any{"a": "1e400"}},
			}
		},
		user + `,"model":"org/thinker-gguf","reasoning_effort":"none"`: func(r *generation.Request) {
			r.Model, r.TemplateArgs = "org/Thinker-GGUF", map[string]any{"enable_thinking": false}
		},
		user + `,"model":"org/thinker-gguf","reasoning_effort":"low"`: func(r *generation.Request) {
			r.Model, r.TemplateArgs = "org/Thinker-GGUF", map[string]any{"enable_thinking": true}
		},
		user + `,"model":"org/thinker-gguf","reasoning_effort":"low","chat_template_kwargs":{"enable_thinking":false}`: func(r *generation.Request) {
			r.Model, r.TemplateArgs = "org/Thinker-GGUF", map[string]any{"enable_thinking": false}
		},
		user + `,"enable_thinking":false`: func(r *generation.Request) {
			r.TemplateArgs = map[string]any{"enable_thinking": false}
		},
		user + `,"enable_thinking":true,"chat_template_kwargs":{"enable_thinking":false}`: func(r *generation.Request) {
			r.TemplateArgs = map[string]any{"enable_thinking": false}
		},
		user + `,"model":"harmony","reasoning_effort":"high"`: func(r *generation.Request) {
			r.Model, r.TemplateArgs = "harmony", map[string]any{"reasoning_effort": "high"}
		},
	} {
		t.Run(fields[len(fields)-min(len(fields), 70):], func(t *testing.T) {
			want := base()
			want.Messages, want.ID = hi, "chatcmpl-ID"
			change(&want)
			engine := newFake()
			if w := post(newHandler(t, engine), "/v1/chat/completions", `{"model":"demo",`+fields+`}`); w.Code != 200 {
				t.Fatalf("status %d: %s", w.Code, w.Body)
			}
			if diff := cmp.Diff(want, engine.last(t)); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAcceptedText(t *testing.T) {
	for fields, change := range map[string]func(r *generation.Request){
		`"prompt":""`:                    func(r *generation.Request) { r.Prompt = new(string) },
		`"prompt":[5,0,7]`:               func(r *generation.Request) { r.Tokens = []int32{5, 0, 7} },
		`"prompt":[[5]]`:                 func(r *generation.Request) { r.Tokens = []int32{5} },
		`"prompt":[5],"echo":true`:       func(r *generation.Request) { r.Tokens, r.Echo = []int32{5}, true },
		`"prompt":[5],"logprobs":0`:      func(r *generation.Request) { r.Tokens, r.Logprobs = []int32{5}, true },
		`"prompt":[5],"logprobs":5`:      func(r *generation.Request) { r.Tokens, r.Logprobs, r.TopLogprobs = []int32{5}, true, 5 },
		`"prompt":[5],"best_of":1`:       func(r *generation.Request) { r.Tokens = []int32{5} },
		`"prompt":[5],"best_of":2,"n":2`: func(r *generation.Request) { r.Tokens, r.Choices = []int32{5}, 2 },
	} {
		t.Run(fields, func(t *testing.T) {
			want := base()
			want.MaxTokens, want.ID = 16, "cmpl-ID"
			change(&want)
			engine := newFake()
			if w := post(newHandler(t, engine), "/v1/completions", `{"model":"demo",`+fields+`}`); w.Code != 200 {
				t.Fatalf("status %d: %s", w.Code, w.Body)
			}
			if diff := cmp.Diff(want, engine.last(t)); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSeveralPrompts: choice c of prompt p has index p*n+c, streamed or not,
// in whatever order the prompts are done.
func TestSeveralPrompts(t *testing.T) {
	const prompts, n = 9, 2
	engine := newFake()
	engine.generate = func(ctx context.Context, req generation.Request, emit func(generation.Event) error) error {
		for choice := range req.Choices {
			ev := generation.Event{Choice: choice, Text: fmt.Sprintf("%s%d", *req.Prompt, choice), FinishReason: generation.FinishStop}
			if choice == req.Choices-1 {
				ev.Usage = &generation.Usage{PromptTokens: 1, CompletionTokens: 2}
			}
			if err := emit(ev); err != nil {
				return err
			}
		}
		return nil
	}
	var list, want []string
	for p := range prompts {
		list = append(list, fmt.Sprintf(`"p%d."`, p))
		for c := range n {
			want = append(want, fmt.Sprintf(`"index":%d,"text":"p%d.%d"`, p*n+c, p, c))
		}
	}
	for _, stream := range []string{"false", "true"} {
		w := post(newHandler(t, engine), "/v1/completions", `{"model":"demo","n":2,"prompt":[`+strings.Join(list, ",")+`],"stream":`+stream+`}`)
		for _, part := range want {
			if !strings.Contains(w.Body.String(), part) {
				t.Errorf("stream %s: the answer lacks %s", stream, part)
			}
		}
		if stream == "false" && !strings.Contains(w.Body.String(), `"prompt_tokens":9,"completion_tokens":18,"total_tokens":27`) {
			t.Errorf("usage is not the sum: %s", w.Body)
		}
	}
}

// When one prompt fails the request fails with its error and the others end.
func TestOnePromptFails(t *testing.T) {
	engine := newFake()
	engine.generate = func(ctx context.Context, req generation.Request, _ func(generation.Event) error) error {
		if *req.Prompt == "bad" {
			return &generation.Error{Kind: generation.KindBusy, Message: "64 requests wait already", RetryAfter: 3}
		}
		<-ctx.Done()
		return ctx.Err()
	}
	w := post(newHandler(t, engine), "/v1/completions", `{"model":"demo","prompt":["a","b","bad","c","d","e","f"]}`)
	if w.Code != 429 || w.Header().Get("Retry-After") != "3" {
		t.Errorf("status %d, Retry-After %q: %s", w.Code, w.Header().Get("Retry-After"), w.Body)
	}
}

func TestEngineErrors(t *testing.T) {
	for _, test := range []struct {
		err        error
		status     int
		code       string
		param      string
		retryAfter string
		noRetry    bool
		says       string
	}{
		{&generation.Error{Kind: generation.KindInvalid, Message: "token 99 is not in the vocabulary", Param: "prompt"}, 400, "invalid_value", "prompt", "", false, "token 99"},
		{&generation.Error{Kind: generation.KindContextExceeded, PromptTokens: 3000, Context: 2048}, 400, "context_length_exceeded", "<null>", "", false, "3000 tokens, the model's context is 2048"},
		{&generation.Error{Kind: generation.KindModelNotFound, Message: "gone"}, 404, "model_not_found", "model", "", false, "gone"},
		{&generation.Error{Kind: generation.KindAmbiguousModel, Message: "a or b"}, 409, "ambiguous_model", "model", "", true, "a or b"},
		{&generation.Error{Kind: generation.KindBusy, Message: "queue is full", RetryAfter: 7}, 429, "rate_limit_exceeded", "<null>", "7", false, "queue"},
		{&generation.Error{Kind: generation.KindBusy, Message: "queue is full"}, 429, "rate_limit_exceeded", "<null>", "1", false, "queue"},
		{&generation.Error{Kind: generation.KindNoMemory, Message: "need 45.0 GB, have 30.0 GB"}, 507, "insufficient_memory", "<null>", "", true, "45.0 GB"},
		{&generation.Error{Kind: generation.KindUnavailable, Message: "the model crashed five times"}, 503, "service_unavailable", "<null>", "1", false, "crashed"},
		{&generation.Error{Kind: generation.KindFailed, Message: "the runner died"}, 500, "generation_failed", "<null>", "", false, "died"},
		{&generation.Error{Kind: "new", Message: "x"}, 500, "internal_error", "<null>", "", false, "x"},
		{fmt.Errorf("wrapped: %w", &generation.Error{Kind: generation.KindBusy, Message: "full"}), 429, "rate_limit_exceeded", "<null>", "1", false, "full"},
		{errors.New("open /secret/path: no"), 500, "internal_error", "<null>", "", false, "log"},
		{context.DeadlineExceeded, 504, "timeout", "<null>", "", false, "too long"},
	} {
		engine := newFake()
		engine.generate = func(context.Context, generation.Request, func(generation.Event) error) error { return test.err }
		for _, body := range []string{
			`{"model":"demo","messages":[{"role":"user","content":"Hi"}]}`,
			`{"model":"demo","messages":[{"role":"user","content":"Hi"}],"stream":true}`,
		} {
			w := post(newHandler(t, engine), "/v1/chat/completions", body)
			e := decodeError(t, w)
			if w.Code != test.status || text(e.Error.Code) != test.code || text(e.Error.Param) != test.param || !strings.Contains(e.Error.Message, test.says) {
				t.Errorf("%v: status %d, body %s", test.err, w.Code, w.Body)
			}
			if strings.Contains(w.Body.String(), "secret") {
				t.Errorf("the answer tells of the node's insides: %s", w.Body)
			}
			if got := w.Header().Get("Retry-After"); got != test.retryAfter {
				t.Errorf("%v: Retry-After %q, want %q", test.err, got, test.retryAfter)
			}
			if got := w.Header().Get("X-Should-Retry") == "false"; got != test.noRetry {
				t.Errorf("%v: no retry %t, want %t", test.err, got, test.noRetry)
			}
		}
	}
}

// The field at fault has the name that the endpoint gives it.
func TestErrorNamesThePrompt(t *testing.T) {
	engine := newFake()
	engine.generate = func(context.Context, generation.Request, func(generation.Event) error) error {
		return &generation.Error{Kind: generation.KindContextExceeded, Param: "messages", PromptTokens: 3, Context: 2}
	}
	for path, param := range map[string]string{"/v1/completions": "prompt", "/v1/chat/completions": "messages"} {
		w := post(newHandler(t, engine), path, `{"model":"demo","prompt":"Hi","messages":[{"role":"user","content":"Hi"}]}`)
		if e := decodeError(t, w); text(e.Error.Param) != param || text(e.Error.Code) != "context_length_exceeded" {
			t.Errorf("%s: %s", path, w.Body)
		}
	}
}

// An engine that breaks its word must not look like a good answer.
func TestEngineBreaksContract(t *testing.T) {
	usage := &generation.Usage{}
	for name, generate := range map[string]func(context.Context, generation.Request, func(generation.Event) error) error{
		"no end":     script(generation.Event{Text: "a"}, generation.Event{Usage: usage}),
		"no usage":   script(generation.Event{Text: "a", FinishReason: "stop"}),
		"nothing":    script(),
		"two ends":   script(generation.Event{FinishReason: "stop"}, generation.Event{FinishReason: "stop", Usage: usage}),
		"bad choice": script(generation.Event{Choice: 1, Text: "a", FinishReason: "stop", Usage: usage}),
	} {
		engine := newFake()
		engine.generate = generate
		w := post(newHandler(t, engine), "/v1/chat/completions", `{"model":"demo","messages":[{"role":"user","content":"Hi"}]}`)
		if w.Code != 500 {
			t.Errorf("%s: status %d: %s", name, w.Code, w.Body)
		}
		w = post(newHandler(t, engine), "/v1/chat/completions", `{"model":"demo","messages":[{"role":"user","content":"Hi"}],"stream":true}`)
		if body := w.Body.String(); !strings.Contains(body, `"error"`) || strings.Contains(body, "[DONE]") {
			t.Errorf("%s: stream ends without an error:\n%s", name, body)
		}
	}
}

func TestUnknownModel(t *testing.T) {
	for _, c := range []struct{ method, path, body string }{
		{http.MethodGet, "/v1/models/nope", ""},
		{http.MethodGet, "/v1/models/org%2Fnope", ""},
		{http.MethodPost, "/v1/chat/completions", `{"model":"nope","messages":[{"role":"user","content":"Hi"}]}`},
		{http.MethodPost, "/v1/chat/completions", `{"model":"nope","messages":[{"role":"user","content":"Hi"}],"stream":true}`},
		{http.MethodPost, "/v1/completions", `{"model":"nope","prompt":"Hi"}`},
	} {
		w := call(newHandler(t, newFake()), c.method, c.path, c.body)
		e := decodeError(t, w)
		if w.Code != 404 || text(e.Error.Code) != "model_not_found" || text(e.Error.Param) != "model" || !strings.Contains(e.Error.Message, "nearest is demo") {
			t.Errorf("%s %s: status %d: %s", c.method, c.path, w.Code, w.Body)
		}
	}
}

func TestModelPaths(t *testing.T) {
	for path, id := range map[string]string{
		"/v1/models/demo":               "demo",
		"/v1/models/Demo/":              "demo",
		"/v1/models/org/Thinker-GGUF":   "org/Thinker-GGUF",
		"/v1/models/org%2FThinker-GGUF": "org/Thinker-GGUF",
		"//v1//models/org/Thinker-GGUF": "org/Thinker-GGUF",
		"/v1/models/":                   `"object":"list"`,
	} {
		w := call(newHandler(t, newFake()), http.MethodGet, path, "")
		if w.Code != 200 || !strings.Contains(w.Body.String(), id) {
			t.Errorf("GET %s: status %d: %s", path, w.Code, w.Body)
		}
	}
}

// An unknown field is logged once, and only so many of them.
func TestStrangeFieldsAreLoggedOnce(t *testing.T) {
	var log bytes.Buffer
	h := newHandler(t, newFake(), func(o *openai.Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	send := func(fields string) {
		t.Helper()
		if w := post(h, "/v1/chat/completions", `{"model":"demo","messages":[{"role":"user","content":"Hi"}],`+fields+`}`); w.Code != 200 {
			t.Fatalf("status %d: %s", w.Code, w.Body)
		}
	}
	send(`"strange":1,"odd":null`)
	send(`"strange":2`)
	if got := strings.Count(log.String(), "\n"); got != 1 || !strings.Contains(log.String(), "field=strange") {
		t.Errorf("log has %d lines:\n%s", got, &log)
	}
	log.Reset()
	for i := range 40 {
		var fields []string
		for j := range 10 {
			fields = append(fields, fmt.Sprintf(`"f%d_%d%s":1`, i, j, strings.Repeat("x", 1000)))
		}
		send(strings.Join(fields, ","))
	}
	if got := strings.Count(log.String(), "\n"); got != 255 {
		t.Errorf("log has %d lines, want 255", got)
	}
	if log.Len() > 255*300 {
		t.Errorf("log has %d bytes: names are not clipped", log.Len())
	}
}

// Scripts made for exo ask for the models at /models too, and for those whose
// files are at hand.
func TestModelsForExo(t *testing.T) {
	engine := newFake()
	engine.models[0].Facts = openai.Facts{Bytes: 101 << 20, Tensor: true, Family: "llama", Quantization: "Q4_1", Base: "Demo"}
	engine.models[1].Facts = openai.Facts{Missing: true, TrainedContext: 4096}
	h := newHandler(t, engine)
	var all, again, here struct {
		Data []map[string]any `json:"data"`
	}
	for path, list := range map[string]any{"/models": &all, "/v1/models/": &again, "/v1/models?status=downloaded": &here} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if err := json.Unmarshal(w.Body.Bytes(), list); err != nil || w.Code != http.StatusOK {
			t.Fatalf("%s: status %d, %v", path, w.Code, err)
		}
	}
	if d := cmp.Diff(all, again); d != "" || len(all.Data) != 3 {
		t.Errorf("%d models at /models, and others at /v1/models:\n%s", len(all.Data), d)
	}
	if len(here.Data) != 2 || here.Data[0]["id"] != "demo" || here.Data[1]["id"] != "harmony" {
		t.Errorf("downloaded: %v", here.Data)
	}
	if m := all.Data[0]; m["storage_size_megabytes"] != 101.0 || m["supports_tensor"] != true || m["quantization"] != "Q4_1" || m["base_model"] != "Demo" {
		t.Errorf("got %v", m)
	}
	if all.Data[1]["context_length"] != 4096.0 {
		t.Errorf("a model that is not loaded has the context it was trained for; got %v", all.Data[1])
	}
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/models?status=loaded", nil)); w.Code != http.StatusBadRequest {
		t.Errorf("an unknown status: %d", w.Code)
	}
}
