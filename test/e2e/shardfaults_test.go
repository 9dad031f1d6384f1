//go:build unix

package e2e

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shirou/gopsutil/v4/process"
)

// What `make bench-shard-faults` sets; without, a few rounds on the demo model.
var (
	faultRounds = flag.Int("shard-faults", 4, "shards killed or stopped in each shape of a group")
	faultSeed   = flag.Uint64("shard-faults-seed", 1, "of the moments and victims")
	faultSlack  = flag.Duration("shard-faults-slack", 2*time.Second, "what a busy machine may add to the limits")
	faultModel  = flag.String("shard-faults-model", "", "another model to do the same with")
)

// How long after the signal a client may wait for the error.
const (
	killedLimit  = time.Second
	stoppedLimit = 2 * time.Second
)

// faultPrompts is how many prompts there are; each has a text of its own that
// every answer to it must begin with.
const faultPrompts = 2

// TestShardFaults kills and stops shards, the head among them, at random moments
// of prompts and answers. Each time the client gets an error in time and no
// wrong token before it, the others stay, and the group joined again with a new
// process gives the text that it gave before. In the end nothing is left, in
// processes, memory or open files.
func TestShardFaults(t *testing.T) {
	models := map[string]string{patient: ""}
	if *faultModel != "" {
		models[strings.TrimSuffix(filepath.Base(*faultModel), ".gguf")] = *faultModel
	}
	for name, path := range models {
		for i, shape := range []string{"2x1", "1x2", "2x2"} {
			t.Run(name+"/"+shape, func(t *testing.T) {
				f := &faults{t: t, model: name, shape: shape, path: path, random: rand.New(rand.NewPCG(*faultSeed, uint64(i)))}
				if path == "" {
					f.path = savePatient(t)
				}
				f.campaign(*faultRounds)
			})
		}
	}
}

// faults is a campaign against one shape of one model.
type faults struct {
	t            *testing.T
	model, shape string
	path         string
	random       *rand.Rand

	n       *node
	shards  int
	prompts [faultPrompts][]int32
	texts   [faultPrompts]string // of the whole answer
	prefill time.Duration        // to the first text of an unharmed answer
	pids    []int                // by shard

	took   map[string][]time.Duration // from a signal to the client's error
	rejoin map[string][]time.Duration // from a signal to the next answer's end
}

// fault is one round.
type fault struct {
	shard   int
	signal  syscall.Signal
	prefill bool
}

func (f fault) kind() string {
	if f.signal == syscall.SIGSTOP {
		return "stopped"
	}
	return "killed"
}

// campaign does so many rounds. A shard that dies five times within two
// minutes is given up by its node, as it should be: so there is a new node for
// every four rounds of each shard.
func (f *faults) campaign(rounds int) {
	f.took, f.rejoin = map[string][]time.Duration{}, map[string][]time.Duration{}
	for done := 0; done < rounds; {
		f.start()
		var plan []fault
		for shard := range f.shards {
			for _, prefill := range []bool{false, true} {
				plan = append(plan, fault{shard, syscall.SIGKILL, prefill}, fault{shard, syscall.SIGSTOP, prefill})
			}
		}
		f.random.Shuffle(len(plan), func(i, j int) { plan[i], plan[j] = plan[j], plan[i] })
		if rounds-done < len(plan) {
			plan = f.mixed(plan, rounds-done)
		}
		var first memory
		for i, one := range plan {
			f.round(one)
			if f.t.Failed() {
				return
			}
			if i == 0 {
				first = f.memory()
			}
		}
		f.memory().within(f.t, first)
		f.n.stop()
		done += len(plan)
	}
	for _, kind := range []string{"killed", "stopped"} {
		f.t.Logf("%s %s, %s: error after %s; whole again after %s", f.model, f.shape, kind, spread(f.took[kind]), spread(f.rejoin[kind]))
	}
}

// mixed picks n faults so that all kinds come, and heads and others.
func (f *faults) mixed(plan []fault, n int) []fault {
	slices.SortStableFunc(plan, func(a, b fault) int { return f.rank(a) - f.rank(b) })
	return plan[:n]
}

// rank puts one of each kind first, the head's kill and another's stop.
func (f *faults) rank(one fault) int {
	head := one.shard == f.head()
	switch {
	case head == (one.signal == syscall.SIGKILL) && one.prefill:
		return 0
	case head != (one.signal == syscall.SIGKILL) && !one.prefill:
		return 0
	}
	return 1
}

