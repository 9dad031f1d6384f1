package cli

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
	"github.com/skein-run/skein/internal/cli/talk"
)

// maxPrompt bounds what is read from standard input: far more than any model
// takes, so that `skein run MODEL < /dev/zero` ends.
const maxPrompt = 64 << 20

// runOptions are the flags of `skein run`.
type runOptions struct {
	system       string
	think        string // "", "true" or "false"
	hideThinking bool
	params       talk.Params
}

// newRunCommand makes `skein run`.
func newRunCommand(a *app) *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run [MODEL] [PROMPT]",
		Short: "Chat with a model, or ask it one question",
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
		ValidArgsFunction: a.completeModels,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.run(cmd, args, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.system, "system", "", "system `TEXT` that says how the model is to answer")
	f.StringVar(&o.think, "think", "", "ask a reasoning model to think before it answers, or with =`false` not to")
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
func (a *app) run(cmd *cobra.Command, args []string, o runOptions) error {
	ctx := cmd.Context()
	var thinking *bool
	switch o.think {
	case "":
	case "true", "false":
		yes := o.think == "true"
		thinking = &yes
	default:
		return usage(cmd, "--think takes true or false, not %q", o.think)
	}
	model, prompt := "", ""
	if len(args) > 0 {
		model, prompt = args[0], strings.Join(args[1:], " ")
	}
	typed := isTerminal(a.Stdin)
	interactive := typed && prompt == ""
	if interactive && !isTerminal(a.Stdout) {
		return usage(cmd, "there is no prompt, and a chat needs a terminal to answer on")
	}
	if !typed {
		piped, err := readPrompt(a.Stdin)
		if err != nil {
			return err
		}
		prompt = join(prompt, piped)
	}
	if !interactive && strings.TrimSpace(prompt) == "" {
		return usage(cmd, "there is no prompt: give one after the model, or on standard input")
	}

	files, err := modelFiles(model)
	if err != nil {
		return err
	}
	s, err := a.openSession(ctx, files)
	if err != nil {
		return explain(err)
	}
	err = a.converse(ctx, s, model, prompt, thinking, interactive, o)
	if stopErr := s.close(); err == nil {
		err = stopErr
	}
	return explain(err)
}

// converse asks one question, or chats.
func (a *app) converse(ctx context.Context, s *session, model, prompt string, thinking *bool, interactive bool, o runOptions) error {
	name, err := s.chooseModel(ctx, model)
	var refused *api.Error
	if errors.As(err, &refused) && refused.Status == 404 && strings.Contains(model, " ") {
		return fmt.Errorf("%w; to ask without naming a model, send the question on standard input: echo %q | skein run", err, model)
	}
	if err != nil {
		return err
	}
	printer := talk.Printer{
		Out: a.Stdout, Terminal: isTerminal(a.Stdout), Styled: a.styled(),
		HideThinking: o.hideThinking, Now: time.Now,
	}
	settings := talk.Settings{Model: name, System: o.system, Params: o.params, Think: thinking}
	if interactive {
		return a.chat(ctx, s, printer, settings)
	}
	req := settings.Request([]client.Message{{Role: "user", Content: prompt}})
	result, err := printer.Answer(ctx, s.node, req)
	if result.Text != "" && !strings.HasSuffix(result.Text, "\n") {
		fmt.Fprintln(a.Stdout)
	}
	if err != nil {
		return err
	}
	if figures := result.Figures(); a.verbose && figures != "" {
		fmt.Fprintln(a.Stderr, figures)
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
