package generation

import (
	"context"

	"github.com/skein-run/skein/internal/runner/wire"
)

// Model is a loaded model as this package needs it; internal/supervise's
// Runner satisfies it.
type Model interface {
	Info() wire.ModelInfo
	// Tokenize turns text into token ids. addSpecial adds BOS and the like as
	// the model wants; parseSpecial reads control tokens such as <|im_start|>.
	Tokenize(ctx context.Context, text string, addSpecial, parseSpecial bool) ([]int32, error)
	// Detokenize gives the text of tokens, control tokens written out.
	Detokenize(ctx context.Context, tokens []int32) (string, error)
	// Generate starts a generation; cancelling ctx cancels it.
	Generate(ctx context.Context, req wire.GenerateRequest) (Stream, error)
}

// Stream yields the tokens of one generation in order. It has one reader.
type Stream interface {
	// Next waits for more: it returns at least one token, or done != nil when
	// the generation ended (possibly together with last tokens), or an error
	// when the runner is gone. After done or an error it must not be called.
	Next(ctx context.Context) (tokens []wire.Token, done *wire.Done, err error)
	// Close cancels the generation if it still runs. Idempotent.
	Close()
}
