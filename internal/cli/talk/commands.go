package talk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/skein-run/skein/client"
	"github.com/skein-run/skein/internal/bytesize"
	"github.com/skein-run/skein/internal/nearest"
)

// command is one slash command of the chat.
type command struct {
	name, arguments, help string
	run                   func(c *Chat, ctx context.Context, rest string) error
}

func commands() []command {
	return []command{
		{"/help", "", "show this", (*Chat).help},
		{"/set", "[NAME VALUE]", "set a sampling parameter, \"default\" unsets it; alone: list them", (*Chat).set},
		{"/system", "[TEXT]", "set the system text; alone: remove it", (*Chat).system},
		{"/show", "[model|parameters|system|template]", "show what is in use", (*Chat).show},
		{"/clear", "", "forget the conversation", (*Chat).clear},
		{"/save", "FILE", "write the conversation and its settings to a file", (*Chat).save},
		{"/load", "FILE|MODEL", "go on with a saved conversation, or with another model", (*Chat).load},
		{"/bye", "", "end", func(*Chat, context.Context, string) error { return errBye }},
	}
}

// Commands gives the names for completion.
func Commands() []string {
	var names []string
	for _, cmd := range commands() {
		names = append(names, cmd.name)
	}
	return names
}

// command runs a line that begins with a slash.
func (c *Chat) command(ctx context.Context, line string) error {
	word, rest := line, ""
	if i := strings.IndexAny(line, " \t\n"); i >= 0 {
		word, rest = line[:i], strings.TrimSpace(line[i:])
	}
	for _, cmd := range commands() {
		if strings.EqualFold(cmd.name, word) {
			return cmd.run(c, ctx, rest)
		}
	}
	switch strings.ToLower(word) {
	case "/?":
		return c.help(ctx, "")
	case "/exit", "/quit":
		return errBye
	}
	if near := nearest.Of(word, Commands()); near != "" {
		return fmt.Errorf("there is no command %s; did you mean %s?", word, near)
	}
	return fmt.Errorf("there is no command %s; /help lists them (begin with a blank to send a line that starts with a slash)", word)
}

func (c *Chat) help(context.Context, string) error {
	width := 0
	for _, cmd := range commands() {
		width = max(width, len(cmd.name+" "+cmd.arguments))
	}
	var b strings.Builder
	for _, cmd := range commands() {
		fmt.Fprintf(&b, "  %-*s  %s\n", width, strings.TrimSpace(cmd.name+" "+cmd.arguments), cmd.help)
	}
	b.WriteString("\nEnd a line with \\ to go on in the next, or put several between \"\"\" and \"\"\".\n")
	b.WriteString("Ctrl-C stops an answer, Ctrl-D ends.\n")
	c.print(b.String())
	return nil
}

func (c *Chat) set(ctx context.Context, rest string) error {
	// "/set parameter temperature 1" is how others spell it.
	rest = strings.TrimSpace(strings.TrimPrefix(rest, "parameter "))
	name, value, _ := strings.Cut(rest, " ")
	value = strings.TrimSpace(value)
	if name == "" {
		return c.parameters()
	}
	if strings.EqualFold(name, "system") {
		return c.system(ctx, value)
	}
	if value == "" {
		p, err := find(strings.ToLower(strings.ReplaceAll(name, "-", "_")))
		if err != nil {
			return err
		}
		return fmt.Errorf("say the value: /set %s VALUE (%s)", p.Name, p.Help)
	}
	if err := c.settings.Params.Set(name, value); err != nil {
		return err
	}
	c.say("%s is set to %s.", strings.ToLower(name), value)
	return nil
}

// parameters lists all parameters with what is set.
func (c *Chat) parameters() error {
	set := map[string][]string{}
	for _, p := range c.settings.Params.List() {
		set[p[0]] = append(set[p[0]], p[1])
	}
	var b strings.Builder
	for _, p := range ParamTable() {
		value := "default"
		if v, ok := set[p.Name]; ok {
			value = strings.Join(v, " ")
		}
		fmt.Fprintf(&b, "  %-17s  %-8s  %s\n", p.Name, value, p.Help)
	}
	c.print(b.String())
	return nil
}

func (c *Chat) system(_ context.Context, rest string) error {
	text, err := unquote(rest)
	if err != nil {
		text = rest
	}
	c.settings.System = text
	if text == "" {
		c.say("The system text is removed.")
	} else {
		c.say("The system text is set.")
	}
	return nil
}

