package chat

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/skein-run/skein/internal/chat/calls"
)

func compile(t *testing.T, source string) *Template {
	t.Helper()
	tmpl, err := Compile(t.Context(), Options{Source: source, BOS: "<s>", EOS: "</s>"})
	if err != nil {
		t.Fatal(err)
	}
	return tmpl
}

var (
	system = Message{Role: "system", Content: "Be brief."}
	hi     = Message{Role: "user", Content: "Hi"}
	hello  = Message{Role: "assistant", Content: "Hello"}
)

func TestChatMLFallback(t *testing.T) {
	tmpl := compile(t, "")
	if !tmpl.Fallback() || tmpl.MergesSystem() {
		t.Errorf("fallback %v, merges system %v", tmpl.Fallback(), tmpl.MergesSystem())
	}
	got, err := tmpl.Render(t.Context(), Input{Messages: []Message{system, hi}})
	if err != nil {
		t.Fatal(err)
	}
	want := "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRender(t *testing.T) {
	const loop = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
	noSystem := "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
	tests := []struct {
		name, source string
		in           Input
		want         string
	}{
		{"tokens", "{{ bos_token }}a{{ eos_token }}", Input{}, "<s>a</s>"},
		{"generation prompt", "{% if add_generation_prompt %}go{% endif %}", Input{}, "go"},
		{"no generation prompt", "{% if add_generation_prompt %}go{% endif %}", Input{NoGenerationPrompt: true}, ""},
		{"tools absent", "{{ tools is none }}{{ documents is none }}{{ other is defined }}", Input{}, "TrueTrueFalse"},
		{"date", "{{ strftime_now('%d %b %Y, %H:%M %A') }}", Input{Now: time.Date(2026, 3, 9, 7, 5, 0, 0, time.UTC)}, "09 Mar 2026, 07:05 Monday"},
		{"kwargs", "{{ a }} {{ b.z }} {{ c[1] }} {{ d }} {{ e is none }}", Input{Args: map[string]any{"a": true, "b": map[string]any{"z": 1.5}, "c": []any{"x", 2}, "d": json.Number("3"), "e": nil}}, "True 1.5 2 3 True"},
		{"order of keys", "{{ schema | tojson }}", Input{Args: map[string]any{"schema": json.RawMessage(`{"z":1,"10":{"b":[],"a":null},"2":"é\"<"}`)}}, `{"z": 1, "10": {"b": [], "a": null}, "2": "é\"<"}`},
		{"kwargs override", "{{ bos_token }}", Input{Args: map[string]any{"bos_token": "x"}}, "x"},
		{"developer becomes system", loop, Input{Messages: []Message{{Role: "developer", Content: "d"}, hi}}, "[system]d[user]Hi"},
		{"developer known", loop + "{# 'developer' #}", Input{Messages: []Message{{Role: "developer", Content: "d"}, hi}}, "[developer]d[user]Hi"},
		{"system refused", noSystem, Input{Messages: []Message{system, hi, hello}}, "[user]Be brief.\n\nHi[assistant]Hello"},
		{"system dropped", "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}", Input{Messages: []Message{system, hi}}, "Be brief.\n\nHi"},
		{"system refused, alone", noSystem, Input{Messages: []Message{system}}, "[user]Be brief."},
		{"two systems refused", noSystem, Input{Messages: []Message{system, system, hi}}, "[user]Be brief.\n\nBe brief.\n\nHi"},
		{"optional fields", "{% for m in messages %}{{ m.name }}|{{ m.reasoning_content is defined }}|{{ m.tool_call_id }}{% endfor %}", Input{Messages: []Message{{Role: "tool", Content: "c", Name: "n", ToolCallID: "7"}}}, "n|False|7"},
		{"strip takes characters", "{{ '\\n\\n  x \\n'.strip('\\n') }}|{{ 'xxaxx'.lstrip('x') }}|{{ 'xxaxx'.rstrip('x') }}|{{ ' a '.strip() }}", Input{}, "  x |axx|xxa|a"},
		{"replace", "{{ 'a-b-c'.replace('-', '+') }} {{ 'a-b-c'|replace('-', '', 1) }}", Input{}, "a+b+c ab-c"},
		{"non-ASCII", "{{ messages[0].content }}", Input{Messages: []Message{{Role: "user", Content: "héllo 😀 \x00"}}}, "héllo 😀 \x00"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := compile(t, tt.source).Render(t.Context(), tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestTemplateErrors(t *testing.T) {
	tests := []struct {
		name, source string
		kind         ErrorKind
		message      string
	}{
		{"raises", "{{ raise_exception('Conversation roles must alternate') }}", ErrorRaised, "Conversation roles must alternate"},
		{"unknown filter", "{{ messages | frobnicate }}", ErrorFailed, "frobnicate"},
		{"endless recursion", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", ErrorLimit, "deeply"},
		{"endless loop", "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", ErrorLimit, "steps"},
		{"huge range", "{{ range(10000000000) }}", ErrorLimit, "more text"},
		{"doubling text", "{% set ns = namespace(x='abcdefgh') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}", ErrorLimit, "more text"},
		{"doubling list", "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", ErrorLimit, "more text"},
		{"long replacement", "{% set x = 'a' | indent(9999, true) %}{{ x.replace(' ', x).replace(' ', x) }}", ErrorLimit, "more text"},
		{"wide indent", "{{ 'a' | indent(99999999, true) }}", ErrorLimit, "more text"},
		{"long loop", "{% set x = 'a' | indent(99999, true) %}{% for i in range(1000) %}{{ x }}{% endfor %}", ErrorLimit, "more text"},
		{"joins", "{{ range(9999) | join('a' | indent(99999, true)) }}", ErrorLimit, "more text"},
		{"itself within", "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}", ErrorLimit, "deeply"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tmpl, err := Compile(t.Context(), Options{Source: tt.source, Limits: Limits{Steps: 200_000, Text: 1 << 20, Items: 1 << 17}})
			if err != nil {
				t.Fatal(err)
			}
			_, err = tmpl.Render(t.Context(), Input{Messages: []Message{hi}})
			var e *TemplateError
			if !errors.As(err, &e) || e.Kind != tt.kind || !strings.Contains(e.Message, tt.message) {
				t.Errorf("got %#v, want kind %s with %q", err, tt.kind, tt.message)
			}
		})
	}
}

func TestCompileErrors(t *testing.T) {
	for _, source := range []string{"{% if %}", "{{ 'a", "{% for x in %}", "{{ (", "{% endfor %}"} {
		_, err := Compile(t.Context(), Options{Source: source})
		var e *TemplateError
		if !errors.As(err, &e) || e.Kind != ErrorFailed || !strings.HasPrefix(err.Error(), "compile chat template: ") {
			t.Errorf("%q: got %v", source, err)
		}
	}
	if _, err := Compile(t.Context(), Options{Limits: Limits{Steps: -1}}); err == nil {
		t.Error("negative limit accepted")
	}
}

func TestContextEndsRendering(t *testing.T) {
	tmpl, err := Compile(t.Context(), Options{
		Source: "{% if go %}{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}{% endif %}",
		Limits: Limits{Steps: 1 << 40},
	})
	if err != nil {
		t.Fatal(err)
	}
	gone := errors.New("client gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error)
	go func() {
		_, err := tmpl.Render(ctx, Input{Args: map[string]any{"go": true}})
		done <- err
	}()
	cancel(gone)
	if err := <-done; !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
	if _, err := tmpl.Render(t.Context(), Input{}); err != nil {
		t.Errorf("rendering after an interrupted one: %v", err)
	}
}

func TestConcurrentRendering(t *testing.T) {
	tmpl := compile(t, "")
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			content := strings.Repeat("x", i)
			got, err := tmpl.Render(t.Context(), Input{Messages: []Message{{Role: "user", Content: content}}})
			if err != nil || !strings.Contains(got, "user\n"+content+"<") {
				t.Errorf("%d: %q %v", i, got, err)
			}
		})
	}
	wg.Wait()
}

// FuzzTemplate: whatever a model file carries as its template, the result is
// text or an error, in bounded time and memory.
func FuzzTemplate(f *testing.F) {
	for _, seed := range []string{ChatML, "{% for m in messages %}{{ m.content | trim }}{% endfor %}", "{% macro a(b=1) %}{{ a(b) }}{% endmacro %}{{ a() }}",
		"{{ range(9) | join(',') }}", "{{ {1: 2, 'a': [()]} }}", "{% set x = namespace(a=1) %}{{ x.a ** 99 }}", "{{ messages[-1]['role'][::-1] }}", "{{", "{# "} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, source string) {
		tmpl, err := Compile(t.Context(), Options{Source: source, Limits: Limits{Steps: 20_000, Text: 1 << 16, Items: 1 << 10}})
		if err != nil {
			return
		}
		out, err := tmpl.Render(t.Context(), Input{Messages: []Message{system, hi}})
		if err == nil && !utf8.ValidString(out) {
			t.Errorf("invalid UTF-8: %q", out)
		}
	})
}

