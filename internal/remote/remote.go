// Package remote lets a node use the models of its peers: a generation.Model
// whose calls travel over HTTP/2 to the node that holds an instance's head, and
// the handlers that answer them there. Tokens go straight from the head to the
// node that asked; when that node hangs up or dies, its generations are
// cancelled.
//
// It imports generation and runner/wire of ours; who is called and who calls
// is the HTTP client's and server's business. All of it may be used from any
// goroutine.
package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/runner/wire"
)

// maxAnswer bounds an answer that is no stream, in bytes: the texts and tokens
// of the longest prompt fit.
const maxAnswer = wire.MaxFrame

// Client makes models of a peer. Its HTTP client takes node ids as hosts.
type Client struct {
	HTTP *http.Client
	Node string // the peer
}

// Model gives an instance of the peer; it is an error if the peer has none.
func (c Client) Model(ctx context.Context, instance string) (*Model, error) {
	m := &Model{client: c, instance: instance}
	body, err := m.call(ctx, http.MethodGet, "info", nil)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(body, &m.info); err != nil {
		return nil, m.failed("understand", err)
	}
	return m, nil
}

// Model is an instance whose head is on another node.
type Model struct {
	client   Client
	instance string
	info     wire.ModelInfo
}

var _ generation.Model = (*Model)(nil)

// Info implements generation.Model.
func (m *Model) Info() wire.ModelInfo { return m.info }

func (m *Model) failed(what string, err error) error {
	return &generation.Error{Kind: generation.KindFailed, Err: err, Message: fmt.Sprintf("%s node %s: %v", what, m.client.Node, err)}
}

func (m *Model) request(ctx context.Context, method, what string, body any) (*http.Response, error) {
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, m.failed("ask", err)
		}
		in = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+m.client.Node+"/instances/"+url.PathEscape(m.instance)+"/"+what, in)
	if err != nil {
		return nil, m.failed("ask", err)
	}
	resp, err := m.client.HTTP.Do(req)
	if err != nil {
		return nil, m.lost(ctx, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, m.lost(ctx, err)
	}
	var p problem
	if err := json.Unmarshal(b, &p); err != nil || p.Kind == "" {
		return nil, m.failed("ask", fmt.Errorf("status %d: %s", resp.StatusCode, bytes.TrimSpace(b[:min(len(b), 200)])))
	}
	return nil, p.error()
}

// lost is the error of a broken connection: the caller's own end, or a loss of
// the node.
func (m *Model) lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("ask node %s: %w", m.client.Node, context.Cause(ctx))
	}
	return m.failed("reach", err)
}

func (m *Model) call(ctx context.Context, method, what string, body any) ([]byte, error) {
	resp, err := m.request(ctx, method, what, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, m.lost(ctx, err)
	}
	if len(b) > maxAnswer {
		return nil, m.failed("understand", errors.New("its answer is too large"))
	}
	return b, nil
}

// text is a question or an answer about the vocabulary.
type text struct {
	Text         string  `json:"text,omitempty"`
	Tokens       []int32 `json:"tokens,omitempty"`
	AddSpecial   bool    `json:"add_special,omitempty"`
	ParseSpecial bool    `json:"parse_special,omitempty"`
}

func (m *Model) ask(ctx context.Context, what string, q text) (a text, err error) {
	b, err := m.call(ctx, http.MethodPost, what, q)
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return a, m.failed("understand", err)
	}
	return a, nil
}

// Tokenize implements generation.Model.
func (m *Model) Tokenize(ctx context.Context, s string, addSpecial, parseSpecial bool) ([]int32, error) {
	a, err := m.ask(ctx, "tokenize", text{Text: s, AddSpecial: addSpecial, ParseSpecial: parseSpecial})
	return a.Tokens, err
}

// Detokenize implements generation.Model.
func (m *Model) Detokenize(ctx context.Context, tokens []int32) (string, error) {
	a, err := m.ask(ctx, "detokenize", text{Tokens: tokens})
	return a.Text, err
}

