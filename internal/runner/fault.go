package runner

import (
	"errors"

	"github.com/skein-run/skein/internal/runner/shard"
	"github.com/skein-run/skein/internal/runner/wire"
)

// faultCode is the code of generations that a fault of the loop ends.
func faultCode(err error) string {
	var lost *shard.LostError
	if errors.As(err, &lost) {
		return wire.CodeShard
	}
	return wire.CodeInternal
}
