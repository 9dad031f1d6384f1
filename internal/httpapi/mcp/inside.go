package mcp

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
)

// inside is a transport whose other end is a handler of this process. It sends
// the caller's key, so that what is done is what that key may do.
type inside struct {
	handler http.Handler
	caller  *caller
}

// errBroken is what reading an answer gives whose handler gave up.
var errBroken = errors.New("the answer broke off")

// RoundTrip implements http.RoundTripper. The handler runs until the answer's
// body is closed.
func (t *inside) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	in := r.Clone(ctx)
	in.Host, in.RemoteAddr, in.RequestURI = t.caller.request.Host, t.caller.request.RemoteAddr, r.URL.RequestURI()
	for _, name := range []string{"Authorization", "X-Api-Key"} {
		if v := t.caller.request.Header.Values(name); len(v) > 0 {
			in.Header[name] = v
		}
	}
	if t.caller.id != "" {
		in.Header.Set("X-Request-Id", t.caller.id) // one id in the log for both
	}
	if in.Body == nil {
		in.Body = http.NoBody
	}
	reader, pipe := io.Pipe()
	answer := &response{header: http.Header{}, body: pipe, begun: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		end := errBroken // of a handler that panics, as the server's do to drop a connection
		defer func() {
			if p := recover(); p == nil {
				end = nil
			}
			answer.WriteHeader(http.StatusOK)
			// Closing a pipe's writing end gives no error.
			_ = pipe.CloseWithError(end)
		}()
		t.handler.ServeHTTP(answer, in)
	}()
	stop := func() error {
		cancel()
		err := reader.Close()
		<-done
		return err
	}
	select {
	case <-answer.begun:
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), stop())
	}
	return &http.Response{
		Status: http.StatusText(answer.status), StatusCode: answer.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: answer.sent, Body: &body{reader, sync.OnceValue(stop)}, ContentLength: -1, Request: r,
	}, nil
}

// body is what the handler writes; closing it ends and joins the handler.
type body struct {
	*io.PipeReader
	stop func() error
}

func (b *body) Close() error { return b.stop() }

// response is the handler's end. It belongs to the handler's goroutine; status
// and sent may be read once begun is closed.
type response struct {
	header http.Header
	body   *io.PipeWriter
	begun  chan struct{}
	status int // 0: not begun
	sent   http.Header
}

func (r *response) Header() http.Header { return r.header }

func (r *response) WriteHeader(status int) {
	if r.status != 0 || status < http.StatusOK {
		return
	}
	r.status, r.sent = status, r.header.Clone()
	close(r.begun)
}

func (r *response) Write(b []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(b)
}

// Flush has nothing to do but to begin: each write waits until it is read.
func (r *response) Flush() { r.WriteHeader(http.StatusOK) }
