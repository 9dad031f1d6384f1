// Package cli puts the commands of skein together. Each group of them is a package
// below this one, or, where it is small, a file here. A command parses what was
// typed, talks to a node through package client, and prints; what runs a
// node is handed in by the main program as functions, so that this package
// knows neither the node nor the engine behind it.
//
// It imports client, api, config, home, engine, hostinfo and the library of
// model files (for `skein models` without a node), and never internal/node.
// Everything runs in the goroutine that calls Main. Answers go to stdout as
// plain text, everything else to stderr, errors as one sentence with the fix.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/skein-run/skein/internal/cli/command"
	"github.com/skein-run/skein/internal/cli/shardcmd"
	"github.com/skein-run/skein/internal/cli/table"
	"github.com/skein-run/skein/internal/config"
	"github.com/skein-run/skein/internal/home"
	"github.com/skein-run/skein/internal/interrupt"
)

// Exit codes.
const (
	ExitOK          = 0
	ExitFailure     = 1
	ExitUsage       = 2
	ExitInterrupted = 130
)

// Deps are the outside world of the commands. All fields but the optional ones
// must be set.
type Deps struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	// Executable is the path of the running program; the bundled model and the
	// engine libraries lie beside it. Optional.
	Executable string
	Interrupts *interrupt.Handler

	// Serve runs a node in the foreground until ctx ends. It returns nil after
	// an orderly stop.
	Serve func(ctx context.Context, o ServeOptions) error
	// Local runs a node inside this process for the time of one command.
	Local func(ctx context.Context, o LocalOptions) (LocalNode, error)
	// Shards does the work of `skein shard`. Optional.
	Shards func(ShardOptions) (shardcmd.Host, error)
	// Runner is the hidden subcommand that holds a model: the child process of
	// a node. It gets the arguments after "runner" and returns an exit code.
	Runner func(ctx context.Context, args []string) int
}

// ServeOptions are what `skein serve` was told.
type ServeOptions struct {
	Home           home.Home
	Config         config.Serve
	Settings       []config.Setting // the same, for printing
	Stdout, Stderr io.Writer
	// Force is closed when the user asks a second time to stop.
	Force <-chan struct{}
}

// LocalOptions say what a node inside a command's process is to know.
type LocalOptions struct {
	Home   home.Home
	Config config.Serve // from file and environment; APIPort is 0, without keys
	Files  []string     // absolute paths of models to list for this command only
	Stderr io.Writer    // for warnings
}

// ShardOptions say where the commands of `skein shard` work.
type ShardOptions struct {
	Home           home.Home
	Stderr         io.Writer // for the log
	Verbose, Quiet bool
}

// LocalNode is a running node inside this process.
type LocalNode struct {
	API  string       // base URL
	Stop func() error // stops and joins it
}

// app is what the commands of one invocation share. It is used by the calling
// goroutine only.
type app struct {
	Deps
	host, port, apiKey string // persistent flags; "" when not given
	verbose, quiet     bool
}

// Main runs one command and returns the exit code. It ends when the command
// does, at the latest soon after ctx.
func Main(ctx context.Context, d Deps, args []string) int {
	if len(args) > 0 && args[0] == "runner" && d.Runner != nil {
		return d.Runner(ctx, args[1:])
	}
	a := &app{Deps: d}
	root := newRootCommand(a)
	root.SetArgs(args)
	root.SetIn(d.Stdin)
	root.SetOut(d.Stdout)
	root.SetErr(d.Stderr)
	err := root.ExecuteContext(ctx)
	return a.report(ctx, err)
}

// report prints an error and chooses the exit code.
func (a *app) report(ctx context.Context, err error) int {
	if err == nil {
		return ExitOK
	}
	var ended *command.ExitError
	if errors.As(err, &ended) && ended.Err == nil {
		return ended.Code
	}
	if errors.Is(err, interrupt.ErrInterrupted) || errors.Is(context.Cause(ctx), interrupt.ErrInterrupted) {
		return ExitInterrupted
	}
	message := strings.TrimSpace(err.Error())
	var setting *config.Error
	if errors.As(err, &setting) && strings.HasPrefix(setting.Source, "--") {
		err = &command.UsageError{Err: err, Command: "skein serve"}
	}
	var misuse *command.UsageError
	if errors.As(err, &misuse) {
		a.say(fmt.Sprintf("skein: %s\nSee '%s --help'.", message, misuse.Command))
		return ExitUsage
	}
	a.say("skein: " + message)
	if ended != nil {
		return ended.Code
	}
	return ExitFailure
}

// say writes sentences to stderr, broken between words where that is a
// terminal.
func (a *app) say(text string) {
	width, _ := size(a.Stderr)
	for _, line := range strings.Split(text, "\n") {
		for _, l := range table.Wrap(line, width, 2) {
			fmt.Fprintln(a.Stderr, l)
		}
	}
}

// home locates SKEIN_HOME.
func (a *app) home() (home.Home, error) { return home.Locate(a.Getenv(home.Env)) }

// note tells the user something beside the answer, unless -q was given.
func (a *app) note(format string, args ...any) {
	if !a.quiet {
		a.say(fmt.Sprintf(format, args...))
	}
}
