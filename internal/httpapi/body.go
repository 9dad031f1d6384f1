package httpapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
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

// What is read of a body that is refused: enough for every honest mistake.
const (
	swallowBytes = 256 << 20
	swallowTime  = 10 * time.Second
)

// refuseBody answers a request whose body is too large, and reads on for a
// while: a connection that is closed with unread bytes is reset, and most
// clients, who read after they have written, would never see the answer.
func refuseBody(w http.ResponseWriter, r *http.Request, e *Error) {
	control := http.NewResponseController(w)
	// Who waits for leave to send does not get it, and sends nothing.
	reads := r.Header.Get("Expect") == "" && control.EnableFullDuplex() == nil &&
		control.SetReadDeadline(time.Now().Add(swallowTime)) == nil
	WriteError(w, e)
	if reads && control.Flush() == nil {
		_, _ = io.CopyN(io.Discard, r.Body, swallowBytes) // the answer is out, whatever comes
	}
}

func bodyTooLarge(limit int64) *Error {
	return &Error{
		Status: http.StatusRequestEntityTooLarge, Type: TypeInvalidRequest, Code: "request_too_large",
		Message: fmt.Sprintf("the request body is larger than the %d bytes (%.1f MB) that this node reads: send less text", limit, float64(limit)/(1<<20)),
	}
}
