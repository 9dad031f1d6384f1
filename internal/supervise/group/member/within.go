package member

import (
	"context"
	"errors"

	"github.com/skein-run/skein/internal/generation"
)

// Within gives a context that ends with ctx or with life, that of a connection
// whose cause of death is a *generation.Error; told must be called with the
// outcome, and puts that cause in the place of the error that its end makes.
func Within(ctx, life context.Context) (both context.Context, told func(error) error) {
	both, cancel := context.WithCancelCause(ctx)
	release := context.AfterFunc(life, func() { cancel(context.Cause(life)) })
	return both, func(err error) error {
		release()
		cancel(nil)
		var lost *generation.Error
		if err != nil && ctx.Err() == nil && errors.As(context.Cause(life), &lost) {
			return lost
		}
		return err
	}
}
