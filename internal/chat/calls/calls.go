// Package calls reads the calls of functions that a model writes into its
// answer, in whatever way its template shows it, and out of the answer's text as
// it comes. It is pure; a Reader belongs to one goroutine.
package calls

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
)

// Call is a call of a function that the model asks its client for.
type Call struct {
	ID   string // set by whoever tells a client of it
	Name string
	// Arguments is a JSON object.
	Arguments string
}

// Syntax is the way a model writes calls.
type Syntax string

// Ways of writing calls. All name the function and give its arguments as JSON.
const (
	None    Syntax = ""        // the template has no place for tools
	Unknown Syntax = "unknown" // it has, and its model writes what we cannot read
	Tagged  Syntax = "tagged"  // <tool_call>{"name": ..., "arguments": {...}}</tool_call>, each: Hermes, Qwen
	Marked  Syntax = "marked"  // [TOOL_CALLS] and a list of such objects, or NAME[ARGS]{...} after each: Mistral
	Bare    Syntax = "bare"    // {"name": ..., "parameters": {...}} is all of the answer: Llama 3
)

const (
	space               = " \t\r\n"
	callOpen, callClose = "<tool_call>", "</tool_call>"
	callsMark, argsMark = "[TOOL_CALLS]", "[ARGS]"
	callIDMark          = "[CALL_ID]"
	pythonMark          = "<|python_tag|>"
)

// Detect reads it off a template. Templates of some models have their
// calls within <tool_call> too, but not as JSON.
func Detect(source string) Syntax {
	has := func(text string) bool { return strings.Contains(source, text) }
	switch {
	case !has("tools"):
		return None
	case has("<function=") || has("<arg_key>"):
		return Unknown
	case has(callOpen) && has(callClose):
		return Tagged
	case has(callsMark):
		return Marked
	case has("<|eot_id|>") && has(`"parameters"`):
		return Bare
	}
	return Unknown
}

// Markers lists the texts around calls that a vocabulary may hold as control
// tokens; whoever reads the tokens gives a Reader the text instead.
func (c Syntax) Markers() []string {
	switch c {
	case Tagged:
		return []string{callOpen, callClose}
	case Marked:
		return []string{callsMark, argsMark, callIDMark}
	case Bare:
		return []string{pythonMark}
	}
	return nil
}

// Opening is what a prompt ends with so that the model cannot but write a
// call, of the function name if there is one: its arguments are an object. newer tells which of Mistral's
// two ways it is.
func (c Syntax) Opening(name string, newer bool) string {
	object, arguments := `{"name": "`, `", "arguments": {`
	before := callOpen + "\n"
	switch {
	case c == Marked && newer:
		if name != "" {
			name += argsMark + "{"
		}
		return callsMark + name
	case c == Marked:
		before = callsMark + " ["
	case c == Bare:
		before, arguments = "", `", "parameters": {`
	}
	if name == "" {
		return before + object
	}
	return before + object + name + arguments
}

// Reader takes the calls out of an answer's text. What looks like a call
// and is none, not JSON or of a function that is not known, stays text. It is
// used by one goroutine.
type Reader struct {
	syntax Syntax
	known  func(name string) bool

	held   string
	inside bool // after the mark of a call
	plain  bool // Bare: the answer began as text
	called bool // space after a call is nobody's
}

// NewReader reads calls of the functions that known knows.
func NewReader(syntax Syntax, known func(name string) bool) *Reader {
	return &Reader{syntax: syntax, known: known}
}

// Write takes more of the answer's text, and gives the text that is certainly
// none of a call, and the calls that are whole.
func (r *Reader) Write(text string) (string, []Call) {
	r.held += text
	switch r.syntax {
	case Tagged:
		return r.tagged()
	case Marked:
		if r.inside {
			return "", nil
		}
		out, found := r.until(callsMark)
		r.inside = found
		return out, nil
	case Bare:
		return r.bare(), nil
	}
	return r.take(len(r.held)), nil
}

// Close tells that the answer ends.
func (r *Reader) Close() (string, []Call) {
	rest := r.take(len(r.held))
	if r.called {
		rest = strings.TrimLeft(rest, space)
	}
	if !r.inside {
		return rest, nil
	}
	var calls []Call
	var err error
	text := rest
	switch r.syntax {
	case Tagged:
		// The close tag may be a control token that ended the answer.
		rest, text = strings.TrimSuffix(rest, callClose), callOpen+rest
		calls, err = r.objects(rest)
	case Marked:
		text = callsMark + rest
		calls, err = r.marked(rest)
	case Bare:
		calls, err = r.objects(strings.TrimPrefix(strings.TrimLeft(rest, space), pythonMark))
	}
	if err != nil {
		return text, nil
	}
	return "", calls
}