// An answer that was begun goes on where it stands, whatever the template puts
// after a turn.
func TestContinue(t *testing.T) {
	said := func(text string) []Message {
		return []Message{{Role: "user", Content: "once"}, {Role: "assistant", Content: text}}
	}
	trims := "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}[/]{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
	for _, c := range []struct{ source, text, want string }{
		{ChatML, "once upon", "<|im_start|>user\nonce<|im_end|>\n<|im_start|>assistant\nonce upon"},
		{ChatML, "im_end", "<|im_start|>user\nonce<|im_end|>\n<|im_start|>assistant\nim_end"},
		{trims, "once", "[user]once[/][assistant]once"},
		{trims, " a \n", "[user]once[/][assistant]a \n"},
	} {
		template, err := Compile(t.Context(), Options{Source: c.source})
		if err != nil {
			t.Fatal(err)
		}
		out, err := template.Render(t.Context(), Input{Messages: said(c.text), Continue: true})
		if err != nil || out != c.want {
			t.Errorf("%q, %v; want %q", out, err, c.want)
		}
	}
	template, err := Compile(t.Context(), Options{Source: "{% for m in messages %}{{ m.content | upper }}{% endfor %}"})
	if err != nil {
		t.Fatal(err)
	}
	var refused *TemplateError
	if _, err = template.Render(t.Context(), Input{Messages: said("upon"), Continue: true}); !errors.As(err, &refused) || !strings.Contains(refused.Message, "last message") {
		t.Errorf("a template that changes the message: %v", err)
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
			{Role: "assistant", Calls: []calls.Call{{ID: "c1", Name: "add", Arguments: `{"b":2,"a":1}`}}},
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
