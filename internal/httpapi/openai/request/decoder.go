// Package request reads the bodies of OpenAI's chat completions and completions:
// it takes them apart field by field, holds each to its type and limits, and
// makes a neutral generation.Request. The first mistake that a person would want
// to hear of is the answer, with its field and the fix; errors are *httpapi.Error.
//
// It knows no model and sends nothing. A Decoder may be used from any goroutine;
// all that it remembers is the unknown fields that it has warned about.
package request

import "log/slog"

// Limits of what one request may have.
type Limits struct {
	Messages int // of a chat
	Choices  int // the largest n
	Prompts  int // of a completions request
}

// Decoder reads bodies.
type Decoder struct {
	limits  Limits
	strange strangers
}

// NewDecoder makes a Decoder; log hears of fields that nobody knows.
func NewDecoder(l Limits, log *slog.Logger) *Decoder {
	return &Decoder{limits: l, strange: strangers{log: log}}
}
