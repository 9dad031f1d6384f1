package errands

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/library"
)

// Lists of models that somebody registered are each node's own. These errands
// read and change them for a client of any node.

const (
	pathAdded  = "/library/added"
	pathUnlist = "/library/unlist"
)

// lists adds the handlers that answer peers.
func (e *Errands) lists(mux *http.ServeMux) {
	handle := func(path string, do func(*http.Request) (any, error)) {
		mux.HandleFunc("POST "+path, members(func(w http.ResponseWriter, r *http.Request) {
			v, err := do(r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(v) // a peer that is gone needs no answer
		}))
	}
	handle(pathAdded, func(*http.Request) (any, error) { return e.added() })
	handle(pathUnlist, func(r *http.Request) (any, error) { return e.unlist(r.URL.Query().Get("model")) })
}

// added lists the models that somebody registered here.
func (e *Errands) added() ([]string, error) {
	entries, err := e.o.Library.List()
	if err != nil && len(entries) == 0 {
		return nil, err // one unreadable folder does not hide the rest
	}
	out := []string{}
	for _, x := range entries {
		if x.Source == library.SourceAdded && !slices.Contains(out, x.Name) {
			out = append(out, x.Name)
		}
	}
	return out, nil
}

// unlist takes a model off this node's list, and tells whether it was there.
func (e *Errands) unlist(model string) (bool, error) {
	entries, err := e.o.Library.List()
	if err != nil && len(entries) == 0 {
		return false, err
	}
	done := false
	for _, x := range entries {
		if x.Source != library.SourceAdded || x.Name != model || len(x.Paths) == 0 {
			continue
		}
		if _, err := e.o.Library.Remove(x.Paths[0]); err != nil {
			return done, err
		}
		done = true
	}
	if done {
		e.o.Rescan()
	}
	return done, nil
}

// Added lists the models that somebody registered, with the nodes where.
// silent counts the nodes that did not answer.
func (e *Errands) Added(ctx context.Context) (on map[string][]ids.Node, silent int) {
	on = map[string][]ids.Node{}
	silent, err := e.each(ctx, pathAdded, func() (any, error) { return e.added() }, func(node ids.Node, body []byte) error {
		var names []string
		if err := json.Unmarshal(body, &names); err != nil {
			return err
		}
		for _, n := range names {
			on[n] = append(on[n], node)
		}
		return nil
	})
	if err != nil {
		e.o.Log.Warn("this node's list of models can't be read", "error", err)
	}
	for _, nodes := range on {
		slices.Sort(nodes)
	}
	return on, silent
}

// Unlist takes a model off the lists of all nodes where somebody registered it,
// and gives these.
func (e *Errands) Unlist(ctx context.Context, model string) (from []ids.Node, silent int, err error) {
	silent, err = e.each(ctx, pathUnlist+"?model="+url.QueryEscape(model), func() (any, error) { return e.unlist(model) }, func(node ids.Node, body []byte) error {
		var done bool
		if err := json.Unmarshal(body, &done); err != nil {
			return err
		}
		if done {
			from = append(from, node)
		}
		return nil
	})
	slices.Sort(from)
	return from, silent, err
}

// each asks this node and all others. take gets their answers in JSON, one at a
// time. The error is of this node; others' count as silence.
func (e *Errands) each(ctx context.Context, path string, here func() (any, error), take func(ids.Node, []byte) error) (silent int, err error) {
	v, err := here()
	if err == nil {
		var b []byte
		if b, err = json.Marshal(v); err == nil {
			err = take(e.o.Self, b)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, errandLimit)
	defer cancel()
	var mu sync.Mutex // guards silent, and what take changes
	var group errgroup.Group
	group.SetLimit(errandsAtOnce)
	for _, p := range e.o.Peers() {
		group.Go(func() error {
			status, body, err := e.errand(ctx, p, path)
			mu.Lock()
			defer mu.Unlock()
			if err == nil && status != http.StatusOK {
				err = fmt.Errorf("status %d: %.200s", status, body)
			}
			if err == nil {
				err = take(p, body)
			}
			if err != nil {
				e.o.Log.Debug("a node does not tell of its list of models", "node", p, "error", err)
				silent++
			}
			return nil
		})
	}
	_ = group.Wait() // no errors, above
	return silent, err
}
