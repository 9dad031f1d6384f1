package generation

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/skein-run/skein/internal/chat"
	"github.com/skein-run/skein/internal/chat/calls"
	"github.com/skein-run/skein/internal/runner/wire"
)

// choice is one answer being written. It belongs to one goroutine.
type choice struct {
	run     *run
	index   int
	stream  Stream
	record  *record
	decoder *chat.Decoder
	aligner aligner

	tokens    int // received up to the stop, if there is one
	stopped   bool
	announced bool // the echo, if any, was sent
	progress  bool // that the prompt is whole is to be told

	calls  *calls.Reader // nil: calls are no matter
	called bool          // there was one
}

// choice runs answer number index to its end.
func (r *run) choice(ctx context.Context, index int) error {
	// Ending generation stops the runner while its last words, with the
	// figures for the usage, still come through the stream.
	generation, end := context.WithCancel(ctx)
	defer end()
	sampling := r.req.Sampling
	sampling.Seed += uint64(index)
	request := wire.GenerateRequest{
		ID: r.service.lastID.Add(1), Prompt: r.input.tokens, MaxTokens: r.input.maxTokens, Sampling: sampling,
		Logprobs: r.req.Logprobs, TopLogprobs: r.req.TopLogprobs, IgnoreEnd: r.req.IgnoreEnd, NoCache: r.req.NoCache,
		Progress: r.req.Progress && index == 0,
	}
	stopMeter := func() {}
	if request.Progress {
		m := NewMeter()
		generation = WithProgress(generation, m.Note)
		// Who does not read gets the error with the first text.
		m.Start(func(p PromptProgress) { _ = r.send(Event{Choice: index, Prompt: &p}) })
		stopMeter = m.Stop
		defer m.Stop()
	}
	stream, err := r.model.Generate(generation, request)
	if err != nil {
		return err
	}
	defer stream.Close()
	record := r.service.keeper.open(Snapshot{
		ID: request.ID, Model: r.req.Model, Choice: index, Prompt: r.input.tokens,
		Sampling: sampling, MaxTokens: request.MaxTokens, Started: r.service.options.Clock(),
	})
	defer r.service.keeper.close(record)
	c := &choice{
		run: r, index: index, stream: stream, record: record,
		decoder: chat.NewDecoder(r.input.decoder), aligner: aligner{logprobs: r.req.Logprobs}, progress: request.Progress,
	}
	if r.input.calls != calls.None {
		c.calls = calls.NewReader(r.input.calls, func(name string) bool {
			return slices.ContainsFunc(r.req.Tools, func(t Tool) bool { return t.Name == name })
		})
		c.calls.Write(r.input.opening)
	}
	for {
		tokens, done, err := stream.Next(ctx)
		stopMeter()
		if err != nil {
			return err
		}
		if err := c.take(tokens); err != nil {
			return err
		}
		if c.stopped && done == nil {
			end()
			done, err = c.drain(ctx)
			if err != nil {
				return err
			}
		}
		if c.stopped || done != nil {
			return c.finish(ctx, done)
		}
	}
}

// take turns tokens into one event, or none.
func (c *choice) take(tokens []wire.Token) error {
	e := Event{Choice: c.index}
	for i := range tokens {
		t := &tokens[i]
		c.tokens++
		piece := t.Piece
		if len(piece) == 0 {
			piece = []byte(c.run.prepared.marker(t.Token, c.calls != nil))
		}
		out := c.decoder.Write(piece)
		c.aligner.push(t, len(piece))
		c.add(&e, out)
		if out.Stop != "" || c.called && c.run.req.OneCall {
			c.stopped = true
			tokens = tokens[:i+1]
			break
		}
	}
	c.record.produced(tokens)
	return c.send(e)
}

// add puts what the decoder released into the event.
func (c *choice) add(e *Event, out chat.Output) {
	if c.calls == nil {
		e.Text += out.Text
	} else {
		c.addCalls(e, out.Text, c.calls.Write)
	}
	e.Reasoning += out.Reasoning
	e.Logprobs = c.aligner.release(e.Logprobs, out.Runs)
}

