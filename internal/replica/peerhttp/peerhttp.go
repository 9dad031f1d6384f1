// Package peerhttp carries replica's calls between nodes over HTTP/2: it is
// its Transport on one side and its handlers on the other. Who may call is the
// server's business; the calling node is told by a function.
//
// It imports replica and ids. All of it may be used from any goroutine.
package peerhttp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"

	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/replica"
)

// Paths of the calls.
const (
	pathStatus = "/replica/status"
	pathSubmit = "/replica/commands"
	pathFollow = "/replica/log"
)

// maxBody bounds a command or an answer in bytes.
const maxBody = 4 << 20

// Client is a replica.Transport. Its HTTP client takes node ids as hosts.
type Client struct{ HTTP *http.Client }

// problem is an error on the wire.
type problem struct {
	Kind    string      `json:"kind"` // refusal, no_master, unconfirmed, unwritable, failed
	Code    string      `json:"code,omitempty"`
	Message string      `json:"message"`
	Index   uint64      `json:"index,omitempty"`
	Last    ids.Session `json:"last,omitzero"`
	Node    ids.Node    `json:"node,omitempty"` // of unwritable
}

// Status asks a node how fresh its log is.
func (c Client) Status(ctx context.Context, node ids.Node) (s replica.Status, err error) {
	return s, c.call(ctx, http.MethodGet, node, pathStatus, nil, &s)
}

// Submit hands a command to a master.
func (c Client) Submit(ctx context.Context, node ids.Node, cmd replica.Command) (a replica.Answer, err error) {
	return a, c.call(ctx, http.MethodPost, node, pathSubmit, cmd, &a)
}

func (c Client) call(ctx context.Context, method string, node ids.Node, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("call node %s: %w", node, err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+string(node)+path, body)
	if err != nil {
		return fmt.Errorf("call node %s: %w", node, err)
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		// Whether the other side has done it is not known.
		return fmt.Errorf("%w: %w", replica.ErrUnconfirmed, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return fmt.Errorf("%w: %w", replica.ErrUnconfirmed, err)
	}
	if resp.StatusCode == http.StatusOK {
		if err := json.Unmarshal(b, out); err != nil {
			return fmt.Errorf("call node %s: %w", node, err)
		}
		return nil
	}
	var p problem
	if err := json.Unmarshal(b, &p); err != nil {
		return fmt.Errorf("call node %s: status %d: %s", node, resp.StatusCode, bytes.TrimSpace(b[:min(len(b), 200)]))
	}
	return p.error()
}

func (p problem) error() error {
	switch p.Kind {
	case "refusal":
		return &replica.Refusal{Code: p.Code, Message: p.Message, Index: p.Index}
	case "no_master":
		return &replica.NoMasterError{Last: p.Last}
	case "unwritable":
		return &replica.UnwritableError{Node: p.Node, Err: errors.New(p.Message)}
	case "unconfirmed":
		return fmt.Errorf("%w (%s)", replica.ErrUnconfirmed, p.Message)
	}
	return errors.New(p.Message)
}

func problemOf(err error) problem {
	var no *replica.Refusal
	var none *replica.NoMasterError
	var full *replica.UnwritableError
	switch {
	case errors.As(err, &full):
		return problem{Kind: "unwritable", Message: full.Err.Error(), Node: full.Node}
	case errors.As(err, &no):
		return problem{Kind: "refusal", Code: no.Code, Message: no.Message, Index: no.Index}
	case errors.As(err, &none):
		return problem{Kind: "no_master", Message: err.Error(), Last: none.Last}
	case errors.Is(err, replica.ErrUnconfirmed):
		return problem{Kind: "unconfirmed", Message: err.Error()}
	}
	return problem{Kind: "failed", Message: err.Error()}
}

// Follow opens a stream: the body of the request carries the acks, that of the
// answer the frames.
func (c Client) Follow(ctx context.Context, node ids.Node, f replica.FollowRequest) (io.ReadWriteCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+string(node)+pathFollow, r)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("follow node %s: %w", node, err)
	}
	head, err := json.Marshal(f)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("follow node %s: %w", node, err)
	}
	go func() { _, _ = w.Write(append(head, '\n')) }() // ends with the pipe, at the latest when the call does
	resp, err := c.HTTP.Do(req)
	if err != nil {
		cancel()
		return nil, errors.Join(fmt.Errorf("follow node %s: %w", node, err), w.Close())
	}
	if resp.StatusCode != http.StatusOK {
		cancel()
		return nil, errors.Join(fmt.Errorf("follow node %s: status %d", node, resp.StatusCode), w.Close(), resp.Body.Close())
	}
	return &stream{r: resp.Body, w: w, cancel: cancel}, nil
}

