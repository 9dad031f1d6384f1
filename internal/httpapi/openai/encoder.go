package openai

import (
	"encoding/json"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/httpapi"
)

// header is what all chunks and the whole response of a request begin with.
type header struct {
	id          string
	created     int64 // Unix seconds
	model       string
	fingerprint string // "": null
	serviceTier bool
}

func (h *header) append(b []byte, object string) []byte {
	b = append(b, `{"id":`...)
	b = appendString(b, h.id)
	b = append(b, `,"object":"`...)
	b = append(b, object...)
	b = append(b, `","created":`...)
	b = appendInt(b, h.created)
	b = append(b, `,"model":`...)
	b = appendString(b, h.model)
	if h.serviceTier {
		b = append(b, `,"service_tier":"default"`...)
	}
	b = append(b, `,"system_fingerprint":`...)
	if h.fingerprint == "" {
		b = append(b, `null`...)
	} else {
		b = appendString(b, h.fingerprint)
	}
	return append(b, `,"choices":[`...)
}

// encoder writes one request's events as SSE chunks, in a buffer that is used
// again for each. It is used by one goroutine at a time.
type encoder struct {
	chat  bool // chat chunks, not text chunks
	top   bool // legacy logprobs have rivals
	usage bool // stream_options.include_usage
	model string
	// figures is that of Options; nil: no such comment.
	figures func(model string, u generation.Usage) []byte
	head    []byte // `data: {...,"choices":[`
	buf     []byte

	begun   []bool // by choice: its role was sent
	offsets []int  // by choice: characters so far, for text_offset
}

func newEncoder(h header, chat bool, choices int, includeUsage, top bool) *encoder {
	object := "text_completion"
	if chat {
		object = "chat.completion.chunk"
	}
	return &encoder{
		chat: chat, top: top, usage: includeUsage, model: h.model,
		head:  h.append([]byte("data: "), object),
		begun: make([]bool, choices), offsets: make([]int, choices),
	}
}

// event gives the chunks of an event, none for one that says nothing. The
// result is valid until the next call.
func (e *encoder) event(ev *generation.Event) []byte {
	e.buf = e.buf[:0]
	if ev.Prompt != nil {
		e.buf = httpapi.AppendPrompt(e.buf, e.model, *ev.Prompt)
	}
	if e.chat {
		e.chatChunks(ev)
	} else {
		e.textChunks(ev)
	}
	return e.buf
}

func (e *encoder) open(choice int) {
	e.buf = append(e.buf, e.head...)
	e.buf = append(e.buf, `{"index":`...)
	e.buf = appendInt(e.buf, choice)
}

func (e *encoder) close(finish string) {
	e.buf = append(e.buf, `,"finish_reason":`...)
	if finish == "" {
		e.buf = append(e.buf, `null}]`...)
	} else {
		e.buf = append(appendString(e.buf, finish), `}]`...)
	}
	if e.usage {
		e.buf = append(e.buf, `,"usage":null`...)
	}
	e.buf = append(e.buf, "}\n\n"...)
}

// chatChunks: the role first, then a chunk for reasoning, one for text, and
// one with an empty delta for the end.
func (e *encoder) chatChunks(ev *generation.Event) {
	said := ev.Text != "" || ev.Reasoning != "" || len(ev.Logprobs) > 0
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
	if ev.FinishReason != "" {
		e.open(ev.Choice)
		e.buf = append(e.buf, `,"delta":{},"logprobs":null`...)
		e.close(ev.FinishReason)
	}
}

func (e *encoder) delta(choice int, field, text string, logprobs []generation.TokenLogprob) {
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
func (e *encoder) textChunks(ev *generation.Event) {
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
		e.buf, e.offsets[ev.Choice] = appendLegacyLogprobs(e.buf, ev.Logprobs, e.offsets[ev.Choice], e.top)
	}
	e.close(ev.FinishReason)
}

// finish gives the end of a good stream: usage, if asked for, and [DONE].
func (e *encoder) finish(u generation.Usage, timed bool) []byte {
	e.buf = e.buf[:0]
	if e.usage {
		e.buf = append(append(e.buf, e.head...), `],"usage":`...)
		e.buf = appendUsage(e.buf, u)
		if timed {
			e.buf = append(e.buf, `,"timings":`...)
			e.buf = appendTimings(e.buf, u)
		}
		e.buf = append(e.buf, "}\n\n"...)
	}
	if e.figures != nil && e.chat && timed {
		e.buf = append(e.buf, e.figures(e.model, u)...)
	}
	return append(e.buf, "data: [DONE]\n\n"...)
}

// failure gives the event that a broken stream ends with. No [DONE] follows.
func (e *encoder) failure(err *httpapi.Error) []byte {
	body, encodeErr := json.Marshal(err)
	if encodeErr != nil {
		// Strings always have an encoding, so the fallback is for the reader only.
		body = []byte(`{"error":{"message":"internal error","type":"server_error","param":null,"code":"internal_error"}}`)
	}
	return append(append([]byte("data: "), body...), "\n\n"...)
}
