package openai_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	sdk "github.com/openai/openai-go/v3"

	"github.com/skein-run/skein/internal/generation"
)

const (
	weather  = `{"type":"function","function":{"name":"weather","description":"Of a city","parameters":{"type":"object","properties":{"z":{},"a":{}}},"strict":true}}`
	now      = `{"type":"function","function":{"name":"now"}}`
	question = `{"model":"demo","messages":[{"role":"user","content":"Hi"}]`
)

// What clients send, as they were seen to, becomes a neutral request.
func TestTools(t *testing.T) {
	w := generation.Tool{Name: "weather", Definition: json.RawMessage(weather)}
	n := generation.Tool{Name: "now", Definition: json.RawMessage(now)}
	for fields, change := range map[string]func(r *generation.Request){
		`"tools":[` + weather + `,` + now + `],"tool_choice":"auto"`: func(r *generation.Request) {
			r.Tools = []generation.Tool{w, n}
		},
		`"tools":[` + weather + `],"parallel_tool_calls":false`: func(r *generation.Request) {
			r.Tools, r.OneCall = []generation.Tool{w}, true
		},
		`"tools":[` + weather + `],"tool_choice":"none"`: func(*generation.Request) {},
		`"tools":[` + weather + `,` + now + `],"tool_choice":"required"`: func(r *generation.Request) {
			r.Tools, r.MustCall = []generation.Tool{w, n}, true
		},
		`"tools":[` + now + `],"tool_choice":"required"`: func(r *generation.Request) {
			r.Tools, r.MustCall, r.CallName = []generation.Tool{n}, true, "now"
		},
		`"tools":[` + weather + `,` + now + `],"tool_choice":{"type":"function","function":{"name":"now"}}`: func(r *generation.Request) {
			r.Tools, r.MustCall, r.OneCall, r.CallName = []generation.Tool{w, n}, true, true, "now"
		},
		`"messages":[{"role":"user","content":"Hi"},
			{"role":"assistant","content":null,"tool_calls":[{"id":"call_1","index":0,"type":"function","function":{"name":"weather","arguments":"{\"a\": 1}"}},{"id":"2","type":"function","function":{"name":"now","arguments":""}}]},
			{"role":"tool","content":"18","tool_call_id":"call_1"}]`: func(r *generation.Request) {
			r.Messages = []generation.Message{
				{Role: "user", Content: "Hi"},
				{Role: "assistant", Calls: []generation.Call{{ID: "call_1", Name: "weather", Arguments: `{"a": 1}`}, {ID: "2", Name: "now", Arguments: "{}"}}},
				{Role: "tool", Content: "18", ToolCallID: "call_1"},
			}
		},
	} {
		want := base()
		want.Messages, want.ID = []generation.Message{{Role: "user", Content: "Hi"}}, "chatcmpl-ID"
		change(&want)
		engine := newFake()
		if w := post(newHandler(t, engine), "/v1/chat/completions", question+`,`+fields+`}`); w.Code != 200 {
			t.Errorf("%s: status %d: %s", fields, w.Code, w.Body)
			continue
		}
		if diff := cmp.Diff(want, engine.last(t)); diff != "" {
			t.Errorf("%s: request (-want +got):\n%s", fields, diff)
		}
	}
}

