package answer

import (
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/skein-run/skein/internal/generation"
)

// Encoding by hand: one chunk is made for each token of each stream, and
// encoding/json's reflection would be most of its cost. The tests hold these
// functions to encoding/json's reading of what they write.

// appendString appends s as a JSON string. Bytes that are not UTF-8 become
// U+FFFD; the line separators U+2028 and U+2029 are escaped, for JavaScript.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	done := 0 // s[:done] is in b
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			switch {
			case r == utf8.RuneError && size == 1:
				b = append(append(b, s[done:i]...), `\ufffd`...)
				done = i + size
			case r == '\u2028' || r == '\u2029':
				b = append(append(b, s[done:i]...), `\u202`...)
				b = append(b, hex[r&0xf])
				done = i + size
			}
			i += size
			continue
		}
		if c >= ' ' && c != '"' && c != '\\' {
			i++
			continue
		}
		b = append(b, s[done:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			b = append(b, `\u00`...)
			b = append(b, hex[c>>4], hex[c&0xf])
		}
		i++
		done = i
	}
	return append(append(b, s[done:]...), '"')
}

func appendInt[T int | int32 | int64](b []byte, v T) []byte {
	return strconv.AppendInt(b, int64(v), 10)
}

// appendLogprob appends a log-probability. JSON has no infinity: an impossible
// token gets OpenAI's -9999.
func appendLogprob(b []byte, v float32) []byte {
	if math.IsNaN(float64(v)) || v < -9999 {
		v = -9999
	}
	return strconv.AppendFloat(b, float64(v), 'f', -1, 32)
}

// appendMilliseconds appends a duration in seconds as milliseconds.
func appendMilliseconds(b []byte, seconds float64) []byte { return appendRate(b, seconds*1000) }

// appendRate appends a finite figure with three decimals.
func appendRate(b []byte, v float64) []byte {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		v = 0
	}
	return strconv.AppendFloat(b, v, 'f', 3, 64)
}

// tokenText is a token's bytes as text. Bytes that are a part of a character
// only are written as OpenAI does, as \xe2\x82, and prefix goes before it all.
func tokenText(piece []byte, prefix string) string {
	if utf8.Valid(piece) {
		return string(piece)
	}
	const hex = "0123456789abcdef"
	text := []byte(prefix)
	for len(piece) > 0 {
		r, size := utf8.DecodeRune(piece)
		if r == utf8.RuneError && size == 1 {
			text = append(text, '\\', 'x', hex[piece[0]>>4], hex[piece[0]&0xf])
		} else {
			text = append(text, piece[:size]...)
		}
		piece = piece[size:]
	}
	return string(text)
}

// appendChatLogprobs appends the value of a chat choice's logprobs.
func appendChatLogprobs(b []byte, tokens []generation.TokenLogprob) []byte {
	b = append(b, `{"content":[`...)
	for i := range tokens {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '{')
		b = appendChatToken(b, &tokens[i])
		b = append(b, `,"top_logprobs":[`...)
		for j := range tokens[i].Top {
			if j > 0 {
				b = append(b, ',')
			}
			b = append(b, '{')
			b = append(appendChatToken(b, &tokens[i].Top[j]), '}')
		}
		b = append(b, `]}`...)
	}
	return append(b, `],"refusal":null}`...)
}

func appendChatToken(b []byte, t *generation.TokenLogprob) []byte {
	b = append(b, `"token":`...)
	b = appendString(b, tokenText(t.Bytes, ""))
	b = append(b, `,"logprob":`...)
	b = appendLogprob(b, t.Logprob)
	b = append(b, `,"bytes":[`...)
	for i, c := range t.Bytes {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, uint64(c), 10)
	}
	return append(b, ']')
}

