package chat

// RunKind says what became of bytes that a Decoder was given.
type RunKind int

// Kinds of runs.
const (
	RunAnswer    RunKind = iota // part of Output.Text
	RunReasoning                // part of Output.Reasoning
	RunDropped                  // markup, space around it, or a stop string and what follows
)

// Run is a number of consecutive input bytes with the same fate. Over all
// outputs of a Decoder the runs cover the input once, in order.
type Run struct {
	Kind  RunKind
	Bytes int
}

// Output is what a Decoder released. Both texts are valid UTF-8.
type Output struct {
	Text      string
	Reasoning string
	Runs      []Run
	// Stop is the stop string that ended the text. Nothing is released after.
	Stop string
}

// DecoderOptions say how to read a model's output.
type DecoderOptions struct {
	// Reasoning is the zero value for output that is all answer.
	Reasoning Reasoning
	// Inside tells that the prompt opened the reasoning already; see
	// Reasoning.OpenIn.
	Inside bool
	// Stops end the answer where one of them appears in it. They are not
	// looked for in the reasoning. The one that is complete first wins; of
	// two that end together, the longer. Empty ones are ignored.
	Stops []string
}

// Decoder turns the bytes of generated tokens into answer and reasoning. The
// concatenated output depends on the concatenated input only, never on how it
// was cut. It holds back no more than what may still become a stop string, a
// marker, a character, or the space around a marker.
//
// Reasoning is recognized at the beginning of the output only (a later
// "<think>" is text that the model writes about), space around it is dropped,
// and reasoning that is never closed stays reasoning to the end.
type Decoder struct {
	splitter splitter
	stops    *matcher
	text     assembler
	thoughts assembler

	out       Output
	textBytes []byte // released, becomes out.Text
	thinkText []byte
	stopped   bool
}

// NewDecoder makes a Decoder for one generation.
func NewDecoder(o DecoderOptions) *Decoder {
	d := &Decoder{stops: newMatcher(o.Stops)}
	d.splitter = splitter{
		reasoning: o.Reasoning, phase: phaseStart,
		answer: d.answer, think: d.think, drop: d.drop, flushAnswer: d.flushAnswer,
	}
	switch {
	case o.Reasoning.Channels:
		d.splitter.phase = phaseChannelTalk
	case o.Reasoning.Open == "":
		d.splitter.phase = phaseAnswer
	case o.Inside:
		d.splitter.phase = phaseOpenStart
	}
	return d
}

// Write takes the next bytes and gives what can be released.
func (d *Decoder) Write(p []byte) Output {
	if d.stopped {
		d.drop(len(p))
	} else {
		d.splitter.write(p)
	}
	return d.release()
}

// Close ends the input and gives what was held back. Write must not follow.
func (d *Decoder) Close() Output {
	d.splitter.close()
	d.flushAnswer()
	d.flushThoughts()
	return d.release()
}

func (d *Decoder) release() Output {
	out := d.out
	out.Text, out.Reasoning = string(d.textBytes), string(d.thinkText)
	d.out = Output{}
	d.textBytes, d.thinkText = d.textBytes[:0], d.thinkText[:0]
	return out
}

func (d *Decoder) answer(p []byte) {
	if d.stopped {
		d.drop(len(p))
		return
	}
	if len(p) == 0 {
		return
	}
	d.flushThoughts()
	free, found, read := d.stops.write(p)
	d.emit(free)
	if found == "" {
		return
	}
	// What stands before the stop is certain: a character that is cut here
	// will never be completed.
	d.settleText()
	d.stopped, d.out.Stop = true, found
	d.drop(len(found) + len(p) - read)
}

// emit passes answer bytes on to whole characters.
func (d *Decoder) emit(p []byte) {
	before := d.text.count
	d.textBytes = d.text.write(d.textBytes, p)
	d.run(RunAnswer, before+len(p)-d.text.count)
}

func (d *Decoder) settleText() {
	before := d.text.count
	d.textBytes = d.text.flush(d.textBytes)
	d.run(RunAnswer, before)
}

func (d *Decoder) flushAnswer() {
	if d.stopped {
		return
	}
	d.emit(d.stops.flush())
	d.settleText()
}

func (d *Decoder) think(p []byte) {
	if d.stopped {
		d.drop(len(p))
		return
	}
	before := d.thoughts.count
	d.thinkText = d.thoughts.write(d.thinkText, p)
	d.run(RunReasoning, before+len(p)-d.thoughts.count)
}

func (d *Decoder) flushThoughts() {
	before := d.thoughts.count
	d.thinkText = d.thoughts.flush(d.thinkText)
	d.run(RunReasoning, before)
}

func (d *Decoder) drop(n int) {
	if n > 0 {
		d.flushThoughts()
	}
	d.run(RunDropped, n)
}

func (d *Decoder) run(kind RunKind, n int) {
	if n == 0 {
		return
	}
	if last := len(d.out.Runs) - 1; last >= 0 && d.out.Runs[last].Kind == kind {
		d.out.Runs[last].Bytes += n
		return
	}
	d.out.Runs = append(d.out.Runs, Run{kind, n})
}
