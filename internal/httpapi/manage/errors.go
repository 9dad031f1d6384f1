package manage

import (
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/skein-run/skein/api"
	"github.com/skein-run/skein/internal/cluster/command"
	"github.com/skein-run/skein/internal/cluster/placement"
	"github.com/skein-run/skein/internal/cluster/view"
	"github.com/skein-run/skein/internal/httpapi"
)

// errorBody is the type of every answer that is no success, for the document.
var errorBody = reflect.TypeFor[api.ErrorResponse]()

func statusKey(status int) string { return strconv.Itoa(status) }

// failure is an error of a handler in the API's own shape; it passes the
// framework unchanged.
type failure struct{ body *httpapi.Error }

// Error gives the message.
func (f *failure) Error() string { return f.body.Message }

// GetStatus makes it a huma.StatusError.
func (f *failure) GetStatus() int { return f.body.Status }

// NoMaster is the error of a command that nobody can order; why says which
// node or flag would bring a master.
func NoMaster(why string) error {
	e := api.NewError(http.StatusServiceUnavailable, api.CodeNoMaster, "", why)
	e.RetryAfter = 2
	return e
}

// Unwritable is the error of a command that the master can't keep, since the
// disks are full of all who could lead; why says where room is to be made.
func Unwritable(why string) error {
	e := api.NewError(http.StatusServiceUnavailable, api.CodeUnwritable, "", why)
	e.RetryAfter = 5
	return e
}

// Unconfirmed is the error of a command whose outcome is not known.
func Unconfirmed(id string, err error) error {
	e := api.NewError(http.StatusServiceUnavailable, api.CodeUnconfirmed, "",
		fmt.Sprintf("%v; send it again with the header Idempotency-Key: %s, which does nothing twice", err, keyOf(id)))
	e.RetryAfter = 1
	return e
}

// Refused makes an error of a refusal that came over the wire.
func Refused(code, message string) error { return &command.Refusal{Code: code, Message: message} }

// refusals says what a code of package command is in the API: its status, its
// code, and the field at fault, "": the one that the caller names.
var refusals = map[string]struct {
	status      int
	code, param string
}{
	command.Invalid:        {http.StatusUnprocessableEntity, api.CodeInvalidValue, ""},
	command.UnknownModel:   {http.StatusNotFound, api.CodeModelNotFound, ""},
	command.UnknownNode:    {http.StatusNotFound, api.CodeNodeNotFound, ""},
	command.UnknownKey:     {http.StatusNotFound, api.CodeKeyNotFound, ""},
	command.Ambiguous:      {http.StatusConflict, api.CodeAmbiguousModel, ""},
	view.AmbiguousNode:     {http.StatusConflict, api.CodeAmbiguousNode, ""},
	command.AlreadyLoaded:  {http.StatusConflict, api.CodeModelLoaded, ""},
	command.NotLoaded:      {http.StatusNotFound, api.CodeModelNotLoaded, ""},
	command.NotEnoughNodes: {http.StatusConflict, api.CodeNotEnoughNodes, "min_nodes"},
	command.NoFiles:        {http.StatusConflict, api.CodeNotPlaceable, ""},
	command.NoMemory:       {http.StatusInsufficientStorage, api.CodeNoMemory, ""},
	command.Unplaceable:    {http.StatusConflict, api.CodeNotPlaceable, ""},
	command.StalePlan:      {http.StatusConflict, api.CodeConflict, ""},
	command.InUse:          {http.StatusConflict, api.CodeConflict, ""},
	command.Conflict:       {http.StatusConflict, api.CodeConflict, ""},
	command.Stale:          {http.StatusConflict, api.CodeConflict, ""},
	command.Dropped:        {http.StatusConflict, api.CodeConflict, ""},
}

// Explain turns an error of Commands, or of a view, into an answer. param is the
// field that an error about a name is about.
func Explain(err error, param string) *httpapi.Error {
	var f *failure
	if !errors.As(fail(err, param), &f) {
		return httpapi.ErrorOf(err)
	}
	return f.body
}

// fail turns an error of an interface into an answer. param is the field that
// an error about a name is about.
func fail(err error, param string) error {
	var (
		refused  *api.Error
		refusal  *command.Refusal
		noMemory *placement.NoMemoryError
		tooFew   *placement.NotEnoughNodesError
		node     *placement.NodeError
		uncut    *placement.RefusedError
		invalid  *placement.InvalidError
	)
	out := &httpapi.Error{Message: err.Error(), Type: httpapi.TypeInvalidRequest, NoRetry: true}
	switch {
	case errors.As(err, &refused):
		out = &httpapi.Error{
			Status: refused.Status, Message: refused.Message, Type: refused.Type,
			Code: refused.ErrorCode(), RetryAfter: refused.RetryAfter,
		}
		if refused.Param != nil {
			out.Param = *refused.Param
		}
	case errors.As(err, &refusal):
		known, ok := refusals[refusal.Code]
		if !ok {
			known = refusals[command.Conflict]
		}
		out.Message, out.Status, out.Code, out.Param = refusal.Message, known.status, known.code, known.param
		if out.Param == "" && known.status != http.StatusInsufficientStorage {
			out.Param = param
		}
		// Another try may find the cluster as it was planned.
		out.NoRetry = refusal.Code != command.StalePlan
	case errors.As(err, &noMemory): // also of a model that can't be split
		out.Status, out.Code = http.StatusInsufficientStorage, api.CodeNoMemory
	case errors.As(err, &uncut):
		out.Status, out.Code, out.Param = http.StatusConflict, api.CodeNotPlaceable, "preferred_sharding"
	case errors.As(err, &tooFew):
		out.Status, out.Code, out.Param = http.StatusConflict, api.CodeNotEnoughNodes, "min_nodes"
	case errors.As(err, &node):
		out.Status, out.Code, out.Param = http.StatusConflict, api.CodeNotPlaceable, "node_ids"
	case errors.As(err, &invalid):
		out.Status, out.Code = http.StatusUnprocessableEntity, api.CodeInvalidValue
	default:
		return &failure{httpapi.ErrorOf(err)}
	}
	if out.Status >= http.StatusInternalServerError {
		out.Type = httpapi.TypeServer
	}
	return &failure{out}
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
	if e.NoRetry {
		ctx.SetHeader("X-Should-Retry", "false")
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
		// What is missing has no place; the finding names it.
		if name, ok := strings.CutPrefix(d.Message, "expected required property "); ok && where == "" {
			e.Param, _, _ = strings.Cut(name, " ")
		}
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
