package request

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/httpapi"
	"github.com/skein-run/skein/internal/runner/wire"
)

// Limits of parameters where OpenAI has none, or where more is harmless.
const (
	maxName      = 512     // bytes of a model name
	maxHint      = 1024    // bytes of user, safety_identifier, prompt_cache_key
	maxStops     = 16      // stop strings; OpenAI takes 4
	maxStopLen   = 1024    // bytes of each
	maxBiases    = 4096    // entries of logit_bias
	maxRepeat    = 10      // repeat_penalty
	maxMetadata  = 16      // pairs
	maxTokenCap  = 1 << 30 // max_tokens, top_k
	maxTemplates = 64      // entries of chat_template_kwargs
)

// Common are the parameters that both endpoints take.
type Common struct {
	Model        string
	Stream       bool
	IncludeUsage bool
	ServiceTier  bool               // asked for, so the answer names it
	Request      generation.Request // of completions: but for its prompt
}

// parseCommon takes them all; the first mistake is in o.err.
func (d *Decoder) parseCommon(o *object) Common {
	var c Common
	if model, ok := o.text("model", maxName); ok && model != "" {
		c.Model = model
	} else {
		o.fail(missing("model", "name the model; GET /v1/models lists what there is"))
	}
	c.Stream = o.boolean("stream", false)
	d.parseStreamOptions(o, &c)

	r := &c.Request
	r.Model = c.Model
	choices, _ := o.integer("n", 1, 1, int64(d.limits.Choices))
	r.Choices = int(choices)
	r.MaxTokens = parseMaxTokens(o)
	r.Stop = parseStop(o)
	r.Sampling, r.SeedSet = parseSampling(o)
	r.IgnoreEnd = o.boolean("ignore_eos", false)

	// Hints for billing and abuse desks, which a node of one's own has not.
	o.text("user", maxHint)
	o.text("safety_identifier", maxHint)
	o.text("prompt_cache_key", maxHint) // the prefix cache finds prefixes by itself
	checkMetadata(o)
	c.ServiceTier = o.fields["service_tier"] != nil && !isNull(o.fields["service_tier"])
	return c
}

func (d *Decoder) parseStreamOptions(o *object, c *Common) {
	raw, ok := o.take("stream_options")
	if !ok {
		return
	}
	options, err := parseObject("stream_options", raw)
	if err != nil {
		o.fail(err)
		return
	}
	if !c.Stream {
		o.fail(httpapi.Invalid("stream_options", "invalid_value", "stream_options goes with stream: true only: set it or leave stream_options out"))
		return
	}
	c.IncludeUsage = options.boolean("include_usage", false)
	if options.boolean("include_obfuscation", false) {
		options.fail(unsupported("stream_options.include_obfuscation", "is not supported by this node: leave it out"))
	}
	if options.err == nil {
		options.err = d.leftover(options)
	}
	if options.err != nil {
		o.fail(options.err)
	}
}

// parseMaxTokens gives 0 when nothing was asked for.
func parseMaxTokens(o *object) int {
	old, oldSet := o.integer("max_tokens", 0, 1, maxTokenCap)
	limit, set := o.integer("max_completion_tokens", 0, 1, maxTokenCap)
	if oldSet && set && old != limit {
		o.fail(httpapi.Invalid("max_tokens", "invalid_value", "max_tokens is %d and max_completion_tokens %d: give one of them", old, limit))
	}
	if set {
		return int(limit)
	}
	return int(old)
}

func parseStop(o *object) []string {
	raw, ok := o.take("stop")
	if !ok {
		return nil
	}
	items := []json.RawMessage{raw}
	if raw[0] == '[' {
		var err *httpapi.Error
		if items, err = parseArray("stop", raw); err != nil {
			o.fail(err)
			return nil
		}
	} else if raw[0] != '"' {
		o.fail(wrongType("stop", "a string or an array of strings", raw))
		return nil
	}
	if len(items) > maxStops {
		o.fail(httpapi.Invalid("stop", "array_above_max_length", "stop must have at most %d strings, not %d", maxStops, len(items)))
		return nil
	}
	var stops []string
	for i, item := range items {
		s, err := parseString("stop["+strconv.Itoa(i)+"]", item)
		switch {
		case err != nil:
			o.fail(err)
		case s == "":
			o.fail(httpapi.Invalid("stop", "invalid_value", "stop must not hold an empty string: leave it out"))
		case len(s) > maxStopLen:
			o.fail(httpapi.Invalid("stop", "string_above_max_length", "a stop string must have at most %d bytes, not %d", maxStopLen, len(s)))
		}
		stops = append(stops, s)
	}
	return stops
}

