package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/skein-run/skein/internal/bench/load"
)

// PeersOptions say what is compared.
type PeersOptions struct {
	LlamaServer string // path of the program
	Model       Model
	Streams     []int // stream counts of the decode figures
	Rounds      int
	Threads     int // 0: each server's default
	Slots       int // 0: as many as are needed
	Context     int // tokens of a slot; 0: as many as are needed
	Decode      int // tokens of each stream
	Prompt      int // tokens of the prompt whose first token is awaited
	Long        int // tokens of the prompt that interrupts
	Running     int // streams that it interrupts
	Chat        bool
	TextTokens  int // of each compared answer; 0: texts are not compared
	// Only names the figures to measure: decode, ttft, gap, text. Empty: all.
	Only []string
}

func (o PeersOptions) validate() (PeersOptions, error) {
	if o.LlamaServer == "" {
		return o, errors.New("say where llama-server is: --llama-server PATH; 'make bench-peers' builds it")
	}
	if o.Rounds < 1 || o.Decode < 4 || o.Prompt < 1 || o.Long < 1 || o.Running < 1 || o.Threads < 0 || o.Slots < 0 || o.Context < 0 || o.TextTokens < 0 {
		return o, errors.New("rounds, prompt, long prompt and running streams must be at least 1, decode tokens at least 4")
	}
	for _, n := range o.Streams {
		if n < 1 {
			return o, fmt.Errorf("%d streams cannot be measured", n)
		}
	}
	if err := known(o.Only, []string{"decode", "ttft", "gap", "text"}); err != nil {
		return o, err
	}
	need := o.Running + 1
	for _, n := range o.Streams {
		need = max(need, n)
	}
	if o.Slots == 0 {
		o.Slots = need
	}
	if o.Slots < need {
		return o, fmt.Errorf("%d slots are too few for %d streams at once", o.Slots, need)
	}
	if o.Context == 0 {
		o.Context = roomFor(o.Long, o.Decode)
	}
	if o.Context <= o.Long+1 {
		return o, fmt.Errorf("a context of %d tokens has no room for a prompt of %d", o.Context, o.Long)
	}
	return o, nil
}

// roomFor is a context for the longest prompt, and for streams that outlast it.
func roomFor(long, decode int) int { return (long + decode + 128 + 255) / 256 * 256 }

// known refuses names of figures that do not exist.
func known(only, figures []string) error {
	for _, name := range only {
		if !slices.Contains(figures, name) {
			return fmt.Errorf("there is no figure %q; there are %s", name, strings.Join(figures, ", "))
		}
	}
	return nil
}

func wanted(only []string, figure string) bool {
	return len(only) == 0 || slices.Contains(only, figure)
}

// Figure compares one figure of two servers.
type Figure struct {
	Name   string       `json:"name"`
	Unit   string       `json:"unit"`
	Ours   load.Summary `json:"ours"`
	Theirs load.Summary `json:"theirs"`
	Ratio  float64      `json:"ratio"`  // of the medians, ours / theirs; 0: none
	Rounds load.Summary `json:"rounds"` // ours / theirs within each round
	Bar    string       `json:"bar"`    // what the ratio should be
}

// PeersResult is a comparison.
type PeersResult struct {
	Sizes   Sizes    `json:"sizes"`
	Figures []Figure `json:"figures"`
	// IdleShare is the processor time that a server used while the other one
	// was measured, as a part of what that one used.
	IdleShare float64     `json:"idle_share"`
	Texts     *TextResult `json:"texts,omitempty"`
}

// figureRun measures one figure once on one server; round makes prompts new.
type figureRun struct {
	name, unit, bar string
	run             func(ctx context.Context, s *Server, round int) (map[string]float64, error)
}

