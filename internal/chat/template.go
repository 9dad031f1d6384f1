package chat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dop251/goja"

	"github.com/skein-run/skein/internal/chat/calls"
)

// ChatML is the template of a model that brings none.
const ChatML = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}" +
	"{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"

// Message is one turn of a conversation as templates know it.
type Message struct {
	Role    string // system | developer | user | assistant | tool
	Content string
	Name    string // optional: participant's name
	// ReasoningContent is what an assistant turn thought; templates that know
	// the field may render or drop it.
	ReasoningContent string
	ToolCallID       string
	// Calls are those that an assistant turn made; their Arguments must be JSON.
	Calls []calls.Call
}

// Limits bound what a template may use, so that a hostile one ends with an
// error. Zero fields take their defaults.
type Limits struct {
	Steps int // expressions and statements evaluated in one rendering; 2,000,000
	Text  int // longest text at any moment, in UTF-16 units; 16 Mi
	Items int // longest list at any moment; 262,144
	Idle  int // runtimes kept for later renderings, about 2 MB each; 2
	Busy  int // renderings at the same time; more wait; 4
}

// Options describe a model's template.
type Options struct {
	// Source is the template's text; empty means ChatML.
	Source string
	// BOS and EOS are the texts of the model's begin and end tokens; templates
	// print them.
	BOS, EOS string
	Limits   Limits
}

func (o *Options) validate() error {
	l := &o.Limits
	if l.Steps < 0 || l.Text < 0 || l.Items < 0 || l.Idle < 0 || l.Busy < 0 {
		return errors.New("template limits must not be negative")
	}
	for field, fallback := range map[*int]int{&l.Steps: 2_000_000, &l.Text: 16 << 20, &l.Items: 1 << 18, &l.Idle: 2, &l.Busy: 4} {
		if *field == 0 {
			*field = fallback
		}
	}
	return nil
}

// ErrorKind sorts template errors.
type ErrorKind string

// Kinds of template errors.
const (
	ErrorRaised ErrorKind = "raised" // the template itself refuses the conversation (raise_exception)
	ErrorLimit  ErrorKind = "limit"  // it used more than Limits allow
	ErrorFailed ErrorKind = "error"  // a mistake in the template, or a construct the library lacks
)

// TemplateError is a template that did not render. Message is the template's
// own for ErrorRaised.
type TemplateError struct {
	Kind    ErrorKind
	Message string
}

func (e *TemplateError) Error() string {
	switch e.Kind {
	case ErrorRaised:
		return "the model's chat template refuses this conversation: " + e.Message
	case ErrorLimit:
		return "the model's chat template was stopped: " + e.Message
	}
	return "the model's chat template does not work: " + e.Message
}

// Template is a compiled chat template. It is safe for concurrent use.
type Template struct {
	options Options
	library *goja.Program

	// busy holds a token for each rendering under way.
	busy chan struct{}
	// idle holds runtimes that wait for the next rendering.
	idle chan *vm

	// The fields below are set by Compile and not written afterwards.
	fallback    bool // ChatML stands in
	mergeSystem bool // system turns are put into user turns
	developer   bool // the template knows the developer role
	reasoning   Reasoning
	calling     calls.Syntax
}

// Compile parses a template and finds out, by two short renderings, whether it
// takes a system turn. Its cost is some 20 to 50 ms; do it once a model.
func Compile(ctx context.Context, options Options) (*Template, error) {
	if err := options.validate(); err != nil {
		return nil, fmt.Errorf("compile chat template: %w", err)
	}
	library, err := goja.Compile("jinja.bundle.js", bundle, true)
	if err != nil {
		return nil, fmt.Errorf("compile the template library: %w", err)
	}
	t := &Template{options: options, library: library}
	if strings.TrimSpace(options.Source) == "" {
		t.options.Source, t.fallback = ChatML, true
	}
	t.busy = make(chan struct{}, t.options.Limits.Busy)
	t.idle = make(chan *vm, t.options.Limits.Idle)
	t.reasoning = detectReasoning(t.options.Source)
	t.calling = calls.Detect(t.options.Source)
	t.developer = strings.Contains(t.options.Source, `"developer"`) || strings.Contains(t.options.Source, `'developer'`)
	first, err := newVM(ctx, library, t.options.Source, t.options.Limits)
	if err != nil {
		return nil, fmt.Errorf("compile chat template: %w", err)
	}
	t.idle <- first
	if t.mergeSystem, err = t.refusesSystem(ctx); err != nil {
		return nil, fmt.Errorf("compile chat template: %w", err)
	}
	return t, nil
}

// Fallback tells that the model has no template of its own and ChatML stands
// in; callers warn about it.
func (t *Template) Fallback() bool { return t.fallback }

// MergesSystem tells that the template has no system turn, so that system
// texts are put in front of user texts.
func (t *Template) MergesSystem() bool { return t.mergeSystem }

// Reasoning tells how the model marks its reasoning.
func (t *Template) Reasoning() Reasoning { return t.reasoning }

// Calling tells how the model writes calls of functions.
func (t *Template) Calling() calls.Syntax { return t.calling }

// TakesCalls tells that the template shows the calls of earlier turns.
func (t *Template) TakesCalls() bool { return strings.Contains(t.options.Source, "tool_calls") }

// Opening is what a prompt ends with so that the model writes a call.
func (t *Template) Opening(name string) string {
	return t.calling.Opening(name, strings.Contains(t.options.Source, "[ARGS]"))
}

