package bench

import (
	"context"
	"errors"
	"fmt"

	"github.com/skein-run/skein/internal/bench/load"
)

// NodeOptions say how a node is measured by itself.
type NodeOptions struct {
	Model   Model // for speed
	Small   Model // for start, memory and soak: the demo model
	Rounds  int
	Threads int // 0: as the node chooses
	Decode  int // tokens
	Long    int // tokens of the prompt that interrupts
	Running int // streams that it interrupts
	Soak    SoakOptions
	// Only names the figures: http, gap, start, memory, soak. Empty: all.
	Only []string
}

// nodeFigures are the names for NodeOptions.Only, in the order of the table.
var nodeFigures = []string{"http", "gap", "start", "memory", "soak"}

func (o NodeOptions) validate() error {
	if o.Rounds < 1 || o.Decode < 4 || o.Long < 1 || o.Running < 1 || o.Threads < 0 {
		return errors.New("rounds, long prompt and running streams must be at least 1, decode tokens at least 4")
	}
	if err := known(o.Only, nodeFigures); err != nil {
		return err
	}
	return o.Soak.validate()
}

// NodeResult is the table of a node.
type NodeResult struct {
	Rows []NodeRow   `json:"rows"`
	Soak *SoakResult `json:"soak,omitempty"`
}

// NodeRow is one figure.
type NodeRow struct {
	Name   string       `json:"name"`
	Unit   string       `json:"unit"`
	Value  load.Summary `json:"value"`
	Bar    string       `json:"bar"`
	Passed bool         `json:"passed"`
	Note   string       `json:"note,omitempty"`
}

// Node measures what needs no other server to compare with.
func Node(ctx context.Context, h *Host, o NodeOptions) (*NodeResult, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	res := &NodeResult{}
	add := func(rows []NodeRow, err error) error {
		res.Rows = append(res.Rows, rows...)
		return err
	}
	for _, name := range nodeFigures {
		if !wanted(o.Only, name) {
			continue
		}
		h.Say("measuring: %s", name)
		var err error
		switch name {
		case "http":
			err = add(o.overHTTP(ctx, h))
		case "gap":
			err = add(o.gap(ctx, h))
		case "start":
			err = add(o.start(ctx, h))
		case "memory":
			err = add(o.memory(ctx, h))
		case "soak":
			res.Soak, err = Soak(ctx, h, o.Small, o.Soak)
		}
		if err != nil {
			return nil, fmt.Errorf("measure %s: %w", name, err)
		}
	}
	return res, nil
}

// httpPrompt is about as long as a story.
const httpPrompt = 32

// overHTTP compares one stream with the raw loop, in turns.
func (o *NodeOptions) overHTTP(ctx context.Context, h *Host) ([]NodeRow, error) {
	s, err := h.StartSkein(ctx, o.Model, true, Sizes{Threads: o.Threads})
	if err != nil {
		return nil, err
	}
	defer s.Stop()
	var stream, raw []float64
	overHTTP := func() error {
		d, err := s.Client.Decode(ctx, load.Stories(1, o.Decode, false))
		stream = append(stream, d.Rate)
		return err
	}
	bare := func() error {
		r, err := h.Engine(ctx, EngineRun{Prompt: httpPrompt, Decode: o.Decode, Streams: 1, Threads: o.Threads, Repeat: 1})
		raw = append(raw, r.Decode)
		return err
	}
	if err := s.warm(ctx); err != nil {
		return nil, err
	}
	for round := range o.Rounds {
		turns := []func() error{overHTTP, bare}
		if round%2 == 1 {
			turns[0], turns[1] = turns[1], turns[0]
		}
		for _, turn := range turns {
			if err := turn(); err != nil {
				return nil, err
			}
		}
	}
	share := load.Summarize(load.Ratios(stream, raw))
	return []NodeRow{
		{Name: "one stream over HTTP, decode", Unit: "tok/s", Value: load.Summarize(stream), Bar: "-", Passed: true},
		{Name: "raw engine loop, decode", Unit: "tok/s", Value: load.Summarize(raw), Bar: "-", Passed: true},
		{Name: "HTTP stream / raw engine loop", Value: share, Bar: ">= 0.97", Passed: share.Median >= 0.97, Note: "median of the rounds' ratios"},
	}, nil
}

