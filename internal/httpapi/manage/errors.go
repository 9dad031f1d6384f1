package manage

import (
	"errors"
	"net/http"
	"reflect"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/httpapi"
)

// errorBody is the type of every answer that is no success, for the document.
var errorBody = reflect.TypeFor[api.ErrorResponse]()

// failure is an error of a handler in the API's own shape; it passes the
// framework unchanged.
type failure struct{ body *httpapi.Error }

// Error gives the message.
func (f *failure) Error() string { return f.body.Message }

// GetStatus makes it a huma.StatusError.
func (f *failure) GetStatus() int { return f.body.Status }

// fail turns an error of an interface into an answer.
func fail(err error) error {
	var refused *api.Error
	if !errors.As(err, &refused) {
		return &failure{httpapi.ErrorOf(err)}
	}
	e := &httpapi.Error{
		Status: refused.Status, Message: refused.Message, Type: refused.Type,
		Code: refused.ErrorCode(), RetryAfter: refused.RetryAfter,
	}
	if refused.Param != nil {
		e.Param = *refused.Param
	}
	return &failure{e}
}

// reshapeError gives the framework's own errors (a body that is no JSON, a
// value outside its range) the shape of all others, and writes the headers
// that belong to an error.
func reshapeError(ctx huma.Context, _ string, v any) (any, error) {
	var e *httpapi.Error
	switch err := v.(type) {
	case *failure:
		e = err.body
	case *huma.ErrorModel:
		e = describe(err)
	default:
		return v, nil
	}
	ctx.SetHeader("Content-Type", "application/json")
	ctx.SetHeader("Cache-Control", "no-store")
	if e.RetryAfter > 0 {
		ctx.SetHeader("Retry-After", strconv.Itoa(e.RetryAfter))
	}
	return e, nil
}

// describe makes one sentence of the framework's findings.
func describe(m *huma.ErrorModel) *httpapi.Error {
	e := &httpapi.Error{Status: m.Status, Type: httpapi.TypeInvalidRequest, Code: api.CodeInvalidBody, Message: m.Detail}
	if m.Status >= http.StatusInternalServerError {
		e.Type, e.Code = httpapi.TypeServer, api.CodeInternal
	}
	var findings []string
	for _, d := range m.Errors {
		where := fieldOf(d.Location)
		if e.Param == "" {
			e.Param = where
		}
		if where != "" {
			findings = append(findings, where+": "+d.Message)
		} else {
			findings = append(findings, d.Message)
		}
	}
	if m.Status == http.StatusUnprocessableEntity {
		e.Code = api.CodeInvalidValue
	}
	if len(findings) > 0 {
		e.Message += ": " + strings.Join(findings, "; ")
	}
	return e
}

// fieldOf is a location without the part of the request it is in:
// "body.paths[0]" is the field "paths[0]".
func fieldOf(location string) string {
	for _, part := range []string{"body", "query", "path", "header"} {
		if location == part {
			return ""
		}
		if field, ok := strings.CutPrefix(location, part+"."); ok {
			return field
		}
	}
	return location
}