func TestToolsRefused(t *testing.T) {
	named := func(name string) string { return `{"type":"function","function":{"name":"` + name + `"}}` }
	for fields, want := range map[string]struct{ param, code, says string }{
		`"tools":{}`:                                                            {"tools", "invalid_type", "an array"},
		`"tools":["f"]`:                                                         {"tools[0]", "invalid_type", "an object"},
		`"tools":[{"function":{"name":"f"}}]`:                                   {"tools[0].type", "missing_required_parameter", "function"},
		`"tools":[{"type":"custom","custom":{}}]`:                               {"tools[0].type", "unsupported_parameter", "functions only"},
		`"tools":[{"type":"function"}]`:                                         {"tools[0].function", "missing_required_parameter", "name"},
		`"tools":[{"type":"function","function":{}}]`:                           {"tools[0].function.name", "missing_required_parameter", "name"},
		`"tools":[` + named("a b") + `]`:                                        {"tools[0].function.name", "invalid_value", "letters"},
		`"tools":[` + named(strings.Repeat("f", 65)) + `]`:                      {"tools[0].function.name", "invalid_value", "64"},
		`"tools":[` + now + `,` + now + `]`:                                     {"tools", "invalid_value", "now"},
		`"tools":[{"type":"function","function":{"name":"f","parameters":[]}}]`: {"tools[0].function.parameters", "invalid_type", "schema"},
		`"tools":[` + strings.Repeat(now+",", 128) + now + `]`:                  {"tools", "array_above_max_length", "128"},
		`"tools":[` + now + `],"tool_choice":"maybe"`:                           {"tool_choice", "invalid_value", "required"},
		`"tools":[` + now + `],"tool_choice":1`:                                 {"tool_choice", "invalid_type", "a string or an object"},
		`"tools":[` + now + `],"tool_choice":{"type":"allowed_tools"}`:          {"tool_choice.type", "unsupported_parameter", "allowed_tools"},
		`"tools":[` + now + `],"tool_choice":{"type":"function"}`:               {"tool_choice.function", "missing_required_parameter", "name"},
		`"tools":[` + now + `],"tool_choice":` + named("other"):                 {"tool_choice.function.name", "invalid_value", "none of tools"},
		`"tools":[` + now + `],"parallel_tool_calls":1`:                         {"parallel_tool_calls", "invalid_type", "true or false"},
		`"messages":[{"role":"assistant","tool_calls":[{"type":"function","function":{"name":"f","arguments":"[1]"}}]}]`: {"messages[0].tool_calls[0].function.arguments", "invalid_value", "JSON object"},
		`"messages":[{"role":"assistant","tool_calls":5}]`:                                                               {"messages[0].tool_calls", "invalid_type", "an array"},
	} {
		engine := newFake()
		w := post(newHandler(t, engine), "/v1/chat/completions", question+`,`+fields+`}`)
		var body struct {
			Error struct{ Message, Param, Code string }
		}
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
			t.Fatal(err)
		}
		e := body.Error
		if w.Code != 400 || e.Param != want.param || e.Code != want.code || !strings.Contains(e.Message, want.says) || engine.count() != 0 {
			t.Errorf("%.80s: status %d, %+v, want %+v", fields, w.Code, e, want)
		}
	}
}

func callsThings() *fakeEngine {
	engine := newFake()
	engine.generate = script(
		generation.Event{Text: "Let me see."},
		generation.Event{Calls: []generation.Call{{ID: "A1", Name: "weather", Arguments: `{"a":"Rome \"x\""}`}}},
		generation.Event{Calls: []generation.Call{{ID: "A2", Name: "now", Arguments: "{}"}}},
		generation.Event{FinishReason: generation.FinishCalls, Usage: &generation.Usage{PromptTokens: 1, CompletionTokens: 2}},
	)
	return engine
}

// The official client finds the calls, and may send them back as they are.
func TestSDKCalls(t *testing.T) {
	engine := callsThings()
	client := newClient(t, engine)
	tools := func(p *sdk.ChatCompletionNewParams) {
		p.Tools = []sdk.ChatCompletionToolUnionParam{sdk.ChatCompletionFunctionTool(sdk.FunctionDefinitionParam{Name: "weather"})}
	}
	answer, err := client.Chat.Completions.New(t.Context(), ask(tools))
	if err != nil {
		t.Fatal(err)
	}
	checkCalls(t, answer.Choices[0])
	if _, err = client.Chat.Completions.New(t.Context(), ask(tools, func(p *sdk.ChatCompletionNewParams) {
		p.Messages = append(p.Messages, answer.Choices[0].Message.ToParam(), sdk.ToolMessage("18", "A1"))
	})); err != nil {
		t.Error(err)
	}

	stream := client.Chat.Completions.NewStreaming(t.Context(), ask(tools))
	var all sdk.ChatCompletionAccumulator
	for stream.Next() {
		if !all.AddChunk(stream.Current()) {
			t.Fatalf("chunk does not fit: %s", stream.Current().RawJSON())
		}
	}
	if stream.Err() != nil {
		t.Fatal(stream.Err())
	}
	checkCalls(t, all.Choices[0])
}

func checkCalls(t *testing.T, c sdk.ChatCompletionChoice) {
	t.Helper()
	calls := c.Message.ToolCalls
	if c.FinishReason != "tool_calls" || c.Message.Content != "Let me see." || len(calls) != 2 || calls[0].ID != "A1" ||
		calls[0].Function.Name != "weather" || calls[0].Function.Arguments != `{"a":"Rome \"x\""}` || calls[1].Function.Name != "now" {
		t.Errorf("finish %q, content %q, calls %+v", c.FinishReason, c.Message.Content, calls)
	}
}
