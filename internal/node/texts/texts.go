// Package texts is what the API's dialects ask for text: it finds the model of a
// name, has it loaded where there is a place for it, compiles its chat template
// once, and runs requests on it. Where the models are is the cluster's to say, or
// this node's worker where there is no cluster.
//
// It is a part of the composition root, imported by package node alone. All of it
// may be used from any goroutine.
package texts

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/skein-run/skein/internal/cluster"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/httpapi/openai"
	"github.com/skein-run/skein/internal/httpapi/raw/shape"
	"github.com/skein-run/skein/internal/library"
)

// templateVariables are those whose presence in a template the API asks for.
var templateVariables = []string{"enable_thinking", "reasoning_effort"}

// Texts is an openai.Engine.
type Texts struct {
	places  Places
	files   *Files
	service *generation.Service

	mu       sync.Mutex // guards prepared
	prepared map[string]*preparation
}

// preparation is the template of one loaded model, compiled once.
type preparation struct {
	model generation.Model
	ready chan struct{} // closed when the fields below are set
	value *generation.Prepared
	err   error
}

// New makes it; nothing is loaded yet.
func New(p Places, f *Files, log *slog.Logger) (*Texts, error) {
	service, err := generation.New(generation.Options{Clock: time.Now, Seed: rand.Uint64, Warn: func(message string, args ...any) { log.Warn(message, args...) }})
	if err != nil {
		return nil, err
	}
	return &Texts{places: p, files: f, service: service, prepared: map[string]*preparation{}}, nil
}

// Models lists the usable model files.
func (t *Texts) Models(context.Context) ([]openai.Model, error) {
	entries, err := t.files.library.List()
	if err != nil && len(entries) == 0 {
		return nil, err // one unreadable folder does not hide the rest
	}
	loaded := t.loaded()
	var out []openai.Model
	for _, e := range entries {
		if e.Problem == "" {
			out = append(out, t.model(e, loaded))
		}
	}
	for _, name := range t.places.elsewhere() {
		out = append(out, t.model(library.Entry{Name: name}, loaded))
	}
	return out, nil
}

// Model finds one by name.
func (t *Texts) Model(_ context.Context, name string) (openai.Model, error) {
	e, err := t.files.entry(name)
	if err != nil {
		return t.away(name, err)
	}
	m := t.model(e, t.loaded())
	text, err := t.files.template(e)
	if err != nil {
		return openai.Model{}, &generation.Error{Kind: generation.KindFailed, Message: err.Error(), Err: err}
	}
	for _, v := range templateVariables {
		if strings.Contains(text, v) {
			m.TemplateVariables = append(m.TemplateVariables, v)
		}
	}
	return m, nil
}

// away finds a model whose files are on other nodes. Its template is known once
// it is loaded.
func (t *Texts) away(name string, err error) (openai.Model, error) {
	for _, other := range t.places.elsewhere() {
		if !strings.EqualFold(other, strings.TrimSuffix(name, ".gguf")) {
			continue
		}
		m := t.model(library.Entry{Name: other}, t.loaded())
		t.mu.Lock()
		p := t.prepared[other]
		t.mu.Unlock()
		if p == nil {
			m.TemplateVariables = templateVariables // not known: the template decides
			return m, nil
		}
		text := p.model.Info().ChatTemplate
		for _, v := range templateVariables {
			if strings.Contains(text, v) {
				m.TemplateVariables = append(m.TemplateVariables, v)
			}
		}
		return m, nil
	}
	return openai.Model{}, err
}

func (t *Texts) loaded() map[string]Model {
	out := map[string]Model{}
	for _, m := range t.places.Models() {
		out[m.Name] = m
	}
	return out
}

// facts describe a model in the words of exo's clients: as the cluster knows
// it, or else as far as its file here tells.
func (t *Texts) facts(e library.Entry) openai.Facts {
	m, missing, ok := t.places.known(e.Name)
	if !ok {
		m = cluster.Model{Name: e.Name, Files: []cluster.File{{Size: e.SizeBytes}}, Profile: placement.Model{Trained: e.TrainedContext}}
	}
	c := shape.CardOf(m)
	return openai.Facts{
		Bytes: c.StorageSize.InBytes, TrainedContext: c.ContextLength, Tensor: c.SupportsTensor, Family: c.Family,
		Quantization: c.Quantization, Base: c.BaseModel, Added: e.Source == library.SourceAdded, Missing: ok && missing && len(e.Paths) == 0,
	}
}

func (t *Texts) model(e library.Entry, loaded map[string]Model) openai.Model {
	m := openai.Model{ID: e.Name, OwnedBy: "skein", Facts: t.facts(e)}
	if !e.Modified.IsZero() {
		m.Created = e.Modified.Unix()
	}
	if s, ok := loaded[e.Name]; ok && s.Ready {
		m.Loaded, m.ContextLength = true, s.Context
	}
	return m
}

// errCancelled ends a request that somebody cancelled by its id.
var errCancelled = &generation.Error{Kind: generation.KindCancelled, Message: "the request was cancelled by its id, at somebody's wish"}

// Generate loads the model if need be and runs a request on it.
func (t *Texts) Generate(ctx context.Context, req generation.Request, emit func(generation.Event) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	at, err := t.places.acquire(ctx, req.Model, request{req.ID, func() { cancel(errCancelled) }})
	if err != nil {
		return err
	}
	defer at.release()
	p, err := t.prepare(ctx, at)
	if err != nil {
		return err
	}
	return t.service.Generate(ctx, at.model, p, req, emit)
}

// prepare compiles the template of a loaded model, once for each load. The
// first request does it; others wait for that.
func (t *Texts) prepare(ctx context.Context, at place) (*generation.Prepared, error) {
	t.mu.Lock()
	p := t.prepared[at.name]
	if p == nil || p.model != at.model {
		p = &preparation{model: at.model, ready: make(chan struct{})}
		t.prepared[at.name] = p
		t.mu.Unlock()
		// Not the client's context: others count on the result.
		p.value, p.err = t.service.Prepare(context.WithoutCancel(ctx), p.model)
		if p.err != nil {
			t.forget(at.name, p)
		}
		close(p.ready)
		return p.value, asError(p.err)
	}
	t.mu.Unlock()
	select {
	case <-p.ready:
		return p.value, asError(p.err)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// forget lets the next request try again.
func (t *Texts) forget(name string, p *preparation) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.prepared[name] == p {
		delete(t.prepared, name)
	}
}

// Warm prepares a model that was loaded at start.
func (t *Texts) Warm(ctx context.Context, name string) error {
	at, err := t.places.acquire(ctx, name, request{})
	if err != nil {
		return err
	}
	defer at.release()
	_, err = t.prepare(ctx, at)
	return err
}

func asError(err error) error {
	var known *generation.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	return &generation.Error{Kind: generation.KindFailed, Message: fmt.Sprintf("the model's chat template cannot be prepared: %v", err), Err: err}
}
