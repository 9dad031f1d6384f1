package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/skein-run/skein/internal/calm"
)

// Client sends requests to one server. It holds connections: Close it. Several
// streams may run on it at once.
type Client struct {
	base, model, key string
	http             *http.Client
	transport        *http.Transport
}

// NewClient makes a client of the server at base ("http://127.0.0.1:52415").
// model is the name that its requests ask for, key "" for none.
func NewClient(base, model, key string) (*Client, error) {
	if !strings.HasPrefix(base, "http://") && !strings.HasPrefix(base, "https://") {
		return nil, fmt.Errorf("%q is no address of a server; give one such as http://127.0.0.1:52415", base)
	}
	t := &http.Transport{
		MaxIdleConnsPerHost: 1024, DisableCompression: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return calm.ReadConn(c), nil
		},
	}
	return &Client{
		base: strings.TrimSuffix(strings.TrimRight(base, "/"), "/v1"), model: model, key: key,
		http: &http.Client{Transport: t}, transport: t,
	}, nil
}

// Model is the name that requests ask for.
func (c *Client) Model() string { return c.model }

// Close ends idle connections.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Message is one turn of a chat.
type Message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// Request asks for one streamed text. Exactly one of Messages, Prompt and
// Tokens is set.
type Request struct {
	Messages []Message
	Prompt   string
	Tokens   []int32

	MaxTokens   int
	Temperature float64
	// IgnoreEnd goes on after an end-of-generation token, so that all streams
	// of a measurement have the same length.
	IgnoreEnd bool
}

// body is the request in OpenAI's words; both servers take ignore_eos.
func (r *Request) body(model string) (path string, body []byte, err error) {
	b := map[string]any{
		"model": model, "max_tokens": r.MaxTokens, "temperature": r.Temperature,
		"stream": true, "stream_options": map[string]bool{"include_usage": true},
	}
	if r.IgnoreEnd {
		b["ignore_eos"] = true
	}
	path = "/v1/completions"
	switch {
	case r.Messages != nil:
		path, b["messages"] = "/v1/chat/completions", r.Messages
	case r.Tokens != nil:
		b["prompt"] = r.Tokens
	default:
		b["prompt"] = r.Prompt
	}
	body, err = json.Marshal(b)
	return path, body, err
}

// StatusError is an answer other than 200.
type StatusError struct {
	Status  int
	Message string
}

func (e *StatusError) Error() string { return fmt.Sprintf("status %d: %s", e.Status, e.Message) }

// Stream sends a request and reads its answer to the end. watch, if not nil, is
// called after each event with their number so far; false ends the stream
// early, which is no error. The trace is valid, up to the failure, even with
// an error.
func (c *Client) Stream(ctx context.Context, r Request, watch func(events int) bool) (*Trace, error) {
	path, body, err := r.body(c.model)
	if err != nil {
		return &Trace{}, fmt.Errorf("encode the request: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := c.request(ctx, http.MethodPost, path, body)
	if err != nil {
		return &Trace{}, err
	}
	t := &Trace{Sent: time.Now()}
	resp, err := c.http.Do(req)
	if err != nil {
		t.End = time.Now()
		return t, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.End = time.Now()
		return t, statusError(resp)
	}
	err = t.read(resp.Body, watch)
	t.End = time.Now()
	// A server that breaks a stream off says why in the last event, which says
	// more than the missing end.
	if told := t.parse(); told != nil {
		return t, told
	}
	if err != nil {
		return t, fmt.Errorf("read the stream: %w", err)
	}
	return t, nil
}

// Call sends a JSON value, nil for a GET, and decodes the JSON answer into out,
// which may be nil.
func (c *Client) Call(ctx context.Context, path string, in, out any) error {
	method, body := http.MethodGet, []byte(nil)
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("encode the request: %w", err)
		}
		method = http.MethodPost
	}
	req, err := c.request(ctx, method, path, body)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return statusError(resp)
	}
	raw, err := io.ReadAll(resp.Body)
	if err == nil && out != nil {
		err = json.Unmarshal(raw, out)
	}
	if err != nil {
		return fmt.Errorf("read the answer of %s: %w", path, err)
	}
	return nil
}

func (c *Client) request(ctx context.Context, method, path string, body []byte) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make a request to %s: %w", c.base, err)
	}
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	return req, nil
}

func statusError(resp *http.Response) error {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return errors.Join(&StatusError{Status: resp.StatusCode, Message: resp.Status}, err)
	}
	var told struct {
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	message := strings.TrimSpace(string(raw))
	if json.Unmarshal(raw, &told) == nil && told.Error.Message != "" {
		message = told.Error.Message
	}
	return &StatusError{Status: resp.StatusCode, Message: message}
}
