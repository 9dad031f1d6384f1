package talk

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/skein-run/skein/client"
	"github.com/skein-run/skein/internal/nearest"
)

// Param is one sampling parameter that a person may set, on the command line or
// in a chat.
type Param struct {
	Name string // "top_p"; the flag is "top-p"
	Help string
	// Whole parameters are integers.
	Whole    bool
	Min, Max float64 // both inclusive
	list     bool    // a list of texts: stop
	apply    func(*client.ChatRequest, float64)
}

// Flag is the parameter's name on the command line.
func (p Param) Flag() string { return strings.ReplaceAll(p.Name, "_", "-") }

// ParamTable gives the parameters in the order of the help.
func ParamTable() []Param {
	number := func(field func(*client.ChatRequest) **float64) func(*client.ChatRequest, float64) {
		return func(r *client.ChatRequest, v float64) { *field(r) = &v }
	}
	whole := func(field func(*client.ChatRequest) **int) func(*client.ChatRequest, float64) {
		return func(r *client.ChatRequest, v float64) { n := int(v); *field(r) = &n }
	}
	return []Param{
		{Name: "temperature", Max: 2, Help: "0 always takes the likeliest token, higher values vary more",
			apply: number(func(r *client.ChatRequest) **float64 { return &r.Temperature })},
		{Name: "top_p", Max: 1, Help: "take only the likeliest tokens that together have this probability",
			apply: number(func(r *client.ChatRequest) **float64 { return &r.TopP })},
		{Name: "top_k", Whole: true, Max: 1 << 30, Help: "take only this many of the likeliest tokens; 0: all",
			apply: whole(func(r *client.ChatRequest) **int { return &r.TopK })},
		{Name: "min_p", Max: 1, Help: "leave out tokens less likely than this share of the likeliest",
			apply: number(func(r *client.ChatRequest) **float64 { return &r.MinP })},
		{Name: "typical_p", Max: 1, Help: "take only tokens of typical surprise; 1: off",
			apply: number(func(r *client.ChatRequest) **float64 { return &r.TypicalP })},
		{Name: "repeat_penalty", Max: 10, Help: "make tokens of the last text less likely; 1: off",
			apply: number(func(r *client.ChatRequest) **float64 { return &r.RepeatPenalty })},
		{Name: "presence_penalty", Min: -2, Max: 2, Help: "lower what has been said at all",
			apply: number(func(r *client.ChatRequest) **float64 { return &r.PresencePenalty })},
		{Name: "frequency_penalty", Min: -2, Max: 2, Help: "lower what has been said, by how often",
			apply: number(func(r *client.ChatRequest) **float64 { return &r.FrequencyPenalty })},
		{Name: "seed", Whole: true, Min: 0, Max: 1 << 53, Help: "the same seed gives the same text",
			apply: func(r *client.ChatRequest, v float64) { n := int64(v); r.Seed = &n }},
		{Name: "max_tokens", Whole: true, Min: 1, Max: 1 << 30, Help: "end the answer after this many tokens",
			apply: whole(func(r *client.ChatRequest) **int { return &r.MaxTokens })},
		{Name: "stop", list: true, Help: "end the answer before this text; repeatable"},
	}
}

// Params are the parameters that were set. The zero value leaves all of them
// to the node.
type Params struct {
	values map[string]float64
	texts  map[string]string // as typed, for showing
	Stop   []string
}

// Set checks and sets one parameter; "default" unsets it. A stop text is added
// to those there are.
func (p *Params) Set(name, value string) error {
	name = strings.ToLower(strings.ReplaceAll(name, "-", "_"))
	param, err := find(name)
	if err != nil {
		return err
	}
	if value == "default" {
		p.unset(param)
		return nil
	}
	if param.list {
		text, err := unquote(value)
		if err != nil || text == "" {
			return fmt.Errorf("%s needs a text, such as %s \"END\"", name, name)
		}
		p.Stop = append(p.Stop, text)
		return nil
	}
	v, err := strconv.ParseFloat(value, 64)
	if err != nil || math.IsNaN(v) || v < param.Min || v > param.Max || (param.Whole && v != math.Trunc(v)) {
		kind := "a number"
		if param.Whole {
			kind = "a whole number"
		}
		return fmt.Errorf("%s must be %s from %s to %s, not %q", name, kind, trim(param.Min), trim(param.Max), value)
	}
	if p.values == nil {
		p.values, p.texts = map[string]float64{}, map[string]string{}
	}
	p.values[name], p.texts[name] = v, value
	return nil
}

func (p *Params) unset(param Param) {
	if param.list {
		p.Stop = nil
		return
	}
	delete(p.values, param.Name)
	delete(p.texts, param.Name)
}

// Apply puts the parameters into a request.
func (p *Params) Apply(r *client.ChatRequest) {
	for _, param := range ParamTable() {
		if v, ok := p.values[param.Name]; ok {
			param.apply(r, v)
		}
	}
	r.Stop = p.Stop
}

// List gives what is set as name and value, in the order of the table.
func (p *Params) List() [][2]string {
	var out [][2]string
	for _, param := range ParamTable() {
		if text, ok := p.texts[param.Name]; ok {
			out = append(out, [2]string{param.Name, text})
		}
	}
	for _, s := range p.Stop {
		out = append(out, [2]string{"stop", strconv.Quote(s)})
	}
	return out
}

// find gives the row of a parameter.
func find(name string) (Param, error) {
	var names []string
	for _, p := range ParamTable() {
		if p.Name == name {
			return p, nil
		}
		names = append(names, p.Name)
	}
	if near := nearest.Of(name, names); near != "" {
		return Param{}, fmt.Errorf("there is no parameter %q; did you mean %q?", name, near)
	}
	return Param{}, fmt.Errorf("there is no parameter %q; there are %s", name, strings.Join(names, ", "))
}

// unquote reads a text with or without double quotes.
func unquote(s string) (string, error) {
	if strings.HasPrefix(s, `"`) {
		return strconv.Unquote(s)
	}
	return s, nil
}

func trim(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