// appendLegacyLogprobs appends the value of a text choice's logprobs. offset
// is where the first token begins in the choice's text, in characters; the
// offset after the last one is returned.
func appendLegacyLogprobs(b []byte, tokens []generation.TokenLogprob, offset int, top bool) ([]byte, int) {
	list := func(name string, item func(t *generation.TokenLogprob)) {
		b = append(b, name...)
		b = append(b, '[')
		for i := range tokens {
			if i > 0 {
				b = append(b, ',')
			}
			item(&tokens[i])
		}
		b = append(b, ']')
	}
	list(`{"tokens":`, func(t *generation.TokenLogprob) {
		b = appendString(b, tokenText(t.Bytes, "bytes:"))
	})
	list(`,"token_logprobs":`, func(t *generation.TokenLogprob) {
		b = appendLogprob(b, t.Logprob)
	})
	if top {
		list(`,"top_logprobs":`, func(t *generation.TokenLogprob) {
			b = appendTopMap(b, t.Top)
		})
	} else {
		b = append(b, `,"top_logprobs":null`...)
	}
	list(`,"text_offset":`, func(t *generation.TokenLogprob) {
		b = appendInt(b, offset)
		for _, c := range t.Bytes {
			if utf8.RuneStart(c) { // a character counts where it begins
				offset++
			}
		}
	})
	return append(b, '}'), offset
}

// appendTopMap appends rivals as an object of text to log-probability. Two
// tokens may have the same text: the more probable one, which is first, counts.
func appendTopMap(b []byte, top []generation.TokenLogprob) []byte {
	b = append(b, '{')
	seen := make(map[string]struct{}, len(top))
	for i := range top {
		text := tokenText(top[i].Bytes, "bytes:")
		if _, ok := seen[text]; ok {
			continue
		}
		if len(seen) > 0 {
			b = append(b, ',')
		}
		seen[text] = struct{}{}
		b = append(appendString(b, text), ':')
		b = appendLogprob(b, top[i].Logprob)
	}
	return append(b, '}')
}

// appendUsage appends the value of usage.
func appendUsage(b []byte, u generation.Usage) []byte {
	b = append(b, `{"prompt_tokens":`...)
	b = appendInt(b, u.PromptTokens)
	b = append(b, `,"completion_tokens":`...)
	b = appendInt(b, u.CompletionTokens)
	b = append(b, `,"total_tokens":`...)
	b = appendInt(b, u.PromptTokens+u.CompletionTokens)
	b = append(b, `,"prompt_tokens_details":{"cached_tokens":`...)
	b = appendInt(b, u.CachedTokens)
	b = append(b, `,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":`...)
	b = appendInt(b, u.ReasoningTokens)
	return append(b, `,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}`...)
}

// appendTimings appends the value of timings, an extra of ours with
// llama-server's names. The first token belongs to the prompt's time, so n
// tokens have n-1 steps in predicted_ms, and the rates count those.
func appendTimings(b []byte, u generation.Usage) []byte {
	computed := float64(u.PromptTokens - u.CachedTokens)
	steps := float64(max(u.CompletionTokens-1, 0))
	b = append(b, `{"cache_n":`...)
	b = appendInt(b, u.CachedTokens)
	b = append(b, `,"prompt_n":`...)
	b = appendInt(b, u.PromptTokens-u.CachedTokens)
	b = append(b, `,"prompt_ms":`...)
	b = appendMilliseconds(b, u.PrefillSeconds)
	b = append(b, `,"prompt_per_token_ms":`...)
	b = appendMilliseconds(b, u.PrefillSeconds/computed)
	b = append(b, `,"prompt_per_second":`...)
	b = appendRate(b, computed/u.PrefillSeconds)
	b = append(b, `,"predicted_n":`...)
	b = appendInt(b, u.CompletionTokens)
	b = append(b, `,"predicted_ms":`...)
	b = appendMilliseconds(b, u.DecodeSeconds)
	b = append(b, `,"predicted_per_token_ms":`...)
	b = appendMilliseconds(b, u.DecodeSeconds/steps)
	b = append(b, `,"predicted_per_second":`...)
	b = appendRate(b, steps/u.DecodeSeconds)
	b = append(b, `,"queue_ms":`...)
	b = appendMilliseconds(b, u.QueueSeconds)
	return append(b, '}')
}

// appendCalls appends the value of tool_calls. index is that of the first call
// in its choice for a stream's chunks, and -1 for a whole answer, where they
// have none.
func appendCalls(b []byte, calls []generation.Call, index int) []byte {
	b = append(b, '[')
	for i, c := range calls {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '{')
		if index >= 0 {
			b = append(b, `"index":`...)
			b = append(appendInt(b, index+i), ',')
		}
		b = append(b, `"id":`...)
		b = appendString(b, c.ID)
		b = append(b, `,"type":"function","function":{"name":`...)
		b = appendString(b, c.Name)
		b = append(b, `,"arguments":`...)
		b = append(appendString(b, c.Arguments), `}}`...)
	}
	return append(b, ']')
}
