package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/ergochat/readline"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/client"
	"github.com/skein-run/skein/internal/cli/talk"
)

// chat runs the interactive chat on the terminal.
func (a *app) chat(ctx context.Context, s *session, printer talk.Printer, settings talk.Settings) error {
	where, err := a.home()
	if err != nil {
		return err
	}
	if err := where.Ensure(); err != nil {
		return err
	}
	lines, err := a.openLines(where.HistoryFile())
	if err != nil {
		return err
	}
	// A signal while the user types ends the read.
	unhook := context.AfterFunc(ctx, lines.close)
	defer unhook()
	defer lines.close()
	return talk.New(talk.Options{
		Backend: backend{s}, Lines: lines, Interrupts: a.Interrupts,
		Printer: printer, Settings: settings, Verbose: a.verbose,
	}).Run(ctx)
}

// backend is the node of a session as the chat sees it.
type backend struct{ s *session }

func (b backend) Chat(ctx context.Context, req client.ChatRequest, emit func(client.ChatChunk) error) error {
	return explain(b.s.node.Chat(ctx, req, emit))
}

func (b backend) Choose(ctx context.Context, name string) (string, error) {
	files, err := modelFiles(name)
	if err != nil {
		return "", err
	}
	// A file is registered with the node, also with one inside this process:
	// it cannot be told at its start any more.
	other := session{node: b.s.node, files: files}
	found, err := other.chooseModel(ctx, name)
	return found, explain(err)
}

func (b backend) Describe(ctx context.Context, name string) (api.LibraryModel, error) {
	m, err := b.s.node.Library().Show(ctx, name, 0, 0)
	return m, explain(err)
}

// lines is the line editor of a terminal.
type lines struct{ rl *readline.Instance }

func (a *app) openLines(history string) (*lines, error) {
	// The editor would create it readable by everybody.
	f, err := os.OpenFile(history, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		a.note("what you type is not kept for the next chat: %v", err)
		history = ""
	} else if err := f.Close(); err != nil {
		return nil, fmt.Errorf("open the history: %w", err)
	}
	var commands []*readline.PrefixCompleter
	for _, name := range talk.Commands() {
		commands = append(commands, readline.PcItem(name))
	}
	rl, err := readline.NewFromConfig(&readline.Config{
		Stdin:                  a.Stdin,
		Stdout:                 a.Stdout,
		Stderr:                 a.Stderr,
		HistoryFile:            history,
		DisableAutoSaveHistory: true, // an entry may span lines
		HistorySearchFold:      true,
		AutoComplete:           readline.NewPrefixCompleter(commands...),
		InterruptPrompt:        "\n",
		EOFPrompt:              "\n",
		Undo:                   true,
	})
	if err != nil {
		return nil, fmt.Errorf("open the line editor: %w", err)
	}
	return &lines{rl}, nil
}

func (l *lines) ReadLine(prompt string) (string, error) {
	l.rl.SetPrompt(prompt)
	line, err := l.rl.ReadLine()
	if errors.Is(err, readline.ErrInterrupt) {
		return "", talk.ErrInterrupt
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read from the terminal: %w", err)
	}
	return line, err
}

// Remember keeps an entry, as one line: the history file has one a line. That
// it cannot be written is no reason to stop a chat.
func (l *lines) Remember(entry string) {
	_ = l.rl.SaveToHistory(strings.ReplaceAll(entry, "\n", " "))
}

// close ends a pending ReadLine. Idempotent; the error would only say that it
// was closed before.
func (l *lines) close() { _ = l.rl.Close() }