// head is the shard that draws tokens: the first rank of the last stage.
func (f *faults) head() int {
	ranks, err := strconv.Atoi(f.shape[2:])
	if err != nil {
		f.t.Fatal(err)
	}
	return f.shards - ranks
}

// start starts a node with the group, and asks it for what is right the first
// time.
func (f *faults) start() {
	f.t.Helper()
	stages, ranks := int(f.shape[0]-'0'), int(f.shape[2]-'0')
	f.shards = stages * ranks
	f.n = start(f.t, options{args: []string{"--models-dir", filepath.Dir(f.path), "--load", f.model, "--context", "4096", "--slots", "1",
		"--prefix-reuse", "off", "--local-shards", f.shape, "-v", "--log-format", "json"}})
	f.pids = f.processes()
	if f.texts[0] != "" {
		return
	}
	for i := range f.prompts {
		f.prompts[i] = make([]int32, 800)
		for k := range f.prompts[i] {
			f.prompts[i][k] = int32(300 + f.random.IntN(700)) // no special tokens
		}
		begin := time.Now()
		s := f.n.open("/v1/completions", f.ask(i, 96))
		first := f.text(s)
		f.prefill = time.Since(begin)
		rest, refused, err := f.rest(s)
		if refused != nil || !errors.Is(err, errEnd) {
			f.t.Fatalf("the first answer ended with %+v, %v", refused, err)
		}
		f.texts[i] = first + rest
	}
}

// ask is the body of a request for prompt i.
func (f *faults) ask(i, tokens int) string {
	b, err := json.Marshal(map[string]any{"model": f.model, "prompt": f.prompts[i], "max_tokens": tokens,
		"temperature": 0, "ignore_eos": true, "stream": true})
	if err != nil {
		f.t.Fatal(err)
	}
	return string(b)
}

// text waits for the first text.
func (f *faults) text(s *stream) string {
	f.t.Helper()
	for {
		data, err := s.data()
		if err != nil {
			f.t.Fatalf("read the stream: %v", err)
		}
		if piece, refused := f.event(data); refused != nil {
			f.t.Fatalf("refused: %+v", refused)
		} else if piece != "" {
			return piece
		}
	}
}

// event is what one event says.
func (f *faults) event(data string) (text string, refused *apiError) {
	f.t.Helper()
	var c struct {
		Choices []struct {
			Text string `json:"text"`
		} `json:"choices"`
		apiError
	}
	if err := json.Unmarshal([]byte(data), &c); err != nil {
		f.t.Fatalf("event %q: %v", data, err)
	}
	if c.Error.Message != "" {
		return "", &c.apiError
	}
	for _, choice := range c.Choices {
		text += choice.Text
	}
	return text, nil
}

// rest reads to the end.
func (f *faults) rest(s *stream) (text string, refused *apiError, err error) {
	var b strings.Builder
	for {
		data, err := s.data()
		if err != nil {
			return b.String(), refused, err
		}
		piece, no := f.event(data)
		if no != nil {
			refused = no
		}
		b.WriteString(piece)
	}
}

// round does one, and leaves the group as it was.
func (f *faults) round(one fault) {
	f.t.Helper()
	which := f.random.IntN(faultPrompts)
	name := fmt.Sprintf("shard %d %s, prefill %v", one.shard, one.kind(), one.prefill)
	s := f.n.open("/v1/completions", f.ask(which, 2000))
	got := ""
	if one.prefill {
		<-time.After(time.Duration(f.random.Int64N(int64(f.prefill))))
	} else {
		for range 1 + f.random.IntN(40) {
			got += f.text(s)
		}
		<-time.After(time.Duration(f.random.Int64N(int64(20 * time.Millisecond))))
	}
	pid := f.pids[one.shard]
	began := time.Now()
	if err := syscall.Kill(pid, one.signal); err != nil {
		f.t.Fatalf("%s: %v", name, err)
	}
	more, refused, err := f.rest(s)
	took := time.Since(began)
	s.close()
	got += more
	limit := killedLimit
	if one.signal == syscall.SIGSTOP {
		limit = stoppedLimit
	}
	if refused == nil || errors.Is(err, errEnd) {
		f.t.Errorf("%s: the stream ended with %v, %+v after %d bytes, want an error", name, err, refused, len(got))
	}
	if limit += *faultSlack; took > limit {
		f.t.Errorf("%s: the error came after %v, at most %v is allowed: %+v", name, took, limit, refused)
	}
	if want := f.texts[which]; !strings.HasPrefix(want, got) && !strings.HasPrefix(got, want) {
		f.t.Errorf("%s: before the error came %q, unharmed it is %q", name, got, want)
	}
	f.again(name)
	joined := time.Since(began)
	if alive(pid) {
		f.t.Errorf("%s: process %d is still there", name, pid)
	}
	now := f.processes()
	for shard, was := range f.pids {
		if shard == one.shard && now[shard] == was || shard != one.shard && now[shard] != was {
			f.t.Errorf("%s: shard %d was process %d and is %d", name, shard, was, now[shard])
		}
	}
	f.pids = now
	f.took[one.kind()] = append(f.took[one.kind()], took)
	f.rejoin[one.kind()] = append(f.rejoin[one.kind()], joined)
}