// addCalls puts text without its calls, and the calls, into the event. What
// stands after the only call that may be is nobody's.
func (c *choice) addCalls(e *Event, text string, read func(string) (string, []Call)) {
	if c.called && c.run.req.OneCall {
		return
	}
	said, calls := read(text)
	e.Text += said
	if c.run.req.OneCall && len(calls) > 1 {
		calls = calls[:1]
	}
	for _, call := range calls {
		call.ID = c.run.service.options.CallID()
		e.Calls = append(e.Calls, call)
		c.called = true
	}
}

// send emits an event that has something to say.
func (c *choice) send(e Event) error {
	if !c.announced {
		e.Text = c.run.input.echo + e.Text
		c.announced = true
	}
	if e.Text == "" && e.Reasoning == "" && len(e.Logprobs) == 0 && len(e.Calls) == 0 {
		return nil
	}
	if c.progress {
		e.Prompt = &PromptProgress{len(c.run.input.tokens), len(c.run.input.tokens)}
		c.progress = false
	}
	if err := c.run.send(e); err != nil {
		return &emitError{err}
	}
	return nil
}

// drain waits for the end of a generation that was told to end. A runner that
// fails now takes nothing from an answer that is complete, so that the usage
// is all that is lost; the next request will report the failure.
func (c *choice) drain(ctx context.Context) (*wire.Done, error) {
	for {
		_, done, err := c.stream.Next(ctx)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil || done != nil {
			return done, nil
		}
	}
}

// finish ends the choice as done says.
func (c *choice) finish(ctx context.Context, done *wire.Done) error {
	reason := FinishStop
	if !c.stopped {
		switch done.Reason {
		case wire.ReasonStop:
		case wire.ReasonLength:
			reason = FinishLength
		case wire.ReasonError:
			return byCode(done.Code, done.Error, len(c.run.input.tokens), c.run.model.Info().Context)
		case wire.ReasonCancelled:
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return errors.New("it cancelled the generation")
		default:
			return fmt.Errorf("it ended the generation for an unknown reason, %q", done.Reason)
		}
	}
	e := Event{Choice: c.index}
	c.add(&e, c.decoder.Close())
	if c.calls != nil {
		c.addCalls(&e, "", func(string) (string, []Call) { return c.calls.Close() })
		if c.called && reason == FinishStop {
			reason = FinishCalls
		}
	}
	if err := c.send(e); err != nil {
		return err
	}
	if err := c.run.finish(c.index, reason, c.tokens, c.aligner.reasoning, done); err != nil {
		return &emitError{err}
	}
	return nil
}

// marker is the text of a markup token without a piece, or empty.
func (p *Prepared) marker(token int32, calls bool) string {
	if p == nil {
		return ""
	}
	if text, ok := p.markers[token]; ok || !calls {
		return text
	}
	return p.callMarkers[token]
}

// aligner follows what becomes of each token's bytes, so that log-probabilities
// go out with the text they belong to, and counts the tokens of the reasoning.
type aligner struct {
	logprobs  bool
	queue     []aligned // not all of whose bytes were released
	reasoning int
}

type aligned struct {
	logprob             TokenLogprob
	left                int  // bytes still held
	answered, reflected bool // bytes went to the answer, to the reasoning
}

func (a *aligner) push(t *wire.Token, bytes int) {
	if bytes == 0 {
		return // an end-of-generation or control token: no text, no place
	}
	item := aligned{left: bytes}
	if a.logprobs && t.HasLogprob {
		item.logprob = TokenLogprob{Token: t.Token, Bytes: t.Piece, Logprob: t.Logprob}
		for _, top := range t.Top {
			item.logprob.Top = append(item.logprob.Top, TokenLogprob{Token: top.Token, Bytes: top.Piece, Logprob: top.Logprob})
		}
	}
	a.queue = append(a.queue, item)
}

// release appends the log-probabilities of the tokens that runs complete.
func (a *aligner) release(out []TokenLogprob, runs []chat.Run) []TokenLogprob {
	for _, r := range runs {
		for n := r.Bytes; n > 0; {
			t := &a.queue[0]
			used := min(n, t.left)
			n -= used
			t.left -= used
			t.answered = t.answered || r.Kind == chat.RunAnswer
			t.reflected = t.reflected || r.Kind == chat.RunReasoning
			if t.left > 0 {
				continue
			}
			if t.answered && a.logprobs {
				out = append(out, t.logprob)
			} else if t.reflected && !t.answered {
				a.reasoning++
			}
			a.queue = a.queue[1:]
		}
	}
	return out
}
