package talk

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/client"
)

// script is a person at a terminal: the lines typed, and Ctrl-C where a line is
// the two characters ^C.
type script struct {
	lines   []string
	history []string
	prompts []string
	out     *strings.Builder
}

func (s *script) ReadLine(prompt string) (string, error) {
	s.prompts = append(s.prompts, prompt)
	if len(s.lines) == 0 {
		return "", io.EOF
	}
	line := s.lines[0]
	s.lines = s.lines[1:]
	s.out.WriteString(prompt + line + "\n")
	if line == "^C" {
		return "", ErrInterrupt
	}
	return line, nil
}

func (s *script) Remember(entry string) { s.history = append(s.history, entry) }

// node answers every request by its number, and records it.
type node struct {
	requests []client.ChatRequest
	answer   func(n int, emit func(client.ChatChunk) error, ctx context.Context) error
	models   []string
	keys     chan struct{} // Ctrl-C while an answer is printed
	taken    int
}

func (n *node) Chat(ctx context.Context, req client.ChatRequest, emit func(client.ChatChunk) error) error {
	n.requests = append(n.requests, req)
	return n.answer(len(n.requests), emit, ctx)
}

func (n *node) Choose(_ context.Context, name string) (string, error) {
	for _, m := range n.models {
		if strings.EqualFold(m, name) {
			return m, nil
		}
	}
	return "", errors.New("model " + name + " is not known; known models: " + strings.Join(n.models, ", "))
}

func (n *node) Describe(_ context.Context, name string) (api.LibraryModel, error) {
	return api.LibraryModel{LibraryEntry: api.LibraryEntry{Name: name, Architecture: "llama", Quantization: "Q8_0", SizeBytes: 1 << 20, ContextLength: 512}, ChatTemplate: "T"}, nil
}

func (n *node) Take() (<-chan struct{}, func()) {
	n.taken++
	return n.keys, func() { n.taken-- }
}

func say(text string) func(int, func(client.ChatChunk) error, context.Context) error {
	return func(_ int, emit func(client.ChatChunk) error, _ context.Context) error {
		return emit(client.ChatChunk{Content: text, FinishReason: "stop"})
	}
}

// chat runs a script and gives what stood on the terminal.
func chat(t *testing.T, n *node, o Options, lines ...string) (*script, string) {
	t.Helper()
	if n.keys == nil {
		n.keys = make(chan struct{}, 1)
	}
	if n.answer == nil {
		n.answer = say("ok")
	}
	if n.models == nil {
		n.models = []string{"m", "other"}
	}
	var out strings.Builder
	s := &script{lines: lines, out: &out}
	now := time.Unix(0, 0)
	o.Backend, o.Lines, o.Interrupts = n, s, n
	o.Printer.Out = &out
	o.Printer.Now = func() time.Time { now = now.Add(250 * time.Millisecond); return now }
	if o.Settings.Model == "" {
		o.Settings.Model = "m"
	}
	if err := New(o).Run(t.Context()); err != nil {
		t.Fatalf("the chat ended with %v; it printed\n%s", err, out.String())
	}
	if n.taken != 0 {
		t.Errorf("Ctrl-C is still taken")
	}
	return s, out.String()
}

// roles writes the turns of a request as one line.
func roles(req client.ChatRequest) string {
	var parts []string
	for _, m := range req.Messages {
		parts = append(parts, m.Role+"="+m.Content)
	}
	return strings.Join(parts, " | ")
}

func TestConversation(t *testing.T) {
	n := &node{answer: func(n int, emit func(client.ChatChunk) error, _ context.Context) error {
		return emit(client.ChatChunk{Content: "answer " + string(rune('0'+n))})
	}}
	s, out := chat(t, n, Options{Settings: Settings{System: "be brief"}}, "one", "", "  ", "two", "/clear", "three", "/bye", "never read")
	want := []string{
		"system=be brief | user=one",
		"system=be brief | user=one | assistant=answer 1 | user=two",
		"system=be brief | user=three",
	}
	var got []string
	for _, r := range n.requests {
		got = append(got, roles(r))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"one", "two", "/clear", "three", "/bye"}, s.history); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
	wantOut := `m. /help shows the commands, /bye or Ctrl-D ends.
>>> one
answer 1

>>> ` + `
>>>   ` + `
>>> two
answer 2

>>> /clear
The conversation is forgotten.
>>> three
answer 3

>>> /bye
`
	if diff := cmp.Diff(wantOut, out); diff != "" {
		t.Errorf("terminal (-want +got):\n%s", diff)
	}
}