// parseSampling takes OpenAI's sampling parameters and ours. The defaults are
// OpenAI's: temperature 1, nothing cut off.
func parseSampling(o *object) (s wire.Sampling, seedSet bool) {
	s = wire.NeutralSampling()
	s.Temperature = float32(o.number("temperature", 1, 0, 2))
	s.TopP = float32(o.number("top_p", 1, 0, 1))
	s.FrequencyPenalty = float32(o.number("frequency_penalty", 0, -2, 2))
	s.PresencePenalty = float32(o.number("presence_penalty", 0, -2, 2))

	topK, _ := o.integer("top_k", 0, 0, maxTokenCap)
	s.TopK = int(topK)
	s.MinP = float32(o.number("min_p", 0, 0, 1))
	s.TypicalP = float32(o.number("typical_p", 1, 0, 1))
	repetition := o.number("repetition_penalty", 1, 0.01, maxRepeat)
	s.RepeatPenalty = float32(o.number("repeat_penalty", repetition, 0.01, maxRepeat))
	lastN, _ := o.integer("repeat_last_n", int64(s.RepeatLastN), -1, maxTokenCap)
	s.RepeatLastN = int(lastN)

	seed, seedSet := o.integer("seed", 0, math.MinInt64, math.MaxInt64)
	s.Seed = uint64(seed)
	s.LogitBias = parseLogitBias(o)
	return s, seedSet
}

func parseLogitBias(o *object) map[int32]float32 {
	raw, ok := o.take("logit_bias")
	if !ok {
		return nil
	}
	biases, err := parseObject("logit_bias", raw)
	if err != nil {
		o.fail(err)
		return nil
	}
	if len(biases.fields) == 0 {
		return nil
	}
	if len(biases.fields) > maxBiases {
		o.fail(httpapi.Invalid("logit_bias", "object_above_max_properties", "logit_bias must have at most %d entries, not %d", maxBiases, len(biases.fields)))
		return nil
	}
	parsed := make(map[int32]float32, len(biases.fields))
	for _, key := range sortedKeys(biases.fields) {
		token, err := strconv.ParseInt(key, 10, 32)
		if err != nil || token < 0 {
			o.fail(httpapi.Invalid("logit_bias", "invalid_value", "logit_bias: %q is not a token id: the keys are token ids of the model", Clip(key)))
			return nil
		}
		parsed[int32(token)] = float32(biases.number(key, 0, -100, 100))
	}
	if biases.err != nil {
		o.fail(biases.err)
		return nil
	}
	return parsed
}

// checkMetadata holds metadata to OpenAI's limits. Nothing is stored, so
// nothing else is done with it.
func checkMetadata(o *object) {
	raw, ok := o.take("metadata")
	if !ok {
		return
	}
	pairs, err := parseObject("metadata", raw)
	if err != nil {
		o.fail(err)
		return
	}
	if len(pairs.fields) > maxMetadata {
		o.fail(httpapi.Invalid("metadata", "object_above_max_properties", "metadata must have at most %d pairs, not %d", maxMetadata, len(pairs.fields)))
		return
	}
	for _, key := range sortedKeys(pairs.fields) {
		if len(key) > 4*64 { // 64 characters, whatever they are
			o.fail(httpapi.Invalid("metadata", "string_above_max_length", "a key of metadata must have at most 64 characters"))
			return
		}
		if isNull(pairs.fields[key]) {
			o.fail(wrongType(pairs.name(key), "a string", pairs.fields[key]))
			return
		}
		pairs.text(key, 4*512)
	}
	if pairs.err != nil {
		o.fail(pairs.err)
	}
}

func sortedKeys(m map[string]json.RawMessage) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys) // the same request always gets the same error
	return keys
}
