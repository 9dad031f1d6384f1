package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-run/skein/internal/bench/load"
)

// fakeEnv makes this test's program a stand-in for both servers.
const fakeEnv = "BENCH_TEST_FAKE"

func TestMain(m *testing.M) {
	if os.Getenv(fakeEnv) != "" {
		os.Exit(fakeProgram(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// fakeProgram is skein or llama-server, by its arguments.
func fakeProgram(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	address := "127.0.0.1:0"
	ours := args[0] == "serve"
	switch {
	case args[0] == "models":
		return 0
	case slices.Contains(args, "broken"):
		fmt.Fprintln(os.Stderr, "cannot load the model")
		return 1
	case !ours:
		address = net.JoinHostPort("127.0.0.1", args[slices.Index(args, "--port")+1])
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	server := &http.Server{Handler: newFake()}
	if ours {
		if err := os.WriteFile(filepath.Join(os.Getenv("SKEIN_HOME"), "address"), []byte("http://"+l.Addr().String()), 0o600); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println("serving")
	}
	go func() {
		<-ctx.Done()
		server.Close()
	}()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// fake answers streams with as many texts as tokens are asked for. A very long
// one pauses until a prompt of token ids has been answered and then goes on
// until its client leaves, so that it outlasts the prompt whatever the machine
// does.
type fake struct {
	*http.ServeMux
	mu      sync.Mutex
	waiting chan struct{} // guarded by mu; closed by the next prompt of token ids
}

const veryLong = 100

func newFake() *fake {
	f := &fake{ServeMux: http.NewServeMux(), waiting: make(chan struct{})}
	for _, path := range []string{"/health", "/healthz", "/v1/models"} {
		f.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{}`) })
	}
	f.HandleFunc("/v1/completions", f.stream)
	f.HandleFunc("/v1/chat/completions", f.stream)
	return f
}

func (f *fake) stream(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Prompt    any `json:"prompt"`
		MaxTokens int `json:"max_tokens"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ids, isIDs := body.Prompt.([]any)
	f.mu.Lock()
	paused := f.waiting
	f.mu.Unlock()
	for i := 0; i < body.MaxTokens || body.MaxTokens >= veryLong; i++ {
		if i == 10 && body.MaxTokens >= veryLong {
			select {
			case <-paused:
			case <-r.Context().Done():
			}
		}
		if r.Context().Err() != nil {
			return
		}
		fmt.Fprint(w, "data: {\"choices\":[{\"text\":\"a\"}]}\n\n")
		w.(http.Flusher).Flush()
	}
	fmt.Fprintf(w, "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d}}\n\ndata: [DONE]\n\n", len(ids), body.MaxTokens)
	w.(http.Flusher).Flush()
	if isIDs {
		f.mu.Lock()
		close(f.waiting)
		f.waiting = make(chan struct{})
		f.mu.Unlock()
	}
}

func newHost(t *testing.T) *Host {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("NOT RUN: the stand-ins for servers end by a signal")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return &Host{
		Executable: self, Environ: append(os.Environ(), fakeEnv+"=1", "GORACE=atexit_sleep_ms=0"), Dir: t.TempDir(),
		Address: func(home string) (string, error) {
			b, err := os.ReadFile(filepath.Join(home, "address"))
			return string(b), err
		},
		Engine: func(_ context.Context, run EngineRun) (EngineResult, error) {
			return EngineResult{Prefill: 1000, Decode: 100, ChunkTokens: 128, LoadSeconds: 0.001}, nil
		},
		Say: t.Logf,
	}
}

func testModel() Model {
	words := make(load.Words, 100)
	for i := range words {
		words[i] = int32(1000 + i)
	}
	return Model{Name: "m", Paths: []string{"/m.gguf"}, Words: words}
}

func TestPeers(t *testing.T) {
	h := newHost(t)
	res, err := Peers(t.Context(), h, PeersOptions{
		LlamaServer: h.Executable, Model: testModel(), Streams: []int{1}, Rounds: 3, Decode: 20, Prompt: 64, Long: 300, Running: 2,
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Sizes{Slots: 3, Context: 512}, res.Sizes); diff != "" {
		t.Error(diff)
	}
	var names []string
	for _, f := range res.Figures {
		names = append(names, f.Name)
		if len(f.Ours.Each) != 3 || len(f.Theirs.Each) != 3 || f.Bar != "" && (f.Ours.Min <= 0 || f.Theirs.Min <= 0 || f.Ratio <= 0) {
			t.Errorf("%s: %+v", f.Name, f)
		}
	}
	want := []string{"decode, 1 stream", "first token, 64-token prompt", "first token, same prompt again", "worst gap of 2 streams, 300-token prompt arrives", "tokens of these streams meanwhile", "first token of the 300-token prompt"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
	if rows := res.Table(); len(rows) != 7 || len(rows[0]) != len(rows[6]) {
		t.Errorf("table: %q", rows)
	}
	if _, err := json.Marshal(res); err != nil {
		t.Error(err)
	}
}

func TestNode(t *testing.T) {
	res, err := Node(t.Context(), newHost(t), NodeOptions{
		Model: testModel(), Small: testModel(), Rounds: 2, Decode: 20, Long: 300, Running: 2,
		Soak: SoakOptions{Connections: 20, Streams: 1, Requests: 60, Seed: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Rows) != 10 {
		t.Errorf("%d rows: %+v", len(res.Rows), res.Rows)
	}
	s := res.Soak
	if s.Failed != 0 || s.Completed == 0 || s.Cancelled == 0 || s.Completed+s.Cancelled+s.Busy != 60 || s.Open != 20 || !s.SlotsFree {
		t.Errorf("soak: %v", s)
	}
	if runtime.GOOS == "linux" && (s.Before.Files <= 0 || s.After.Files > s.Before.Files || !s.OK()) {
		t.Errorf("files were not counted or kept: %v", s)
	}
	if rows := res.Table(); len(rows) != 12 {
		t.Errorf("table: %q", rows)
	}
}

func TestSoakTellsLeaks(t *testing.T) {
	good := SoakResult{Completed: 1, SlotsFree: true, Before: Holdings{Files: 9}, After: Holdings{Files: 9}}
	for name, worsen := range map[string]func(*SoakResult){
		"files":  func(r *SoakResult) { r.After.Files++ },
		"slots":  func(r *SoakResult) { r.SlotsFree = false },
		"errors": func(r *SoakResult) { r.Failed++ },
	} {
		bad := good
		worsen(&bad)
		if !good.OK() || bad.OK() {
			t.Errorf("%s: good %v, bad %v", name, good.OK(), bad.OK())
		}
	}
}

func TestServerThatDoesNotStart(t *testing.T) {
	h := newHost(t)
	m := testModel()
	m.Name, m.Paths = "broken", []string{"broken"}
	if _, err := h.StartLlama(t.Context(), h.Executable, m, Sizes{Slots: 1, Context: 256}); err == nil || !strings.Contains(err.Error(), "cannot load the model") {
		t.Errorf("llama-server: %v, want its last words", err)
	}
	if _, err := h.StartSkein(t.Context(), m, true, Sizes{}); err == nil || !strings.Contains(err.Error(), "cannot load the model") {
		t.Errorf("skein: %v, want its last words", err)
	}
	if _, err := h.StartLlama(t.Context(), filepath.Join(t.TempDir(), "none"), m, Sizes{}); !errors.Is(err, os.ErrNotExist) && !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("a missing program: %v", err)
	}
}

func TestLlamaArgs(t *testing.T) {
	got := strings.Join(LlamaArgs(testModel(), Sizes{Slots: 4, Context: 512, Threads: 2}), " ")
	if want := "-m /m.gguf -np 4 -c 2048 --no-webui -t 2"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	good := PeersOptions{LlamaServer: "x", Streams: []int{1}, Rounds: 1, Decode: 4, Prompt: 1, Long: 100, Running: 1}
	if _, err := good.validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*PeersOptions){
		"--llama-server PATH":     func(o *PeersOptions) { o.LlamaServer = "" },
		"at least 1":              func(o *PeersOptions) { o.Rounds = 0 },
		"0 streams":               func(o *PeersOptions) { o.Streams = []int{0} },
		`no figure "speed"`:       func(o *PeersOptions) { o.Only = []string{"speed"} },
		"1 slots are too few":     func(o *PeersOptions) { o.Slots = 1 },
		"no room for a prompt of": func(o *PeersOptions) { o.Context = 100 },
	} {
		bad := good
		change(&bad)
		if _, err := bad.validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	node := NodeOptions{Rounds: 1, Decode: 4, Long: 1, Running: 1, Soak: SoakOptions{Streams: 1, Requests: 1}}
	if err := node.validate(); err != nil {
		t.Error(err)
	}
	node.Soak.Streams = 0
	if err := node.validate(); err == nil {
		t.Error("a soak without streams is taken")
	}
}

func TestPrompts(t *testing.T) {
	p := Prompts()
	if len(p) != 30 || slices.Contains(p, "") || len(slices.Compact(slices.Sorted(slices.Values(p)))) != 30 {
		t.Errorf("%d prompts: %q", len(p), p)
	}
}

// tok makes a token with its rivals: text, log-probability, text, ...
func tok(text string, rivals ...any) candidate {
	c := one(text, 0)
	for i := 0; i < len(rivals); i += 2 {
		r := one(rivals[i].(string), rivals[i+1].(float64))
		if rivals[i] == text {
			c.Logprob = r.Logprob
		}
		c.Top = append(c.Top, r)
	}
	return c
}

func one(text string, logprob float64) candidate {
	c := candidate{Logprob: logprob}
	for _, b := range []byte(text) {
		c.Bytes = append(c.Bytes, int(b))
	}
	return c
}

func TestPart(t *testing.T) {
	same := tok("a", "a", -0.1, "b", -3.0)
	for _, c := range []struct {
		name string
		a, b []candidate
		want Difference
	}{
		{"a close call", []candidate{same, tok("x", "x", -1.0, "y", -1.25)}, []candidate{same, tok("y", "y", -1.0, "x", -1.5)},
			Difference{At: 1, Ours: "x", Theirs: "y", OursDistance: 0.25, TheirsDistance: -0.5, Disagreement: 0.75}},
		{"not even a candidate", []candidate{tok("x", "x", -0.5, "z", -2.0)}, []candidate{tok("y", "y", -0.5, "x", -2.0)},
			Difference{Ours: "x", Theirs: "y", OursDistance: 0, TheirsDistance: -1.5, Disagreement: -1}},
		{"ours ends", []candidate{same}, []candidate{same, tok("y", "y", -1.0, "z", -1.5)},
			Difference{At: 1, Ours: "(end)", Theirs: "y", TheirsDistance: -0.5, Disagreement: 0.5}},
		{"theirs ends", []candidate{same, tok("x", "x", -1.0, "z", -1.5)}, []candidate{same},
			Difference{At: 1, Ours: "x", Theirs: "(end)", OursDistance: 0.5, Disagreement: 0.5}},
		{"both end, texts differ all the same", []candidate{same}, []candidate{same},
			Difference{At: 1, Ours: "(end)", Theirs: "(end)", Disagreement: -1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := part(answer{tokens: c.a}, answer{tokens: c.b})
			// The distance means nothing where one is no candidate.
			if c.want.Disagreement < 0 {
				got.TheirsDistance, c.want.TheirsDistance = 0, 0
			}
			if diff := cmp.Diff(c.want, got, cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) < 1e-9 })); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// textServer answers each question with a list of tokens, and a point computed
// again with the same rivals moved by shift.
func textServer(t *testing.T, answers map[string][]candidate, prompt int, shift float64, wantCache any) *load.Client {
	t.Helper()
	var last []candidate
	mux := http.NewServeMux()
	reply := func(w http.ResponseWriter, v any) {
		if err := json.NewEncoder(w).Encode(v); err != nil {
			t.Error(err)
		}
	}
	mux.HandleFunc("/v1/chat/completions", func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			Messages    []load.Message
			CachePrompt any `json:"cache_prompt"`
			Temperature *float64
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.Temperature == nil || *body.Temperature != 0 || body.CachePrompt != wantCache {
			t.Errorf("%v: request was %+v", err, body)
		}
		last = answers[body.Messages[0].Content]
		text := ""
		for _, c := range last {
			text += c.text()
		}
		reply(w, map[string]any{"usage": map[string]any{"prompt_tokens": prompt}, "choices": []any{map[string]any{
			"finish_reason": "length", "message": map[string]any{"content": text}, "logprobs": map[string]any{"content": last},
		}}})
	})
	mux.HandleFunc("/apply-template", func(w http.ResponseWriter, _ *http.Request) { reply(w, map[string]any{"prompt": "p"}) })
	mux.HandleFunc("/tokenize", func(w http.ResponseWriter, _ *http.Request) { reply(w, map[string]any{"tokens": make([]int, prompt)}) })
	mux.HandleFunc("/completion", func(w http.ResponseWriter, r *http.Request) {
		var body struct{ Prompt []int32 }
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		again := last[len(body.Prompt)-prompt]
		again.Top = slices.Clone(again.Top)
		again.Top[0].Logprob += shift
		reply(w, map[string]any{"completion_probabilities": []candidate{again}})
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	c, err := load.NewClient(server.URL, "m", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestTexts(t *testing.T) {
	same := tok("a", "a", -0.1, "b", -3.0)
	ours := map[string][]candidate{
		"equal": {same, same, same}, "close": {same, tok("x", "x", -1.0, "y", -1.1)}, "far": {same, tok("x", "x", -0.1, "y", -3.0)},
	}
	theirs := map[string][]candidate{
		"equal": {same, same, same}, "close": {same, tok("y", "y", -1.0, "x", -1.1)}, "far": {same, tok("y", "y", -0.1, "x", -3.0)},
	}
	a, b := textServer(t, ours, 4, 0, nil), textServer(t, theirs, 4, 0.5, false)
	res, err := Texts(t.Context(), a, b, []string{"equal", "close", "far"}, 8)
	if err != nil {
		t.Fatal(err)
	}
	if res.Equal != 1 || res.Prompts != 3 || res.Tokens != 5 || res.Noise.Samples == 0 || math.Abs(res.Noise.Max-0.5) > 1e-9 {
		t.Errorf("got %+v", res)
	}
	verdicts := map[string]bool{}
	for _, d := range res.Differences {
		verdicts[d.Prompt] = d.Within
	}
	if diff := cmp.Diff(map[string]bool{"close": true, "far": false}, verdicts); diff != "" {
		t.Error(diff)
	}
	if s := res.String(); !strings.Contains(s, "1 of 3 equal, 1 of 2 differences within") || !strings.Contains(s, "BEYOND") {
		t.Errorf("said %q", s)
	}
	if _, err := Texts(t.Context(), textServer(t, ours, 5, 0, nil), b, []string{"equal"}, 8); err == nil || !strings.Contains(err.Error(), "templates or tokenizers differ") {
		t.Errorf("prompts of different length gave %v", err)
	}
}
