package generation

import (
	"context"
	"errors"
	"fmt"

	"github.com/skein-run/skein/internal/runner/wire"
)

// busyRetry is the Retry-After of a full queue, in seconds: a slot is free
// again after one answer, of which nobody knows the length.
const busyRetry = 1

// exceeded says that a prompt does not fit; qualifier goes before its length.
func exceeded(prompt, limit int, qualifier string) *Error {
	return &Error{
		Kind: KindContextExceeded, Param: "messages", PromptTokens: prompt, Context: limit,
		Message: fmt.Sprintf("the prompt has %s%d tokens, but the context holds %d and the answer needs at least one; shorten the prompt or load the model with a larger context", qualifier, prompt, limit),
	}
}

// settle makes any error fit for a client: an *Error stays, and so does what
// emit or ctx say.
func settle(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	var told *emitError
	if errors.As(err, &told) {
		return told.err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	var failure *wire.Failure
	if errors.As(err, &failure) {
		return byCode(failure.Code, failure.Message, 0, 0)
	}
	return &Error{Kind: KindFailed, Message: fmt.Sprintf("the model's runner failed: %v; send the request again", err), Err: err}
}

// KindOfCode sorts a runner's refusal by its code.
func KindOfCode(code string) Kind {
	switch code {
	case wire.CodeInvalid:
		return KindInvalid
	case wire.CodeBusy:
		return KindBusy
	case wire.CodeContextExceeded:
		return KindContextExceeded
	case wire.CodeMemory:
		return KindNoMemory
	}
	return KindFailed
}

// byCode turns a runner's error code into an Error.
func byCode(code, message string, prompt, limit int) *Error {
	switch kind := KindOfCode(code); kind {
	case KindBusy:
		return &Error{Kind: kind, RetryAfter: busyRetry, Message: "all slots of the model are taken and its queue is full; try again in a moment"}
	case KindContextExceeded:
		e := exceeded(prompt, limit, "")
		e.Err = errors.New(message)
		return e
	case KindFailed:
		return &Error{Kind: kind, Message: "the generation failed: " + message}
	default:
		return &Error{Kind: kind, Message: message}
	}
}

// emitError marks what emit returned, so that it is given back as it is.
type emitError struct{ err error }

func (e *emitError) Error() string { return e.err.Error() }
func (e *emitError) Unwrap() error { return e.err }
