package talk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/client"
)

// ErrInterrupt is what a LineReader returns when Ctrl-C was pressed at the
// prompt.
var ErrInterrupt = errors.New("interrupted at the prompt")

// LineReader reads what a person types. It returns io.EOF at Ctrl-D.
type LineReader interface {
	// ReadLine shows prompt and gives the line without its newline.
	ReadLine(prompt string) (string, error)
	// Remember puts an entry into the history.
	Remember(entry string)
}

// Interrupts hands over Ctrl-C while an answer is printed.
type Interrupts interface {
	Take() (interrupts <-chan struct{}, release func())
}

// Backend is what the interactive chat needs of a node.
type Backend interface {
	Node
	// Choose gives the full name of a model, or an error that lists what there
	// is.
	Choose(ctx context.Context, name string) (string, error)
	// Describe gives what is known about a model.
	Describe(ctx context.Context, name string) (api.LibraryModel, error)
}

// Options configure a Chat.
type Options struct {
	Backend    Backend
	Lines      LineReader
	Interrupts Interrupts
	Printer    Printer
	Settings   Settings
	// Verbose prints the figures of each answer.
	Verbose bool
}

// Chat is an interactive conversation.
type Chat struct {
	o        Options
	settings Settings
	messages []client.Message // turns so far, without the system text
}

// New makes a chat.
func New(o Options) *Chat {
	return &Chat{o: o, settings: o.Settings}
}

// errBye ends the chat in good order.
var errBye = errors.New("bye")

const (
	prompt       = ">>> "
	continuation = "... "
	quotes       = `"""`
)

// Run reads and answers until /bye, Ctrl-D or the end of ctx.
func (c *Chat) Run(ctx context.Context) error {
	c.say("%s. /help shows the commands, /bye or Ctrl-D ends.", c.settings.Model)
	for {
		entry, err := c.read()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		switch {
		case errors.Is(err, ErrInterrupt):
			c.say("Press Ctrl-D or type /bye to end.")
			continue
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read the prompt: %w", err)
		}
		if strings.TrimSpace(entry) == "" {
			continue
		}
		c.o.Lines.Remember(entry)
		if strings.HasPrefix(entry, "/") {
			err = c.command(ctx, entry)
		} else {
			err = c.answer(ctx, entry)
		}
		switch {
		case errors.Is(err, errBye):
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			c.say("%v", err)
		}
	}
}

// read gives one entry: a line, lines joined by a backslash at their ends, or
// everything between triple quotes.
func (c *Chat) read() (string, error) {
	line, err := c.o.Lines.ReadLine(prompt)
	if err != nil {
		return "", err
	}
	if start, rest, quoted := strings.Cut(line, quotes); quoted && opensQuote(start) {
		return c.readQuoted(start, rest)
	}
	var entry strings.Builder
	for strings.HasSuffix(line, `\`) {
		entry.WriteString(strings.TrimSuffix(line, `\`) + "\n")
		if line, err = c.o.Lines.ReadLine(continuation); err != nil {
			return "", abandoned(err)
		}
	}
	entry.WriteString(line)
	return entry.String(), nil
}

// opensQuote says whether triple quotes after this text begin a long entry:
// at the start of a line, or as the text of a command.
func opensQuote(start string) bool {
	return strings.TrimSpace(start) == "" || strings.HasPrefix(start, "/system")
}

// readQuoted reads up to the closing quotes.
func (c *Chat) readQuoted(start, line string) (string, error) {
	var entry strings.Builder
	entry.WriteString(start)
	for {
		text, after, closed := strings.Cut(line, quotes)
		entry.WriteString(text)
		if closed {
			entry.WriteString(after)
			return strings.Trim(entry.String(), "\n"), nil
		}
		entry.WriteString("\n")
		var err error
		if line, err = c.o.Lines.ReadLine(continuation); err != nil {
			return "", abandoned(err)
		}
	}
}

// abandoned treats Ctrl-D within an entry like Ctrl-C: the entry is given up,
// not the chat.
func abandoned(err error) error {
	if errors.Is(err, io.EOF) {
		return ErrInterrupt
	}
	return err
}

// answer sends one more turn. What was answered before an interrupt stays in
// the conversation; a turn that failed does not.
func (c *Chat) answer(ctx context.Context, text string) error {
	interrupts, release := c.o.Interrupts.Take()
	defer release()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watcher := make(chan struct{})
	go func() {
		defer close(watcher)
		select {
		case <-interrupts:
			cancel(ErrInterrupt)
		case <-ctx.Done():
		}
	}()
	defer func() { cancel(nil); <-watcher }()

	turns := append(c.messages[:len(c.messages):len(c.messages)], client.Message{Role: "user", Content: text})
	result, err := c.o.Printer.Answer(ctx, c.o.Backend, c.settings.Request(turns))
	if result.Text != "" || result.Reasoning != "" {
		c.print("\n")
	}
	stopped := errors.Is(err, ErrInterrupt)
	if err != nil && !stopped {
		return err
	}
	if stopped && result.Text == "" {
		c.say("Stopped.")
		return nil
	}
	c.messages = append(turns, client.Message{
		Role: "assistant", Content: result.Text, ReasoningContent: result.Reasoning,
	})
	if stopped {
		c.say("Stopped; the conversation goes on from here.")
		return nil
	}
	if result.Finish == "length" {
		c.say("The answer was cut: the context or max_tokens is used up. /clear starts anew.")
	}
	if figures := result.Figures(); c.o.Verbose && figures != "" {
		c.say("%s", figures)
	}
	c.print("\n")
	return nil
}

// print writes to the terminal; that it is gone shows at the next ReadLine.
func (c *Chat) print(s string) { _, _ = io.WriteString(c.o.Printer.Out, s) }

// say prints a line that does not come from the model, dimmed.
func (c *Chat) say(format string, args ...any) {
	line := c.o.Printer.clean(fmt.Sprintf(format, args...))
	if c.o.Printer.Styled {
		line = dim + line + reset
	}
	c.print(line + "\n")
}
