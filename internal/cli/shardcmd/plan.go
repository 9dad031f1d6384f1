package shardcmd

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skein-run/skein/internal/bytesize"
	"github.com/skein-run/skein/internal/cli/command"
	"github.com/skein-run/skein/internal/cli/table"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/cluster/placement/cost"
	"github.com/skein-run/skein/internal/cluster/placement/profile"
	"github.com/skein-run/skein/internal/library"
)

// What is assumed of a machine that nobody measured: a desktop computer with
// two channels of memory, and its processor's vector units.
const (
	assumedBandwidth = "40GB"
	assumedGflops    = "500"
	assumedContext   = 8192
	assumedStep      = 100e-6 // s that a step costs each shard beside computing
)

// planFlags are what `skein shard plan` was told.
type planFlags struct {
	memory, bandwidth, gflops string
	link, latency             string
	sharding                  string
	context, slots, minNodes  int
	decode, prefill, two      float64
	prompt                    int
	json                      bool
}

// leastMemory is less than any model takes: who writes "8" means no bytes.
const leastMemory = 4096

func newPlan(e Env) *cobra.Command {
	var f planFlags
	cmd := &cobra.Command{
		Use:   "plan MODEL --memory 8GB,16GB[,...] [flags]",
		Short: "Say how a model would be split over machines, and how fast it would be",
		Long: `Say how a model would be split over machines with so much free memory each: which
layers and which part of them lie where, the memory for each shard, and the
predicted speed. Nothing is loaded.

Predictions follow from the bytes that each token reads, the work of a prompt,
and the network; docs/placement.md has the formulas. They are as good as the
speeds that they start from: give --decode and --prefill as 'skein engine bench'
measures them for this model, or else --bandwidth and --gflops. What is assumed
is printed. Values with commas are for the machines in turn, one value is for all.`,
		Example: `  skein shard plan ./model.gguf --memory 8GB,16GB
  skein shard plan ./model.gguf --memory 4GB,4GB --sharding tensor --link 10Gbit --latency 50us`,
		Args:              exact(1, "say which model to split: skein shard plan MODEL --memory 8GB,16GB"),
		ValidArgsFunction: e.Complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			entry, err := e.Model(args[0])
			if err != nil {
				return err
			}
			model, err := openProfile(entry)
			if err != nil {
				return err
			}
			o, err := f.read(cmd, entry, model)
			if err != nil {
				return &command.ExitError{Code: exitUsage, Err: err}
			}
			p, err := o.place(model)
			if err != nil {
				return err
			}
			if f.json {
				return e.JSON(p)
			}
			return e.printPlan(p)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.memory, "memory", "", "free memory of each machine, `SIZE,...`")
	fs.StringVar(&f.sharding, "sharding", "auto", "auto (the fastest), pipeline or tensor")
	fs.IntVar(&f.context, "context", 0, "tokens of each slot; 0: what the model was trained for, up to 8192")
	fs.IntVar(&f.slots, "slots", 4, "streams at once")
	fs.IntVar(&f.minNodes, "min-nodes", 1, "split over this many machines at least")
	fs.StringVar(&f.bandwidth, "bandwidth", assumedBandwidth, "memory read in a second by each machine, `SIZE,...`")
	fs.StringVar(&f.gflops, "gflops", assumedGflops, "10^9 operations a second of each machine on prompts, `N,...`")
	fs.Float64Var(&f.decode, "decode", 0, "measured `TOKENS/S` of one stream of this model, whole, on one machine; replaces --bandwidth")
	fs.Float64Var(&f.prefill, "prefill", 0, "measured `TOKENS/S` of a prompt likewise; replaces --gflops")
	fs.Float64Var(&f.two, "decode-two", 0, "measured `TOKENS/S` of two streams together, of both, for what several streams give; with --decode and --prefill")
	fs.IntVar(&f.prompt, "prompt-tokens", 512, "tokens of the prompt whose speed is predicted")
	fs.StringVar(&f.link, "link", "1Gbit", "`RATE` of the network in bits (1Gbit) or bytes (117MB) a second")
	fs.StringVar(&f.latency, "latency", "0.3ms", "one way through the network for a small message, `TIME`")
	command.JSONFlag(cmd, &f.json)
	return cmd
}

