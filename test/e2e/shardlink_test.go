//go:build linux

package e2e

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skein-run/skein/internal/nettest"
)

// What `make bench-shards LINK=1` sets.
var (
	linkModel  = flag.String("shard-link", "", "a model whose shards are timed over a slow link; without, nothing is")
	linkRounds = flag.Int("shard-link-rounds", 2, "how often each is measured")
	linkDelay  = flag.Duration("shard-link-delay", 300*time.Microsecond, "of the link, one way")
	linkPrompt = flag.Int("shard-link-prompt", 1024, "tokens of the long prompt")
	linkRate   = flag.Int("shard-link-megabits", 1000, "rate of the link")
)

// linkShape is a figure of the table: how the model is cut, and what is timed.
type linkShape struct {
	name    string
	layout  []string
	kind    string // of `skein shard plan --sharding`
	streams int
	prompt  int
}

// TestShardLink times shards on two machines with one core each and a link of
// 1 Gbit/s and 0.3 ms between them, and prints beside it what the planner says
// beforehand: from the speed of the whole model on such a machine, and the link.
// No speed is asserted. The relay that adds the delay computes on the same cores.
func TestShardLink(t *testing.T) {
	if *linkModel == "" {
		t.Skip("NOT RUN: it is a measurement; make bench-shards LINK=1")
	}
	net := nettest.New(t, nettest.Options{Hosts: hosts, Megabits: *linkRate})
	keys := identities(t, "--tls")
	var on, encrypted []string
	for i := range userHost {
		behind := net.Behind(i, nettest.Path{Delay: *linkDelay, Precise: true})
		on = append(on, offerCore(t, net, i, "--insecure-no-auth", "--advertise", behind))
		encrypted = append(encrypted, offerCore(t, net, i, append(keys[i], "--advertise", behind)...))
	}
	whole, two := engineRates(t, 1, 512), engineRates(t, 2, 16)
	t.Logf("whole, 1 thread: prompts %.1f tok/s, 1 stream %.2f, 2 streams %.2f", whole.Prefill, whole.Decode, two.Decode)
	for _, s := range []linkShape{
		{"2 ranks", []string{"--ranks", "2"}, "tensor", 1, 512},
		{"2 stages, 4 streams", []string{"--stages", "2"}, "pipeline", 4, 64},
		{"2 stages, long prompt", []string{"--stages", "2"}, "pipeline", 1, *linkPrompt},
	} {
		t.Run(strings.ReplaceAll(s.name, " ", "-"), func(t *testing.T) {
			p := plan(t, s, whole.Prefill, whole.Decode, two.Decode)
			plain := timed(t, net, s, on)
			for _, f := range plain {
				what, predicted := fmt.Sprintf("prompt of %d", s.prompt), p.Prefill
				if f.Figure == "decode" {
					if what, predicted = "decode", p.Decode; s.streams > 1 {
						predicted = p.Aggregate
					}
				}
				off, verdict := 100*(predicted/f.Sharded-1), "met"
				if math.Abs(off) > 20 {
					verdict = "missed"
				}
				t.Logf("%s, %s: predicted %.2f, measured %.2f tok/s, off by %+.0f %% (bar 20 %%: %s); whole, 1 thread: %.2f", s.name, what, predicted, f.Sharded, off, verdict, f.Whole)
				if f.Sharded <= 0 || predicted <= 0 {
					t.Errorf("nothing was measured or predicted: %+v", f)
				}
			}
			for i, f := range timed(t, net, s, encrypted, keys[userHost]...) {
				was := plain[i]
				if f.Figure != was.Figure || f.Sharded <= 0 {
					t.Fatalf("with TLS %+v was measured where there was %+v without", f, was)
				}
				// Each beside the whole model of its own run: the two runs are minutes apart.
				t.Logf("%s, %s with TLS: %.2f tok/s; beside the whole model %.3f of the same without TLS", s.name, f.Figure, f.Sharded, f.Sharded/f.Whole/(was.Sharded/was.Whole))
			}
		})
	}
}

// offerCore offers a machine with one core, which has the model. It gives its address.
func offerCore(t *testing.T, net *nettest.Network, index int, args ...string) string {
	t.Helper()
	m := offer(t, net, index, args...)
	skein(t, m.home, "", "models", "add", *linkModel).want(t, 0) // so that nothing is fetched
	oneCore(t, m.cmd.Process.Pid, index)
	return m.address
}

