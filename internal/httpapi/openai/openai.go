// Package openai is the OpenAI dialect of the node's API: the models,
// chat completions and (text) completions endpoints, streamed or not, with
// OpenAI's parameters, errors and shapes. docs/openai-api.md is its contract.
//
// It owns decoding, checking and encoding, and nothing else: package request turns
// a body into a neutral generation.Request, package answer events back into
// OpenAI's JSON, and the handlers here join the two. Models come from an Engine that the node hands in; the package must not import
// adapters or other dialects. Handlers run on net/http's goroutines; an API has
// no other state than the set of field names it has warned about.
package openai

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/httpapi"
	"github.com/skein-run/skein/internal/httpapi/openai/request"
)

// Model is a model file as clients see it.
type Model struct {
	ID            string // as clients name it; may contain slashes
	Created       int64  // Unix seconds
	OwnedBy       string
	Loaded        bool
	ContextLength int // tokens for one request; 0: not known yet
	// TemplateVariables are those of `enable_thinking` and `reasoning_effort`
	// that the model's chat template reads; they decide what reasoning_effort
	// can mean.
	TemplateVariables []string
	Facts             Facts
}

// Facts describe a model's file, as far as they are known. They are not
// OpenAI's; clients of exo read them.
type Facts struct {
	Bytes          int64
	TrainedContext int    // tokens
	Tensor         bool   // its layers can be shared out among machines
	Family         string // "qwen"
	Quantization   string // "Q4_K_M"
	Base           string // the name without the quantization
	// Added: somebody registered the file on this node.
	Added bool
	// Missing: no node that has the files is online.
	Missing bool
}

// Engine is what the dialect needs from the node. Its methods are called from
// many goroutines. Errors for clients are *generation.Error.
type Engine interface {
	// Models lists what can be asked for, loaded or not, in a stable order.
	Models(ctx context.Context) ([]Model, error)
	// Model finds one by name; an unknown name is KindModelNotFound, with the
	// nearest match in the message.
	Model(ctx context.Context, name string) (Model, error)
	// Generate loads the model if it has to and runs the request. emit is called
	// for each event, never by two goroutines at once; its error ends the
	// generation and is returned. Every choice ends with an event that has a
	// FinishReason, and the last event of all has the Usage.
	Generate(ctx context.Context, req generation.Request, emit func(generation.Event) error) error
}

// Options configure the dialect. Zero values give the defaults named.
type Options struct {
	Engine Engine       // required
	Log    *slog.Logger // required

	// Figures makes the comment about a generation that goes before the end of a
	// streamed chat of one choice; nil: there is none.
	Figures func(model string, u generation.Usage) []byte
	// Fingerprint is reported as system_fingerprint: versions of node and
	// engine; empty: null.
	Fingerprint string
	// KeepAlive is the longest silence in a stream before a comment is sent; 10 s.
	KeepAlive time.Duration
	// MaxMessages a chat may have; 16,384.
	MaxMessages int
	// MaxChoices is the largest n; 16.
	MaxChoices int
	// MaxPrompts is how many prompts one completions request may have; 2,048.
	MaxPrompts int
	// PromptsAtOnce is how many of them run at the same time; 4.
	PromptsAtOnce int

	Now   func() time.Time // time.Now
	NewID func() string    // random; unique part of response ids
}

func (o *Options) validate() error {
	switch {
	case o.Engine == nil:
		return errors.New("openai: options: no engine")
	case o.Log == nil:
		return errors.New("openai: options: no logger")
	case o.KeepAlive < 0 || o.MaxMessages < 0 || o.MaxChoices < 0 || o.MaxPrompts < 0 || o.PromptsAtOnce < 0:
		return errors.New("openai: options: a limit is negative")
	}
	return nil
}

// API is the dialect; see httpapi.Dialect.
type API struct {
	options Options
	decoder *request.Decoder
}

// New makes the dialect.
func New(o Options) (*API, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	defaultTo(&o.KeepAlive, 10*time.Second)
	defaultTo(&o.MaxMessages, 16384)
	defaultTo(&o.MaxChoices, 16)
	defaultTo(&o.MaxPrompts, 2048)
	defaultTo(&o.PromptsAtOnce, 4)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.NewID == nil {
		o.NewID = rand.Text
	}
	limits := request.Limits{Messages: o.MaxMessages, Choices: o.MaxChoices, Prompts: o.MaxPrompts}
	return &API{options: o, decoder: request.NewDecoder(limits, o.Log)}, nil
}

func defaultTo[T int | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// Register adds the dialect's routes.
func (a *API) Register(mux httpapi.Mux) {
	mux.HandleFunc("GET /v1/models", a.models)
	mux.HandleFunc("GET /models", a.models) // where exo's clients look
	mux.HandleFunc("GET /v1/models/{id...}", a.model)
	mux.HandleFunc("POST /v1/chat/completions", a.chat)
	mux.HandleFunc("POST /v1/completions", a.completions)
}

// refuse answers an error as long as the response has not begun. A client
// that is gone is told nothing.
func (a *API) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if e := a.outcome(r.Context(), err); e != nil {
		httpapi.WriteError(w, e)
	}
}

// outcome is what a client is told of an error: nil when there is no client
// any more. What it is not told in full is logged here.
func (a *API) outcome(ctx context.Context, err error) *httpapi.Error {
	if errors.Is(err, httpapi.ErrClientGone) {
		return nil
	}
	if ctx.Err() != nil {
		if !errors.Is(context.Cause(ctx), httpapi.ErrStopping) {
			return nil
		}
		err = httpapi.ErrStopping
	}
	e := httpapi.ErrorOf(err)
	if e.Status >= http.StatusInternalServerError {
		var g *generation.Error
		cause := err
		if errors.As(err, &g) && g.Err != nil {
			cause = g.Err
		}
		a.options.Log.Warn("request failed", "status", e.Status, "code", e.Code, "message", e.Message, "cause", cause)
	}
	return e
}
