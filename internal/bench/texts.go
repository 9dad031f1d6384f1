package bench

import (
	"context"
	_ "embed"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/skein-run/skein/internal/bench/load"
)

//go:embed prompts.txt
var promptLines string

// Prompts are the questions whose greedy answers are compared.
func Prompts() []string { return strings.Split(strings.TrimSpace(promptLines), "\n") }

// rivals is how many candidates of each token are asked for.
const rivals = 20

// TextResult compares greedy texts of two servers.
//
// The rule for a difference: up to the first token that differs, both servers
// computed the same thing. There each prefers its own token, by a distance of
// log-probabilities. If the two distances disagree by no more than Noise.Max,
// the difference lies within the noise of the library: it disagrees with
// itself by as much when it computes the same tokens in one batch instead of
// one by one.
type TextResult struct {
	Prompts     int          `json:"prompts"`
	Equal       int          `json:"equal"`
	Tokens      int          `json:"tokens"` // compared
	Noise       Noise        `json:"noise"`
	Differences []Difference `json:"differences"`
}

// Noise is by how much llama-server changes its mind about the distance of its
// two best candidates, in nats, when the same tokens come in one batch.
type Noise struct {
	Samples int     `json:"samples"`
	Median  float64 `json:"median"`
	Max     float64 `json:"max"`
}

// Difference is the first token at which two texts part.
type Difference struct {
	Prompt string `json:"prompt"`
	At     int    `json:"at"` // tokens in common
	Ours   string `json:"ours"`
	Theirs string `json:"theirs"`
	// Distances of the log-probability of our token from theirs; 0 where a
	// text had ended and the server tells none.
	OursDistance   float64 `json:"ours_distance"`
	TheirsDistance float64 `json:"theirs_distance"`
	// Disagreement of the two, nats; negative: one token is not even among
	// the other server's candidates.
	Disagreement float64 `json:"disagreement"`
	Within       bool    `json:"within_noise"`
}

// candidate is one token with its log-probability, as both servers write it.
type candidate struct {
	ID      int32       `json:"id"` // llama-server only
	Bytes   []int       `json:"bytes"`
	Logprob float64     `json:"logprob"`
	Top     []candidate `json:"top_logprobs"`
}

func (c *candidate) text() string {
	b := make([]byte, len(c.Bytes))
	for i, v := range c.Bytes {
		b[i] = byte(v)
	}
	return string(b)
}

// answer is a greedy text token by token.
type answer struct {
	text, finish string
	prompt       int // tokens
	tokens       []candidate
}

// greedy asks for the most probable answer to a question.
// Extra fields go along; one server's words may be unknown to the other.
func greedy(ctx context.Context, c *load.Client, question string, tokens int, extra map[string]any) (answer, error) {
	var got struct {
		Choices []struct {
			Message  load.Message `json:"message"`
			Logprobs struct {
				Content []candidate `json:"content"`
			} `json:"logprobs"`
			Finish string `json:"finish_reason"`
		} `json:"choices"`
		Usage load.Usage `json:"usage"`
	}
	body := map[string]any{
		"model": c.Model(), "messages": []load.Message{{Role: "user", Content: question}},
		"max_tokens": tokens, "temperature": 0, "logprobs": true, "top_logprobs": rivals,
	}
	maps.Copy(body, extra)
	if err := c.Call(ctx, "/v1/chat/completions", body, &got); err != nil {
		return answer{}, err
	}
	if len(got.Choices) != 1 {
		return answer{}, fmt.Errorf("the server gave %d answers to one question", len(got.Choices))
	}
	one := got.Choices[0]
	return answer{text: one.Message.Content, finish: one.Finish, prompt: got.Usage.PromptTokens, tokens: one.Logprobs.Content}, nil
}

// Texts compares greedy answers of a node with llama-server's.
func Texts(ctx context.Context, ours, theirs *load.Client, prompts []string, tokens int) (*TextResult, error) {
	res := &TextResult{Prompts: len(prompts), Differences: []Difference{}}
	var noise []float64
	for _, p := range prompts {
		a, err := greedy(ctx, ours, p, tokens, nil)
		if err != nil {
			return nil, fmt.Errorf("ask skein %q: %w", p, err)
		}
		// Every prompt is computed whole: what an earlier one left in its cache
		// would change the batches, and with them the rounding.
		b, err := greedy(ctx, theirs, p, tokens, map[string]any{"cache_prompt": false})
		if err != nil {
			return nil, fmt.Errorf("ask llama-server %q: %w", p, err)
		}
		if a.prompt != b.prompt {
			return nil, fmt.Errorf("%q has %d tokens in skein and %d in llama-server: the templates or tokenizers differ, so texts cannot be compared", p, a.prompt, b.prompt)
		}
		more, err := selfNoise(ctx, theirs, p, b)
		if err != nil {
			return nil, fmt.Errorf("measure the noise of llama-server on %q: %w", p, err)
		}
		noise = append(noise, more...)
		if a.text == b.text {
			res.Equal++
			res.Tokens += len(b.tokens)
			continue
		}
		d := part(a, b)
		d.Prompt = p
		res.Tokens += d.At
		res.Differences = append(res.Differences, d)
	}
	if len(noise) > 0 {
		res.Noise = Noise{Samples: len(noise), Median: load.Quantile(noise, 0.5), Max: slices.Max(noise)}
	}
	for i := range res.Differences {
		d := &res.Differences[i]
		d.Within = d.Disagreement >= 0 && d.Disagreement <= res.Noise.Max
	}
	return res, nil
}

