// Package client is the Go client of a skein node: the management API with its
// typed answers, and streaming chat over the OpenAI API. It imports api and
// nothing else of ours, so that programs outside this repository may use it.
//
// A Client holds no state beside its HTTP connections and may be used from any
// number of goroutines.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/skein-run/skein/api"
)

// maxAnswer bounds what is read of one answer that is not a stream.
const maxAnswer = 64 << 20

// Options configure a Client.
type Options struct {
	// BaseURL is the node's address without a path: "http://127.0.0.1:52415".
	BaseURL string
	// APIKey is sent as a bearer token; "" sends none.
	APIKey string
	// HTTP is the transport; nil: one of its own, without time limit, since
	// generations take as long as they take and contexts end them.
	HTTP *http.Client
	// UserAgent is sent with every request; "": "skein-client".
	UserAgent string
	// Patience is how long a command is repeated while the cluster chooses a
	// master, a second or two; 0: not at all.
	Patience time.Duration
}

// Client talks to one node.
type Client struct {
	base  *url.URL
	key   string
	http  *http.Client
	agent string

	patience time.Duration
}

// New makes a client. It does not connect.
func New(o Options) (*Client, error) {
	base, err := url.Parse(strings.TrimSuffix(o.BaseURL, "/"))
	if err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") {
		return nil, fmt.Errorf("%q is not the address of a node; write it like http://127.0.0.1:%d", o.BaseURL, api.DefaultPort)
	}
	c := &Client{base: base, key: o.APIKey, http: o.HTTP, agent: o.UserAgent, patience: o.Patience}
	if c.http == nil {
		transport := &http.Transport{
			Proxy:       http.ProxyFromEnvironment,
			DialContext: (&net.Dialer{}).DialContext,
		}
		c.http = &http.Client{Transport: transport}
	}
	if c.agent == "" {
		c.agent = "skein-client"
	}
	return c, nil
}

// Address is the node's base URL.
func (c *Client) Address() string { return c.base.String() }

// Close drops idle connections. The client stays usable.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// UnreachableError means that no answer came from the address at all.
type UnreachableError struct {
	Address string
	Err     error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("no node answers at %s: %v", e.Address, rootCause(e.Err))
}

// Unwrap gives the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }

// rootCause strips the method and URL that net/http puts before the cause.
func rootCause(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// call sends a request and decodes a JSON answer into out, which may be nil.
// Errors are *UnreachableError, *api.Error for what the node refused, or the
// context's error.
func (c *Client) call(ctx context.Context, method, path string, query url.Values, in, out any) error {
	return c.callWith(ctx, nil, method, path, query, in, out)
}

// callWith is call with more headers.
func (c *Client) callWith(ctx context.Context, header http.Header, method, path string, query url.Values, in, out any) error {
	res, err := c.sendWith(ctx, header, method, path, query, in, "application/json")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read the answer of %s: %w", c.base, contextOr(ctx, err))
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("%s %s: %s is not a skein node, or one of another version: %w", method, path, c.base, err)
	}
	return nil
}

// send gives the response of a success; its body is the caller's to close.
func (c *Client) send(ctx context.Context, method, path string, query url.Values, in any, accept string) (*http.Response, error) {
	return c.sendWith(ctx, nil, method, path, query, in, accept)
}

func (c *Client) sendWith(ctx context.Context, header http.Header, method, path string, query url.Values, in any, accept string) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("encode the request: %w", err)
		}
		body = bytes.NewReader(data)
	}
	u := *c.base
	// path is escaped already, so that a name may hold a slash or a percent.
	u.Path, u.RawPath, u.RawQuery = "", "", ""
	address := u.String() + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("Accept", accept)
	req.Header.Set("User-Agent", c.agent)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	res, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, &UnreachableError{Address: c.base.String(), Err: err}
	}
	if res.StatusCode < 200 || res.StatusCode > 299 {
		defer res.Body.Close()
		return nil, readError(res)
	}
	return res, nil
}

// readError turns an answer that is no success into an *api.Error.
func readError(res *http.Response) error {
	data, readErr := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	var body struct {
		Error *api.Error `json:"error"`
	}
	if err := json.Unmarshal(data, &body); err != nil || body.Error == nil || body.Error.Message == "" {
		text := strings.TrimSpace(string(data))
		if text == "" || len(text) > 300 || readErr != nil {
			text = http.StatusText(res.StatusCode)
		}
		body.Error = api.NewError(res.StatusCode, "", "", fmt.Sprintf("status %d: %s", res.StatusCode, text))
	}
	body.Error.Status = res.StatusCode
	if seconds, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && seconds > 0 {
		body.Error.RetryAfter = seconds
	}
	return body.Error
}

// contextOr prefers the reason a context ended over what came of it.
func contextOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// escape makes one path of a model name, keeping its slashes.
func escape(name string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return strings.Join(parts, "/")
}
