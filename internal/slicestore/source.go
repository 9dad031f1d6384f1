package slicestore

import (
	"bufio"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"io"
	"net/http"

	"github.com/skein-run/skein/internal/slicestore/piece"
)

// digestTrailer follows a body and holds its SHA-256, hex.
const digestTrailer = "Skein-Digest"

// Source serves one model's files to those who know its token. It is an
// http.Handler.
type Source struct {
	id    ID
	files []io.ReaderAt
	token string
}

// NewSource serves files, whose ID is id. Token is what requests must show.
func NewSource(id ID, files []io.ReaderAt, token string) *Source {
	return &Source{id: id, files: files, token: token}
}

// path is the one there is.
const path = "/block"

// ServeHTTP answers GET /block with the bytes of a piece, its runs one after
// the other, and their hash as a trailer.
func (s *Source) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	given := r.Header.Get("Authorization")
	if subtle.ConstantTimeCompare([]byte(given), []byte("Bearer "+s.token)) != 1 {
		http.Error(w, "no valid token", http.StatusUnauthorized)
		return
	}
	if r.Method != http.MethodGet || r.URL.Path != path {
		http.NotFound(w, r)
		return
	}
	serveBlock(w, r, s.id, s.files)
}

// serveBlock answers with the bytes of a piece.
func serveBlock(w http.ResponseWriter, r *http.Request, id ID, files []io.ReaderAt) {
	b, err := piece.ParseBlock(r.URL.Query())
	if err == nil {
		err = b.Inside(id)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Trailer", digestTrailer)
	sum := sha256.New()
	out := bufio.NewWriterSize(io.MultiWriter(w, sum), 256<<10)
	for i := range b.Count {
		if _, err := io.Copy(out, io.NewSectionReader(files[b.Part], b.Offset+i*b.Stride, b.Length)); err != nil {
			panic(http.ErrAbortHandler) // the status is out; a cut body is the only way to say it
		}
	}
	if out.Flush() != nil {
		return // the client is gone
	}
	w.Header().Set(digestTrailer, hex.EncodeToString(sum.Sum(nil)))
}
