package load

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Trace is what a client saw of one stream.
type Trace struct {
	Sent, End time.Time
	// Tokens are the arrivals of the events that carried text. Servers send one
	// event a token, except that a token which ends within a character waits
	// for the next; Usage has the true number.
	Tokens []time.Time
	Text   string
	Finish string // finish_reason; "" when the stream was left early
	Usage  Usage

	// events are read first and understood after the end, so that measuring
	// one stream takes little from the others.
	events []event
	raw    []byte
}

type event struct {
	at       time.Time
	from, to int // in raw
}

// Usage counts tokens.
type Usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	Details          struct {
		CachedTokens int `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
}

// TTFT is the time from sending the request to the first text, in seconds;
// without text, to the end.
func (t *Trace) TTFT() float64 {
	if len(t.Tokens) == 0 {
		return t.End.Sub(t.Sent).Seconds()
	}
	return t.Tokens[0].Sub(t.Sent).Seconds()
}

// first and last are when the first and last text came.
func (t *Trace) first() time.Time { return t.Tokens[0] }
func (t *Trace) last() time.Time  { return t.Tokens[len(t.Tokens)-1] }

// worstGap is the longest time between two texts that touches the time from
// one instant to another.
func (t *Trace) worstGap(from, to time.Time) time.Duration {
	var worst time.Duration
	for i := 1; i < len(t.Tokens); i++ {
		if t.Tokens[i].After(from) && t.Tokens[i-1].Before(to) {
			worst = max(worst, t.Tokens[i].Sub(t.Tokens[i-1]))
		}
	}
	return worst
}

// read takes the events with their times.
func (t *Trace) read(r io.Reader, watch func(int) bool) error {
	events := newEventReader(r)
	for {
		data, err := events.next()
		if errors.Is(err, io.EOF) {
			return errors.New("the stream ended without [DONE]")
		}
		if err != nil {
			return err
		}
		if string(data) == "[DONE]" {
			return nil
		}
		from := len(t.raw)
		t.raw = append(t.raw, data...)
		t.events = append(t.events, event{time.Now(), from, len(t.raw)})
		if watch != nil && !watch(len(t.events)) {
			return nil
		}
	}
}

// chunk is the part of an event that counts here.
type chunk struct {
	Choices []struct {
		Text  string `json:"text"`
		Delta struct {
			Content   string `json:"content"`
			Reasoning string `json:"reasoning_content"`
		} `json:"delta"`
		Finish string `json:"finish_reason"`
	} `json:"choices"`
	Usage *Usage `json:"usage"`
	Error *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// parse understands the events. A server tells of a failure in mid-stream by
// an event; it is returned as an error.
func (t *Trace) parse() error {
	var text strings.Builder
	for _, e := range t.events {
		var c chunk
		if err := json.Unmarshal(t.raw[e.from:e.to], &c); err != nil {
			return fmt.Errorf("understand an event: %w", err)
		}
		if c.Error != nil {
			return fmt.Errorf("the server broke the stream off: %s", c.Error.Message)
		}
		if c.Usage != nil {
			t.Usage = *c.Usage
		}
		for _, choice := range c.Choices {
			if choice.Finish != "" {
				t.Finish = choice.Finish
			}
			if said := choice.Text + choice.Delta.Reasoning + choice.Delta.Content; said != "" {
				text.WriteString(said)
				t.Tokens = append(t.Tokens, e.at)
			}
		}
	}
	t.Text, t.events, t.raw = text.String(), nil, nil
	return nil
}
