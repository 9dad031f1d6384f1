package calls

import (
	"slices"
	"strings"
	"testing"
)

func known(name string) bool { return name == "add" || name == "now" }

// read gives an answer to a reader in pieces of so many bytes.
func read(syntax Syntax, answer string, piece int) (string, []Call) {
	r := NewReader(syntax, known)
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

func TestReader(t *testing.T) {
	add, now := Call{Name: "add", Arguments: `{"a":1,"b":[2,3]}`}, Call{Name: "now", Arguments: "{}"}
	for _, c := range []struct {
		name   string
		syntax Syntax
		answer string
		text   string
		calls  []Call
	}{
		{"no call", Tagged, "Just text <tool", "Just text <tool", nil},
		{"space around text stays", Tagged, " \n text \n", " \n text \n", nil},
		{"tagged", Tagged, "Let me see.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": [2, 3]}}\n</tool_call>", "Let me see.", []Call{add}},
		{"tagged twice", Tagged, "<tool_call>{\"name\":\"add\",\"arguments\":{\"a\":1,\"b\":[2,3]}}</tool_call>\n<tool_call>{\"name\":\"now\"}</tool_call>\n", "", []Call{add, now}},
		{"text after a call", Tagged, "<tool_call>{\"name\":\"now\"}</tool_call>\n\nDone <b", "Done <b", []Call{now}},
		{"no closing tag", Tagged, "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}", "", []Call{now}},
		{"cut off", Tagged, "So: <tool_call>\n{\"name\": \"now\", \"argu", "So:<tool_call>\n{\"name\": \"now\", \"argu", nil},
		{"unknown function", Tagged, "<tool_call>{\"name\":\"rm\"}</tool_call>", "<tool_call>{\"name\":\"rm\"}</tool_call>", nil},
		{"arguments in a string", Tagged, `<tool_call>{"name":"add","arguments":"{\"a\":1,\"b\":[2,3]}"}</tool_call>`, "", []Call{add}},
		{"arguments are a list", Tagged, `<tool_call>{"name":"add","arguments":[1]}</tool_call>`, `<tool_call>{"name":"add","arguments":[1]}</tool_call>`, nil},
		{"empty", Tagged, "<tool_call></tool_call>", "<tool_call></tool_call>", nil},
		{"marked list", Marked, "Ok [TOOL_CALLS] [{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": [2, 3]}}, {\"name\": \"now\", \"arguments\": {}}]", "Ok", []Call{add, now}},
		{"marked names", Marked, "[TOOL_CALLS]add[ARGS]{\"a\": 1, \"b\": [2, 3]}[TOOL_CALLS]now[CALL_ID]x1[ARGS]{}", "", []Call{add, now}},
		{"marked nonsense", Marked, "[TOOL_CALLS] maybe", "[TOOL_CALLS] maybe", nil},
		{"bare", Bare, "\n{\"name\": \"add\", \"parameters\": {\"a\": 1, \"b\": [2, 3]}}; {\"name\": \"now\", \"parameters\": {}}", "", []Call{add, now}},
		{"bare after the tag", Bare, "<|python_tag|>{\"name\": \"now\", \"parameters\": null}", "", []Call{now}},
		{"bare JSON that is no call", Bare, `{"name": "Bob", "age": 3}`, `{"name": "Bob", "age": 3}`, nil},
		{"bare text", Bare, " A {\"name\": \"now\"}", " A {\"name\": \"now\"}", nil},
		{"none", None, "<tool_call>", "<tool_call>", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, piece := range []int{1, 3, 1000} {
				text, calls := read(c.syntax, c.answer, piece)
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
		syntax Syntax
		newer  bool
		end    string
	}{
		{Tagged, false, "}\n</tool_call>"},
		{Marked, false, "}]"},
		{Marked, true, ""},
		{Bare, false, "}"},
	} {
		text, calls := read(c.syntax, c.syntax.Opening("add", c.newer)+`"a": 1}`+c.end, 5)
		if text != "" || !slices.Equal(calls, want) {
			t.Errorf("%s: %q, %v", c.syntax, text, calls)
		}
		rest := `add", "arguments": {"a": 1}` + c.end
		if c.newer {
			rest = `add[ARGS]{"a": 1}`
		}
		if text, calls = read(c.syntax, c.syntax.Opening("", c.newer)+rest, 5); text != "" || !slices.Equal(calls, want) {
			t.Errorf("%s, any function: %q, %v", c.syntax, text, calls)
		}
	}
}

func TestDetectCalling(t *testing.T) {
	for source, want := range map[string]Syntax{
		"{{ messages[0].content }}": None,
		"{% if tools %}{{ tools }}{% endif %}{{ '<tool_call>' }}{{ '</tool_call>' }}":                   Tagged,
		"{% if tools %}{{ '[AVAILABLE_TOOLS]' }}{% endif %}{{ '[TOOL_CALLS]' }}":                        Marked,
		`{% if tools %}{{ '{"name": NAME, ' }}{{ '"parameters": ARGS}' }}{% endif %}{{ '<|eot_id|>' }}`: Bare,
		"{% if tools %}<tool_call>{{ '<function=' }}</tool_call>{% endif %}":                            Unknown,
		"{% if tools %}{{ '<|tool|>' }}{% endif %}":                                                     Unknown,
	} {
		if got := Detect(source); got != want {
			t.Errorf("%s: %q, want %q", source, got, want)
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add(`a <tool_call>{"name":"add","arguments":{}}</tool_call> b`, 0, 3)
	f.Add(`[TOOL_CALLS]add[ARGS]{}`, 1, 2)
	f.Add(`{"name":"now","parameters":{}}`, 2, 1)
	f.Fuzz(func(t *testing.T, answer string, syntax, piece int) {
		way := []Syntax{Tagged, Marked, Bare}[uint(syntax)%3]
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
