// Package runcmd is `skein run`: one question to a model, or a chat with it. It
// talks to the node that runs, or to one inside this process for as long as the
// command takes; the conversation itself is package talk's.
//
// It belongs to package cli, which mounts it. Everything runs in the goroutine
// of the command, but for the line editor's own.
package runcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/client"
	"github.com/skein-run/skein/internal/cli/command"
	"github.com/skein-run/skein/internal/cli/talk"
	"github.com/skein-run/skein/internal/home"
	"github.com/skein-run/skein/internal/interrupt"
)

// maxPrompt bounds what is read from standard input: far more than any model
// takes, so that `skein run MODEL < /dev/zero` ends.
const maxPrompt = 64 << 20

// Env is what the command needs of the program around it.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Interrupts     *interrupt.Handler
	Note           func(format string, args ...any) // for the user, beside the answer; silent with -q
	Verbose        func() bool                      // -v was given
	Styled         func() bool                      // stdout may hold colours
	Terminal       func(stream any) bool            // a person looks at it or types on it

	Home func() (home.Home, error) // SKEIN_HOME
	// Connect finds the node to talk to; nil: none runs.
	Connect func(ctx context.Context) (*client.Client, error)
	// Local runs a node inside this process that lists these files too; stop ends
	// it and joins it.
	Local    func(ctx context.Context, files []string) (node *client.Client, stop func() error, err error)
	Explain  func(err error) error // adds the way out to errors about the connection
	Complete cobra.CompletionFunc  // of names of models
}

// runOptions are the flags of `skein run`.
type runOptions struct {
	system       string
	think        string // "", "true" or "false"
	hideThinking bool
	params       talk.Params
}

// New makes `skein run`.
func New(e Env) *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:        "run [MODEL] [PROMPT]",
		SuggestFor: []string{"chat", "ask", "generate", "prompt"},
		Short:      "Chat with a model, or ask it one question",
		Long: `Chat with a model. With a PROMPT, or text on standard input, the answer is
printed and that is all; with both, the text follows the prompt.

MODEL is a name of 'skein models list' or the path of a .gguf file. Without it
the loaded model is used, or else the only one there is.

When no node is running, one is run inside this command for as long as it
takes. What a reasoning model thinks is shown, dimmed, on a terminal only; -v
adds the speed and the numbers of tokens. In a chat, /help shows the commands.`,
		Example: `  skein run
  skein run skein-demo-4m-q8_0 "What is a cluster?"
  skein run ./my-model.gguf --temperature 0 --seed 7 "Tell a story."
  git diff | skein run SmolLM2-135M-Instruct.Q4_1 "Describe this change:"`,
		ValidArgsFunction: e.Complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.run(cmd, args, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.system, "system", "", "system `TEXT` that says how the model is to answer")
	f.StringVar(&o.think, "think", "", "whether a reasoning model is to think before it answers; `BOOL` is true or false")
	f.Lookup("think").NoOptDefVal = "true"
	f.BoolVar(&o.hideThinking, "hide-thinking", false, "do not show what the model thinks")
	for _, p := range talk.ParamTable() {
		kind := "NUMBER"
		switch {
		case p.Name == "stop":
			kind = "TEXT"
		case p.Whole:
			kind = "N"
		}
		f.Var(&paramFlag{name: p.Name, kind: kind, params: &o.params}, p.Flag(), p.Help)
	}
	return cmd
}

// paramFlag sets a sampling parameter.
type paramFlag struct {
	name, kind string
	params     *talk.Params
}

func (f *paramFlag) String() string     { return "" }
func (f *paramFlag) Set(s string) error { return f.params.Set(f.name, s) }
func (f *paramFlag) Type() string       { return f.kind }

// run is `skein run`.
func (e Env) run(cmd *cobra.Command, args []string, o runOptions) error {
	ctx := cmd.Context()
	var thinking *bool
	switch o.think {
	case "":
	case "true", "false":
		yes := o.think == "true"
		thinking = &yes
	default:
		return command.Usage(cmd, "--think takes true or false, not %q", o.think)
	}
	model, prompt := "", ""
	if len(args) > 0 {
		model, prompt = args[0], strings.Join(args[1:], " ")
	}
	typed := e.Terminal(e.Stdin)
	interactive := typed && prompt == ""
	if interactive && !e.Terminal(e.Stdout) {
		return command.Usage(cmd, "there is no prompt, and a chat needs a terminal to answer on")
	}
	if !typed {
		piped, err := readPrompt(e.Stdin)
		if err != nil {
			return err
		}
		prompt = join(prompt, piped)
	}
	if !interactive && strings.TrimSpace(prompt) == "" {
		return command.Usage(cmd, "there is no prompt: give one after the model, or on standard input")
	}

	files, err := command.ModelFiles(model)
	if err != nil {
		return err
	}
	s, err := e.openSession(ctx, files)
	if err != nil {
		return e.Explain(err)
	}
	err = e.converse(ctx, s, model, prompt, thinking, interactive, o)
	if stopErr := s.close(); err == nil {
		err = stopErr
	}
	return e.Explain(err)
}

// converse asks one question, or chats.
func (e Env) converse(ctx context.Context, s *session, model, prompt string, thinking *bool, interactive bool, o runOptions) error {
	name, err := s.chooseModel(ctx, model)
	var refused *api.Error
	if errors.As(err, &refused) && refused.Status == 404 && strings.Contains(model, " ") {
		return fmt.Errorf("%w; to ask without naming a model, send the question on standard input: echo %q | skein run", err, model)
	}
	if err != nil {
		return err
	}
	printer := talk.Printer{
		Out: e.Stdout, Terminal: e.Terminal(e.Stdout), Styled: e.Styled(),
		HideThinking: o.hideThinking, Now: time.Now,
	}
	settings := talk.Settings{Model: name, System: o.system, Params: o.params, Think: thinking}
	if interactive {
		return e.chat(ctx, s, printer, settings)
	}
	req := settings.Request([]client.Message{{Role: "user", Content: prompt}})
	result, err := printer.Answer(ctx, s.node, req)
	if result.Text != "" && !strings.HasSuffix(result.Text, "\n") {
		fmt.Fprintln(e.Stdout)
	}
	if err != nil {
		return err
	}
	if figures := result.Figures(); e.Verbose() && figures != "" {
		fmt.Fprintln(e.Stderr, figures)
	}
	return nil
}

// readPrompt reads standard input as the prompt.
func readPrompt(r io.Reader) (string, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxPrompt+1))
	if err != nil {
		return "", fmt.Errorf("read the prompt from standard input: %w", err)
	}
	if len(data) > maxPrompt {
		return "", errors.New("the text on standard input is longer than 64 MB; no model takes that much")
	}
	if !utf8.Valid(data) {
		return "", errors.New("the text on standard input is not UTF-8; convert it first, for example with iconv")
	}
	return string(data), nil
}

// join puts piped text below the prompt.
func join(prompt, piped string) string {
	switch {
	case strings.TrimSpace(piped) == "":
		return prompt
	case prompt == "":
		return piped
	}
	return prompt + "\n\n" + piped
}
