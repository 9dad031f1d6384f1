package request

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/skein-run/skein/internal/httpapi"
)

// Chat is a checked body of POST /v1/chat/completions.
type Chat struct {
	Common
	effort string // reasoning_effort; "" when not given
}

const maxTopLogprobs = 20

// Chat decodes and checks a body. Its errors are *httpapi.Error.
func (d *Decoder) Chat(body []byte) (Chat, error) {
	var c Chat
	o, err := parseBody(body)
	if err != nil {
		return c, err
	}
	// In the order in which a person wants to hear of mistakes.
	c.Common = d.parseCommon(o)
	c.Request.Messages = d.parseMessages(o)
	d.parseTools(o, &c.Request)
	c.Request.Logprobs = o.boolean("logprobs", false)
	top, topSet := o.integer("top_logprobs", 0, 0, maxTopLogprobs)
	c.Request.TopLogprobs = int(top)
	if topSet && !c.Request.Logprobs {
		o.fail(httpapi.Invalid("top_logprobs", "invalid_value", "top_logprobs needs logprobs: true"))
	}
	c.Request.TemplateArgs = parseTemplateArgs(o)
	c.parseThinking(o)
	c.effort = parseEffort(o)
	if o.err == nil {
		o.err = d.leftover(o)
	}
	if o.err != nil {
		return c, o.err
	}
	return c, nil
}

// reserved are template variables that the request itself fills.
func reserved(name string) bool {
	return slices.Contains([]string{"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"}, name)
}

func parseTemplateArgs(o *object) map[string]any {
	raw, ok := o.take("chat_template_kwargs")
	if !ok {
		return nil
	}
	object, err := parseObject("chat_template_kwargs", raw)
	if err == nil && len(object.fields) > maxTemplates {
		err = httpapi.Invalid("chat_template_kwargs", "object_above_max_properties", "chat_template_kwargs must have at most %d entries, not %d", maxTemplates, len(object.fields))
	}
	if err != nil {
		o.fail(err)
		return nil
	}
	args := make(map[string]any, len(object.fields))
	for _, key := range sortedKeys(object.fields) {
		if reserved(key) {
			o.fail(httpapi.Invalid(object.name(key), "invalid_value", "%s cannot be set: the request itself gives it", object.name(key)))
			return nil
		}
		decoder := json.NewDecoder(strings.NewReader(string(object.fields[key])))
		decoder.UseNumber()
		var value any
		if err := decoder.Decode(&value); err != nil {
			o.fail(httpapi.Invalid(object.name(key), "invalid_type", "%s is not valid JSON: %v", object.name(key), err))
			return nil
		}
		args[key] = plain(value)
	}
	return args
}

// parseThinking takes enable_thinking, as exo's clients send it: short for the
// template's variable of that name, which goes first.
func (c *Chat) parseThinking(o *object) {
	if raw, ok := o.fields["enable_thinking"]; !ok || isNull(raw) {
		return
	}
	think := o.boolean("enable_thinking", false)
	if _, given := c.Request.TemplateArgs["enable_thinking"]; given || o.err != nil {
		return
	}
	if c.Request.TemplateArgs == nil {
		c.Request.TemplateArgs = map[string]any{}
	}
	c.Request.TemplateArgs["enable_thinking"] = think
}

// plain turns json.Number into int64 where it is one, else float64: templates
// print 5 as 5, and not as 5.0.
func plain(value any) any {
	switch v := value.(type) {
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return i
		}
		f, err := v.Float64()
		if err != nil {
			return v.String() // beyond float64
		}
		return f
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	case map[string]any:
		for key := range v {
			v[key] = plain(v[key])
		}
	}
	return value
}

func parseEffort(o *object) string {
	effort, ok := o.text("reasoning_effort", maxHint)
	if !ok {
		return ""
	}
	efforts := []string{"none", "minimal", "low", "medium", "high", "xhigh", "max"}
	if !slices.Contains(efforts, effort) {
		o.fail(httpapi.Invalid("reasoning_effort", "invalid_value", "reasoning_effort must be one of %s, not %q", strings.Join(efforts, ", "), Clip(effort)))
	}
	return effort
}

// ApplyEffort gives reasoning_effort to the template of model in the words that
// the template has, by the variables that it reads: an effort, or thinking on and
// off. A model that has neither takes the default only. What chat_template_kwargs says goes first.
func (c *Chat) ApplyEffort(model string, variables []string) *httpapi.Error {
	if c.effort == "" {
		return nil
	}
	graded := slices.Contains(variables, "reasoning_effort")
	toggled := slices.Contains(variables, "enable_thinking")
	if !graded && !toggled {
		if c.effort == "medium" {
			return nil
		}
		return unsupported("reasoning_effort", "'%s' is not supported by model %s, whose chat template has no such setting: leave it out", c.effort, model)
	}
	set := func(name string, value any) {
		if _, ok := c.Request.TemplateArgs[name]; ok {
			return
		}
		if c.Request.TemplateArgs == nil {
			c.Request.TemplateArgs = map[string]any{}
		}
		c.Request.TemplateArgs[name] = value
	}
	if graded {
		set("reasoning_effort", c.effort)
	}
	if toggled {
		set("enable_thinking", c.effort != "none")
	}
	return nil
}
