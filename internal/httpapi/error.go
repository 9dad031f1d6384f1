package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/skein-run/skein/internal/generation"
	"github.com/skein-run/skein/internal/httpapi/access"
)

// Types of errors, as OpenAI names them.
const (
	TypeInvalidRequest = "invalid_request_error"
	TypeAuthentication = "authentication_error"
	TypePermission     = "permission_error"
	TypeRateLimit      = "rate_limit_error"
	TypeServer         = "server_error"
)

// StatusCancelled is the status of a request that was ended at somebody else's
// wish. net/http has no name for it; nginx made it known.
const StatusCancelled = 499

// Error is an answer other than success, in OpenAI's shape:
// {"error":{"message","type","param","code"}}; an empty Param or Code is null.
type Error struct {
	Status     int // HTTP status
	Message    string
	Type       string
	Param      string
	Code       string
	RetryAfter int  // seconds; 0: no such header
	NoRetry    bool // the same request will fail again: clients must not repeat it by themselves
}

func (e *Error) Error() string { return e.Message }

// Invalid is a 400 about one field of the request.
func Invalid(param, code, format string, args ...any) *Error {
	return &Error{
		Status: http.StatusBadRequest, Type: TypeInvalidRequest,
		Param: param, Code: code, Message: fmt.Sprintf(format, args...),
	}
}

// MarshalJSON writes the whole body, the "error" member included.
func (e *Error) MarshalJSON() ([]byte, error) {
	type detail struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    *string `json:"code"`
	}
	body := struct {
		Error detail `json:"error"`
	}{detail{Message: e.Message, Type: e.Type}}
	if e.Param != "" {
		body.Error.Param = &e.Param
	}
	if e.Code != "" {
		body.Error.Code = &e.Code
	}
	return json.Marshal(body)
}

// WriteError answers with an error. The response must not have begun.
func WriteError(w http.ResponseWriter, err error) {
	e := ErrorOf(err)
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(e.RetryAfter))
	}
	if e.NoRetry {
		// The OpenAI and Anthropic clients repeat 409 and 5xx unless told so.
		h.Set("X-Should-Retry", "false")
	}
	w.WriteHeader(e.Status)
	// A client that hung up needs no answer.
	_, _ = w.Write(append(appendJSON(nil, e), '\n'))
}

// ErrorOf turns any error into one that a client can be told. Errors that are
// neither an *Error nor a *generation.Error become a 500 without their text,
// which may name things that are not the client's business: log them.
func ErrorOf(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	var g *generation.Error
	if errors.As(err, &g) {
		return fromGeneration(g)
	}
	var tooLarge *http.MaxBytesError
	var limited *access.Limited
	switch {
	case errors.As(err, &limited):
		return &Error{
			Status: http.StatusTooManyRequests, Type: TypeRateLimit, Code: "rate_limit_exceeded", Param: limited.Limit,
			Message: limited.Message, RetryAfter: limited.RetryAfter,
		}
	case errors.As(err, &tooLarge):
		return bodyTooLarge(tooLarge.Limit)
	case errors.Is(err, ErrStopping):
		return &Error{
			Status: http.StatusServiceUnavailable, Type: TypeServer, Code: "service_unavailable",
			Message: "the node is stopping: send the request again when it is back", RetryAfter: 5,
		}
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{
			Status: http.StatusGatewayTimeout, Type: TypeServer, Code: "timeout",
			Message: "the request took too long and was given up",
		}
	}
	return &Error{
		Status: http.StatusInternalServerError, Type: TypeServer, Code: "internal_error",
		Message: "internal error; the node's log says more",
	}
}

func fromGeneration(g *generation.Error) *Error {
	e := &Error{Message: g.Message, Param: g.Param, RetryAfter: g.RetryAfter}
	switch g.Kind {
	case generation.KindInvalid:
		e.Status, e.Type, e.Code = http.StatusBadRequest, TypeInvalidRequest, "invalid_value"
	case generation.KindUnsupported:
		e.Status, e.Type, e.Code = http.StatusBadRequest, TypeInvalidRequest, "unsupported_parameter"
	case generation.KindContextExceeded:
		e.Status, e.Type, e.Code = http.StatusBadRequest, TypeInvalidRequest, "context_length_exceeded"
		if e.Message == "" {
			e.Message = fmt.Sprintf("the prompt has %d tokens, the model's context is %d: shorten the prompt or give the model a longer context",
				g.PromptTokens, g.Context)
		}
	case generation.KindModelNotFound:
		e.Status, e.Type, e.Code = http.StatusNotFound, TypeInvalidRequest, "model_not_found"
		if e.Param == "" {
			e.Param = "model"
		}
	case generation.KindAmbiguousModel:
		e.Status, e.Type, e.Code, e.NoRetry = http.StatusConflict, TypeInvalidRequest, "ambiguous_model", true
		if e.Param == "" {
			e.Param = "model"
		}
	case generation.KindBusy:
		e.Status, e.Type, e.Code = http.StatusTooManyRequests, TypeRateLimit, "rate_limit_exceeded"
		e.RetryAfter = max(e.RetryAfter, 1)
	case generation.KindNoMemory:
		e.Status, e.Type, e.Code, e.NoRetry = http.StatusInsufficientStorage, TypeServer, "insufficient_memory", true
	case generation.KindUnavailable:
		e.Status, e.Type, e.Code = http.StatusServiceUnavailable, TypeServer, "service_unavailable"
		e.RetryAfter = max(e.RetryAfter, 1)
	case generation.KindCancelled:
		e.Status, e.Type, e.Code, e.NoRetry = StatusCancelled, TypeInvalidRequest, "cancelled", true
	case generation.KindFailed:
		e.Status, e.Type, e.Code = http.StatusInternalServerError, TypeServer, "generation_failed"
	default:
		e.Status, e.Type, e.Code = http.StatusInternalServerError, TypeServer, "internal_error"
	}
	return e
}

// appendJSON appends the encoding of a value that always has one.
func appendJSON(b []byte, v any) []byte {
	encoded, err := json.Marshal(v)
	if err != nil {
		// Only strings and numbers are given: this is a mistake in this package.
		panic(fmt.Sprintf("httpapi: encode %T: %v", v, err))
	}
	return append(b, encoded...)
}
