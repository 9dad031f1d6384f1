package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Decoded is what streams gave together.
type Decoded struct {
	Rate float64 `json:"rate"` // tokens a second of all streams together
	TTFT float64 `json:"ttft"` // of the last stream to begin, seconds
	// Coverage is texts seen for each token counted by the server: far below
	// 1, the rate rests on an assumption that does not hold.
	Coverage float64 `json:"coverage"`
	Window   float64 `json:"window"` // seconds measured
	// WorstGap of any stream within the window, seconds.
	WorstGap float64 `json:"worst_gap"`
}

// Decode runs the requests at the same time and measures while all of them
// produce tokens: from the moment the last one has its first token to the
// moment the first one ends. Prompts and stragglers are thus left out.
func (c *Client) Decode(ctx context.Context, requests []Request) (Decoded, error) {
	traces, err := c.together(ctx, requests, nil)
	if err != nil {
		return Decoded{}, err
	}
	return decoded(traces)
}

func decoded(traces []*Trace) (Decoded, error) {
	var d Decoded
	var from, to time.Time
	texts, tokens := 0, 0
	for _, t := range traces {
		if len(t.Tokens) < 2 {
			return d, fmt.Errorf("a stream had %d texts in %d tokens: nothing to measure; use another prompt", len(t.Tokens), t.Usage.CompletionTokens)
		}
		if t.first().After(from) {
			from = t.first()
		}
		if to.IsZero() || t.last().Before(to) {
			to = t.last()
		}
		d.TTFT = max(d.TTFT, t.TTFT())
		texts += len(t.Tokens)
		tokens += t.Usage.CompletionTokens
	}
	if !to.After(from) {
		return d, errors.New("the streams never ran all together: decode more tokens, or give the server as many slots as there are streams")
	}
	d.Coverage, d.Window = float64(texts)/float64(tokens), to.Sub(from).Seconds()
	for _, t := range traces {
		inside := 0
		for _, at := range t.Tokens {
			if at.After(from) && !at.After(to) {
				inside++
			}
		}
		// Texts stand for tokens in proportion.
		d.Rate += float64(inside) * float64(t.Usage.CompletionTokens) / float64(len(t.Tokens)) / d.Window
		d.WorstGap = max(d.WorstGap, t.worstGap(from, to).Seconds())
	}
	return d, nil
}

// together runs requests at the same time and joins them. watch, if not nil, is
// called from their goroutines.
func (c *Client) together(ctx context.Context, requests []Request, watch func(stream, events int) bool) ([]*Trace, error) {
	traces, errs := make([]*Trace, len(requests)), make([]error, len(requests))
	var wg sync.WaitGroup
	for i, r := range requests {
		wg.Go(func() {
			var w func(int) bool
			if watch != nil {
				w = func(events int) bool { return watch(i, events) }
			}
			traces[i], errs[i] = c.Stream(ctx, r, w)
		})
	}
	wg.Wait()
	return traces, errors.Join(errs...)
}

// settled is the number of tokens after which a stream counts as running.
const settled = 8

// Interrupted is what running streams felt of a prompt.
type Interrupted struct {
	WorstGap float64 `json:"worst_gap"` // between two texts of a running stream, seconds
	QuietGap float64 `json:"quiet_gap"` // the same in the time before the prompt
	TTFT     float64 `json:"ttft"`      // of the prompt, seconds
	Rate     float64 `json:"rate"`      // tokens a second of the running streams meanwhile
}

// Interrupt lets streams run, sends a prompt when each has some tokens, and
// looks at the gaps between the streams' tokens until the prompt has its first.
// The streams must be long enough to outlast the prompt; they are left then.
func (c *Client) Interrupt(ctx context.Context, streams []Request, prompt Request) (Interrupted, error) {
	var (
		mu      sync.Mutex
		running = 0 // guarded by mu
	)
	all, over := make(chan struct{}), make(chan struct{})
	var traces []*Trace
	var streamErr error
	var wg sync.WaitGroup
	ended := make(chan struct{})
	wg.Go(func() {
		defer close(ended)
		after := make([]int, len(streams)) // each used by its own stream's goroutine
		traces, streamErr = c.together(ctx, streams, func(stream, events int) bool {
			if events == settled {
				mu.Lock()
				if running++; running == len(streams) {
					close(all)
				}
				mu.Unlock()
			}
			select {
			case <-over:
				// A few more, so that the gap at the prompt's end is seen whole.
				after[stream]++
				return after[stream] < settled
			default:
				return true
			}
		})
	})
	select {
	case <-all:
	case <-ended:
		wg.Wait()
		return Interrupted{}, errors.Join(streamErr, errors.New("the streams ended before all of them ran: give the server as many slots as there are streams, and one more"))
	}
	began := time.Now()
	long, err := c.Stream(ctx, prompt, nil)
	close(over)
	wg.Wait()
	if err = errors.Join(err, streamErr); err != nil {
		return Interrupted{}, err
	}
	return interrupted(traces, long, began)
}

// interrupted looks at streams that ran while a prompt, sent at began, came to
// its first token.
func interrupted(streams []*Trace, prompt *Trace, began time.Time) (Interrupted, error) {
	until := prompt.Sent.Add(time.Duration(prompt.TTFT() * float64(time.Second)))
	out := Interrupted{TTFT: prompt.TTFT()}
	for _, t := range streams {
		if len(t.Tokens) == 0 || t.last().Before(until) {
			return out, errors.New("a stream ended before the prompt had its first token: let the streams produce more tokens")
		}
		out.WorstGap = max(out.WorstGap, t.worstGap(began, until).Seconds())
		out.QuietGap = max(out.QuietGap, t.worstGap(t.first(), began).Seconds())
		for _, at := range t.Tokens {
			if at.After(began) && !at.After(until) {
				out.Rate += 1 / until.Sub(began).Seconds()
			}
		}
	}
	return out, nil
}
