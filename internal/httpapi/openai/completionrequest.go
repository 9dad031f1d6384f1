package openai

import (
	"encoding/json"
	"math"
	"strconv"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/httpapi"
)

// completionRequest is a checked body of POST /v1/completions. Each prompt is
// a generation of its own; choice c of prompt p has index p*n+c.
type completionRequest struct {
	common
	prompts  []prompt
	logprobs bool
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

// parseCompletion decodes and checks a body. Its errors are *httpapi.Error.
func (a *API) parseCompletion(body []byte) (completionRequest, error) {
	var c completionRequest
	o, err := parseBody(body)
	if err != nil {
		return c, err
	}
	c.common = a.parseCommon(o)
	if c.request.MaxTokens == 0 {
		c.request.MaxTokens = defaultCompletionTokens
	}
	c.prompts = a.parsePrompts(o)
	c.request.Echo = o.boolean("echo", false)
	top, set := o.integer("logprobs", 0, 0, maxLegacyLogprobs)
	c.logprobs, c.request.Logprobs, c.request.TopLogprobs = set, set, int(top)
	if set && c.request.Echo {
		o.fail(unsupported("logprobs", "together with echo is not supported by this node: the probabilities of prompt tokens are not kept; leave out one of them"))
	}
	// Of best_of candidates the n best are returned; with as many as n that is
	// what happens anyhow.
	if best, ok := o.integer("best_of", 1, 1, math.MaxInt32); ok && best != 1 && best != int64(c.request.Choices) {
		o.fail(unsupported("best_of", "is not supported by this node (given: %d): leave it out", best))
	}
	if o.err == nil {
		o.err = a.leftover(o)
	}
	if o.err != nil {
		return c, o.err
	}
	return c, nil
}

// parsePrompts reads the four forms of prompt: a string, strings, token ids,
// arrays of token ids.
func (a *API) parsePrompts(o *object) []prompt {
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
		if len(items) > a.options.MaxPrompts {
			return nil, httpapi.Invalid("prompt", "array_above_max_length", "prompt must have at most %d entries, not %d: send several requests", a.options.MaxPrompts, len(items))
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

// generation is the neutral request of one of the prompts.
func (c *completionRequest) generation(p prompt) generation.Request {
	r := c.request
	r.Prompt, r.Tokens = p.text, p.tokens
	return r
}
