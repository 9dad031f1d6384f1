package generation

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/skein-run/skein/internal/chat"
	"github.com/skein-run/skein/internal/chat/calls"
)

// Prepared is what this package needs to know about a loaded model: its
// compiled template and its markup tokens. It is safe for concurrent use, and
// stays valid when the model's runner is started again.
type Prepared struct {
	template *chat.Template // nil: see broken
	broken   error          // why conversations cannot be rendered
	// markers gives the text of markup tokens, such as <think>, whose piece
	// may be empty because the vocabulary has them as control tokens.
	markers map[int32]string
	// callMarkers are those around calls, in answers that may have some.
	callMarkers map[int32]string
}

// Template is the compiled chat template, or nil if it does not compile.
func (p *Prepared) Template() *chat.Template { return p.template }

// Prepare compiles the model's chat template. Do it once for each loaded
// model; it takes some 30 ms. A model without a template gets ChatML and a
// warning. A template that does not compile is warned about, and refuses
// conversations later; raw completions still work.
func (s *Service) Prepare(ctx context.Context, m Model) (*Prepared, error) {
	info := m.Info()
	p := &Prepared{}
	template, err := chat.Compile(ctx, chat.Options{Source: info.ChatTemplate, BOS: info.BOSPiece, EOS: info.EOSPiece})
	var broken *chat.TemplateError
	switch {
	case errors.As(err, &broken):
		p.broken = broken
		s.options.Warn("the model's chat template cannot be used: conversations will be refused, completions work", "model", info.Description, "error", err)
		return p, nil
	case err != nil:
		return nil, fmt.Errorf("prepare model: %w", err)
	case template.Fallback():
		s.options.Warn("the model has no chat template: ChatML is used, which may not suit it", "model", info.Description)
	}
	p.template = template
	if p.markers, err = tokensOf(ctx, m, template.Reasoning().Markers()); err == nil {
		p.callMarkers, err = tokensOf(ctx, m, template.Calling().Markers())
	}
	if err != nil {
		return nil, fmt.Errorf("prepare model: %w", err)
	}
	return p, nil
}

// tokensOf gives those of markers that are one token each.
func tokensOf(ctx context.Context, m Model, markers []string) (map[int32]string, error) {
	tokens := make(map[int32]string, len(markers))
	for _, marker := range markers {
		ids, err := m.Tokenize(ctx, marker, false, true)
		if err != nil {
			return nil, err
		}
		if len(ids) == 1 {
			tokens[ids[0]] = marker
		}
	}
	return tokens, nil
}

// input is a request's prompt, ready for the model.
type input struct {
	tokens []int32
	echo   string // the prompt's text if it is part of the answer
	// decoder reads the output; its stops are set for each choice.
	decoder chat.DecoderOptions
	// maxTokens is the request's, no more than what the context leaves.
	maxTokens int
	// calls is how the answer writes calls, if it may have some, and opening
	// the beginning of one that stands in the prompt already.
	calls   calls.Syntax
	opening string
}

