package api

// Error is the error object of every API that skein speaks, in OpenAI's shape.
type Error struct {
	Message string  `json:"message" doc:"What went wrong and how to fix it, for a person"`
	Type    string  `json:"type" doc:"Class of the error, as OpenAI names them" example:"invalid_request_error"`
	Param   *string `json:"param" doc:"Request field at fault, null when none is" nullable:"true"`
	Code    *string `json:"code" doc:"Stable code for programs, null when there is none" nullable:"true" example:"model_not_found"`

	// Status is the HTTP status the error travels with; it is not in the body.
	Status int `json:"-"`
	// RetryAfter in seconds is sent as a header; 0: none.
	RetryAfter int `json:"-"`
}

// Error gives the message, so that an *Error is a Go error.
func (e *Error) Error() string { return e.Message }

// ErrorCode gives the code, "" when there is none.
func (e *Error) ErrorCode() string {
	if e.Code == nil {
		return ""
	}
	return *e.Code
}

// ErrorResponse is the body of every answer that is not a success.
type ErrorResponse struct {
	Error Error `json:"error"`
}

// Types of errors.
const (
	TypeInvalidRequest = "invalid_request_error"
	TypeAuthentication = "authentication_error"
	TypeRateLimit      = "rate_limit_error"
	TypeServer         = "server_error"
)

// Codes of errors that programs branch on. Status codes in brackets.
const (
	CodeInvalidBody       = "invalid_body"         // 400: no JSON, or a field of the wrong type
	CodeInvalidValue      = "invalid_value"        // 400 or 422: a field outside its range
	CodeModelNotFound     = "model_not_found"      // 404: message lists what there is
	CodeAmbiguousModel    = "ambiguous_model"      // 409: message lists the candidates
	CodeModelLoaded       = "model_already_loaded" // 409
	CodeModelNotLoaded    = "model_not_loaded"     // 404: message lists what is loaded
	CodeNodeNotFound      = "node_not_found"       // 404: message lists the nodes there are
	CodeAmbiguousNode     = "ambiguous_node"       // 409: message lists the candidates
	CodeNotEnoughNodes    = "not_enough_nodes"     // 409: more min_nodes than there are workers
	CodeNotPlaceable      = "not_placeable"        // 409: memory would do, but the model or a node can't take it so
	CodeKeyReused         = "key_reused"           // 422: the Idempotency-Key was sent before with another request
	CodeConflict          = "conflict"             // 409: the cluster changed meanwhile, or it is so already
	CodeModelNotRemovable = "model_not_removable"  // 409: bundled, or in a models folder
	CodeFileNotFound      = "file_not_found"       // 400: a path that the node cannot read
	CodeInvalidModelFile  = "invalid_model_file"   // 400: not a GGUF that skein can use
	CodeNoMemory          = "insufficient_memory"  // 507
	CodeDiskFull          = "disk_full"            // 507
	CodeUnavailable       = "unavailable"          // 503
	CodeNoMaster          = "no_master"            // 503: message says which node or flag would bring one
	CodeUnwritable        = "unwritable"           // 503: no node that may lead can write the log; message says where room is to be made
	CodeUnconfirmed       = "unconfirmed"          // 503: not known whether it was done; send it again with the same Idempotency-Key
	CodeNotImplemented    = "not_implemented"      // 501: this node can't do that yet
	CodeInvalidAPIKey     = "invalid_api_key"      // 401
	CodeInsufficientRole  = "insufficient_role"    // 403: message names the role that it takes
	CodeKeyNotFound       = "key_not_found"        // 404: message lists the keys there are
	CodeRateLimit         = "rate_limit_exceeded"  // 429: param names the limit
	CodeInternal          = "internal_error"       // 500
)

// NewError makes an error; empty code and param become null.
func NewError(status int, code, param, message string) *Error {
	e := &Error{Status: status, Message: message, Type: TypeInvalidRequest}
	switch {
	case status == 401 || status == 403:
		e.Type = TypeAuthentication
	case status == 429:
		e.Type = TypeRateLimit
	case status >= 500:
		e.Type = TypeServer
	}
	if code != "" {
		e.Code = &code
	}
	if param != "" {
		e.Param = &param
	}
	return e
}