func (r *Reader) take(n int) string {
	out := r.held[:n]
	r.held = r.held[n:]
	return out
}

// until takes the text before mark and, if it is there, drops mark and the
// space in front of it; else what may be its beginning stays held.
func (r *Reader) until(mark string) (string, bool) {
	if r.called {
		r.held = strings.TrimLeft(r.held, space)
	}
	i := strings.Index(r.held, mark)
	if i >= 0 {
		out := strings.TrimRight(r.take(i), space)
		r.take(len(mark))
		return out, true
	}
	keep := len(mark) - 1
	for keep > 0 && !strings.HasSuffix(r.held, mark[:keep]) {
		keep--
	}
	out := strings.TrimRight(r.held[:len(r.held)-keep], space)
	if out != "" {
		r.called = false
	}
	return r.take(len(out)), false
}

func (r *Reader) tagged() (string, []Call) {
	var out strings.Builder
	var calls []Call
	for {
		if !r.inside {
			text, found := r.until(callOpen)
			out.WriteString(text)
			if !found {
				return out.String(), calls
			}
			r.inside = true
		}
		end := strings.Index(r.held, callClose)
		if end < 0 {
			return out.String(), calls
		}
		body := r.take(end)
		r.take(len(callClose))
		r.inside = false
		found, err := r.objects(body)
		if err != nil {
			out.WriteString(callOpen + body + callClose)
			r.called = false
			continue
		}
		calls = append(calls, found...)
		r.called = true
	}
}

// bare holds an answer that begins as a call does, to its end.
func (r *Reader) bare() string {
	text := strings.TrimLeft(r.held, space)
	if !r.plain && !r.inside {
		switch {
		case text == "" || len(text) < len(pythonMark) && strings.HasPrefix(pythonMark, text):
			return ""
		case text[0] == '{' || strings.HasPrefix(text, pythonMark):
			r.inside = true
		default:
			r.plain = true
		}
	}
	if r.inside {
		return ""
	}
	return r.take(len(r.held))
}

var errNoCall = errors.New("not a call")

// marked reads what follows [TOOL_CALLS].
func (r *Reader) marked(text string) ([]Call, error) {
	if !strings.Contains(text, argsMark) {
		text = strings.TrimSpace(text)
		if strings.HasPrefix(text, "[") {
			text = strings.TrimSuffix(text[1:], "]")
		}
		return r.objects(text)
	}
	var calls []Call
	for _, one := range strings.Split(text, callsMark) {
		name, arguments, _ := strings.Cut(one, argsMark)
		name, _, _ = strings.Cut(name, callIDMark)
		call, err := r.call(strings.TrimSpace(name), json.RawMessage(strings.TrimSpace(arguments)))
		if err != nil {
			return nil, err
		}
		calls = append(calls, call)
	}
	return calls, nil
}

// objects reads calls that follow each other, maybe parted by , or ;.
func (r *Reader) objects(text string) ([]Call, error) {
	var calls []Call
	for text = strings.TrimSpace(text); text != ""; text = strings.TrimLeft(text, space+",;") {
		var one struct {
			Name       string          `json:"name"`
			Arguments  json.RawMessage `json:"arguments"`
			Parameters json.RawMessage `json:"parameters"`
		}
		decoder := json.NewDecoder(strings.NewReader(text))
		if err := decoder.Decode(&one); err != nil {
			return nil, err
		}
		text = text[decoder.InputOffset():]
		if one.Arguments == nil {
			one.Arguments = one.Parameters
		}
		call, err := r.call(one.Name, one.Arguments)
		if err != nil {
			return nil, err
		}
		calls = append(calls, call)
	}
	if len(calls) == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	return calls, nil
}

// call checks one. Some models write the arguments as JSON within a string.
func (r *Reader) call(name string, arguments json.RawMessage) (Call, error) {
	if !r.known(name) {
		return Call{}, errNoCall
	}
	var quoted string
	if json.Unmarshal(arguments, &quoted) == nil && quoted != "" {
		arguments = json.RawMessage(quoted)
	}
	if len(arguments) == 0 || string(arguments) == "null" || string(arguments) == `""` {
		return Call{Name: name, Arguments: "{}"}, nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(arguments, &fields); err != nil {
		return Call{}, err
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, arguments); err != nil {
		return Call{}, err
	}
	return Call{Name: name, Arguments: compact.String()}, nil
}