// rates are tokens a second of the whole model on one core.
type rates struct {
	Prefill float64 `json:"prefill"`
	Decode  float64 `json:"decode"`
}

func engineRates(t *testing.T, streams, prompt int) (r rates) {
	t.Helper()
	measured(t, command(t.TempDir(), nil, "engine", "bench", *linkModel, "--threads", "1", "--streams", strconv.Itoa(streams),
		"--prompt-tokens", strconv.Itoa(prompt), "--decode-tokens", "32", "--repeat", strconv.Itoa(*linkRounds), "--json"), &r)
	return r
}

// predicted is the part of a plan that is compared.
type predicted struct {
	Decode    float64 `json:"decode_tokens_per_second"`
	Aggregate float64 `json:"aggregate_tokens_per_second"`
	Prefill   float64 `json:"prefill_tokens_per_second"`
}

func plan(t *testing.T, s linkShape, prefill, decode, two float64) predicted {
	t.Helper()
	number := func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
	var p struct {
		Plan struct {
			Shards    []struct{} `json:"shards"`
			Predicted predicted  `json:"predicted"`
		} `json:"plan"`
	}
	measured(t, command(t.TempDir(), nil, "shard", "plan", *linkModel, "--memory", "64GB,64GB", "--min-nodes", "2", "--sharding", s.kind,
		"--slots", strconv.Itoa(s.streams), "--context", "4096", "--prompt-tokens", strconv.Itoa(s.prompt),
		"--prefill", number(prefill), "--decode", number(decode), "--decode-two", number(two),
		"--link", fmt.Sprintf("%dMbit", *linkRate), "--latency", linkDelay.String(), "--json"), &p)
	if len(p.Plan.Shards) != 2 {
		t.Fatalf("%s: a plan of %d shards", s.name, len(p.Plan.Shards))
	}
	return p.Plan.Predicted
}

// timedFigure is a line of `skein shard bench --json`.
type timedFigure struct {
	Figure   string  `json:"figure"`
	Baseline string  `json:"baseline"`
	Sharded  float64 `json:"sharded"`
	Whole    float64 `json:"whole"`
}

// timed gives the speeds of a prompt and of decoding.
func timed(t *testing.T, net *nettest.Network, s linkShape, on []string, keys ...string) (figures []timedFigure) {
	t.Helper()
	h := &host{net, userHost}
	args := append([]string{"shard", "bench", *linkModel, "--on", strings.Join(on, ","), "--streams", strconv.Itoa(s.streams),
		"--prompt-tokens", strconv.Itoa(s.prompt), "--decode-tokens", "32", "--rounds", strconv.Itoa(*linkRounds), "--whole-threads", "1", "--json"}, slices.Concat(s.layout, keys)...)
	measuredLines(t, h.command(t.TempDir(), nil, args...), func(line []byte) error {
		var f timedFigure
		err := json.Unmarshal(line, &f)
		if f.Figure != "memory" {
			figures = append(figures, f)
		}
		return err
	})
	return figures
}

// measured runs a command, as long as it takes, and reads the JSON that it prints.
func measured(t *testing.T, cmd *exec.Cmd, into any) {
	t.Helper()
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, into)
	}
	if err != nil {
		t.Fatalf("%s: %v: %s%s", strings.Join(cmd.Args, " "), err, out, words(err))
	}
}

func measuredLines(t *testing.T, cmd *exec.Cmd, line func([]byte) error) {
	t.Helper()
	out, err := cmd.Output()
	for l := range strings.Lines(string(out)) {
		err = errors.Join(err, line([]byte(l)))
	}
	if err != nil {
		t.Fatalf("%s: %v: %s%s", strings.Join(cmd.Args, " "), err, out, words(err))
	}
}

// words are what a command that failed said.
func words(err error) string {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return string(exit.Stderr)
	}
	return ""
}

// oneCore keeps a process, and those that it will start, on one core.
func oneCore(t *testing.T, pid, core int) {
	t.Helper()
	var set unix.CPUSet
	set.Set(core)
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil || len(tasks) == 0 {
		t.Fatalf("threads of process %d: %v, %v", pid, tasks, err)
	}
	for _, task := range tasks {
		id, err := strconv.Atoi(filepath.Base(task))
		if err == nil {
			err = unix.SchedSetaffinity(id, &set)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) {
			t.Fatalf("keep process %d on core %d: %v", pid, core, err)
		}
	}
}
