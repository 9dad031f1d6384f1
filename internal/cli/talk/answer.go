// Package talk is the conversation part of `skein run`: it sends a chat to a
// node, prints the answer as it comes, and runs the interactive chat with its
// commands.
//
// It imports client and api and knows neither terminals nor signals: lines
// come from a LineReader, Ctrl-C from an Interrupts, time from a function. One
// goroutine uses a Chat at a time.
package talk

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"github.com/skein-run/skein/client"
)

// Node is what a conversation needs of a node; *client.Client is one.
type Node interface {
	Chat(ctx context.Context, req client.ChatRequest, emit func(client.ChatChunk) error) error
}

// Printer says how answers look.
type Printer struct {
	Out io.Writer
	// Terminal means that a person reads along: control characters are taken
	// out, and reasoning is shown.
	Terminal bool
	// Styled allows colours.
	Styled bool
	// HideThinking leaves reasoning out.
	HideThinking bool
	// Now is the clock for the figures.
	Now func() time.Time
}

// Result is a finished answer.
type Result struct {
	Text      string
	Reasoning string
	Finish    string // "stop", "length", "" when it was ended before
	Usage     *client.Usage
	// First is the time to the first token, Rest from there to the last.
	First, Rest time.Duration
}

const (
	dim   = "\x1b[2m"
	reset = "\x1b[0m"
)

// Answer sends a request and prints the answer as it comes, without a closing
// newline. On an error the Result holds what came before it.
func (p Printer) Answer(ctx context.Context, node Node, req client.ChatRequest) (Result, error) {
	start := p.Now()
	var first, last time.Time
	var text, reasoning strings.Builder
	var result Result
	thinking := false // the dimmed part is open
	// closeThinking separates reasoning from what follows.
	closeThinking := func() error {
		if !thinking {
			return nil
		}
		thinking = false
		if p.Styled {
			return p.write(reset + "\n\n")
		}
		return p.write("\n\n")
	}
	err := node.Chat(ctx, req, func(c client.ChatChunk) error {
		if c.Content != "" || c.Reasoning != "" {
			last = p.Now()
			if first.IsZero() {
				first = last
			}
		}
		if c.Usage != nil {
			result.Usage = c.Usage
		}
		if c.FinishReason != "" {
			result.Finish = c.FinishReason
		}
		reasoning.WriteString(c.Reasoning)
		text.WriteString(c.Content)
		if c.Reasoning != "" && p.Terminal && !p.HideThinking {
			if !thinking {
				thinking = true
				if p.Styled {
					if err := p.write(dim); err != nil {
						return err
					}
				}
			}
			if err := p.write(p.clean(c.Reasoning)); err != nil {
				return err
			}
		}
		if c.Content != "" {
			if err := closeThinking(); err != nil {
				return err
			}
			return p.write(p.clean(c.Content))
		}
		return nil
	})
	if closeErr := closeThinking(); err == nil {
		err = closeErr
	}
	result.Text, result.Reasoning = text.String(), reasoning.String()
	if !first.IsZero() {
		result.First, result.Rest = first.Sub(start), last.Sub(first)
	}
	return result, err
}

func (p Printer) write(s string) error {
	if _, err := io.WriteString(p.Out, s); err != nil {
		return fmt.Errorf("print the answer: %w", err)
	}
	return nil
}

// clean takes control characters out of what a model says to a terminal: they
// could move the cursor, change the title, or answer for the user.
func (p Printer) clean(s string) string {
	if !p.Terminal {
		return s
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, s)
}

// Figures are the measured facts of an answer in one line, "" when the node
// sent no usage.
func (r Result) Figures() string {
	if r.Usage == nil {
		return ""
	}
	parts := []string{fmt.Sprintf("%d prompt tokens", r.Usage.PromptTokens)}
	if cached := r.Usage.PromptDetails.CachedTokens; cached > 0 {
		parts[0] += fmt.Sprintf(" (%d cached)", cached)
	}
	parts = append(parts, fmt.Sprintf("first token after %s", seconds(r.First)))
	parts = append(parts, fmt.Sprintf("%d tokens", r.Usage.CompletionTokens))
	// The first token is the prompt's doing, so the speed is that of the others.
	if n := r.Usage.CompletionTokens - 1; n > 0 && r.Rest > 0 {
		parts = append(parts, fmt.Sprintf("%.1f tokens/s", float64(n)/r.Rest.Seconds()))
	}
	if r.Finish == "length" {
		parts = append(parts, "cut at the length limit")
	}
	return strings.Join(parts, ", ")
}

func seconds(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}