func openProfile(entry library.Entry) (placement.Model, error) {
	m, err := library.OpenModel(entry.Paths...)
	if err != nil {
		return placement.Model{}, fmt.Errorf("open %s: %w", entry.Name, err)
	}
	defer m.Close()
	return profile.Of(m.Model, entry.Name)
}

// Planned is what `skein shard plan --json` prints.
type Planned struct {
	Model    string         `json:"model"`
	Context  int            `json:"context"`
	Slots    int            `json:"slots"`
	Machines []Machine      `json:"machines"`
	Link     Link           `json:"link"`
	Source   string         `json:"speeds"` // where the speeds are from
	Plan     placement.Plan `json:"plan"`
}

// Machine is one of the machines that a plan is made for.
type Machine struct {
	Name      string  `json:"name"`
	Memory    int64   `json:"memory"`                     // free bytes
	Bandwidth float64 `json:"bandwidth_bytes_per_second"` // of its memory
	Compute   float64 `json:"flop_per_second"`
	Batch     float64 `json:"batch_flop_per_second,omitempty"` // of further streams; 0: as Compute
	Step      float64 `json:"step_seconds"`                    // that each step costs beside
}

// Link is the network between any two machines.
type Link struct {
	LatencySeconds float64 `json:"latency_seconds"`
	Bandwidth      float64 `json:"bytes_per_second"`
	Source         string  `json:"source"`
}

// source says whether what the flags say was given.
func source(cmd *cobra.Command, flags ...string) string {
	given := 0
	for _, f := range flags {
		if cmd.Flags().Changed(f) {
			given++
		}
	}
	switch given {
	case 0:
		return "assumed"
	case len(flags):
		return "given"
	}
	return "given and assumed"
}

// exitUsage is the exit code of a mistake in the flags, as everywhere in skein.
const exitUsage = 2

// asked is a plan to be made.
type asked struct {
	Planned
	line     placement.Line
	sharding placement.Sharding
	minNodes int
	prompt   int
}

// read checks the flags.
func (f *planFlags) read(cmd *cobra.Command, entry library.Entry, model placement.Model) (asked, error) {
	out := asked{Planned: Planned{Model: entry.Name, Context: f.context, Slots: f.slots},
		sharding: placement.Sharding(f.sharding), minNodes: f.minNodes, prompt: f.prompt}
	if f.memory == "" {
		return out, errors.New("say how much memory each machine has free: --memory 8GB,16GB")
	}
	if f.slots < 1 || f.context < 0 || f.minNodes < 1 || f.prompt < 1 {
		return out, errors.New("--slots, --min-nodes and --prompt-tokens are at least 1, --context at least 0")
	}
	if !slices.Contains([]placement.Sharding{placement.Auto, placement.Pipeline, placement.Tensor}, out.sharding) {
		return out, fmt.Errorf("--sharding %q: there are auto, pipeline and tensor", f.sharding)
	}
	if out.Context == 0 {
		out.Context = assumedContext
		if entry.TrainedContext > 0 {
			out.Context = min(entry.TrainedContext, assumedContext)
		}
	}
	memory, err := list("--memory", f.memory, 0, size)
	if err != nil {
		return out, err
	}
	if least := slices.Min(memory); least < leastMemory {
		return out, fmt.Errorf("--memory %s: that would be %.0f bytes; write the unit too, such as 8GB", f.memory, least)
	}
	bandwidth, err := list("--bandwidth", f.bandwidth, len(memory), size)
	if err != nil {
		return out, err
	}
	gflops, err := list("--gflops", f.gflops, len(memory), positive)
	if err != nil {
		return out, err
	}
	line, err := f.line()
	if err != nil {
		return out, err
	}
	out.line, out.Link = line, Link{line.Latency, line.Bandwidth, source(cmd, "link", "latency")}
	out.Source = source(cmd, "bandwidth", "gflops")
	var measured *placement.Speed
	if f.decode != 0 || f.prefill != 0 || f.two != 0 {
		if cmd.Flags().Changed("bandwidth") || cmd.Flags().Changed("gflops") {
			return out, errors.New("--decode and --prefill replace --bandwidth and --gflops: give one pair or the other")
		}
		if !(f.decode > 0) || !(f.prefill > 0) || f.two < 0 {
			return out, errors.New("--decode and --prefill belong together, and --decode-two to them: give them as tokens/s above 0")
		}
		v, err := cost.Calibrate(model, cost.Measured{Decode: f.decode, Prefill: f.prefill, Depth: 256,
			Streams: 2, Aggregate: f.two, Step: min(assumedStep, 0.5/f.decode)})
		if err != nil {
			return out, err
		}
		measured, out.Source = &v, "from --decode and --prefill"
	}
	for i, free := range memory {
		v := placement.Speed{Bandwidth: bandwidth[i], Compute: gflops[i] * 1e9, Step: assumedStep}
		if measured != nil {
			v = *measured
		}
		name := "machine-" + strconv.Itoa(i+1)
		out.Machines = append(out.Machines, Machine{Name: name, Memory: int64(free), Bandwidth: v.Bandwidth, Compute: v.Compute, Batch: v.Batch, Step: v.Step})
	}
	return out, nil
}