// stream is the caller's end of a Follow.
type stream struct {
	r      io.ReadCloser
	w      *io.PipeWriter
	cancel context.CancelFunc
}

func (s *stream) Read(b []byte) (int, error)  { return s.r.Read(b) }
func (s *stream) Write(b []byte) (int, error) { return s.w.Write(b) }
func (s *stream) Close() error {
	s.cancel()
	return errors.Join(s.w.Close(), s.r.Close())
}

// Node is the part of a replica.Replica that answers calls.
type Node interface {
	Status() (replica.Status, error)
	Serve(context.Context, replica.Command) (replica.Answer, error)
	Follow(context.Context, replica.FollowRequest, io.ReadWriter) error
}

// Handle adds the handlers of a node to mux. caller names the node that sent a
// request.
func Handle(mux *http.ServeMux, n Node, caller func(*http.Request) ids.Node, log *slog.Logger) {
	mux.HandleFunc("GET "+pathStatus, func(w http.ResponseWriter, _ *http.Request) {
		s, err := n.Status()
		reply(w, s, err)
	})
	mux.HandleFunc("POST "+pathSubmit, func(w http.ResponseWriter, r *http.Request) {
		var c replica.Command
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&c); err != nil {
			http.Error(w, "the command can't be read: "+err.Error(), http.StatusBadRequest)
			return
		}
		a, err := n.Serve(r.Context(), c)
		reply(w, a, err)
	})
	mux.HandleFunc("POST "+pathFollow, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		// HTTP/2 is duplex anyway; without it a stream could not be served.
		if r.ProtoMajor < 2 {
			http.Error(w, "streams need HTTP/2", http.StatusHTTPVersionNotSupported)
			return
		}
		w.WriteHeader(http.StatusOK)
		if err := rc.Flush(); err != nil {
			return // the caller is gone
		}
		in := json.NewDecoder(io.LimitReader(r.Body, maxBody))
		var f replica.FollowRequest
		from := caller(r)
		if err := in.Decode(&f); err != nil {
			log.Warn("a node's request for this node's log can't be read", "node", from, "error", err)
			return
		}
		if f.From != from { // a disk would count twice
			log.Warn("a node that asks for this node's log names another one", "node", from, "named", f.From)
			return
		}
		s := &duplex{Reader: io.MultiReader(in.Buffered(), r.Body), w: w, rc: rc}
		err := n.Follow(r.Context(), f, s)
		switch {
		case err == nil:
		case r.Context().Err() != nil || s.gone():
			log.Debug("a follower of this node's log is gone", "node", from, "error", err)
		default: // the follower comes again, and may end so for ever
			log.Warn("a node's stream of this node's log broke", "node", from, "error", err)
		}
	})
}

// duplex is the server's end of a Follow: every frame leaves at once. Reads and
// writes may go on side by side.
type duplex struct {
	io.Reader
	w      io.Writer
	rc     *http.ResponseController
	failed atomic.Bool
}

func (d *duplex) Read(b []byte) (int, error) {
	n, err := d.Reader.Read(b)
	if err != nil {
		d.failed.Store(true)
	}
	return n, err
}

func (d *duplex) Write(b []byte) (int, error) {
	n, err := d.w.Write(b)
	if err == nil {
		err = d.rc.Flush()
	}
	if err != nil {
		d.failed.Store(true)
	}
	return n, err
}

// gone tells that the caller, or the way to it, is.
func (d *duplex) gone() bool { return d.failed.Load() }

func reply(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		v = problemOf(err)
		w.WriteHeader(http.StatusConflict)
	}
	_ = json.NewEncoder(w).Encode(v) // a caller that is gone needs no answer
}