func TestMultiLine(t *testing.T) {
	tests := []struct {
		name  string
		lines []string
		want  string // the one request's text, "" for none
	}{
		{"backslash", []string{`a\`, `b\`, `c`}, "a\nb\nc"},
		{"quotes", []string{`"""`, `a`, `  b "x"`, `"""`}, "a\n  b \"x\""},
		{"quotes on the line", []string{`"""a`, `b"""`}, "a\nb"},
		{"quotes in one line", []string{`"""a"""`}, "a"},
		{"quotes later are text", []string{`say """`}, `say """`},
		{"given up by Ctrl-C", []string{`"""`, `a`, `^C`}, ""},
		{"given up by Ctrl-D", []string{`a\`}, ""},
		{"blank before a slash", []string{` /bye`}, " /bye"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := &node{}
			chat(t, n, Options{}, tt.lines...)
			got := ""
			if len(n.requests) > 0 {
				got = n.requests[0].Messages[0].Content
			}
			if got != tt.want || len(n.requests) > 1 {
				t.Errorf("sent %q (%d requests), want %q", got, len(n.requests), tt.want)
			}
		})
	}
}

func TestInterruptAtPrompt(t *testing.T) {
	n := &node{}
	_, out := chat(t, n, Options{}, "^C", "hi")
	if !strings.Contains(out, "Press Ctrl-D or type /bye to end.") || len(n.requests) != 1 {
		t.Errorf("%d requests, terminal:\n%s", len(n.requests), out)
	}
}

// Ctrl-C stops the answer, and what was said of it stays in the conversation.
func TestInterruptDuringAnswer(t *testing.T) {
	for _, part := range []string{"half", ""} {
		n := &node{keys: make(chan struct{}, 1)}
		n.answer = func(i int, emit func(client.ChatChunk) error, ctx context.Context) error {
			if i > 1 {
				return emit(client.ChatChunk{Content: "whole"})
			}
			if err := emit(client.ChatChunk{Content: part}); err != nil {
				return err
			}
			n.keys <- struct{}{}
			<-ctx.Done()
			return context.Cause(ctx)
		}
		_, out := chat(t, n, Options{}, "one", "two")
		want := "user=one | assistant=half | user=two"
		if part == "" {
			want = "user=two"
		}
		if got := roles(n.requests[1]); got != want {
			t.Errorf("after %q the next request is %q, want %q", part, got, want)
		}
		if !strings.Contains(out, "Stopped") || !strings.Contains(out, "whole") {
			t.Errorf("terminal:\n%s", out)
		}
	}
}

// A failed turn is said and forgotten; the chat goes on.
func TestFailedTurn(t *testing.T) {
	n := &node{answer: func(i int, emit func(client.ChatChunk) error, _ context.Context) error {
		if i == 1 {
			return errors.New("the runner died; ask again")
		}
		return emit(client.ChatChunk{Content: "fine"})
	}}
	_, out := chat(t, n, Options{}, "one", "two")
	if got := roles(n.requests[1]); got != "user=two" || !strings.Contains(out, "the runner died; ask again\n") {
		t.Errorf("next request %q, terminal:\n%s", got, out)
	}
}

// The end of the program ends the chat, whatever it waits for.
func TestContextEnds(t *testing.T) {
	cause := errors.New("terminated")
	ctx, cancel := context.WithCancelCause(t.Context())
	n := &node{models: []string{"m"}, keys: make(chan struct{}, 1)}
	n.answer = func(_ int, _ func(client.ChatChunk) error, ctx context.Context) error {
		cancel(cause)
		<-ctx.Done()
		return context.Cause(ctx)
	}
	var out strings.Builder
	err := New(Options{Backend: n, Lines: &script{lines: []string{"hi", "more"}, out: &out}, Interrupts: n,
		Printer: Printer{Out: &out, Now: time.Now}, Settings: Settings{Model: "m"}}).Run(ctx)
	if !errors.Is(err, cause) || len(n.requests) != 1 {
		t.Errorf("ended with %v after %d requests", err, len(n.requests))
	}
}

func TestCommands(t *testing.T) {
	tests := []struct {
		line string
		want string // in the terminal's text
	}{
		{"/help", "/set [NAME VALUE]"},
		{"/?", "Ctrl-C stops an answer"},
		{"/HELP", "/bye"},
		{"/helo", "there is no command /helo; did you mean /help?"},
		{"/xyzzyx", "there is no command /xyzzyx; /help lists them"},
		{"/set", "temperature        default"},
		{"/set temperature 0.5", "temperature is set to 0.5."},
		{"/set parameter top_k 3", "top_k is set to 3."},
		{"/set temprature 1", `there is no parameter "temprature"; did you mean "temperature"?`},
		{"/set temperature", "say the value: /set temperature VALUE"},
		{"/set top_p 2", `top_p must be a number from 0 to 1, not "2"`},
		{"/set seed 1.5", "seed must be a whole number"},
		{"/set seed NaN", "seed must be a whole number"},
		{"/set system x", "The system text is set."},
		{"/system", "The system text is removed."},
		{"/show", "architecture  llama"},
		{"/show model", "context       512 tokens"},
		{"/show template", "\nT\n"},
		{"/show system", "(none)"},
		{"/show parameters", "repeat_penalty"},
		{"/show temlate", "did you mean /show template?"},
		{"/save", "say where: /save FILE"},
		{"/load", "say what: /load FILE or /load MODEL"},
		{"/load OTHER", "Going on with other."},
		{"/load nothing", "model nothing is not known; known models: m, other"},
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			n := &node{}
			_, out := chat(t, n, Options{}, tt.line)
			if !strings.Contains(out, tt.want) || len(n.requests) != 0 {
				t.Errorf("%d requests; terminal:\n%s\nwant %q", len(n.requests), out, tt.want)
			}
		})
	}
	for _, line := range []string{"/bye", "/exit", "/quit", "/BYE"} {
		if s, _ := chat(t, &node{}, Options{}, line, "more"); len(s.lines) != 1 {
			t.Errorf("%s does not end the chat", line)
		}
	}
}

// What is set with the commands is what is sent.
func TestSettingsAreSent(t *testing.T) {
	n := &node{}
	think := false
	chat(t, n, Options{Settings: Settings{Think: &think}},
		"/set temperature 0.5", "/set top_k 3", "/set seed 7", "/set stop \"A\\n\"", "/set stop B", `/system """`, "two", `lines"""`, "hi",
		"/set temperature default", "/set stop default", "/load other", "ho")
	temperature, topK, seed := 0.5, 3, int64(7)
	args := map[string]any{"enable_thinking": false}
	want := []client.ChatRequest{
		{Model: "m", Temperature: &temperature, TopK: &topK, Seed: &seed, Stop: []string{"A\n", "B"}, TemplateArgs: args,
			Messages: []client.Message{{Role: "system", Content: "two\nlines"}, {Role: "user", Content: "hi"}}},
		{Model: "other", TopK: &topK, Seed: &seed, TemplateArgs: args,
			Messages: []client.Message{{Role: "system", Content: "two\nlines"}, {Role: "user", Content: "hi"}, {Role: "assistant", Content: "ok"}, {Role: "user", Content: "ho"}}},
	}
	if diff := cmp.Diff(want, n.requests); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSaveAndLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "chat.json")
	chat(t, &node{}, Options{Settings: Settings{System: "s"}}, "hi", "/set temperature 0", "/set stop \"a b\"", "/save "+path, "/save "+path)
	n := &node{}
	_, out := chat(t, n, Options{Settings: Settings{Model: "other"}}, "/load "+path, "again")
	if !strings.Contains(out, "Loaded 2 turns; going on with m.") {
		t.Errorf("terminal:\n%s", out)
	}
	zero := 0.0
	want := []client.ChatRequest{{Model: "m", Temperature: &zero, Stop: []string{"a b"}, Messages: []client.Message{
		{Role: "system", Content: "s"}, {Role: "user", Content: "hi"}, {Role: "assistant", Content: "ok"}, {Role: "user", Content: "again"}}}}
	if diff := cmp.Diff(want, n.requests); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// Saving never destroys another file, loading never half a conversation.
func TestSaveAndLoadRefuse(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	text := file("notes", "precious")
	_, out := chat(t, &node{}, Options{}, "/save "+text, "/load "+text, "/save "+filepath.Join(dir, "none", "x"))
	for _, want := range []string{"is there and is no saved chat", "is not a chat that /save wrote", "save the conversation: "} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	if got, err := os.ReadFile(text); err != nil || string(got) != "precious" {
		t.Errorf("the file is now %q, %v", got, err)
	}
	for name, content := range map[string]string{
		"newer":   `{"skein_chat":2}`,
		"model":   `{"skein_chat":1,"model":"gone","messages":[]}`,
		"setting": `{"skein_chat":1,"model":"m","parameters":[["temperature","9"]],"messages":[]}`,
	} {
		n := &node{}
		chat(t, n, Options{}, "/load "+file(name, content), "hi")
		if got := roles(n.requests[0]); got != "user=hi" || n.requests[0].Temperature != nil {
			t.Errorf("%s: next request %q", name, got)
		}
	}
}

func TestFiguresAreVerbose(t *testing.T) {
	n := &node{answer: func(_ int, emit func(client.ChatChunk) error, _ context.Context) error {
		for _, text := range []string{"a", "b", "c"} {
			if err := emit(client.ChatChunk{Content: text}); err != nil {
				return err
			}
		}
		return emit(client.ChatChunk{FinishReason: "length", Usage: &client.Usage{PromptTokens: 7, CompletionTokens: 3}})
	}}
	_, out := chat(t, n, Options{Verbose: true}, "hi")
	// The clock goes on by 250 ms at each look.
	for _, want := range []string{"7 prompt tokens, first token after 250 ms, 3 tokens, 4.0 tokens/s, cut at the length limit", "The answer was cut"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
}

func TestPrinter(t *testing.T) {
	answer := func(_ int, emit func(client.ChatChunk) error, _ context.Context) error {
		for _, c := range []client.ChatChunk{{Reasoning: "let me"}, {Reasoning: " see\x1b[31m"}, {Content: "do\x07ne\n\té"}, {FinishReason: "stop"}} {
			if err := emit(c); err != nil {
				return err
			}
		}
		return nil
	}
	tests := []struct {
		name    string
		printer Printer
		want    string
	}{
		{"plain", Printer{}, "do\x07ne\n\té"},
		{"terminal", Printer{Terminal: true}, "let me see[31m\n\ndone\n\té"},
		{"colours", Printer{Terminal: true, Styled: true}, "\x1b[2mlet me see[31m\x1b[0m\n\ndone\n\té"},
		{"hidden", Printer{Terminal: true, Styled: true, HideThinking: true}, "done\n\té"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			tt.printer.Out, tt.printer.Now = &out, time.Now
			r, err := tt.printer.Answer(t.Context(), &node{answer: answer}, client.ChatRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, out.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if r.Text != "do\x07ne\n\té" || r.Reasoning != "let me see\x1b[31m" {
				t.Errorf("result %+v", r)
			}
		})
	}
	// An answer that breaks off while it thinks leaves no colour behind.
	var out strings.Builder
	_, err := Printer{Terminal: true, Styled: true, Out: &out, Now: time.Now}.Answer(t.Context(),
		&node{answer: func(_ int, emit func(client.ChatChunk) error, _ context.Context) error {
			if err := emit(client.ChatChunk{Reasoning: "x"}); err != nil {
				return err
			}
			return errors.New("broken")
		}}, client.ChatRequest{})
	if err == nil || !strings.HasSuffix(out.String(), reset+"\n\n") {
		t.Errorf("%v, %q", err, out.String())
	}
}

type fullPipe struct{}

func (fullPipe) Write([]byte) (int, error) { return 0, errors.New("no space") }

// A reader that went away ends the generation.
func TestPrinterCannotWrite(t *testing.T) {
	_, err := Printer{Out: fullPipe{}, Now: time.Now}.Answer(t.Context(), &node{answer: say("x")}, client.ChatRequest{})
	if err == nil || !strings.Contains(err.Error(), "no space") {
		t.Errorf("got %v", err)
	}
}
