package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/runner/wire"
)

// Heads finds the instances whose head runs on this node.
type Heads interface {
	Head(instance string) (generation.Model, bool)
}

// Handle adds the handlers that answer peers to mux.
func Handle(mux *http.ServeMux, heads Heads) {
	with := func(do func(http.ResponseWriter, *http.Request, generation.Model)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			id := r.PathValue("instance")
			m, ok := heads.Head(id)
			if !ok {
				fail(w, &generation.Error{Kind: generation.KindUnavailable, Message: fmt.Sprintf("instance %s does not run here (any more)", id)})
				return
			}
			do(w, r, m)
		}
	}
	mux.HandleFunc("GET /instances/{instance}/info", with(func(w http.ResponseWriter, _ *http.Request, m generation.Model) {
		answer(w, m.Info(), nil)
	}))
	mux.HandleFunc("POST /instances/{instance}/tokenize", with(func(w http.ResponseWriter, r *http.Request, m generation.Model) {
		var q text
		if !read(w, r, &q) {
			return
		}
		tokens, err := m.Tokenize(r.Context(), q.Text, q.AddSpecial, q.ParseSpecial)
		answer(w, text{Tokens: tokens}, err)
	}))
	mux.HandleFunc("POST /instances/{instance}/detokenize", with(func(w http.ResponseWriter, r *http.Request, m generation.Model) {
		var q text
		if !read(w, r, &q) {
			return
		}
		s, err := m.Detokenize(r.Context(), q.Tokens)
		answer(w, text{Text: s}, err)
	}))
	mux.HandleFunc("POST /instances/{instance}/generate", with(generate))
}

func read(w http.ResponseWriter, r *http.Request, v any) bool {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAnswer)).Decode(v); err != nil {
		fail(w, &generation.Error{Kind: generation.KindInvalid, Message: "the question can't be read: " + err.Error(), Err: err})
		return false
	}
	return true
}

func answer(w http.ResponseWriter, v any, err error) {
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // a caller that is gone needs no answer
}

func fail(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusConflict)
	_ = json.NewEncoder(w).Encode(problemOf(err)) // likewise
}

// generate streams a generation as frames. The request's context ends with
// the caller's connection, and with it the generation.
func generate(w http.ResponseWriter, r *http.Request, m generation.Model) {
	var req wire.GenerateRequest
	if !read(w, r, &req) {
		return
	}
	ctx, meter := r.Context(), generation.NewMeter()
	defer meter.Stop()
	if req.Progress {
		ctx = generation.WithProgress(ctx, meter.Note)
	}
	s, err := m.Generate(ctx, req)
	if err != nil {
		fail(w, err)
		return
	}
	defer s.Close()
	rc := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.WriteHeader(http.StatusOK)
	if rc.Flush() != nil {
		return // the caller is gone
	}
	c := wire.NewConn(nil, w)
	meter.Start(func(p generation.PromptProgress) {
		// A caller that is gone ends the request.
		if c.SendJSON(wire.TypePrompt, req.ID, wire.Prompt(p)) == nil {
			_ = rc.Flush()
		}
	})
	if err := pump(r.Context(), s, c, rc, meter.Stop); err != nil && !errors.Is(err, io.ErrClosedPipe) && r.Context().Err() == nil {
		// The head is gone, or the caller: who is left hears of it.
		if c.SendJSON(wire.TypeFailure, req.ID, problemOf(err)) == nil {
			_ = rc.Flush()
		}
	}
}

// pump sends what comes. begun is called before anything is sent.
func pump(ctx context.Context, s generation.Stream, c *wire.Conn, rc *http.ResponseController, begun func()) error {
	var body []byte
	for {
		tokens, done, err := s.Next(ctx)
		begun()
		if err != nil {
			return err
		}
		if len(tokens) > 0 {
			body = body[:0]
			for i := range tokens {
				body = wire.AppendToken(body, &tokens[i])
			}
			if err := c.Send(wire.TypeStep, tokens[0].ID, body); err != nil {
				return err
			}
		}
		if done != nil {
			if err := c.SendJSON(wire.TypeDone, done.ID, done); err != nil {
				return err
			}
		}
		if err := rc.Flush(); err != nil || done != nil {
			return err
		}
	}
}
