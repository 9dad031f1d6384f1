package runcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/ergochat/readline"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/client"
	"github.com/skein-run/skein/internal/cli/command"
	"github.com/skein-run/skein/internal/cli/talk"
)

// chat runs the interactive chat on the terminal.
func (e Env) chat(ctx context.Context, s *session, printer talk.Printer, settings talk.Settings) error {
	where, err := e.Home()
	if err != nil {
		return err
	}
	if err := where.Ensure(); err != nil {
		return err
	}
	lines, err := e.openLines(where.HistoryFile())
	if err != nil {
		return err
	}
	// A signal while the user types ends the read.
	unhook := context.AfterFunc(ctx, lines.close)
	defer unhook()
	defer lines.close()
	return talk.New(talk.Options{
		Backend: backend{e, s}, Lines: lines, Interrupts: e.Interrupts,
		Printer: printer, Settings: settings, Verbose: e.Verbose(),
	}).Run(ctx)
}

// backend is the node of a session as the chat sees it.
type backend struct {
	e Env
	s *session
}

func (b backend) Chat(ctx context.Context, req client.ChatRequest, emit func(client.ChatChunk) error) error {
	return b.e.Explain(b.s.node.Chat(ctx, req, emit))
}

func (b backend) Choose(ctx context.Context, name string) (string, error) {
	files, err := command.ModelFiles(name)
	if err != nil {
		return "", err
	}
	// A file is registered with the node, also with one inside this process:
	// it cannot be told at its start any more.
	other := session{node: b.s.node, files: files}
	found, err := other.chooseModel(ctx, name)
	return found, b.e.Explain(err)
}

func (b backend) Describe(ctx context.Context, name string) (api.LibraryModel, error) {
	m, err := b.s.node.Library().Show(ctx, name, 0, 0)
	return m, b.e.Explain(err)
}

// lines is the line editor of a terminal.
type lines struct{ rl *readline.Instance }

func (e Env) openLines(history string) (*lines, error) {
	// The editor would create it readable by everybody.
	f, err := os.OpenFile(history, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		e.Note("what you type is not kept for the next chat: %v", err)
		history = ""
	} else if err := f.Close(); err != nil {
		return nil, fmt.Errorf("open the history: %w", err)
	}
	var commands []*readline.PrefixCompleter
	for _, name := range talk.Commands() {
		commands = append(commands, readline.PcItem(name))
	}
	at := &leftMargin{in: e.Stdin, out: e.Stdout}
	rl, err := readline.NewFromConfig(&readline.Config{
		Stdin:                  at,
		Stdout:                 at,
		Stderr:                 e.Stderr,
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

// leftMargin answers the line editor's question where the cursor is, which it
// asks the terminal before every prompt and then waits: a terminal that does
// not know the question (a recorder, a test, an editor's console) would never
// show a prompt. Ours always start at the left margin.
type leftMargin struct {
	in  io.Reader
	out io.Writer

	mu      sync.Mutex
	answers int // guarded by mu; questions asked and not yet answered
}

const (
	askCursor  = "\x1b[6n"
	cursorLeft = "\x1b[1;1R"
)

func (m *leftMargin) Write(p []byte) (int, error) {
	if string(p) == askCursor {
		m.mu.Lock()
		m.answers++
		m.mu.Unlock()
		return len(p), nil
	}
	return m.out.Write(p)
}

// Read gives the answer first, then what is typed. The editor has room for
// more than an answer in every read.
func (m *leftMargin) Read(p []byte) (int, error) {
	m.mu.Lock()
	answer := m.answers > 0 && len(p) >= len(cursorLeft)
	if answer {
		m.answers--
	}
	m.mu.Unlock()
	if answer {
		return copy(p, cursorLeft), nil
	}
	return m.in.Read(p)
}