func (c *Chat) show(ctx context.Context, rest string) error {
	switch strings.ToLower(rest) {
	case "parameters", "params":
		return c.parameters()
	case "system":
		c.print(orNone(c.settings.System) + "\n")
		return nil
	case "", "model", "template":
	default:
		if near := nearest.Of(rest, []string{"model", "parameters", "system", "template"}); near != "" {
			return fmt.Errorf("there is nothing called %q to show; did you mean /show %s?", rest, near)
		}
		return fmt.Errorf("there is nothing called %q to show; say model, parameters, system or template", rest)
	}
	m, err := c.o.Backend.Describe(ctx, c.settings.Model)
	if err != nil {
		return err
	}
	if strings.EqualFold(rest, "template") {
		c.print(c.o.Printer.clean(orNone(m.ChatTemplate)) + "\n")
		return nil
	}
	c.print(c.o.Printer.clean(fmt.Sprintf("  model         %s\n  architecture  %s\n  quantization  %s\n  size          %s\n  context       %d tokens\n",
		m.Name, m.Architecture, m.Quantization, bytesize.Format(m.SizeBytes), m.ContextLength)))
	if rest == "" {
		c.print(fmt.Sprintf("  turns         %d\n  system        %s\n", len(c.messages), orNone(c.settings.System)))
		for _, p := range c.settings.Params.List() {
			c.print(fmt.Sprintf("  %-12s  %s\n", p[0], p[1]))
		}
	}
	return nil
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

func (c *Chat) clear(context.Context, string) error {
	c.messages = nil
	c.say("The conversation is forgotten.")
	return nil
}

// saved is the form of a conversation in a file.
type saved struct {
	Skein      int              `json:"skein_chat"` // version of the form
	Model      string           `json:"model"`
	System     string           `json:"system,omitempty"`
	Parameters [][2]string      `json:"parameters,omitempty"` // name, value
	Think      *bool            `json:"think,omitempty"`
	Messages   []client.Message `json:"messages"`
}

// maxSaved bounds a file that /load reads.
const maxSaved = 256 << 20

func (c *Chat) save(_ context.Context, rest string) error {
	if rest == "" {
		return errors.New("say where: /save FILE")
	}
	form := saved{
		Skein: 1, Model: c.settings.Model, System: c.settings.System,
		Parameters: c.settings.Params.List(), Think: c.settings.Think, Messages: c.messages,
	}
	if form.Messages == nil {
		form.Messages = []client.Message{}
	}
	data, err := json.MarshalIndent(form, "", "  ")
	if err != nil {
		return fmt.Errorf("save the conversation: %w", err)
	}
	// Never over a file of another kind: a slip must not cost a model or a text.
	if old, err := readSaved(rest); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is there and is no saved chat; choose another name", rest)
	} else if err == nil && old.Skein == 0 {
		return fmt.Errorf("%s is there and is no saved chat; choose another name", rest)
	}
	f, err := os.CreateTemp(filepath.Dir(rest), ".chat-*")
	if err != nil {
		return fmt.Errorf("save the conversation: %w", err)
	}
	defer os.Remove(f.Name()) // fails, as it should, once renamed
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), rest)
	}
	if err != nil {
		return fmt.Errorf("save the conversation: %w", err)
	}
	c.say("Saved to %s.", rest)
	return nil
}

// readSaved reads a file that /save wrote.
func readSaved(path string) (saved, error) {
	f, err := os.Open(path)
	if err != nil {
		return saved{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSaved))
	if err != nil {
		return saved{}, fmt.Errorf("read %s: %w", path, err)
	}
	var form saved
	if err := json.Unmarshal(data, &form); err != nil || form.Skein == 0 {
		return saved{}, fmt.Errorf("%s is not a chat that /save wrote", path)
	}
	if form.Skein != 1 {
		return saved{}, fmt.Errorf("%s was saved by a newer skein; update this one", path)
	}
	return form, nil
}

func (c *Chat) load(ctx context.Context, rest string) error {
	if rest == "" {
		return errors.New("say what: /load FILE or /load MODEL")
	}
	if info, err := os.Stat(rest); err == nil && !info.IsDir() && !strings.EqualFold(filepath.Ext(rest), ".gguf") {
		form, err := readSaved(rest)
		if err != nil {
			return err
		}
		return c.restore(ctx, form)
	}
	name, err := c.o.Backend.Choose(ctx, rest)
	if err != nil {
		return err
	}
	c.settings.Model = name
	c.say("Going on with %s.", name)
	return nil
}

// restore takes a saved conversation over, or, when something in it does not
// fit, changes nothing.
func (c *Chat) restore(ctx context.Context, form saved) error {
	next := Settings{System: form.System, Think: form.Think}
	for _, p := range form.Parameters {
		if err := next.Params.Set(p[0], p[1]); err != nil {
			return fmt.Errorf("load the conversation: %w", err)
		}
	}
	name, err := c.o.Backend.Choose(ctx, form.Model)
	if err != nil {
		return fmt.Errorf("load the conversation: %w", err)
	}
	next.Model = name
	c.settings, c.messages = next, form.Messages
	c.say("Loaded %d turns; going on with %s.", len(form.Messages), name)
	return nil
}
