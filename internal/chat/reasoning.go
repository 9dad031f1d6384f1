package chat

import (
	"bytes"
	"strings"
)

// Reasoning tells how a model marks what it thinks before it answers.
type Reasoning struct {
	// Open and Close surround the reasoning, which comes first or not at all.
	Open, Close string
	// Channels is the harmony format instead: <|channel|>NAME<|message|>TEXT,
	// where "analysis" is reasoning and everything else is the answer.
	Channels bool
}

// tags are the pairs that templates of published models use; the first is
// what a model gets whose template has none of them.
var tags = [...]Reasoning{
	{Open: "<think>", Close: "</think>"},
	{Open: "<seed:think>", Close: "</seed:think>"},
	{Open: "<mm:think>", Close: "</mm:think>"},
	{Open: "[THINK]", Close: "[/THINK]"},
	{Open: "<|START_THINKING|>", Close: "<|END_THINKING|>"},
	{Open: "<|inner_prefix|>", Close: "<|inner_suffix|>"},
	{Open: "<|channel>thought", Close: "<channel|>"},
}

func detectReasoning(source string) Reasoning {
	if strings.Contains(source, channelMark) && strings.Contains(source, messageMark) {
		return Reasoning{Channels: true}
	}
	for _, pair := range tags {
		if strings.Contains(source, pair.Close) {
			return pair
		}
	}
	return tags[0]
}

// Markers lists the texts that the model's output may contain as markup.
// A vocabulary may hold them as control tokens, whose piece is empty: whoever
// feeds a Decoder gives it the marker's text instead.
func (r Reasoning) Markers() []string {
	if r.Channels {
		return []string{channelMark, messageMark, startMark, endMark, returnMark}
	}
	if r.Open == "" {
		return nil
	}
	return []string{r.Open, r.Close}
}

// OpenIn tells that a prompt ends within a reasoning part, so that the output
// starts inside it.
func (r Reasoning) OpenIn(prompt string) bool {
	if r.Channels || r.Open == "" {
		return false
	}
	i := strings.LastIndex(prompt, r.Open)
	return i >= 0 && strings.TrimSpace(prompt[i+len(r.Open):]) == ""
}

const (
	channelMark = "<|channel|>"
	messageMark = "<|message|>"
	startMark   = "<|start|>"
	endMark     = "<|end|>"
	returnMark  = "<|return|>"

	// longestHeader is how much may stand between a channel's mark and its
	// message before it is taken for text.
	longestHeader = 512

	space = " \t\r\n"
)

// phase is where a splitter is in the model's output.
type phase int

const (
	phaseStart     phase = iota // before anything but space
	phaseOpenStart              // the same, when the prompt opened the reasoning
	phaseThinkLead              // space after the opening
	phaseThink
	phaseAnswerLead // space after the closing
	phaseAnswer
	phaseHeader       // channels: between <|start|> or <|channel|> and <|message|>
	phaseChannelThink // channels: in the analysis
	phaseChannelTalk  // channels: in any other message
)

// splitter sorts the bytes of a model's output, in order, into answer,
// reasoning and markup. What cannot be sorted yet is held.
type splitter struct {
	reasoning Reasoning
	phase     phase
	held      []byte

	answer, think func([]byte)
	drop          func(int)
	flushAnswer   func() // the answer's text is interrupted by markup
}

func (s *splitter) write(p []byte) {
	if s.phase == phaseAnswer {
		s.answer(p)
		return
	}
	s.held = append(s.held, p...)
	for s.step() {
	}
}

// take removes the first n held bytes.
func (s *splitter) take(n int) []byte {
	out := s.held[:n:n]
	s.held = s.held[n:]
	return out
}

