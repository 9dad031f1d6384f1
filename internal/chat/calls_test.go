package chat

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func known(name string) bool { return name == "add" || name == "now" }

// read gives an answer to a reader in pieces of so many bytes.
func read(calling Calling, answer string, piece int) (string, []Call) {
	r := NewCallReader(calling, known)
	var text strings.Builder
	var calls []Call
	for len(answer) > 0 {
		n := min(piece, len(answer))
		out, found := r.Write(answer[:n])
		text.WriteString(out)
		calls = append(calls, found...)
		answer = answer[n:]
	}
	out, found := r.Close()
	text.WriteString(out)
	return text.String(), append(calls, found...)
}

func TestCallReader(t *testing.T) {
	add, now := Call{Name: "add", Arguments: `{"a":1,"b":[2,3]}`}, Call{Name: "now", Arguments: "{}"}
	for _, c := range []struct {
		name    string
		calling Calling
		answer  string
		text    string
		calls   []Call
	}{
		{"no call", CallingTagged, "Just text <tool", "Just text <tool", nil},
		{"space around text stays", CallingTagged, " \n text \n", " \n text \n", nil},
		{"tagged", CallingTagged, "Let me see.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": [2, 3]}}\n</tool_call>", "Let me see.", []Call{add}},
		{"tagged twice", CallingTagged, "<tool_call>{\"name\":\"add\",\"arguments\":{\"a\":1,\"b\":[2,3]}}</tool_call>\n<tool_call>{\"name\":\"now\"}</tool_call>\n", "", []Call{add, now}},
		{"text after a call", CallingTagged, "<tool_call>{\"name\":\"now\"}</tool_call>\n\nDone <b", "Done <b", []Call{now}},
		{"no closing tag", CallingTagged, "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}", "", []Call{now}},
		{"cut off", CallingTagged, "So: <tool_call>\n{\"name\": \"now\", \"argu", "So:<tool_call>\n{\"name\": \"now\", \"argu", nil},
		{"unknown function", CallingTagged, "<tool_call>{\"name\":\"rm\"}</tool_call>", "<tool_call>{\"name\":\"rm\"}</tool_call>", nil},
		{"arguments in a string", CallingTagged, `<tool_call>{"name":"add","arguments":"{\"a\":1,\"b\":[2,3]}"}</tool_call>`, "", []Call{add}},
		{"arguments are a list", CallingTagged, `<tool_call>{"name":"add","arguments":[1]}</tool_call>`, `<tool_call>{"name":"add","arguments":[1]}</tool_call>`, nil},
		{"empty", CallingTagged, "<tool_call></tool_call>", "<tool_call></tool_call>", nil},
		{"marked list", CallingMarked, "Ok [TOOL_CALLS] [{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": [2, 3]}}, {\"name\": \"now\", \"arguments\": {}}]", "Ok", []Call{add, now}},
		{"marked names", CallingMarked, "[TOOL_CALLS]add[ARGS]{\"a\": 1, \"b\": [2, 3]}[TOOL_CALLS]now[CALL_ID]x1[ARGS]{}", "", []Call{add, now}},
		{"marked nonsense", CallingMarked, "[TOOL_CALLS] maybe", "[TOOL_CALLS] maybe", nil},
		{"bare", CallingBare, "\n{\"name\": \"add\", \"parameters\": {\"a\": 1, \"b\": [2, 3]}}; {\"name\": \"now\", \"parameters\": {}}", "", []Call{add, now}},
		{"bare after the tag", CallingBare, "<|python_tag|>{\"name\": \"now\", \"parameters\": null}", "", []Call{now}},
		{"bare JSON that is no call", CallingBare, `{"name": "Bob", "age": 3}`, `{"name": "Bob", "age": 3}`, nil},
		{"bare text", CallingBare, " A {\"name\": \"now\"}", " A {\"name\": \"now\"}", nil},
		{"none", CallingNone, "<tool_call>", "<tool_call>", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, piece := range []int{1, 3, 1000} {
				text, calls := read(c.calling, c.answer, piece)
				if text != c.text || !slices.Equal(calls, c.calls) {
					t.Errorf("in pieces of %d: %q, %v; want %q, %v", piece, text, calls, c.text, c.calls)
				}
			}
		})
	}
}

