package chat

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

// Calling is the way a model writes calls.
type Calling string

// Ways of writing calls. All name the function and give its arguments as JSON.
const (
	CallingNone    Calling = ""        // the template has no place for tools
	CallingUnknown Calling = "unknown" // it has, and its model writes what we cannot read
	CallingTagged  Calling = "tagged"  // <tool_call>{"name": ..., "arguments": {...}}</tool_call>, each: Hermes, Qwen
	CallingMarked  Calling = "marked"  // [TOOL_CALLS] and a list of such objects, or NAME[ARGS]{...} after each: Mistral
	CallingBare    Calling = "bare"    // {"name": ..., "parameters": {...}} is all of the answer: Llama 3
)

const (
	callOpen, callClose = "<tool_call>", "</tool_call>"
	callsMark, argsMark = "[TOOL_CALLS]", "[ARGS]"
	callIDMark          = "[CALL_ID]"
	pythonMark          = "<|python_tag|>"
)

// detectCalling reads it off a template. Templates of some models have their
// calls within <tool_call> too, but not as JSON.
func detectCalling(source string) Calling {
	has := func(text string) bool { return strings.Contains(source, text) }
	switch {
	case !has("tools"):
		return CallingNone
	case has("<function=") || has("<arg_key>"):
		return CallingUnknown
	case has(callOpen) && has(callClose):
		return CallingTagged
	case has(callsMark):
		return CallingMarked
	case has("<|eot_id|>") && has(`"parameters"`):
		return CallingBare
	}
	return CallingUnknown
}

// Markers lists the texts around calls that a vocabulary may hold as control
// tokens; see Reasoning.Markers.
func (c Calling) Markers() []string {
	switch c {
	case CallingTagged:
		return []string{callOpen, callClose}
	case CallingMarked:
		return []string{callsMark, argsMark, callIDMark}
	case CallingBare:
		return []string{pythonMark}
	}
	return nil
}

// Opening is what a prompt ends with so that the model cannot but write a
// call, of the function name if there is one: its arguments are an object. newer tells which of Mistral's
// two ways it is.
func (c Calling) Opening(name string, newer bool) string {
	object, arguments := `{"name": "`, `", "arguments": {`
	before := callOpen + "\n"
	switch {
	case c == CallingMarked && newer:
		if name != "" {
			name += argsMark + "{"
		}
		return callsMark + name
	case c == CallingMarked:
		before = callsMark + " ["
	case c == CallingBare:
		before, arguments = "", `", "parameters": {`
	}
	if name == "" {
		return before + object
	}
	return before + object + name + arguments
}

// CallReader takes the calls out of an answer's text. What looks like a call
// and is none, not JSON or of a function that is not known, stays text. It is
// used by one goroutine.
type CallReader struct {
	calling Calling
	known   func(name string) bool

	held   string
	inside bool // after the mark of a call
	plain  bool // CallingBare: the answer began as text
	called bool // space after a call is nobody's
}

// NewCallReader reads calls of the functions that known knows.
func NewCallReader(calling Calling, known func(name string) bool) *CallReader {
	return &CallReader{calling: calling, known: known}
}

// Write takes more of the answer's text, and gives the text that is certainly
// none of a call, and the calls that are whole.
func (r *CallReader) Write(text string) (string, []Call) {
	r.held += text
	switch r.calling {
	case CallingTagged:
		return r.tagged()
	case CallingMarked:
		if r.inside {
			return "", nil
		}
		out, found := r.until(callsMark)
		r.inside = found
		return out, nil
	case CallingBare:
		return r.bare(), nil
	}
	return r.take(len(r.held)), nil
}

// Close tells that the answer ends.
func (r *CallReader) Close() (string, []Call) {
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
	switch r.calling {
	case CallingTagged:
		// The close tag may be a control token that ended the answer.
		rest, text = strings.TrimSuffix(rest, callClose), callOpen+rest
		calls, err = r.objects(rest)
	case CallingMarked:
		text = callsMark + rest
		calls, err = r.marked(rest)
	case CallingBare:
		calls, err = r.objects(strings.TrimPrefix(strings.TrimLeft(rest, space), pythonMark))
	}
	if err != nil {
		return text, nil
	}
	return "", calls
}

func (r *CallReader) take(n int) string {
	out := r.held[:n]
	r.held = r.held[n:]
	return out
}

// until takes the text before mark and, if it is there, drops mark and the
// space in front of it; else what may be its beginning stays held.
func (r *CallReader) until(mark string) (string, bool) {
	if r.called {
		r.held = strings.TrimLeft(r.held, space)
	}
	i := strings.Index(r.held, mark)
	if i >= 0 {
		out := strings.TrimRight(r.take(i), space)
		r.take(len(mark))
		return out, true
	}
	keep := partialSuffix([]byte(r.held), mark)
	out := strings.TrimRight(r.held[:len(r.held)-keep], space)
	if out != "" {
		r.called = false
	}
	return r.take(len(out)), false
}

func (r *CallReader) tagged() (string, []Call) {
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
func (r *CallReader) bare() string {
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
func (r *CallReader) marked(text string) ([]Call, error) {
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
func (r *CallReader) objects(text string) ([]Call, error) {
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
func (r *CallReader) call(name string, arguments json.RawMessage) (Call, error) {
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