// part finds where two answers part, and by how much the servers disagree.
func part(a, b answer) Difference {
	n := 0
	for n < len(a.tokens) && n < len(b.tokens) && a.tokens[n].text() == b.tokens[n].text() {
		n++
	}
	d := Difference{At: n}
	switch {
	case n == len(a.tokens) || n == len(b.tokens):
		// One has ended here. Its end is the best rival of the other's token,
		// and that other one's distance is all that is known.
		d.Ours, d.Theirs = "(end)", "(end)"
		d.Disagreement = -1
		if n < len(a.tokens) {
			d.Ours = a.tokens[n].text()
			if v, ok := a.tokens[n].lead(); ok {
				d.OursDistance, d.Disagreement = v, math.Abs(v)
			}
		}
		if n < len(b.tokens) {
			d.Theirs = b.tokens[n].text()
			if v, ok := b.tokens[n].lead(); ok {
				d.TheirsDistance, d.Disagreement = -v, math.Abs(v)
			}
		}
	default:
		d.Ours, d.Theirs = a.tokens[n].text(), b.tokens[n].text()
		x, okX := a.tokens[n].distance(d.Ours, d.Theirs)
		y, okY := b.tokens[n].distance(d.Ours, d.Theirs)
		d.OursDistance, d.TheirsDistance, d.Disagreement = x, y, math.Abs(x-y)
		if !okX || !okY {
			d.Disagreement = -1
		}
	}
	return d
}

// distance is the log-probability of x above y among the candidates.
func (c *candidate) distance(x, y string) (float64, bool) {
	find := func(text string) (float64, bool) {
		for i := range c.Top {
			if c.Top[i].text() == text {
				return c.Top[i].Logprob, true
			}
		}
		return 0, false
	}
	a, okA := find(x)
	b, okB := find(y)
	if !okA || !okB {
		return 0, false
	}
	return a - b, true
}

// lead is the log-probability of the best candidate above the second.
func (c *candidate) lead() (float64, bool) {
	if len(c.Top) < 2 {
		return 0, false
	}
	return c.Top[0].Logprob - c.Top[1].Logprob, true
}

// noisePoints is at how many tokens of an answer the noise is measured.
const noisePoints = 6

// selfNoise computes points of llama-server's own answer again, all tokens
// before the point in one batch, and compares the lead of its best candidate.
func selfNoise(ctx context.Context, c *load.Client, question string, b answer) ([]float64, error) {
	var rendered struct {
		Prompt string `json:"prompt"`
	}
	if err := c.Call(ctx, "/apply-template", map[string]any{"messages": []load.Message{{Role: "user", Content: question}}}, &rendered); err != nil {
		return nil, err
	}
	var prompt struct {
		Tokens []int32 `json:"tokens"`
	}
	if err := c.Call(ctx, "/tokenize", map[string]any{"content": rendered.Prompt, "add_special": true, "parse_special": true}, &prompt); err != nil {
		return nil, err
	}
	if len(prompt.Tokens) != b.prompt {
		return nil, fmt.Errorf("the rendered prompt has %d tokens, the answered one had %d", len(prompt.Tokens), b.prompt)
	}
	var out []float64
	for i := range noisePoints {
		at := (i + 1) * len(b.tokens) / (noisePoints + 1)
		if at == 0 || at >= len(b.tokens) || len(b.tokens[at].Top) < 2 {
			continue
		}
		ids := slices.Clone(prompt.Tokens)
		for _, t := range b.tokens[:at] {
			ids = append(ids, t.ID)
		}
		var again struct {
			Probabilities []candidate `json:"completion_probabilities"`
		}
		if err := c.Call(ctx, "/completion", map[string]any{"prompt": ids, "n_predict": 1, "n_probs": rivals, "temperature": 0, "cache_prompt": false}, &again); err != nil {
			return nil, err
		}
		if len(again.Probabilities) != 1 {
			return nil, fmt.Errorf("llama-server told of %d tokens instead of one", len(again.Probabilities))
		}
		first, second := b.tokens[at].Top[0].text(), b.tokens[at].Top[1].text()
		before, ok := b.tokens[at].distance(first, second)
		after, okToo := again.Probabilities[0].distance(first, second)
		if ok && okToo {
			out = append(out, math.Abs(before-after))
		}
	}
	return out, nil
}
