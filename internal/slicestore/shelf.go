package slicestore

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// Stored is a model that lies here.
type Stored struct {
	ID    ID
	Paths []string
	// Modified are the files' times when their digests were taken: a file that
	// was changed since is not what ID says. nil: not compared.
	Modified []time.Time
}

// Shelf serves the files of many models to peers. It is an http.Handler for
// paths that end in /{key}/parts, /{key}/block and /{key}/digest, mounted with the pattern
// Shelf.Pattern.
type Shelf struct {
	// Find gives the model of a key, that of its ID; false: there is none.
	Find func(key string) (Stored, bool)
	// Allow says whether a request may be answered; nil: the server has seen to
	// it.
	Allow func(*http.Request) bool
}

// ShelfPattern is what http.ServeMux mounts a Shelf with.
const ShelfPattern = "GET /models/{key}/{what}"

// ShelfURL is the Holder.URL of a model with this key on a server.
func ShelfURL(server, key string) string { return server + "/models/" + key }

// ServeHTTP answers with the model's ID, or with a piece of it.
func (s *Shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.Allow != nil && !s.Allow(r) {
		http.Error(w, "model files are for members of the cluster", http.StatusForbidden)
		return
	}
	m, ok := s.Find(r.PathValue("key"))
	if !ok {
		http.Error(w, "this node does not have the model", http.StatusNotFound)
		return
	}
	files, err := openStored(m)
	defer func() {
		for _, f := range files {
			_ = f.Close() // only read from: nothing can be lost
		}
	}()
	if err != nil {
		http.Error(w, err.Error(), http.StatusGone)
		return
	}
	switch r.PathValue("what") {
	case "parts":
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(m.ID) // a client that is gone needs no answer
	case "block", "digest":
		readers := make([]io.ReaderAt, len(files))
		for i, f := range files {
			readers[i] = f
		}
		if r.PathValue("what") == "digest" {
			serveDigest(w, r, m.ID, readers)
			return
		}
		serveBlock(w, r, m.ID, readers)
	default:
		http.NotFound(w, r)
	}
}

// openStored opens files that are still what the ID says. The caller closes
// them, also after an error.
func openStored(m Stored) (files []*os.File, err error) {
	if len(m.Paths) != len(m.ID.Parts) {
		return nil, errors.New("the model's files are not known")
	}
	for i, path := range m.Paths {
		f, err := os.Open(path)
		if err != nil {
			return files, errors.New("a file of the model is gone") // its path is this node's business
		}
		files = append(files, f)
		info, err := f.Stat()
		if err != nil || info.Size() != m.ID.Parts[i].Size || m.Modified != nil && !info.ModTime().Equal(m.Modified[i]) {
			return files, fmt.Errorf("file %d of the model was changed", i+1)
		}
	}
	return files, nil
}
