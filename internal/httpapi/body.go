package httpapi

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// bodyTimeout is how long a client may take to send its body.
const bodyTimeout = 2 * time.Minute

// ReadBody reads the whole body of a request, at most as many bytes as the
// server allows. Its errors are *Error.
func ReadBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	control := http.NewResponseController(w)
	// A writer without deadlines (a test's recorder) has no slow client either.
	if err := control.SetReadDeadline(time.Now().Add(bodyTimeout)); err == nil {
		defer func() { _ = control.SetReadDeadline(time.Time{}) }()
	}
	var body bytes.Buffer
	// The length is the client's word: believe it only as far as it costs nothing.
	if r.ContentLength > 0 {
		body.Grow(int(min(r.ContentLength, 64<<10)) + bytes.MinRead)
	}
	if _, err := body.ReadFrom(r.Body); err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return nil, bodyTooLarge(tooLarge.Limit)
		}
		return nil, Invalid("", "invalid_body", "the request body could not be read to its end: %v", err)
	}
	return body.Bytes(), nil
}

func bodyTooLarge(limit int64) *Error {
	return &Error{
		Status: http.StatusRequestEntityTooLarge, Type: TypeInvalidRequest, Code: "request_too_large",
		Message: fmt.Sprintf("the request body is larger than the %d bytes (%.1f MB) that this node reads: send less text", limit, float64(limit)/(1<<20)),
	}
}
