package slicestore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
)

// Hash gives the SHA-256 of all that r has, hex. A large file takes minutes, so
// ctx ends it, and progress is told how many bytes were read, a piece at a time.
func Hash(ctx context.Context, r io.Reader, progress func(bytes int)) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, &untilDone{ctx, r, progress}); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// untilDone is a reader that a context ends, and that tells what was read.
type untilDone struct {
	ctx      context.Context
	r        io.Reader
	progress func(int)
}

func (u *untilDone) Read(b []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	n, err := u.r.Read(b)
	u.progress(n)
	return n, err
}
