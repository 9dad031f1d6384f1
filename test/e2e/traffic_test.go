//go:build unix

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// TestRunnerKilledAndTheAnswerGoesOn: the client sees a pause and nothing else.
func TestRunnerKilledAndTheAnswerGoesOn(t *testing.T) {
	n := startPatient(t)
	want := n.open("/v1/chat/completions", ask(patient, "What is Skein?", "stream", true, "max_tokens", 300, "ignore_eos", true, "temperature", 0))
	whole, refused, err := want.rest()
	if refused != nil || !errors.Is(err, errEnd) {
		t.Fatalf("an undisturbed answer ended with %v, %+v", err, refused)
	}
	s := n.open("/v1/chat/completions", ask(patient, "What is Skein?", "stream", true, "max_tokens", 300, "ignore_eos", true, "temperature", 0))
	first := s.text()
	if err := syscall.Kill(n.runner(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	rest, refused, err := s.rest()
	if refused != nil || !errors.Is(err, errEnd) {
		t.Fatalf("after its runner was killed the answer ended with %v, %+v", err, refused)
	}
	// On quantized weights a close call may fall the other way in what is
	// computed again; up to the loss, and a while on, the text is the same.
	if got := first + rest; len(got) < 100 || got[:60] != whole[:60] {
		t.Errorf("the answer is %q, undisturbed %q", got, whole)
	}
	eventually(t, "the answer that went on is counted", func() bool {
		var h struct {
			Resumed int `json:"generations_resumed"`
			Lost    int `json:"generations_lost"`
		}
		n.read("/v1/cluster/health", &h)
		return h.Resumed == 1 && h.Lost == 0
	})
	n.stop()
}

func TestRunnerKilledInTheMiddleOfAStream(t *testing.T) {
	n := startPatient(t, "--resume-tries", "0")
	s := n.open("/v1/chat/completions", endless())
	s.text()
	pid := n.runner()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_, refused, err := s.rest()
	if refused == nil || refused.Error.Type != "server_error" {
		t.Errorf("the stream ended with %v and the error %+v, want a server_error event", err, refused)
	} else {
		contains(t, refused.Error.Message, patient, "kill")
	}
	if errors.Is(err, errEnd) {
		t.Error("a cut stream ends in [DONE], as if it were complete")
	}
	// The next request is served after the restart.
	if got := n.answer(patient, "What is Skein?"); !strings.Contains(got, "cluster") {
		t.Errorf("the restarted runner answers %q", got)
	}
	if again := n.runner(); again == pid {
		t.Error("the runner is the one that was killed")
	}
	n.stop()
}

func TestClientGoneFreesTheSlot(t *testing.T) {
	n := startPatient(t, "--slots", "1", "--queue", "0")
	s := n.open("/v1/chat/completions", endless())
	s.text()
	n.post("/v1/chat/completions", ask(patient, "Hello")).want(t, http.StatusTooManyRequests, "rate_limit_exceeded")
	s.close()
	// The answer would go on for a long time.
	eventually(t, "the slot to be free", func() bool { return n.status(patient) == "ready" })
	n.works()
}

func TestFullQueue(t *testing.T) {
	n := startPatient(t, "--slots", "1", "--queue", "1")
	s := n.open("/v1/chat/completions", endless())
	s.text()
	thaw := n.freeze()
	// Of two more, one may wait; which one, they decide among themselves.
	type outcome struct {
		r   response
		err error
	}
	answers := make(chan outcome, 2)
	for range 2 {
		go func() {
			r, err := n.try(http.MethodPost, "/v1/chat/completions", ask(patient, "What is Skein?"))
			answers <- outcome{r, err}
		}()
	}
	first := <-answers
	if first.err != nil {
		t.Fatal(first.err)
	}
	first.r.want(t, http.StatusTooManyRequests, "rate_limit_exceeded", patient)
	if !regexp.MustCompile(`^[1-9][0-9]*$`).MatchString(first.r.header.Get("Retry-After")) {
		t.Errorf("Retry-After is %q", first.r.header.Get("Retry-After"))
	}
	s.close()
	thaw()
	second := <-answers
	if second.err != nil || second.r.status != http.StatusOK {
		t.Errorf("the one that waited: %v, status %d: %s", second.err, second.r.status, second.r.body)
	}
	n.works()
}

// What a node is sent by mistake or malice, against one node that must go on.
func TestBadRequests(t *testing.T) {
	n := startDemo(t, "--context", "256")
	message := func(content string) string {
		return `{"model":"` + demo + `","messages":[{"role":"user","content":"` + content + `"}]}`
	}
	with := func(field string) string {
		return `{"model":"` + demo + `","messages":[{"role":"user","content":"Hi"}],` + field + `}`
	}
	many := `{"model":"` + demo + `","messages":[` + strings.Repeat(`{"role":"user","content":"a"},`, 99_999) + `{"role":"user","content":"b"}]}`
	deep := `{"model":"` + demo + `","messages":` + strings.Repeat("[", 1_000_000) + strings.Repeat("]", 1_000_000) + `}`
	for _, tt := range []struct {
		name, body string
		status     int
		code       string
		want       []string
	}{
		{"longer than the context", message(strings.Repeat("cluster ", 2000)), 400, "context_length_exceeded", []string{"256"}},
		{"10 MB of text", message(strings.Repeat("a", 10<<20)), 400, "context_length_exceeded", []string{"256"}},
		{"100,000 messages", many, 400, "", []string{"messages"}},
		{"deep nesting", deep, 400, "", nil},
		{"invalid UTF-8", message("a\xff\xfeb"), 400, "", []string{"UTF-8"}},
		{"no JSON", "hello", 400, "", []string{"JSON"}},
		{"empty body", "", 400, "", nil},
		{"an array", "[]", 400, "", nil},
		{"no messages", `{"model":"` + demo + `","messages":[]}`, 400, "", []string{"messages"}},
		{"no model", `{"messages":[{"role":"user","content":"Hi"}]}`, 400, "", []string{"model"}},
		{"wrong type", with(`"max_tokens":"many"`), 400, "", []string{"max_tokens"}},
		{"NaN", with(`"temperature":NaN`), 400, "", []string{"JSON"}},
		{"infinite", with(`"temperature":1e999`), 400, "", []string{"temperature"}},
		{"negative temperature", with(`"temperature":-1`), 400, "", []string{"temperature", "0", "2"}},
		{"high temperature", with(`"temperature":2.5`), 400, "", []string{"temperature", "0", "2"}},
		{"negative top_p", with(`"top_p":-0.1`), 400, "", []string{"top_p"}},
		{"negative max_tokens", with(`"max_tokens":-1`), 400, "", []string{"max_tokens"}},
		{"negative n", with(`"n":-1`), 400, "", []string{"n"}},
		{"tools", with(`"tools":[{"type":"function","function":{"name":"f"}}]`), 400, "unsupported_parameter", []string{"tools"}},
		{"response_format", with(`"response_format":{"type":"json_object"}`), 400, "unsupported_parameter", []string{"response_format"}},
		{"unknown model", `{"model":"skein-demo-4m","messages":[{"role":"user","content":"Hi"}]}`, 404, "model_not_found", []string{demo}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := n.post("/v1/chat/completions", tt.body)
			var e apiError
			if err := json.Unmarshal([]byte(r.body), &e); err != nil || r.status != tt.status {
				t.Fatalf("status %d, want %d: %v\n%.300s", r.status, tt.status, err, r.body)
			}
			if tt.code != "" && (e.Error.Code == nil || *e.Error.Code != tt.code) {
				t.Errorf("code %v, want %s: %s", e.Error.Code, tt.code, e.Error.Message)
			}
			contains(t, e.Error.Message, tt.want...)
			if len(e.Error.Message) > 2000 {
				t.Errorf("the message has %d bytes", len(e.Error.Message))
			}
		})
	}
	t.Run("both numbers", func(t *testing.T) {
		r := n.post("/v1/chat/completions", message(strings.Repeat("cluster ", 2000)))
		numbers := regexp.MustCompile(`\d+`).FindAllString(r.body, -1)
		large := 0
		for _, text := range numbers {
			var v int
			if _, err := fmt.Sscan(text, &v); err == nil && v >= 2000 {
				large++
			}
		}
		if large == 0 {
			t.Errorf("the prompt's own length is missing: %s", r.body)
		}
	})
	t.Run("too large", func(t *testing.T) {
		r, err := n.try(http.MethodPost, "/v1/chat/completions", message(strings.Repeat("a", 80<<20)))
		if err != nil {
			// The node hung up after its answer, while this side still sent:
			// the system may then drop what had not been read.
			t.Logf("refused in the middle: %v", err)
			return
		}
		r.want(t, http.StatusRequestEntityTooLarge, "request_too_large")
	})
	n.works()
	n.stop()
}

// Browsers and other names of the machine are kept off, unless they were let in.
func TestForeignPages(t *testing.T) {
	n := start(t, options{args: []string{"--allow-origin", "http://friend.example"}})
	for _, tt := range []struct {
		header, value, allowed string
		status                 int
	}{
		{"Origin", "http://friend.example", "http://friend.example", http.StatusOK},
		{"Origin", "http://other.example", "", http.StatusOK}, // the browser keeps the answer from the page
		{"Host", "rebound.example", "", http.StatusForbidden},
	} {
		req, err := http.NewRequest(http.MethodGet, n.url+"/v1/models", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(tt.header, tt.value)
		if tt.header == "Host" {
			req.Host = tt.value
		}
		resp, err := (&http.Client{}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get("Access-Control-Allow-Origin"); resp.StatusCode != tt.status || got != tt.allowed {
			t.Errorf("%s %s: status %d, allowed origin %q, want %d, %q", tt.header, tt.value, resp.StatusCode, got, tt.status, tt.allowed)
		}
	}
}

// Names are taken without regard to case and with or without .gguf; a model
// that is not loaded is loaded on the request, and unloaded on another.
func TestLoadOnRequestAndUnload(t *testing.T) {
	n := start(t, options{})
	if got := n.status(demo); got != "" {
		t.Errorf("the model is %q before it was asked for", got)
	}
	if got := n.answer(strings.ToUpper(demo)+".gguf", "What is Skein?"); !strings.Contains(got, "cluster") {
		t.Errorf("answer %q", got)
	}
	pid := n.runner()
	if r := n.must(http.MethodDelete, "/v1/cluster/models/"+demo, ""); r.status != http.StatusOK {
		t.Fatalf("unload: status %d: %s", r.status, r.body)
	}
	eventually(t, "the model to be unloaded", func() bool { return n.status(demo) == "" })
	eventually(t, "its runner to end", func() bool { return !alive(pid) })
	n.works()
}
