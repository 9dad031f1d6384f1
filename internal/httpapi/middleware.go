package httpapi

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"
)

// middleware wraps the routes in what every request gets, outermost first:
// request id, access log, panic recovery, guard, body limit.
func (s *Server) middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.running.Add(1)
		defer s.running.Add(-1)
		start := time.Now()
		id := requestID(r)
		w.Header().Set("X-Request-Id", id)
		// Answers are what they say they are, and in no page's frame.
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("X-Frame-Options", "DENY")
		rec := &recorder{ResponseWriter: w}
		defer func() {
			if p := recover(); p != nil {
				s.recovered(rec, r, id, p)
			}
			s.options.Log.Debug("request", "id", id, "method", r.Method, "path", clip(r.URL.Path, 200),
				"status", rec.status, "bytes", rec.bytes, "duration", time.Since(start),
				"remote", r.RemoteAddr, "gone", errors.Is(r.Context().Err(), context.Canceled))
		}()
		known, leave := s.guard.check(rec, r)
		if known == nil {
			return
		}
		defer leave()
		r = known
		if r.ContentLength > s.options.MaxBody {
			refuseBody(rec, r, bodyTooLarge(s.options.MaxBody))
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, s.options.MaxBody)
		next.ServeHTTP(rec, r)
	})
}

// recovered answers a request whose handler panicked: 500 when nothing was
// sent yet; otherwise the connection is broken off, so that the client sees
// that the answer is not whole.
func (s *Server) recovered(rec *recorder, r *http.Request, id string, p any) {
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(p) // net/http's own way to drop a connection
	}
	s.options.Log.Error("a request handler panicked; please report this", "id", id, "method", r.Method,
		"path", clip(r.URL.Path, 200), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	if rec.status != 0 {
		panic(http.ErrAbortHandler)
	}
	WriteError(rec, &Error{
		Status: http.StatusInternalServerError, Type: TypeServer, Code: "internal_error",
		Message: "internal error; the node's log has it under request id " + id,
	})
}

// requestID takes over a client's id when it is short and plain, so that its
// log and ours can be put side by side.
func requestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	if id == "" || len(id) > 128 {
		return "req_" + rand.Text()
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return "req_" + rand.Text()
		}
	}
	return id
}

// recorder notes what was answered. It belongs to the request's goroutines,
// which write one at a time.
type recorder struct {
	http.ResponseWriter
	status int   // 0: nothing sent yet
	bytes  int64 // of the body
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= 200 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(b)
	r.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