// prompt renders, tokenizes and measures.
func (s *Service) prompt(ctx context.Context, m Model, p *Prepared, req Request) (input, error) {
	info := m.Info()
	in := input{tokens: req.Tokens, decoder: chat.DecoderOptions{Stops: req.Stop}}
	switch {
	case req.Messages != nil:
		// A turn takes a token at the least, so that there is no need to
		// render a hundred thousand of them to know.
		if len(req.Messages) > info.Context {
			return in, exceeded(len(req.Messages), info.Context, "at least ")
		}
		text, err := s.render(ctx, p, req)
		if err != nil {
			return in, err
		}
		in.decoder.Reasoning = p.template.Reasoning()
		in.decoder.Inside = in.decoder.Reasoning.OpenIn(text)
		if len(req.Tools) > 0 {
			in.calls = p.template.Calling()
		}
		if req.MustCall {
			if in.decoder.Inside { // it is not to think first
				text += in.decoder.Reasoning.Close + "\n\n"
				in.decoder.Inside = false
			}
			in.opening = p.template.Opening(req.CallName)
			text += in.opening
		}
		if in.tokens, err = tokenize(ctx, m, text); err != nil {
			return in, err
		}
	case req.Prompt != nil:
		var err error
		if in.tokens, err = tokenize(ctx, m, *req.Prompt); err != nil {
			return in, err
		}
		if req.Echo {
			in.echo = *req.Prompt
		}
	default:
		for _, id := range req.Tokens {
			if id < 0 || int(id) >= info.Vocabulary {
				return in, &Error{Kind: KindInvalid, Param: "prompt", Message: fmt.Sprintf("token %d is not in the model's vocabulary of %d tokens", id, info.Vocabulary)}
			}
		}
		if req.Echo {
			text, err := m.Detokenize(ctx, req.Tokens)
			if err != nil {
				return in, err
			}
			// A prompt may begin or end within a character.
			in.echo = strings.ToValidUTF8(text, "\uFFFD")
		}
	}
	if len(in.tokens) == 0 {
		return in, &Error{Kind: KindInvalid, Param: "prompt", Message: "the prompt is empty and the model has no token to begin with; give it some text"}
	}
	left := info.Context - len(in.tokens)
	if left < 1 {
		return in, exceeded(len(in.tokens), info.Context, "")
	}
	in.maxTokens = min(req.MaxTokens, left)
	return in, nil
}

func (s *Service) render(ctx context.Context, p *Prepared, req Request) (string, error) {
	if p == nil {
		return "", errors.New("render a conversation: the model was not prepared")
	}
	if p.template == nil {
		return "", &Error{Kind: KindInvalid, Param: "messages", Err: p.broken,
			Message: p.broken.Error() + "; use a completion with a prompt instead, or a model file with a working template"}
	}
	if err := p.refuseTools(req); err != nil {
		return "", err
	}
	messages := make([]chat.Message, len(req.Messages))
	for i, m := range req.Messages {
		messages[i] = chat.Message(m)
	}
	var tools any // nil for none, which is what templates ask
	if len(req.Tools) > 0 {
		list := make([]any, len(req.Tools))
		for i, tool := range req.Tools {
			list[i] = tool.Definition
		}
		tools = list
	}
	// What the assistant has begun it goes on with.
	last := messages[len(messages)-1]
	begun := last.Role == "assistant" && strings.TrimSpace(last.Content) != "" && len(last.Calls) == 0
	text, err := p.template.Render(ctx, chat.Input{Messages: messages, Continue: begun, Tools: tools, Args: req.TemplateArgs, Now: s.options.Clock()})
	if err == nil {
		return text, nil
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	return "", &Error{Kind: KindInvalid, Param: "messages", Message: err.Error(), Err: err}
}

// refuseTools refuses what the model's template would drop, and calls that
// nobody could read out of the answer.
func (p *Prepared) refuseTools(req Request) error {
	unsupported := func(param, format string, args ...any) error {
		return &Error{Kind: KindUnsupported, Param: param, Message: fmt.Sprintf(format, args...)}
	}
	if len(req.Tools) > 0 {
		switch p.template.Calling() {
		case calls.None:
			return unsupported("tools", "the chat template of model %s takes no tools: leave them out, or use a model that was trained for them", req.Model)
		case calls.Unknown:
			return unsupported("tools", "model %s writes calls in a way that this node cannot read yet: leave the tools out, or use another model", req.Model)
		}
	}
	if p.template.TakesCalls() {
		return nil
	}
	for i, m := range req.Messages {
		if len(m.Calls) > 0 {
			return unsupported(fmt.Sprintf("messages[%d].tool_calls", i), "the chat template of model %s has no place for calls: leave them out, or use a model that was trained for tools", req.Model)
		}
	}
	return nil
}

// tokenize gives the tokens of a prompt. A prompt that begins with the begin
// token already, as many templates write it, does not get a second one.
func tokenize(ctx context.Context, m Model, text string) ([]int32, error) {
	if info := m.Info(); info.AddBOS && info.BOSPiece != "" {
		text = strings.TrimPrefix(text, info.BOSPiece)
	}
	tokens, err := m.Tokenize(ctx, text, true, true)
	if err != nil {
		return nil, fmt.Errorf("tokenize the prompt: %w", err)
	}
	return tokens, nil
}
