// Package answer writes what OpenAI's clients read: the events of a request as
// SSE chunks, or all of them as one body. Both say the same.
//
// It writes JSON by hand, since one chunk is made for each token of each stream.
// It sends nothing; a Stream or a Whole is used by one goroutine at a time.
package answer

import (
	"encoding/json"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/httpapi"
)

// Header is what all chunks and the whole response of a request begin with.
type Header struct {
	ID          string
	Created     int64 // Unix seconds
	Model       string
	Fingerprint string // "": null
	ServiceTier bool   // it was asked for
}

func (h *Header) append(b []byte, object string) []byte {
	b = append(b, `{"id":`...)
	b = appendString(b, h.ID)
	b = append(b, `,"object":"`...)
	b = append(b, object...)
	b = append(b, `","created":`...)
	b = appendInt(b, h.Created)
	b = append(b, `,"model":`...)
	b = appendString(b, h.Model)
	if h.ServiceTier {
		b = append(b, `,"service_tier":"default"`...)
	}
	b = append(b, `,"system_fingerprint":`...)
	if h.Fingerprint == "" {
		b = append(b, `null`...)
	} else {
		b = appendString(b, h.Fingerprint)
	}
	return append(b, `,"choices":[`...)
}

// Shape is what an answer has.
type Shape struct {
	Chat     bool // messages, not texts
	Choices  int  // over all prompts
	Logprobs bool
	Top      bool // logprobs have rivals
	Usage    bool // stream_options.include_usage
}

// timed tells whether the usage's times are those of one generation.
func (s Shape) timed() bool { return s.Choices == 1 }

// Stream writes one request's events as SSE chunks, in a buffer that is used
// again for each.
type Stream struct {
	Shape
	model   string
	figures func(model string, u generation.Usage) []byte
	head    []byte // `data: {...,"choices":[`
	buf     []byte

	begun   []bool // by choice: its role was sent
	offsets []int  // by choice: characters so far, for text_offset
	calls   []int  // by choice: calls so far
}

// NewStream begins an answer. figures makes the comment about a generation that
// goes before the end of a chat of one choice; nil: there is none.
func NewStream(h Header, s Shape, figures func(model string, u generation.Usage) []byte) *Stream {
	object := "text_completion"
	if s.Chat {
		object = "chat.completion.chunk"
	}
	return &Stream{
		Shape: s, model: h.Model, figures: figures,
		head:  h.append([]byte("data: "), object),
		begun: make([]bool, s.Choices), offsets: make([]int, s.Choices), calls: make([]int, s.Choices),
	}
}

// Event gives the chunks of an event, none for one that says nothing. The
// result is valid until the next call.
func (e *Stream) Event(ev *generation.Event) []byte {
	e.buf = e.buf[:0]
	if ev.Prompt != nil {
		e.buf = httpapi.AppendPrompt(e.buf, e.model, *ev.Prompt)
	}
	if e.Chat {
		e.chatChunks(ev)
	} else {
		e.textChunks(ev)
	}
	return e.buf
}

func (e *Stream) open(choice int) {
	e.buf = append(e.buf, e.head...)
	e.buf = append(e.buf, `{"index":`...)
	e.buf = appendInt(e.buf, choice)
}

func (e *Stream) close(finish string) {
	e.buf = append(e.buf, `,"finish_reason":`...)
	if finish == "" {
		e.buf = append(e.buf, `null}]`...)
	} else {
		e.buf = append(appendString(e.buf, finish), `}]`...)
	}
	if e.Usage {
		e.buf = append(e.buf, `,"usage":null`...)
	}
	e.buf = append(e.buf, "}\n\n"...)
}