// place makes the plan.
func (o asked) place(model placement.Model) (Planned, error) {
	c := placement.Cluster{Default: o.line}
	for _, m := range o.Machines {
		c.Nodes = append(c.Nodes, placement.Node{ID: m.Name, Worker: true, Downloads: true, Has: true,
			Devices: []placement.Device{{Total: m.Memory, Available: m.Memory, Speed: placement.Speed{Bandwidth: m.Bandwidth, Compute: m.Compute, Batch: m.Batch, Step: m.Step}}}})
	}
	var err error
	o.Plan, err = placement.Place(c, placement.Request{Model: model, Context: o.Context, Slots: o.Slots,
		Sharding: o.sharding, MinNodes: o.minNodes, Prompt: o.prompt}, time.Time{})
	return o.Planned, err
}

// line reads --link and --latency.
func (f *planFlags) line() (placement.Line, error) {
	latency, err := time.ParseDuration(f.latency)
	if err != nil || latency < 0 {
		return placement.Line{}, fmt.Errorf("--latency %q is not a time; write 0.3ms or 50us", f.latency)
	}
	number, bits := strings.CutSuffix(strings.ToLower(strings.TrimSpace(f.link)), "bit")
	if !bits {
		rate, err := size(f.link)
		if err != nil {
			return placement.Line{}, fmt.Errorf("--link: %w", err)
		}
		return placement.Line{Latency: latency.Seconds(), Bandwidth: rate}, nil
	}
	scale := 1.0
	if n := len(number); n > 0 {
		if s, ok := map[byte]float64{'k': 1e3, 'm': 1e6, 'g': 1e9}[number[n-1]]; ok {
			scale, number = s, number[:n-1]
		}
	}
	rate, err := positive(number)
	if err != nil {
		return placement.Line{}, fmt.Errorf("--link %q is not a rate; write 1Gbit or 117MB", f.link)
	}
	// What frames and checksums of Ethernet and TCP leave of the line's rate.
	const payload = 0.94
	return placement.Line{Latency: latency.Seconds(), Bandwidth: rate * scale / 8 * payload}, nil
}

// list reads values with commas between them; one value stands for n of them.
func list(flag, text string, n int, read func(string) (float64, error)) ([]float64, error) {
	var out []float64
	for part := range strings.SplitSeq(text, ",") {
		v, err := read(strings.TrimSpace(part))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", flag, err)
		}
		out = append(out, v)
	}
	if n == 0 || len(out) == n {
		return out, nil
	}
	if len(out) != 1 {
		return nil, fmt.Errorf("%s has %d values for %d machines; give one for each, or one for all", flag, len(out), n)
	}
	for len(out) < n {
		out = append(out, out[0])
	}
	return out, nil
}