// Peers compares a node with llama-server. Both run all the time, each idle
// while the other is measured; within a round they take turns figure by figure,
// and the one to begin changes from round to round.
func Peers(ctx context.Context, h *Host, o PeersOptions) (*PeersResult, error) {
	o, err := o.validate()
	if err != nil {
		return nil, err
	}
	size := Sizes{Slots: o.Slots, Context: o.Context, Threads: o.Threads}
	theirs, err := h.StartLlama(ctx, o.LlamaServer, o.Model, size)
	if err != nil {
		return nil, err
	}
	defer theirs.Stop()
	ours, err := h.StartSkein(ctx, o.Model, true, size)
	if err != nil {
		return nil, err
	}
	defer ours.Stop()
	both := [2]*Server{ours, theirs}
	figures := o.figures()
	for _, s := range both {
		if err := s.warm(ctx); err != nil {
			return nil, err
		}
	}
	values := [2]map[string][]float64{{}, {}}
	var busy, idle float64
	for round := range o.Rounds {
		if len(figures) == 0 {
			break
		}
		for _, f := range figures {
			for turn := range both {
				who := (turn + round) % 2
				before, other, err := cpuOf(both[who], both[1-who])
				if err != nil {
					return nil, err
				}
				got, err := f.run(ctx, both[who], round)
				if err != nil {
					return nil, fmt.Errorf("measure %s of %s: %w", f.name, both[who].Name, err)
				}
				for name, v := range got {
					values[who][name] = append(values[who][name], v)
				}
				after, otherAfter, err := cpuOf(both[who], both[1-who])
				if err != nil {
					return nil, err
				}
				busy, idle = busy+after-before, idle+otherAfter-other
			}
		}
		h.Say("round %d of %d done", round+1, o.Rounds)
	}
	res := &PeersResult{Sizes: size, IdleShare: idle / max(busy, 1e-9)}
	for _, f := range o.rows() {
		a, b := values[0][f.name], values[1][f.name]
		if len(a) == 0 {
			continue
		}
		row := Figure{Name: f.name, Unit: f.unit, Bar: f.bar, Ours: load.Summarize(a), Theirs: load.Summarize(b), Rounds: load.Summarize(load.Ratios(a, b))}
		row.Ratio = load.Ratio(row.Ours.Median, row.Theirs.Median)
		res.Figures = append(res.Figures, row)
	}
	if o.TextTokens > 0 && wanted(o.Only, "text") {
		h.Say("comparing texts")
		if res.Texts, err = Texts(ctx, ours.Client, theirs.Client, Prompts(), o.TextTokens); err != nil {
			return nil, err
		}
	}
	return res, nil
}

func cpuOf(a, b *Server) (float64, float64, error) {
	x, err := a.cpuSeconds()
	if err != nil {
		return 0, 0, err
	}
	y, err := b.cpuSeconds()
	return x, y, err
}

// rows names the figures in the order of the table.
func (o *PeersOptions) rows() []figureRun {
	var rows []figureRun
	for _, n := range o.Streams {
		rows = append(rows, figureRun{name: decodeName(n), unit: "tok/s", bar: ">= 1.00"})
	}
	prompt := strconv.Itoa(o.Prompt)
	return append(rows,
		figureRun{name: "first token, " + prompt + "-token prompt", unit: "s", bar: "<= 1.05"},
		figureRun{name: "first token, same prompt again", unit: "s", bar: "<= 1.00"},
		figureRun{name: o.gapName(), unit: "s", bar: "< 1.00"},
		figureRun{name: "tokens of these streams meanwhile", unit: "tok/s"},
		figureRun{name: "first token of the " + strconv.Itoa(o.Long) + "-token prompt", unit: "s"},
	)
}

func decodeName(n int) string {
	if n == 1 {
		return "decode, 1 stream"
	}
	return "decode, " + strconv.Itoa(n) + " streams"
}

func (o *PeersOptions) gapName() string {
	return fmt.Sprintf("worst gap of %d streams, %d-token prompt arrives", o.Running, o.Long)
}

// figures are what each server is asked in a round.
func (o *PeersOptions) figures() []figureRun {
	var out []figureRun
	rows := o.rows()
	if wanted(o.Only, "decode") {
		for _, n := range o.Streams {
			out = append(out, figureRun{name: decodeName(n), run: func(ctx context.Context, s *Server, _ int) (map[string]float64, error) {
				d, err := s.Client.Decode(ctx, load.Stories(n, o.Decode, o.Chat))
				return map[string]float64{decodeName(n): d.Rate}, err
			}})
		}
	}
	base := len(o.Streams)
	if wanted(o.Only, "ttft") {
		out = append(out, figureRun{name: "first token", run: func(ctx context.Context, s *Server, round int) (map[string]float64, error) {
			got := map[string]float64{}
			for _, f := range rows[base : base+2] {
				t, err := s.Client.Stream(ctx, load.Request{Tokens: o.Model.Words.Prompt(o.Prompt, uint64(round)), MaxTokens: 4, IgnoreEnd: true}, nil)
				if err != nil {
					return nil, err
				}
				if t.Usage.PromptTokens != o.Prompt {
					return nil, fmt.Errorf("the server counts %d tokens in a prompt of %d", t.Usage.PromptTokens, o.Prompt)
				}
				got[f.name] = t.TTFT()
			}
			return got, nil
		}})
	}
	if wanted(o.Only, "gap") {
		out = append(out, figureRun{name: "worst gap", run: func(ctx context.Context, s *Server, round int) (map[string]float64, error) {
			long := load.Request{Tokens: o.Model.Words.Prompt(o.Long, 1<<32+uint64(round)), MaxTokens: 2, IgnoreEnd: true}
			got, err := s.Client.Interrupt(ctx, load.Stories(o.Running, o.Context-128, o.Chat), long)
			return map[string]float64{rows[base+2].name: got.WorstGap, rows[base+3].name: got.Rate, rows[base+4].name: got.TTFT}, err
		}})
	}
	return out
}
