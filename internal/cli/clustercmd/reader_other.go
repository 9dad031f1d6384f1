//go:build !unix

package clustercmd

import "context"

// whileRead watches nothing: a write tells when the reader is gone.
func whileRead(ctx context.Context, _ any) (_ context.Context, stop func()) { return ctx, func() {} }