func size(text string) (float64, error) {
	n, err := bytesize.Parse(text)
	if err == nil && n <= 0 {
		err = fmt.Errorf("%q must be more than nothing", text)
	}
	return float64(n), err
}

func positive(text string) (float64, error) {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || !(v > 0) || math.IsInf(v, 1) {
		return 0, fmt.Errorf("%q is not a number above 0", text)
	}
	return v, nil
}

func (e Env) printPlan(p Planned) error {
	memory := map[string]int64{}
	for _, m := range p.Machines {
		memory[m.Name] = m.Memory
	}
	rows := [][]string{{"MACHINE", "LAYERS", "PART", "WEIGHTS", "KV", "OTHER", "NEEDS", "OF"}}
	for i, s := range p.Plan.Shards {
		name, part := s.Node, "whole"
		if n := s.Spec.Ranks(); n > 1 {
			sum := 0
			for _, v := range s.Spec.Parts {
				sum += v
			}
			part = fmt.Sprintf("%d/%d", s.Spec.Parts[s.Spec.Rank], sum)
		}
		if i == p.Plan.Head && len(p.Plan.Shards) > 1 {
			name += " (head)"
		}
		m := s.Memory
		rows = append(rows, []string{name, fmt.Sprintf("%d-%d", s.Spec.First, s.Spec.End-1), part, bytesize.Format(m.Weights),
			bytesize.Format(m.KV), bytesize.Format(m.Recurrent + m.Compute + m.Output), bytesize.Format(s.Reserve), bytesize.Format(memory[s.Node])})
	}
	if err := table.Columns(e.Stdout, rows, 3, 4, 5, 6, 7); err != nil {
		return err
	}
	v := p.Plan.Predicted
	lines := [][]string{{"one stream", speed(v.Decode)}}
	if p.Slots > 1 {
		lines = append(lines, []string{fmt.Sprintf("%d streams", p.Slots), speed(v.Aggregate)})
	}
	lines = append(lines,
		[]string{"prompts", speed(v.Prefill)},
		[]string{"context", fmt.Sprintf("%d tokens a slot, slots: %d; NEEDS has a tenth of headroom", p.Context, p.Slots)},
		[]string{"machines", p.Source + ": " + p.machines()},
		[]string{"network", p.network()})
	if _, err := fmt.Fprintln(e.Stdout); err != nil {
		return fmt.Errorf("print the plan: %w", err)
	}
	if err := table.Columns(e.Stdout, lines); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(e.Stdout, "\n%s\n", wrap(p.Plan.Explanation, 80)); err != nil {
		return fmt.Errorf("print the plan: %w", err)
	}
	return nil
}

func speed(v float64) string {
	return strconv.FormatFloat(v, 'f', 1, 64) + " tokens/s predicted"
}

// machines says what the predictions start from.
func (p Planned) machines() string {
	m := p.Machines[0]
	each := ""
	for _, other := range p.Machines {
		if other.Bandwidth != m.Bandwidth || other.Compute != m.Compute {
			each = " (the first; others differ)"
		}
	}
	step := time.Duration(m.Step * float64(time.Second)).Round(time.Microsecond)
	return fmt.Sprintf("%s/s, %.0f Gflop/s, %v a step%s", bytesize.Format(int64(m.Bandwidth)), m.Compute/1e9, step, each)
}

func (p Planned) network() string {
	return fmt.Sprintf("%s: %s/s, %v one way", p.Link.Source, bytesize.Format(int64(p.Link.Bandwidth)),
		time.Duration(p.Link.LatencySeconds*float64(time.Second)).Round(time.Microsecond))
}

// wrap breaks lines between words.
func wrap(text string, width int) string {
	var b strings.Builder
	column := 0
	for word := range strings.FieldsSeq(text) {
		n := len([]rune(word))
		switch {
		case column == 0:
		case column+1+n > width:
			b.WriteByte('\n')
			column = 0
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += n
	}
	return b.String()
}