// What an answer begins with is read as if the model had written it.
func TestCallOpening(t *testing.T) {
	want := []Call{{Name: "add", Arguments: `{"a":1}`}}
	for _, c := range []struct {
		calling Calling
		newer   bool
		end     string
	}{
		{CallingTagged, false, "}\n</tool_call>"},
		{CallingMarked, false, "}]"},
		{CallingMarked, true, ""},
		{CallingBare, false, "}"},
	} {
		text, calls := read(c.calling, c.calling.Opening("add", c.newer)+`"a": 1}`+c.end, 5)
		if text != "" || !slices.Equal(calls, want) {
			t.Errorf("%s: %q, %v", c.calling, text, calls)
		}
		rest := `add", "arguments": {"a": 1}` + c.end
		if c.newer {
			rest = `add[ARGS]{"a": 1}`
		}
		if text, calls = read(c.calling, c.calling.Opening("", c.newer)+rest, 5); text != "" || !slices.Equal(calls, want) {
			t.Errorf("%s, any function: %q, %v", c.calling, text, calls)
		}
	}
}

func TestDetectCalling(t *testing.T) {
	for source, want := range map[string]Calling{
		ChatML: CallingNone,
		tagged: CallingTagged,
		"{% if tools %}{{ '[AVAILABLE_TOOLS]' }}{% endif %}{{ '[TOOL_CALLS]' }}":                        CallingMarked,
		`{% if tools %}{{ '{"name": NAME, ' }}{{ '"parameters": ARGS}' }}{% endif %}{{ '<|eot_id|>' }}`: CallingBare,
		"{% if tools %}<tool_call>{{ '<function=' }}</tool_call>{% endif %}":                            CallingUnknown,
		"{% if tools %}{{ '<|tool|>' }}{% endif %}":                                                     CallingUnknown,
	} {
		if got := detectCalling(source); got != want {
			t.Errorf("%s: %q, want %q", source, got, want)
		}
	}
}

// tagged is a template with tools and calls.
const tagged = `{% if tools %}{% for t in tools %}{{ t | tojson }}
{% endfor %}{% endif %}{% for m in messages %}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>{% endfor %}
{% endfor %}`

// Calls of earlier turns are shown as their model wrote them, keys in order.
func TestRenderCalls(t *testing.T) {
	template, err := Compile(context.Background(), Options{Source: tagged})
	if err != nil {
		t.Fatal(err)
	}
	out, err := template.Render(context.Background(), Input{
		Tools: []any{json.RawMessage(`{"type":"function","function":{"name":"add"}}`)},
		Messages: []Message{
			{Role: "user", Content: "1+2?"},
			{Role: "assistant", Calls: []Call{{ID: "c1", Name: "add", Arguments: `{"b":2,"a":1}`}}},
			{Role: "tool", Content: "3", ToolCallID: "c1"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"type": "function", "function": {"name": "add"}}
user: 1+2?assistant: <tool_call>
{"name": "add", "arguments": {"b": 2, "a": 1}}
</tool_call>tool: 3`
	if out != want {
		t.Errorf("%q, want %q", out, want)
	}
}

func FuzzCallReader(f *testing.F) {
	f.Add(`a <tool_call>{"name":"add","arguments":{}}</tool_call> b`, 0, 3)
	f.Add(`[TOOL_CALLS]add[ARGS]{}`, 1, 2)
	f.Add(`{"name":"now","parameters":{}}`, 2, 1)
	f.Fuzz(func(t *testing.T, answer string, calling, piece int) {
		way := []Calling{CallingTagged, CallingMarked, CallingBare}[uint(calling)%3]
		text, calls := read(way, answer, max(1, piece%8))
		whole, all := read(way, answer, len(answer)+1)
		if text != whole || !slices.Equal(calls, all) {
			t.Errorf("in pieces %q %v, at once %q %v", text, calls, whole, all)
		}
		if len(calls) == 0 && strings.Join(strings.Fields(text), "") != strings.Join(strings.Fields(answer), "") {
			t.Errorf("of %q the text is %q", answer, text)
		}
	})
}
