// Package errands is what a node does for a client of another one, and what is no
// command of the cluster: open requests, fetched files and lists of models
// belong to the node that has them, so others ask it. It keeps the list of its
// own clients' open requests.
//
// It is a part of the composition root, imported by package control and node
// alone, and calls peers by the mesh's HTTP client. All of it may be used from any
// goroutine.
package errands

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/ids"
	"github.com/skein-run/skein/internal/library"
	"github.com/skein-run/skein/internal/mesh"
)

// Files are what can be done about this node's model files.
type Files interface {
	Take(model string) error // begin to fetch it
	Pause(model string) bool // false: it is not being fetched
	Discard(model string) error
}

// Options make Errands.
type Options struct {
	Self    ids.Node
	HTTP    *http.Client      // calls peers; hosts are node ids
	Peers   func() []ids.Node // that are alive
	Tasks   *Tasks
	Library *library.Library
	Files   func() Files // once the node has started
	Rescan  func()       // has the library read again
	Log     *slog.Logger
}

// Errands are those of a node.
type Errands struct{ o Options }

// New makes them; nobody is asked yet.
func New(o Options) (*Errands, error) {
	if o.Self == "" || o.HTTP == nil || o.Peers == nil || o.Tasks == nil || o.Files == nil || o.Rescan == nil || o.Log == nil {
		return nil, errors.New("errands: an option is missing")
	}
	return &Errands{o}, nil
}

const (
	pathRequests  = "/requests/"
	verbCancel    = "/cancel"     // anybody's request
	verbCancelOwn = "/cancel-own" // + "?owner="; a verb of its own, so that a node that knows no owners ends nothing
	pathDownload  = "/downloads/"
	errandLimit   = 5 * time.Second
	errandsAtOnce = 32
)

// Handle adds the handlers that answer peers.
func (e *Errands) Handle(mux *http.ServeMux) {
	e.lists(mux)
	cancel := func(by func(*http.Request) Canceller) http.HandlerFunc {
		return members(func(w http.ResponseWriter, r *http.Request) {
			if e.o.Tasks.Cancel(r.PathValue("id"), by(r)) {
				w.WriteHeader(http.StatusNoContent)
				return
			}
			http.Error(w, "no such request", http.StatusNotFound)
		})
	}
	mux.HandleFunc("POST "+pathRequests+"{id}"+verbCancel, cancel(func(*http.Request) Canceller { return Canceller{Any: true} }))
	mux.HandleFunc("POST "+pathRequests+"{id}"+verbCancelOwn, cancel(func(r *http.Request) Canceller { return Canceller{Owner: r.URL.Query().Get("owner")} }))
	mux.HandleFunc("POST "+pathDownload+"{verb}", members(func(w http.ResponseWriter, r *http.Request) {
		err := e.download(Download(r.PathValue("verb")), r.URL.Query().Get("model"))
		var no *command.Refusal
		switch {
		case err == nil:
			w.WriteHeader(http.StatusNoContent)
		case errors.As(err, &no):
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusConflict)
			_ = json.NewEncoder(w).Encode(no) // a peer that is gone needs no answer
		default:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}))
}

// members lets peers in only: the handlers lie on a server that others reach too.
func members(serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if mesh.Caller(r) == "" {
			http.Error(w, "for members of the cluster", http.StatusForbidden)
			return
		}
		serve(w, r)
	}
}

// Cancel ends an open request of a client of any node, if by may end it;
// somebody else's is as if it were not there. silent counts the nodes that did
// not answer.
func (e *Errands) Cancel(ctx context.Context, id string, by Canceller) (found bool, silent int) {
	if e.o.Tasks.Cancel(id, by) {
		return true, 0
	}
	path := pathRequests + url.PathEscape(id)
	if by.Any {
		path += verbCancel
	} else {
		path += verbCancelOwn + "?owner=" + url.QueryEscape(by.Owner)
	}
	ctx, cancel := context.WithTimeout(ctx, errandLimit)
	defer cancel()
	var hit atomic.Bool
	var mu sync.Mutex // guards silent
	var group errgroup.Group
	group.SetLimit(errandsAtOnce)
	for _, p := range e.o.Peers() {
		group.Go(func() error {
			status, _, err := e.errand(ctx, p, path)
			switch {
			case hit.Load():
			case err != nil || status != http.StatusNoContent && status != http.StatusNotFound:
				e.o.Log.Debug("a node does not say whether it has a request", "node", p, "status", status, "error", err)
				mu.Lock()
				silent++
				mu.Unlock()
			case status == http.StatusNoContent:
				hit.Store(true)
				cancel() // the others need not be waited for
			}
			return nil
		})
	}
	_ = group.Wait() // no errors, above
	return hit.Load(), silent
}

// Download is what is to be done about a model's files on a node.
type Download string

// What can be done.
const (
	Fetch   Download = "fetch"   // begin to bring the whole model there
	Pause   Download = "pause"   // end that; what has arrived stays
	Discard Download = "discard" // delete what was fetched
)

// Download has a node do something about a model's files. Errors are
// *command.Refusal, or of asking the node.
func (e *Errands) Download(ctx context.Context, node ids.Node, do Download, model string) error {
	if node == e.o.Self {
		return e.download(do, model)
	}
	ctx, cancel := context.WithTimeout(ctx, errandLimit)
	defer cancel()
	status, body, err := e.errand(ctx, node, pathDownload+string(do)+"?model="+url.QueryEscape(model))
	if err != nil {
		return fmt.Errorf("ask node %s to %s %s: %w", node, do, model, err)
	}
	var no command.Refusal
	switch {
	case status == http.StatusNoContent:
		return nil
	case status == http.StatusConflict && json.Unmarshal(body, &no) == nil && no.Code != "":
		return &no
	}
	return fmt.Errorf("ask node %s to %s %s: status %d: %.200s", node, do, model, status, body)
}

// download does it here.
func (e *Errands) download(do Download, model string) error {
	switch do {
	case Fetch:
		return e.o.Files().Take(model)
	case Pause:
		if !e.o.Files().Pause(model) {
			return &command.Refusal{Code: command.NotLoaded, Message: fmt.Sprintf("node %s is not downloading %s at a client's wish", e.o.Self, model)}
		}
		return nil
	case Discard:
		return e.o.Files().Discard(model)
	}
	return &command.Refusal{Code: command.Invalid, Message: fmt.Sprintf("%q is nothing that can be done about a download", do)}
}

// errand asks a peer.
func (e *Errands) errand(ctx context.Context, node ids.Node, path string) (status int, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+string(node)+path, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := e.o.HTTP.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	return resp.StatusCode, body, err
}
