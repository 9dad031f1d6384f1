package request

import (
	"encoding/json"
	"math"
	"strconv"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/httpapi"
)

// Completion is a checked body of POST /v1/completions. Each prompt is
// a generation of its own; choice c of prompt p has index p*n+c.
type Completion struct {
	Common
	prompts []prompt
}

// prompt is a text or token ids.
type prompt struct {
	text   *string
	tokens []int32
}

const (
	defaultCompletionTokens = 16 // as OpenAI
	maxLegacyLogprobs       = 5
)

// Completion decodes and checks a body. Its errors are *httpapi.Error.
func (d *Decoder) Completion(body []byte) (Completion, error) {
	var c Completion
	o, err := parseBody(body)
	if err != nil {
		return c, err
	}
	c.Common = d.parseCommon(o)
	if c.Request.MaxTokens == 0 {
		c.Request.MaxTokens = defaultCompletionTokens
	}
	c.prompts = d.parsePrompts(o)
	c.Request.Echo = o.boolean("echo", false)
	top, set := o.integer("logprobs", 0, 0, maxLegacyLogprobs)
	c.Request.Logprobs, c.Request.TopLogprobs = set, int(top)
	if set && c.Request.Echo {
		o.fail(unsupported("logprobs", "together with echo is not supported by this node: the probabilities of prompt tokens are not kept; leave out one of them"))
	}
	// Of best_of candidates the n best are returned; with as many as n that is
	// what happens anyhow.
	if best, ok := o.integer("best_of", 1, 1, math.MaxInt32); ok && best != 1 && best != int64(c.Request.Choices) {
		o.fail(unsupported("best_of", "is not supported by this node (given: %d): leave it out", best))
	}
	if o.err == nil {
		o.err = d.leftover(o)
	}
	if o.err != nil {
		return c, o.err
	}
	return c, nil
}

// parsePrompts reads the four forms of prompt: a string, strings, token ids,
// arrays of token ids.
func (d *Decoder) parsePrompts(o *object) []prompt {
	const forms = "a string, an array of strings, an array of token ids, or an array of such arrays"
	raw, ok := o.take("prompt")
	if !ok {
		o.fail(missing("prompt", "give "+forms))
		return nil
	}
	prompts, err := func() ([]prompt, *httpapi.Error) {
		if raw[0] == '"' {
			p, err := parsePrompt("prompt", raw)
			return []prompt{p}, err
		}
		if raw[0] != '[' {
			return nil, wrongType("prompt", forms, raw)
		}
		items, err := parseArray("prompt", raw)
		if err != nil {
			return nil, err
		}
		if len(items) == 0 {
			return nil, httpapi.Invalid("prompt", "empty_array", "prompt is an empty array: give %s", forms)
		}
		if isNumber(items[0]) {
			p, err := parsePrompt("prompt", raw)
			return []prompt{p}, err
		}
		if len(items) > d.limits.Prompts {
			return nil, httpapi.Invalid("prompt", "array_above_max_length", "prompt must have at most %d entries, not %d: send several requests", d.limits.Prompts, len(items))
		}
		prompts := make([]prompt, 0, len(items))
		for i, item := range items {
			if kind(item) != kind(items[0]) {
				return nil, httpapi.Invalid("prompt", "invalid_type", "prompt[%d] is %s but prompt[0] is %s: give %s", i, kind(item), kind(items[0]), forms)
			}
			p, err := parsePrompt("prompt["+strconv.Itoa(i)+"]", item)
			if err != nil {
				return nil, err
			}
			prompts = append(prompts, p)
		}
		return prompts, nil
	}()
	if err != nil {
		o.fail(err)
		return nil
	}
	return prompts
}

// parsePrompt reads one prompt: a string or an array of token ids.
func parsePrompt(name string, raw json.RawMessage) (prompt, *httpapi.Error) {
	if raw[0] == '"' {
		text, err := parseString(name, raw)
		return prompt{text: &text}, err
	}
	if raw[0] != '[' {
		return prompt{}, wrongType(name, "a string or an array of token ids", raw)
	}
	items, err := parseArray(name, raw)
	if err != nil {
		return prompt{}, err
	}
	if len(items) == 0 {
		return prompt{}, httpapi.Invalid(name, "empty_array", "%s is an empty array: give at least one token id", name)
	}
	tokens := make([]int32, 0, len(items))
	for i, item := range items {
		id, err := parseInteger(name+"["+strconv.Itoa(i)+"]", item, 0, math.MaxInt32)
		if err != nil {
			return prompt{}, err
		}
		tokens = append(tokens, int32(id))
	}
	return prompt{tokens: tokens}, nil
}

// Generations are the neutral requests, one a prompt.
func (c *Completion) Generations() []generation.Request {
	out := make([]generation.Request, 0, len(c.prompts))
	for _, p := range c.prompts {
		r := c.Request
		r.Prompt, r.Tokens = p.text, p.tokens
		out = append(out, r)
	}
	return out
}