// chatChunks: the role first, then a chunk for reasoning, one for text, one
// for calls, and one with an empty delta for the end.
func (e *Stream) chatChunks(ev *generation.Event) {
	said := ev.Text != "" || ev.Reasoning != "" || len(ev.Logprobs) > 0 || len(ev.Calls) > 0
	if !e.begun[ev.Choice] && (said || ev.FinishReason != "") {
		e.begun[ev.Choice] = true
		e.open(ev.Choice)
		e.buf = append(e.buf, `,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null`...)
		e.close("")
	}
	logprobs := ev.Logprobs
	if ev.Reasoning != "" {
		e.delta(ev.Choice, "reasoning_content", ev.Reasoning, logprobs)
		logprobs = nil
	}
	if ev.Text != "" || len(logprobs) > 0 {
		e.delta(ev.Choice, "content", ev.Text, logprobs)
	}
	if len(ev.Calls) > 0 {
		e.open(ev.Choice)
		e.buf = append(e.buf, `,"delta":{"tool_calls":`...)
		e.buf = appendCalls(e.buf, ev.Calls, e.calls[ev.Choice])
		e.calls[ev.Choice] += len(ev.Calls)
		e.buf = append(e.buf, `},"logprobs":null`...)
		e.close("")
	}
	if ev.FinishReason != "" {
		e.open(ev.Choice)
		e.buf = append(e.buf, `,"delta":{},"logprobs":null`...)
		e.close(ev.FinishReason)
	}
}

func (e *Stream) delta(choice int, field, text string, logprobs []generation.TokenLogprob) {
	e.open(choice)
	e.buf = append(e.buf, `,"delta":{"`...)
	e.buf = append(e.buf, field...)
	e.buf = append(e.buf, `":`...)
	e.buf = appendString(e.buf, text)
	e.buf = append(e.buf, `},"logprobs":`...)
	if len(logprobs) == 0 {
		e.buf = append(e.buf, `null`...)
	} else {
		e.buf = appendChatLogprobs(e.buf, logprobs)
	}
	e.close("")
}

// textChunks: one chunk an event. A completion has no place for reasoning
// apart: what a raw prompt brings forth is text.
func (e *Stream) textChunks(ev *generation.Event) {
	if ev.Text == "" && ev.Reasoning == "" && len(ev.Logprobs) == 0 && ev.FinishReason == "" {
		return
	}
	e.open(ev.Choice)
	e.buf = append(e.buf, `,"text":`...)
	e.buf = appendString(e.buf, ev.Reasoning+ev.Text)
	e.buf = append(e.buf, `,"logprobs":`...)
	if len(ev.Logprobs) == 0 {
		e.buf = append(e.buf, `null`...)
	} else {
		e.buf, e.offsets[ev.Choice] = appendLegacyLogprobs(e.buf, ev.Logprobs, e.offsets[ev.Choice], e.Top)
	}
	e.close(ev.FinishReason)
}

// Finish gives the end of a good stream: usage, if asked for, and [DONE].
func (e *Stream) Finish(u generation.Usage) []byte {
	e.buf = e.buf[:0]
	if e.Usage {
		e.buf = append(append(e.buf, e.head...), `],"usage":`...)
		e.buf = appendUsage(e.buf, u)
		if e.timed() {
			e.buf = append(e.buf, `,"timings":`...)
			e.buf = appendTimings(e.buf, u)
		}
		e.buf = append(e.buf, "}\n\n"...)
	}
	if e.figures != nil && e.Chat && e.timed() {
		e.buf = append(e.buf, e.figures(e.model, u)...)
	}
	return append(e.buf, "data: [DONE]\n\n"...)
}

// Failure gives the event that a broken stream ends with. No [DONE] follows.
func (e *Stream) Failure(err *httpapi.Error) []byte {
	body, encodeErr := json.Marshal(err)
	if encodeErr != nil {
		// Strings always have an encoding, so the fallback is for the reader only.
		body = []byte(`{"error":{"message":"internal error","type":"server_error","param":null,"code":"internal_error"}}`)
	}
	return append(append([]byte("data: "), body...), "\n\n"...)
}
