package httpapi

import (
	"encoding/json"
	"net/http"

	"github.com/skein-run/skein/internal/httpapi/access"
)

// Refused is told that a command of c was answered with an error: what is its
// method and route. It must not wait. *access.Refusals has one.
type Refused func(c Caller, what string, status int, code, reason string)

// watch gives a writer that sees how a request is answered, if that is worth
// telling; done tells it.
func (m *routes) watch(w http.ResponseWriter, r *http.Request, path string) (_ http.ResponseWriter, done func()) {
	caller, ok := access.Of(r.Context())
	asks := r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions
	if m.refused == nil || !ok || asks {
		return w, func() {}
	}
	o := &outcome{ResponseWriter: w}
	return o, func() {
		var e struct {
			Error struct {
				Message string `json:"message"`
				Code    string `json:"code"`
			} `json:"error"`
		}
		if o.status < http.StatusBadRequest || o.status == StatusCancelled {
			return
		}
		if err := json.Unmarshal(o.body, &e); err != nil {
			e.Error.Message = http.StatusText(o.status) // cut off, or none of ours
		}
		// A request for text that is refused is no command, unless the key may
		// not ask for any.
		if access.Command(r.Method, path) || e.Error.Code == codeInsufficientRole {
			m.refused(caller, r.Method+" "+path, o.status, e.Error.Code, e.Error.Message)
		}
	}
}

// maxErrorBody is how much of an error is looked at: more than one has.
const maxErrorBody = 64 << 10

// outcome sees the status of an answer, and the text of an error. It belongs to
// the request's goroutines, which write one at a time.
type outcome struct {
	http.ResponseWriter
	status int
	body   []byte
}

func (o *outcome) WriteHeader(status int) {
	if o.status == 0 && status >= 200 {
		o.status = status
	}
	o.ResponseWriter.WriteHeader(status)
}

func (o *outcome) Write(b []byte) (int, error) {
	if o.status == 0 {
		o.status = http.StatusOK
	}
	if o.status >= http.StatusBadRequest && len(o.body)+len(b) <= maxErrorBody {
		o.body = append(o.body, b...)
	}
	return o.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (o *outcome) Unwrap() http.ResponseWriter { return o.ResponseWriter }
