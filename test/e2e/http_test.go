//go:build unix

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// response is a whole HTTP answer.
type response struct {
	status int
	header http.Header
	body   string
}

// apiError is the error object of every API.
type apiError struct {
	Error struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    *string `json:"code"`
	} `json:"error"`
}

// completion is the part of an answer that the tests look at.
type completion struct {
	Choices []struct {
		Message struct {
			Content string `json:"content"`
		} `json:"message"`
		Delta struct {
			Content string `json:"content"`
		} `json:"delta"`
		FinishReason *string `json:"finish_reason"`
	} `json:"choices"`
	Usage *struct {
		PromptTokens        int `json:"prompt_tokens"`
		CompletionTokens    int `json:"completion_tokens"`
		PromptTokensDetails struct {
			CachedTokens int `json:"cached_tokens"`
		} `json:"prompt_tokens_details"`
	} `json:"usage"`
}

// request sends one and gives the response with its body still open. More are
// headers, names and values in turns.
func (n *node) request(ctx context.Context, method, path string, body io.Reader, more ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, n.url+path, body)
	if err != nil {
		return nil, err
	}
	if n.key != "" {
		req.Header.Set("Authorization", "Bearer "+n.key)
	}
	for i := 0; i+1 < len(n.headers); i += 2 {
		req.Header.Set(n.headers[i], n.headers[i+1])
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(more); i += 2 {
		req.Header.Set(more[i], more[i+1])
	}
	transport := &http.Transport{DisableKeepAlives: true}
	if n.on != nil {
		transport.DialContext = func(_ context.Context, _, address string) (net.Conn, error) {
			return n.on.net.Dial(n.on.index, address)
		}
	}
	return (&http.Client{Transport: transport}).Do(req)
}

// try sends a request and reads the answer.
func (n *node) try(method, path, body string, more ...string) (response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var r io.Reader
	if method != http.MethodGet {
		r = strings.NewReader(body)
	}
	resp, err := n.request(ctx, method, path, r, more...)
	if err != nil {
		return response{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return response{resp.StatusCode, resp.Header, string(data)}, err
}

func (n *node) get(path string) response { return n.must(http.MethodGet, path, "") }

func (n *node) post(path, body string) response { return n.must(http.MethodPost, path, body) }

func (n *node) must(method, path, body string) response {
	n.t.Helper()
	r, err := n.try(method, path, body)
	if err != nil {
		n.t.Fatalf("%s %s: %v", method, path, err)
	}
	return r
}

// want checks a refusal: its status, its code, and texts of its message.
func (r response) want(t *testing.T, status int, code string, texts ...string) {
	t.Helper()
	var e apiError
	if err := json.Unmarshal([]byte(r.body), &e); err != nil || e.Error.Message == "" {
		t.Errorf("status %d with a body that is no error object: %v\n%.500s", r.status, err, r.body)
		return
	}
	got := ""
	if e.Error.Code != nil {
		got = *e.Error.Code
	}
	if r.status != status || got != code {
		t.Errorf("status %d, code %q, want %d, %q: %s", r.status, got, status, code, e.Error.Message)
	}
	contains(t, e.Error.Message, texts...)
}

// ask is the body of a chat request for one question.
func ask(model, question string, more ...any) string {
	body := map[string]any{
		"model": model, "temperature": 0,
		"messages": []map[string]string{{"role": "user", "content": question}},
	}
	for i := 0; i+1 < len(more); i += 2 {
		body[more[i].(string)] = more[i+1]
	}
	data, err := json.Marshal(body)
	if err != nil {
		panic(err) // the tests' own values
	}
	return string(data)
}

// answer asks one question and gives the text.
func (n *node) answer(model, question string, more ...any) string {
	n.t.Helper()
	r := n.post("/v1/chat/completions", ask(model, question, more...))
	if r.status != http.StatusOK {
		n.t.Fatalf("ask %s: status %d: %s", model, r.status, r.body)
	}
	var c completion
	if err := json.Unmarshal([]byte(r.body), &c); err != nil || len(c.Choices) == 0 {
		n.t.Fatalf("ask %s: %v: %s", model, err, r.body)
	}
	return c.Choices[0].Message.Content
}

// works checks that the node answers as ever.
func (n *node) works() {
	n.t.Helper()
	if got := n.answer(demo, "What is Skein?"); !strings.Contains(got, "cluster") {
		n.t.Errorf("the node answers %q", got)
	}
}

// stream is an open SSE answer.
type stream struct {
	t      *testing.T
	resp   *http.Response
	lines  *bufio.Scanner
	cancel context.CancelFunc
}

// errEnd is the end of a stream after [DONE].
var errEnd = errors.New("the stream is done")

// open begins a streamed request; it must be accepted.
func (n *node) open(path, body string) *stream {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	resp, err := n.request(ctx, http.MethodPost, path, strings.NewReader(body))
	if err != nil {
		cancel()
		n.t.Fatal(err)
	}
	s := &stream{t: n.t, resp: resp, lines: bufio.NewScanner(resp.Body), cancel: cancel}
	s.lines.Buffer(nil, 1<<20)
	n.t.Cleanup(s.close)
	if resp.StatusCode != http.StatusOK {
		data, err := io.ReadAll(resp.Body)
		n.t.Fatalf("open %s: status %d: %s %v", path, resp.StatusCode, data, err)
	}
	return s
}

// close hangs up.
func (s *stream) close() {
	s.cancel()
	_ = s.resp.Body.Close() // nobody waits for the rest
}

// data gives the next event's data: errEnd for [DONE], io.ErrUnexpectedEOF
// when the connection ends before.
func (s *stream) data() (string, error) {
	for s.lines.Scan() {
		data, ok := strings.CutPrefix(s.lines.Text(), "data: ")
		if !ok {
			continue // a comment, an event name, or the blank line between
		}
		if data == "[DONE]" {
			return "", errEnd
		}
		return data, nil
	}
	if err := s.lines.Err(); err != nil {
		return "", err
	}
	return "", io.ErrUnexpectedEOF
}

// text gives the next piece of text that is not empty.
func (s *stream) text() string {
	s.t.Helper()
	for {
		data, err := s.data()
		if err != nil {
			s.t.Fatalf("read the stream: %v", err)
		}
		if c := chunk(s.t, data); c != "" {
			return c
		}
	}
}

// chunk is the text of one event.
func chunk(t *testing.T, data string) string {
	t.Helper()
	var c completion
	if err := json.Unmarshal([]byte(data), &c); err != nil {
		t.Fatalf("event %q: %v", data, err)
	}
	if len(c.Choices) == 0 {
		return ""
	}
	return c.Choices[0].Delta.Content
}

// rest reads to the end; the error object is set when one came as an event.
func (s *stream) rest() (text string, refused *apiError, err error) {
	var b strings.Builder
	for {
		data, err := s.data()
		if err != nil {
			return b.String(), refused, err
		}
		var e apiError
		if json.Unmarshal([]byte(data), &e) == nil && e.Error.Message != "" {
			refused = &e
			continue
		}
		b.WriteString(chunk(s.t, data))
	}
}
