package request

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/httpapi"
)

// parseMessages reads the conversation. Its errors name the message and field:
// messages[2].content.
func (d *Decoder) parseMessages(o *object) []generation.Message {
	raw, ok := o.take("messages")
	if !ok {
		o.fail(missing("messages", `give the conversation, such as [{"role":"user","content":"Hello"}]`))
		return nil
	}
	items, err := parseArray("messages", raw)
	switch {
	case err != nil:
		o.fail(err)
		return nil
	case len(items) == 0:
		o.fail(httpapi.Invalid("messages", "empty_array", `messages is empty: give at least one, such as [{"role":"user","content":"Hello"}]`))
		return nil
	case len(items) > d.limits.Messages:
		o.fail(httpapi.Invalid("messages", "array_above_max_length", "messages must have at most %d entries, not %d: drop or sum up old turns", d.limits.Messages, len(items)))
		return nil
	}
	messages := make([]generation.Message, 0, len(items))
	for i, item := range items {
		m, err := d.parseMessage("messages["+strconv.Itoa(i)+"]", item)
		if err != nil {
			o.fail(err)
			return nil
		}
		messages = append(messages, m)
	}
	return messages
}

func (d *Decoder) parseMessage(path string, raw json.RawMessage) (m generation.Message, err *httpapi.Error) {
	o, err := parseObject(path, raw)
	if err != nil {
		return m, err
	}
	role, given := o.text("role", maxHint)
	if !given {
		o.fail(missing(o.name("role"), "give system, developer, user, assistant or tool"))
		return m, o.err
	}
	m.Role = role
	m.Name, _ = o.text("name", maxHint)
	switch role {
	case "system", "developer", "user":
	case "tool":
		if m.ToolCallID, given = o.text("tool_call_id", maxHint); !given {
			o.fail(missing(o.name("tool_call_id"), "a tool message names the call that it answers"))
		}
	case "assistant":
		m.ReasoningContent, _ = o.text("reasoning_content", httpapi.DefaultMaxBody)
		// What answers carry and clients send back with the history.
		o.take("annotations")
		m.Calls = d.parseCalls(o)
	case "function":
		o.fail(unsupported(o.name("role"), "'function' is not supported by this node: use system, developer, user, assistant or tool"))
	default:
		o.fail(httpapi.Invalid(o.name("role"), "invalid_value", "%s must be system, developer, user, assistant or tool, not %q", o.name("role"), Clip(role)))
	}
	if o.err != nil {
		return m, o.err
	}
	if err := d.refuseCalls(o); err != nil {
		return m, err
	}
	m.Content = d.parseContent(o, role == "assistant" && (m.ReasoningContent != "" || len(m.Calls) > 0))
	if o.err == nil {
		o.err = d.leftover(o)
	}
	return m, o.err
}

// refuseCalls refuses the parts of a message that OpenAI has and we lack.
func (d *Decoder) refuseCalls(o *object) *httpapi.Error {
	for _, field := range []string{"tool_calls", "function_call", "refusal", "audio"} {
		raw, ok := o.take(field)
		if ok && !(field == "tool_calls" && isEmptyArray(raw)) {
			return unsupported(o.name(field), "is not supported by this node yet: leave it out")
		}
	}
	return nil
}

// parseContent reads a message's text: a string, or text parts, which are
// joined by line ends.
func (d *Decoder) parseContent(o *object, optional bool) string {
	name := o.name("content")
	raw, ok := o.take("content")
	if !ok {
		if !optional {
			o.fail(missing(name, "give the text of the message, \"\" if it has none"))
		}
		return ""
	}
	if raw[0] == '"' {
		s, err := parseString(name, raw)
		if err != nil {
			o.fail(err)
		}
		return s
	}
	if raw[0] != '[' {
		o.fail(wrongType(name, "a string or an array of content parts", raw))
		return ""
	}
	parts, err := parseArray(name, raw)
	if err == nil && len(parts) == 0 {
		err = httpapi.Invalid(name, "empty_array", "%s is an empty array: give at least one text part, or a string", name)
	}
	if err != nil {
		o.fail(err)
		return ""
	}
	texts := make([]string, 0, len(parts))
	for i, part := range parts {
		text, err := d.parsePart(name+"["+strconv.Itoa(i)+"]", part)
		if err != nil {
			o.fail(err)
			return ""
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, "\n")
}

func (d *Decoder) parsePart(path string, raw json.RawMessage) (string, *httpapi.Error) {
	o, err := parseObject(path, raw)
	if err != nil {
		return "", err
	}
	partType, ok := o.text("type", maxHint)
	if !ok {
		o.fail(missing(o.name("type"), `give {"type":"text","text":"..."}`))
		return "", o.err
	}
	switch partType {
	case "text":
	case "image_url", "input_audio", "file", "refusal":
		return "", unsupported(o.name("type"), "'%s' is not supported by this node yet: send text parts only", partType)
	default:
		return "", httpapi.Invalid(o.name("type"), "invalid_value", "%s must be 'text', not %q", o.name("type"), Clip(partType))
	}
	text, ok := o.text("text", httpapi.DefaultMaxBody)
	if !ok {
		o.fail(missing(o.name("text"), "a text part has its text there"))
	}
	if _, ok := o.take("prompt_cache_breakpoint"); ok {
		o.fail(unsupported(o.name("prompt_cache_breakpoint"), "is not supported by this node: leave it out, prefixes are cached by themselves"))
	}
	if o.err == nil {
		o.err = d.leftover(o)
	}
	return text, o.err
}
