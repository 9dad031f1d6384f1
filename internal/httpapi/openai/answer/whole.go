package answer

import (
	"strings"

	"github.com/skein-run/skein/internal/generation"
)

// Whole puts the events of a request that is not streamed together.
type Whole struct {
	Shape
	head    Header
	choices []collected
}

type collected struct {
	text, reasoning strings.Builder
	logprobs        []generation.TokenLogprob
	calls           []generation.Call
	finish          string
}

// NewWhole begins an answer.
func NewWhole(h Header, s Shape) *Whole {
	return &Whole{Shape: s, head: h, choices: make([]collected, s.Choices)}
}

// Add takes an event; it never fails.
func (c *Whole) Add(ev generation.Event) error {
	choice := &c.choices[ev.Choice]
	if !c.Chat {
		choice.text.WriteString(ev.Reasoning) // as textChunks
	}
	choice.text.WriteString(ev.Text)
	choice.reasoning.WriteString(ev.Reasoning)
	choice.logprobs = append(choice.logprobs, ev.Logprobs...)
	choice.calls = append(choice.calls, ev.Calls...)
	if ev.FinishReason != "" {
		choice.finish = ev.FinishReason
	}
	return nil
}

// Bytes is the whole answer in JSON.
func (c *Whole) Bytes(u generation.Usage) []byte {
	object := "text_completion"
	if c.Chat {
		object = "chat.completion"
	}
	b := c.head.append(nil, object)
	for i := range c.choices {
		choice := &c.choices[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"index":`...)
		b = appendInt(b, i)
		if c.Chat {
			b = choice.appendMessage(b)
		} else {
			b = append(b, `,"text":`...)
			b = appendString(b, choice.text.String())
		}
		b = append(b, `,"logprobs":`...)
		switch {
		case !c.Logprobs:
			b = append(b, `null`...)
		case c.Chat:
			b = appendChatLogprobs(b, choice.logprobs)
		default:
			b, _ = appendLegacyLogprobs(b, choice.logprobs, 0, c.Top)
		}
		b = append(b, `,"finish_reason":`...)
		b = append(appendString(b, choice.finish), '}')
	}
	b = append(b, `],"usage":`...)
	b = appendUsage(b, u)
	if c.timed() {
		b = append(b, `,"timings":`...)
		b = appendTimings(b, u)
	}
	return append(b, '}')
}

func (c *collected) appendMessage(b []byte) []byte {
	b = append(b, `,"message":{"role":"assistant","content":`...)
	b = appendString(b, c.text.String())
	b = append(b, `,"refusal":null,"annotations":[]`...)
	if c.reasoning.Len() > 0 {
		b = append(b, `,"reasoning_content":`...)
		b = appendString(b, c.reasoning.String())
	}
	if len(c.calls) > 0 {
		b = append(b, `,"tool_calls":`...)
		b = appendCalls(b, c.calls, -1)
	}
	return append(b, '}')
}