// again asks until the group answers, and compares the text.
func (f *faults) again(name string) {
	f.t.Helper()
	var r response
	body := strings.Replace(f.ask(0, 16), `"stream":true`, `"stream":false`, 1)
	eventually(f.t, name+": an answer", func() bool {
		var err error
		if r, err = f.n.try(http.MethodPost, "/v1/completions", body); err != nil {
			f.t.Fatalf("%s: %v", name, err)
		}
		return r.status != http.StatusServiceUnavailable
	})
	text, refused := f.event(r.body)
	if refused != nil || text == "" || !strings.HasPrefix(f.texts[0], text) {
		f.t.Errorf("%s: joined again, it answers %q %+v, before %.80q", name, text, refused, f.texts[0])
	}
}

// ready is the log line of a shard that has loaded.
var ready = regexp.MustCompile(`"msg":"model ready","model":"[^"]*\(shard (\d+):[^"]*","pid":(\d+)`)

// processes are the shards as the node's log tells; no other may run.
func (f *faults) processes() []int {
	f.t.Helper()
	pids := make([]int, f.shards)
	eventually(f.t, "each shard to have a process, and no other to be there", func() bool {
		for _, m := range ready.FindAllStringSubmatch(f.n.stderr.String(), -1) {
			shard, err := strconv.Atoi(m[1])
			if err != nil || shard >= f.shards {
				f.t.Fatalf("log line %q", m[0])
			}
			if pids[shard], err = strconv.Atoi(m[2]); err != nil {
				f.t.Fatal(err)
			}
		}
		kids, want := f.n.children(), slices.Clone(pids)
		slices.Sort(kids)
		slices.Sort(want)
		return slices.Equal(kids, want)
	})
	return pids
}

// memory is what a node and its shards hold.
type memory struct {
	bytes uint64 // resident, of all
	files int32  // open, of the node
}

func (f *faults) memory() (m memory) {
	f.t.Helper()
	for _, pid := range append([]int{f.n.pid}, f.pids...) {
		p, err := process.NewProcess(int32(pid))
		if err != nil {
			f.t.Fatal(err)
		}
		info, err := p.MemoryInfo()
		if err != nil {
			f.t.Fatal(err)
		}
		m.bytes += info.RSS
		if pid == f.n.pid {
			if m.files, err = p.NumFDs(); err != nil {
				f.t.Logf("open files are not told here: %v", err)
			}
		}
	}
	return m
}

// within compares what is held in the end with what was in the beginning.
func (m memory) within(t *testing.T, first memory) {
	t.Helper()
	// Heaps breathe; what a round would leave behind is a slice or a cache.
	if limit := first.bytes + first.bytes/4 + 16<<20; m.bytes > limit {
		t.Errorf("node and shards hold %d bytes, after the first round it was %d", m.bytes, first.bytes)
	}
	if m.files > first.files+4 {
		t.Errorf("the node has %d files open, after the first round it was %d", m.files, first.files)
	}
}

// spread is a distribution in words.
func spread(d []time.Duration) string {
	if len(d) == 0 {
		return "(none)"
	}
	d = slices.Sorted(slices.Values(d))
	at := func(share float64) time.Duration {
		return d[min(len(d)-1, int(share*float64(len(d))))].Round(time.Millisecond)
	}
	return fmt.Sprintf("p50 %v, p99 %v, max %v (%d)", at(0.5), at(0.99), d[len(d)-1].Round(time.Millisecond), len(d))
}
