package generation

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	add = Tool{Name: "add", Definition: json.RawMessage(`{"type":"function","function":{"name":"add"}}`)}
	now = Tool{Name: "now", Definition: json.RawMessage(`{"type":"function","function":{"name":"now"}}`)}
)

const toolTemplate = "{% for t in tools or [] %}{{ t.function.name }},{% endfor %}{% for m in messages %}{{ m.role[0] }}:{{ m.content }}" +
	"{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.name }}</tool_call>{% endfor %}|{% endfor %}"

// call plays a request with tools and gives the text, the calls and the finish.
func call(t *testing.T, m *fakeModel, req Request) (string, []Call, string) {
	t.Helper()
	m.info.ChatTemplate = toolTemplate
	s := newService(t)
	s.options.CallID = func() string { return "ID" }
	p, err := s.Prepare(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	var calls []Call
	finish := ""
	err = s.Generate(t.Context(), m, p, req, func(e Event) error {
		text.WriteString(e.Text)
		calls = append(calls, e.Calls...)
		finish += e.FinishReason
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return text.String(), calls, finish
}

func TestCalls(t *testing.T) {
	adds, nows := Call{ID: "ID", Name: "add", Arguments: `{"a":1}`}, Call{ID: "ID", Name: "now", Arguments: "{}"}
	both := []string{"So", "\n<tool", "_call>", `{"name":"add",`, ` "arguments":{"a":1}}`, "</tool_call>", "\n", `<tool_call>{"name":"now"}</tool_call>`}
	tools := []Tool{add, now}
	for _, c := range []struct {
		name   string
		script script
		req    Request
		text   string
		calls  []Call
		finish string
	}{
		{"two", script{pieces: both}, Request{Tools: tools}, "So", []Call{adds, nows}, FinishCalls},
		{"two at once", script{pieces: both, atOnce: true}, Request{Tools: tools}, "So", []Call{adds, nows}, FinishCalls},
		{"one only", script{pieces: both}, Request{Tools: tools, OneCall: true}, "So", []Call{adds}, FinishCalls},
		{"one only, at once", script{pieces: both, atOnce: true}, Request{Tools: tools, OneCall: true}, "So", []Call{adds}, FinishCalls},
		{"of another function", script{pieces: both[:6]}, Request{Tools: []Tool{now}}, `So<tool_call>{"name":"add", "arguments":{"a":1}}</tool_call>`, nil, FinishStop},
		{"no tools", script{pieces: both[:6]}, Request{}, "So\n" + `<tool_call>{"name":"add", "arguments":{"a":1}}</tool_call>`, nil, FinishStop},
		{"none", script{pieces: []string{"So"}}, Request{Tools: tools}, "So", nil, FinishStop},
		{"cut off", script{pieces: both}, Request{Tools: tools, MaxTokens: 4}, `So<tool_call>{"name":"add",`, nil, FinishLength},
		{"a call, then cut off", script{pieces: both}, Request{Tools: tools, MaxTokens: 7}, "So", []Call{adds}, FinishLength},
		{"must", script{pieces: []string{`add", "arguments": `, `{"a": 1}}`}}, Request{Tools: tools, MustCall: true}, "", []Call{adds}, FinishCalls},
		{"must, this one", script{pieces: []string{`"a": `, `1}}`}}, Request{Tools: tools, MustCall: true, CallName: "add", OneCall: true}, "", []Call{adds}, FinishCalls},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.req.Messages = hi
			text, calls, finish := call(t, newFake(c.script), c.req)
			if diff := cmp.Diff(c.calls, calls); diff != "" || text != c.text || finish != c.finish {
				t.Errorf("text %q, finish %s, calls (-want +got):\n%s", text, finish, diff)
			}
		})
	}
}

// A vocabulary may hold the marks as control tokens, which show no text. They
// are marks only where there may be calls.
func TestCallMarkup(t *testing.T) {
	pieces := []string{"<tool_call>", `{"name":"now"}`, "</tool_call>"}
	for _, tools := range [][]Tool{{now}, nil} {
		m := newFake(script{pieces: pieces})
		m.special["<tool_call>"], m.special["</tool_call>"] = 500, 501
		text, calls, _ := call(t, m, Request{Messages: hi, Tools: tools})
		if tools != nil && (text != "" || len(calls) != 1) || tools == nil && text != `{"name":"now"}` {
			t.Errorf("%d tools: text %q, calls %v", len(tools), text, calls)
		}
	}
}

func TestCallPrompt(t *testing.T) {
	asked := []Message{hi[0], {Role: "assistant", Calls: []Call{{Name: "now", Arguments: "{}"}}}, {Role: "tool", Content: "8", ToolCallID: "1"}}
	for want, req := range map[string]Request{
		"u:Hi|":         {Messages: hi},
		"u:Hi|a:Hel":    {Messages: []Message{hi[0], {Role: "assistant", Content: "Hel"}}},
		"u:Hi|a:|":      {Messages: []Message{hi[0], {Role: "assistant"}}},
		"add,now,u:Hi|": {Messages: hi, Tools: []Tool{add, now}},
		"now,u:Hi|a:<tool_call>now</tool_call>|t:8|":                 {Messages: asked, Tools: []Tool{now}},
		"now,u:Hi|<tool_call>\n{\"name\": \"":                        {Messages: hi, Tools: []Tool{now}, MustCall: true},
		"now,u:Hi|<tool_call>\n{\"name\": \"now\", \"arguments\": {": {Messages: hi, Tools: []Tool{now}, MustCall: true, CallName: "now"},
	} {
		m := newFake(script{})
		call(t, m, req)
		if got := m.texts[len(m.texts)-1]; got != want {
			t.Errorf("tokenized %q, want %q", got, want)
		}
	}
}

// A model that must call does not think first.
func TestCallAfterThinking(t *testing.T) {
	m := newFake(script{pieces: []string{"}}"}})
	s := newService(t)
	m.info.ChatTemplate = toolTemplate + "{{ '<think>\n' }}"
	p, err := s.Prepare(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	var calls []Call
	err = s.Generate(t.Context(), m, p, Request{Messages: hi, Tools: []Tool{now}, MustCall: true, CallName: "now"}, func(e Event) error {
		calls = append(calls, e.Calls...)
		return nil
	})
	if err != nil || len(calls) != 1 || len(calls[0].ID) != 9 {
		t.Errorf("calls %v, error %v", calls, err)
	}
	if got, want := m.texts[len(m.texts)-1], "<think>\n</think>\n\n<tool_call>\n{\"name\": \"now\", \"arguments\": {"; !strings.HasSuffix(got, want) {
		t.Errorf("tokenized %q, which does not end with %q", got, want)
	}
}

// Tools that the model would not hear of are refused, not dropped.
func TestToolsRefused(t *testing.T) {
	calls := []Message{hi[0], {Role: "assistant", Calls: []Call{{Name: "now", Arguments: "{}"}}}}
	for _, c := range []struct {
		template, param string
		kind            Kind
		req             Request
	}{
		{"{{ messages[0].content }}", "tools", KindUnsupported, Request{Messages: hi, Tools: []Tool{now}}},
		{"{{ messages[0].content }}{% if tools %}<tool_call><function=x></tool_call>{% endif %}", "tools", KindUnsupported, Request{Messages: hi, Tools: []Tool{now}}},
		{"{{ messages[0].content }}", "messages[1].tool_calls", KindUnsupported, Request{Messages: calls}},
		{toolTemplate, "tools", KindInvalid, Request{Prompt: prompt("x"), Tools: []Tool{now}}},
		{toolTemplate, "tool_choice", KindInvalid, Request{Messages: hi, MustCall: true}},
	} {
		m := newFake(script{})
		m.info.ChatTemplate = c.template
		s := newService(t)
		p, err := s.Prepare(context.Background(), m)
		if err != nil {
			t.Fatal(err)
		}
		var refused *Error
		err = s.Generate(t.Context(), m, p, c.req, func(Event) error { return nil })
		if !errors.As(err, &refused) || refused.Kind != c.kind || refused.Param != c.param || len(m.requests) != 0 {
			t.Errorf("%s: %v (%+v), want %s", c.template, err, refused, c.param)
		}
	}
}