// gap compares the worst wait of running streams with one chunk of a prompt.
func (o *NodeOptions) gap(ctx context.Context, h *Host) ([]NodeRow, error) {
	size := Sizes{Slots: o.Running + 1, Context: roomFor(o.Long, o.Decode), Threads: o.Threads}
	s, err := h.StartSkein(ctx, o.Model, true, size)
	if err != nil {
		return nil, err
	}
	defer s.Stop()
	if err := s.warm(ctx); err != nil {
		return nil, err
	}
	var gaps, quiet, chunks []float64
	tokens := 0
	for round := range o.Rounds {
		prompt := load.Request{Tokens: o.Model.Words.Prompt(o.Long, uint64(round)), MaxTokens: 2, IgnoreEnd: true}
		got, err := s.Client.Interrupt(ctx, load.Stories(o.Running, size.Context-128, false), prompt)
		if err != nil {
			return nil, err
		}
		run, err := h.Engine(ctx, EngineRun{Prompt: o.Long, Decode: 1, Streams: 1, Threads: o.Threads, Repeat: 1})
		if err != nil {
			return nil, err
		}
		tokens = run.ChunkTokens
		gaps, quiet, chunks = append(gaps, got.WorstGap), append(quiet, got.QuietGap), append(chunks, float64(run.ChunkTokens)/run.Prefill)
	}
	times := load.Summarize(load.Ratios(gaps, chunks))
	return []NodeRow{
		{Name: fmt.Sprintf("worst gap of %d streams, %d-token prompt arrives", o.Running, o.Long), Unit: "s", Value: load.Summarize(gaps), Bar: "-", Passed: true},
		{Name: "worst gap of these streams before", Unit: "s", Value: load.Summarize(quiet), Bar: "-", Passed: true},
		{Name: fmt.Sprintf("one prefill chunk of %d tokens alone", tokens), Unit: "s", Value: load.Summarize(chunks), Bar: "-", Passed: true, Note: "raw engine, mean over the prompt"},
		{Name: "worst gap / one chunk", Value: times, Bar: "<= 2", Passed: times.Median <= 2},
	}, nil
}

// start times a node from its process to its first token.
func (o *NodeOptions) start(ctx context.Context, h *Host) ([]NodeRow, error) {
	var whole, own []float64
	for range o.Rounds {
		run, err := h.Engine(ctx, EngineRun{Prompt: 1, Decode: 1, Streams: 1, Threads: o.Threads, Repeat: 1})
		if err != nil {
			return nil, err
		}
		s, err := h.StartSkein(ctx, o.Small, true, Sizes{Threads: o.Threads})
		if err != nil {
			return nil, err
		}
		t, err := s.Client.Stream(ctx, load.Request{Prompt: load.Story(0), MaxTokens: 4, IgnoreEnd: true}, nil)
		s.Stop()
		if err != nil {
			return nil, err
		}
		seconds := t.Sent.Sub(s.Start).Seconds() + t.TTFT()
		whole, own = append(whole, seconds), append(own, seconds-run.LoadSeconds)
	}
	beside := load.Summarize(own)
	return []NodeRow{
		{Name: "start of serve to first answer, " + o.Small.Name, Unit: "s", Value: load.Summarize(whole), Bar: "-", Passed: true},
		{Name: "the same beside the model's load", Unit: "s", Value: beside, Bar: "< 1", Passed: beside.Median < 1, Note: "load as the raw engine measures it"},
	}, nil
}

// memory looks at a node that holds no model.
func (o *NodeOptions) memory(ctx context.Context, h *Host) ([]NodeRow, error) {
	var empty []float64
	for range min(o.Rounds, 3) {
		s, err := h.StartSkein(ctx, o.Small, false, Sizes{})
		if err != nil {
			return nil, err
		}
		err = s.Client.Call(ctx, "/v1/models", nil, nil)
		held, lookErr := s.holdings()
		s.Stop()
		if err = errors.Join(err, lookErr); err != nil {
			return nil, err
		}
		empty = append(empty, held.MB)
	}
	held := load.Summarize(empty)
	return []NodeRow{{Name: "resident memory of an idle node, no runner", Unit: "MB", Value: held, Bar: "< 50", Passed: held.Max < 50}}, nil
}

// Table gives the result as rows for a table, the heading first.
func (r *NodeResult) Table() [][]string {
	rows := [][]string{{"FIGURE", "MEDIAN (RANGE)", "UNIT", "BAR", ""}}
	verdict := func(bar string, passed bool) string {
		switch {
		case bar == "-":
			return ""
		case passed:
			return "ok"
		}
		return "MISSED"
	}
	for _, row := range r.Rows {
		format := "%.1f"
		if row.Unit == "s" || row.Unit == "" {
			format = "%.4f"
		}
		rows = append(rows, []string{row.Name, row.Value.Spread(format), row.Unit, row.Bar, verdict(row.Bar, row.Passed)})
	}
	if r.Soak != nil {
		rows = append(rows, []string{"soak", fmt.Sprintf("%d requests", r.Soak.Completed+r.Soak.Cancelled+r.Soak.Busy+r.Soak.Failed), "", "no error but 429, nothing kept", verdict("soak", r.Soak.OK())})
	}
	return rows
}