// Input is what a template is rendered with.
type Input struct {
	Messages []Message
	// NoGenerationPrompt leaves out the opening of the assistant's turn.
	NoGenerationPrompt bool
	// Continue ends the prompt within the last message, for the model to go on
	// with it.
	Continue bool
	// Tools is the list of tools as the template expects it, nil for none;
	// see Args for the types.
	Tools any
	// Args are further variables, as in chat_template_kwargs. Values may be
	// nil, bool, string, int, float64, json.Number, json.RawMessage (which
	// keeps the order of keys), []any, map[string]any and Dict.
	Args map[string]any
	// Now is what strftime_now prints.
	Now time.Time
}

// Render makes the prompt of a conversation.
//
// A developer turn becomes a system turn where the template does not know the
// role. Where the template refuses or drops system turns (Compile tried it),
// each system text is put in front of the next user text, separated by an
// empty line; a system text after the last user turn becomes a user turn.
// Anything else that the template refuses is a *TemplateError with the
// template's own message, and so is a last message that in.Continue is to go on
// with and that the template changes. Ends with ctx's cause when ctx does.
func (t *Template) Render(ctx context.Context, in Input) (string, error) {
	messages := in.Messages
	if !t.developer {
		messages = developerToSystem(messages)
	}
	if t.mergeSystem {
		messages = mergeSystem(messages)
	}
	if !in.Continue || len(messages) == 0 {
		return t.run(ctx, messages, in)
	}
	// Where the message ends is found by a mark behind it; templates may trim
	// what a message says.
	const mark = "skein-goes-on-here"
	in.NoGenerationPrompt = true
	messages = slices.Clone(messages)
	last := &messages[len(messages)-1].Content
	said := strings.TrimRight(*last, space)
	trailing := (*last)[len(said):]
	*last = said + mark
	out, err := t.run(ctx, messages, in)
	if err != nil {
		return "", err
	}
	i := strings.LastIndex(out, mark)
	if i < 0 {
		return "", &TemplateError{ErrorRaised, "it does not show the last message as it is, so that the model could go on with it"}
	}
	return out[:i] + trailing, nil
}

func (t *Template) run(ctx context.Context, messages []Message, in Input) (string, error) {
	select {
	case t.busy <- struct{}{}:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	defer func() { <-t.busy }()
	var v *vm
	select {
	case v = <-t.idle:
	default:
		var err error
		if v, err = newVM(ctx, t.library, t.options.Source, t.options.Limits); err != nil {
			return "", err
		}
	}
	out, err := v.render(ctx, t.variables(messages, in), in.Now)
	var refused *TemplateError
	if err == nil || errors.As(err, &refused) && refused.Kind == ErrorRaised {
		// After any other error the runtime may hold what the template built.
		select {
		case t.idle <- v:
		default:
		}
	}
	return out, err
}

// variables are those that the transformers library gives to templates.
func (t *Template) variables(messages []Message, in Input) Dict {
	list := make([]any, len(messages))
	for i, m := range messages {
		turn := Dict{{"role", m.Role}, {"content", m.Content}}
		for _, optional := range []Item{{"name", m.Name}, {"reasoning_content", m.ReasoningContent}, {"tool_call_id", m.ToolCallID}} {
			if optional.Value != "" {
				turn = append(turn, optional)
			}
		}
		if len(m.Calls) > 0 {
			list := make([]any, len(m.Calls))
			for j, c := range m.Calls {
				list[j] = Dict{{"id", c.ID}, {"type", "function"}, {"function", Dict{{"name", c.Name}, {"arguments", json.RawMessage(c.Arguments)}}}}
			}
			turn = append(turn, Item{"tool_calls", list})
		}
		list[i] = turn
	}
	vars := Dict{
		{"messages", list},
		{"tools", in.Tools},
		{"documents", nil},
		{"add_generation_prompt", !in.NoGenerationPrompt},
		{"bos_token", t.options.BOS},
		{"eos_token", t.options.EOS},
	}
	for key, value := range in.Args {
		// Sorted or not is all the same: names are unique, and a later one
		// replaces a variable above.
		vars = append(vars, Item{key, value})
	}
	return vars
}

// refusesSystem tries a conversation with and without a system turn.
func (t *Template) refusesSystem(ctx context.Context) (bool, error) {
	const needle = "skein-probe-system"
	user := Message{Role: "user", Content: "skein-probe-user"}
	var broken *TemplateError
	_, err := t.run(ctx, []Message{user}, Input{})
	if errors.As(err, &broken) {
		// It fails without a system turn too: nothing can be learnt, and
		// rendering will tell.
		return false, nil
	}
	if err != nil {
		return false, err
	}
	out, err := t.run(ctx, []Message{{Role: "system", Content: needle}, user}, Input{})
	if errors.As(err, &broken) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return !strings.Contains(out, needle), nil
}

func developerToSystem(messages []Message) []Message {
	out := make([]Message, len(messages))
	for i, m := range messages {
		if m.Role == "developer" {
			m.Role = "system"
		}
		out[i] = m
	}
	return out
}

func mergeSystem(messages []Message) []Message {
	out := make([]Message, 0, len(messages))
	var pending []string
	for _, m := range messages {
		switch {
		case m.Role == "system":
			pending = append(pending, m.Content)
			continue
		case m.Role == "user" && len(pending) > 0:
			m.Content = strings.Join(append(pending, m.Content), "\n\n")
			pending = nil
		}
		out = append(out, m)
	}
	if len(pending) > 0 {
		out = append(out, Message{Role: "user", Content: strings.Join(pending, "\n\n")})
	}
	return out
}
