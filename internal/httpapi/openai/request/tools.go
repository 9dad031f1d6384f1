package request

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/httpapi"
)

const (
	maxTools    = 128
	maxToolName = 64 // characters; OpenAI's
)

// parseTools takes tools, tool_choice and parallel_tool_calls. With
// tool_choice "none" the model is not told of the tools.
func (d *Decoder) parseTools(o *object, r *generation.Request) {
	raw, ok := o.take("tools")
	if !ok || o.err != nil {
		return // what the others say without tools is for leftover
	}
	items, err := parseArray("tools", raw)
	if err == nil && len(items) > maxTools {
		err = httpapi.Invalid("tools", "array_above_max_length", "tools must have at most %d entries, not %d", maxTools, len(items))
	}
	for i := 0; i < len(items) && err == nil; i++ {
		var tool generation.Tool
		tool, err = d.parseTool("tools["+strconv.Itoa(i)+"]", items[i])
		if err == nil && slices.ContainsFunc(r.Tools, func(t generation.Tool) bool { return t.Name == tool.Name }) {
			err = httpapi.Invalid("tools", "invalid_value", "tools has two functions of the name %q: give each its own", tool.Name)
		}
		r.Tools = append(r.Tools, tool)
	}
	if err != nil {
		o.fail(err)
		return
	}
	if len(r.Tools) == 0 {
		return
	}
	r.OneCall = !o.boolean("parallel_tool_calls", true)
	if !parseToolChoice(o, r) {
		r.Tools, r.OneCall = nil, false
	}
}

func (d *Decoder) parseTool(path string, raw json.RawMessage) (generation.Tool, *httpapi.Error) {
	tool := generation.Tool{Definition: raw}
	o, err := parseObject(path, raw)
	if err != nil {
		return tool, err
	}
	function, err := d.parseFunction(o, `{"name": ..., "parameters": {...}}`)
	if err != nil {
		return tool, err
	}
	tool.Name = parseFunctionName(function)
	function.text("description", httpapi.DefaultMaxBody)
	if parameters, ok := function.take("parameters"); ok && parameters[0] != '{' {
		function.fail(wrongType(function.name("parameters"), "a JSON schema, which is an object", parameters))
	}
	// Arguments are JSON, and as near to the schema as the model keeps them.
	function.boolean("strict", false)
	if function.err == nil {
		function.err = d.leftover(function)
	}
	return tool, function.err
}

// parseFunction takes the type of a tool, a choice or a call, which must be
// function, and the object of that name.
func (d *Decoder) parseFunction(o *object, hint string) (*object, *httpapi.Error) {
	kind, ok := o.text("type", maxHint)
	switch {
	case !ok:
		o.fail(missing(o.name("type"), `give "function"`))
	case kind != "function":
		o.fail(unsupported(o.name("type"), "'%s' is not supported by this node: functions only", Clip(kind)))
	}
	raw, ok := o.take("function")
	if !ok {
		o.fail(missing(o.name("function"), "give "+hint))
	}
	if o.err == nil {
		o.err = d.leftover(o)
	}
	if o.err != nil {
		return nil, o.err
	}
	return parseObject(o.name("function"), raw)
}

func parseFunctionName(o *object) string {
	name, ok := o.text("name", maxHint)
	if !ok {
		o.fail(missing(o.name("name"), "name the function"))
		return ""
	}
	plain := func(r rune) bool {
		return r == '_' || r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
	}
	if name == "" || len(name) > maxToolName || strings.ContainsFunc(name, func(r rune) bool { return !plain(r) }) {
		o.fail(httpapi.Invalid(o.name("name"), "invalid_value", "%s must have 1 to %d letters, digits, _ and -, not %q", o.name("name"), maxToolName, Clip(name)))
	}
	return name
}

// parseToolChoice tells whether the model may call at all.
func parseToolChoice(o *object, r *generation.Request) bool {
	raw, ok := o.take("tool_choice")
	if !ok {
		return true
	}
	if raw[0] == '{' {
		choice, err := parseObject("tool_choice", raw)
		if err != nil {
			o.fail(err)
			return true
		}
		// Not by parseFunction: what else a choice may hold is for its type.
		if kind, _ := choice.text("type", maxHint); kind != "function" {
			o.fail(unsupported("tool_choice.type", "'%s' is not supported by this node: give \"function\", or tool_choice as \"auto\", \"none\" or \"required\"", Clip(kind)))
			return true
		}
		function, given := choice.take("function")
		if !given {
			o.fail(missing("tool_choice.function", `give {"name": ...}`))
			return true
		}
		named, err := parseObject("tool_choice.function", function)
		if err != nil {
			o.fail(err)
			return true
		}
		r.MustCall, r.OneCall, r.CallName = true, true, parseFunctionName(named)
		if named.err == nil && !slices.ContainsFunc(r.Tools, func(t generation.Tool) bool { return t.Name == r.CallName }) {
			named.fail(httpapi.Invalid("tool_choice.function.name", "invalid_value", "tool_choice.function.name is %q, which is none of tools", Clip(r.CallName)))
		}
		if named.err != nil {
			o.fail(named.err)
		}
		return true
	}
	choice, err := parseString("tool_choice", raw)
	switch {
	case err != nil:
		o.fail(wrongType("tool_choice", "a string or an object", raw))
	case choice == "auto":
	case choice == "none":
		return false
	case choice == "required":
		r.MustCall = true
		if len(r.Tools) == 1 {
			r.CallName = r.Tools[0].Name
		}
	default:
		o.fail(httpapi.Invalid("tool_choice", "invalid_value", `tool_choice must be "auto", "none", "required" or a function, not %q`, Clip(choice)))
	}
	return true
}

// parseCalls reads the calls that an assistant turn made.
func (d *Decoder) parseCalls(o *object) []generation.Call {
	raw, ok := o.take("tool_calls")
	if !ok {
		return nil
	}
	name := o.name("tool_calls")
	items, err := parseArray(name, raw)
	if err == nil && len(items) > maxTools {
		err = httpapi.Invalid(name, "array_above_max_length", "%s must have at most %d entries, not %d", name, maxTools, len(items))
	}
	var calls []generation.Call
	for i := 0; i < len(items) && err == nil; i++ {
		var call generation.Call
		call, err = d.parseCall(name+"["+strconv.Itoa(i)+"]", items[i])
		calls = append(calls, call)
	}
	if err != nil {
		o.fail(err)
	}
	return calls
}

func (d *Decoder) parseCall(path string, raw json.RawMessage) (call generation.Call, err *httpapi.Error) {
	o, err := parseObject(path, raw)
	if err != nil {
		return call, err
	}
	call.ID, _ = o.text("id", maxHint)
	o.take("index") // of a stream's chunks, put together without a look
	function, err := d.parseFunction(o, `{"name": ..., "arguments": "{...}"}`)
	if err != nil {
		return call, err
	}
	call.Name = parseFunctionName(function)
	call.Arguments, _ = function.text("arguments", httpapi.DefaultMaxBody)
	if call.Arguments == "" {
		call.Arguments = "{}"
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(call.Arguments), &fields); err != nil || fields == nil {
		function.fail(httpapi.Invalid(function.name("arguments"), "invalid_value", "%s must be a JSON object within a string, not %q", function.name("arguments"), Clip(call.Arguments)))
	}
	if function.err == nil {
		function.err = d.leftover(function)
	}
	return call, function.err
}