// step sorts what it can and tells whether another step may do more.
func (s *splitter) step() bool {
	if len(s.held) == 0 {
		return false
	}
	text := bytes.TrimLeft(s.held, space)
	lead := len(s.held) - len(text)
	switch s.phase {
	case phaseStart, phaseOpenStart:
		open := s.reasoning.Open
		switch {
		case len(text) < len(open) && strings.HasPrefix(open, string(text)):
			return false
		case bytes.HasPrefix(text, []byte(open)):
			s.drop(len(s.take(lead + len(open))))
			s.phase = phaseThinkLead
		case s.phase == phaseOpenStart:
			s.phase = phaseThinkLead
		default:
			s.phase = phaseAnswer
		}
		return true
	case phaseThinkLead, phaseAnswerLead:
		s.drop(len(s.take(lead)))
		if len(text) == 0 {
			return false
		}
		if s.phase == phaseThinkLead {
			s.phase = phaseThink
		} else {
			s.phase = phaseAnswer
		}
		return true
	case phaseThink:
		return s.stepThink()
	case phaseHeader:
		return s.stepHeader()
	case phaseChannelThink, phaseChannelTalk:
		return s.stepChannel()
	case phaseAnswer:
		s.answer(s.take(len(s.held)))
	}
	return false
}

func (s *splitter) stepThink() bool {
	end := bytes.Index(s.held, []byte(s.reasoning.Close))
	if end < 0 {
		// Space is held with the beginning of a closing: it is not part of
		// the reasoning if that closes.
		keep := partialSuffix(s.held, s.reasoning.Close)
		s.think(s.take(len(bytes.TrimRight(s.held[:len(s.held)-keep], space))))
		return false
	}
	s.think(s.take(len(bytes.TrimRight(s.held[:end], space))))
	s.drop(len(s.take(bytes.Index(s.held, []byte(s.reasoning.Close)) + len(s.reasoning.Close))))
	s.phase = phaseAnswerLead
	return true
}

func (s *splitter) stepHeader() bool {
	end := bytes.Index(s.held, []byte(messageMark))
	if end < 0 && len(s.held) < longestHeader {
		return false
	}
	if end < 0 {
		s.phase = phaseChannelTalk
		return true
	}
	header := string(s.take(end))
	s.take(len(messageMark))
	s.drop(end + len(messageMark))
	if i := strings.LastIndex(header, channelMark); i >= 0 {
		header = header[i+len(channelMark):]
	}
	s.phase = phaseChannelTalk
	if strings.HasPrefix(header, "analysis") {
		s.phase = phaseChannelThink
	}
	return true
}

func (s *splitter) stepChannel() bool {
	emit := s.answer
	if s.phase == phaseChannelThink {
		emit = s.think
	}
	first, mark, keep := -1, "", 0
	for _, m := range [...]string{channelMark, startMark, endMark, returnMark} {
		if i := bytes.Index(s.held, []byte(m)); i >= 0 && (first < 0 || i < first) {
			first, mark = i, m
		}
		keep = max(keep, partialSuffix(s.held, m))
	}
	if first < 0 {
		emit(s.take(len(s.held) - keep))
		return false
	}
	emit(s.take(first))
	s.flushAnswer()
	s.drop(len(s.take(len(mark))))
	if mark == channelMark || mark == startMark {
		s.phase = phaseHeader
	}
	return true
}

// close sorts what is held at the end of the output.
func (s *splitter) close() {
	rest := s.take(len(s.held))
	switch s.phase {
	case phaseStart, phaseAnswer, phaseChannelTalk:
		s.answer(rest)
	case phaseOpenStart, phaseThink:
		text := bytes.TrimRight(rest, space)
		if s.phase == phaseOpenStart {
			text = bytes.TrimLeft(text, space)
			s.drop(len(rest) - len(bytes.TrimLeft(rest, space)))
			rest = bytes.TrimLeft(rest, space)
		}
		s.think(text)
		s.drop(len(rest) - len(text))
	case phaseChannelThink:
		s.think(rest)
	case phaseThinkLead, phaseAnswerLead, phaseHeader:
		s.drop(len(rest))
	}
}

// partialSuffix is the length of the longest end of p that is a beginning of
// mark, and not all of it.
func partialSuffix(p []byte, mark string) int {
	for n := min(len(p), len(mark)-1); n > 0; n-- {
		if string(p[len(p)-n:]) == mark[:n] {
			return n
		}
	}
	return 0
}