// Generate implements generation.Model.
func (m *Model) Generate(ctx context.Context, req wire.GenerateRequest) (generation.Stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	resp, err := m.request(ctx, http.MethodPost, "generate", req)
	if err != nil {
		cancel()
		return nil, err
	}
	s := &stream{m: m, ctx: ctx, cancel: cancel, body: resp.Body, frames: make(chan frame, 64), gone: make(chan struct{})}
	go s.read(wire.NewConn(resp.Body, io.Discard))
	return s, nil
}

// stream is a generation at a peer.
type stream struct {
	m      *Model
	ctx    context.Context
	cancel context.CancelFunc
	body   io.Closer
	frames chan frame    // closed after the last one
	gone   chan struct{} // closed by Close
	once   sync.Once
}

// frame is what came, one of the three.
type frame struct {
	tokens []wire.Token
	done   *wire.Done
	err    error
}

func (s *stream) read(c *wire.Conn) {
	defer close(s.frames)
	give := func(f frame) bool {
		select {
		case s.frames <- f:
			return true
		case <-s.gone:
			return false
		}
	}
	for {
		f, err := c.Read()
		if err != nil {
			give(frame{err: s.m.lost(s.ctx, err)})
			return
		}
		switch f.Type {
		case wire.TypeStep:
			var tokens []wire.Token
			if err := wire.DecodeTokens(f.Body, func(t wire.Token) { tokens = append(tokens, t) }); err != nil {
				give(frame{err: s.m.failed("understand", err)})
				return
			}
			if !give(frame{tokens: tokens}) {
				return
			}
		case wire.TypePrompt:
			var at wire.Prompt
			if err := f.Decode(&at); err != nil {
				give(frame{err: s.m.failed("understand", err)})
				return
			}
			generation.NoteOf(s.ctx)(generation.PromptProgress(at))
		case wire.TypeDone:
			var d wire.Done
			if err := f.Decode(&d); err != nil {
				give(frame{err: s.m.failed("understand", err)})
				return
			}
			give(frame{done: &d})
			return
		case wire.TypeFailure:
			var p problem
			if err := f.Decode(&p); err != nil {
				give(frame{err: s.m.failed("understand", err)})
				return
			}
			give(frame{err: p.error()})
			return
		default:
			give(frame{err: s.m.failed("understand", fmt.Errorf("%w: type %d", wire.ErrFrame, f.Type))})
			return
		}
	}
}

// Next implements generation.Stream.
func (s *stream) Next(ctx context.Context) ([]wire.Token, *wire.Done, error) {
	select {
	case f, ok := <-s.frames:
		if !ok {
			return nil, nil, s.m.failed("ask", errors.New("the generation has ended"))
		}
		return f.tokens, f.done, f.err
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("wait for tokens: %w", context.Cause(ctx))
	case <-s.gone:
		return nil, nil, s.m.failed("ask", errors.New("the generation was closed"))
	}
}

// Close implements generation.Stream.
func (s *stream) Close() {
	s.once.Do(func() {
		close(s.gone)
		s.cancel()
		_ = s.body.Close() // nothing more is wanted of it
		for range s.frames {
			// What was read is dropped; the channel closes when the reader ends.
		}
	})
}

// problem is a generation.Error on the wire.
type problem struct {
	Kind         generation.Kind `json:"kind"`
	Message      string          `json:"message"`
	Param        string          `json:"param,omitempty"`
	RetryAfter   int             `json:"retry_after,omitempty"`
	PromptTokens int             `json:"prompt_tokens,omitempty"`
	Context      int             `json:"context,omitempty"`
}

func (p problem) error() error {
	return &generation.Error{Kind: p.Kind, Message: p.Message, Param: p.Param, RetryAfter: p.RetryAfter, PromptTokens: p.PromptTokens, Context: p.Context}
}

func problemOf(err error) problem {
	var e *generation.Error
	if !errors.As(err, &e) {
		return problem{Kind: generation.KindFailed, Message: err.Error()}
	}
	return problem{Kind: e.Kind, Message: e.Message, Param: e.Param, RetryAfter: e.RetryAfter, PromptTokens: e.PromptTokens, Context: e.Context}
}
