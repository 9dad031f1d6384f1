package loop

import (
	"github.com/skein-run/skein/internal/runner/sample"
	"github.com/skein-run/skein/internal/runner/schedule"
)

// Backend is what the loop needs of a model: batches are started one after
// another and finished in the same order. A whole model has one in
// flight, a group of shards several. All calls come from the loop's goroutine.
type Backend interface {
	// Stages is how many batches compute at the same time: decode streams are
	// divided into so many groups. 1 for a whole model and for tensor ranks.
	Stages() int
	// Depth is how many batches may be started and not finished, at least
	// Stages; one more than Stages keeps the first stage busy in prompts.
	Depth() int
	// Start begins b. needs has one entry for each item with Output, in order;
	// more may be given than needed, a whole row always will do. Both are valid
	// until b is finished. An error means that the state is unknown.
	Start(b *schedule.Batch, needs []sample.Need) error
	// Finish waits for the oldest batch that is started. rows has one entry
	// for each of its items with Output, in order; they are void at the next
	// Start, Finish or Row, except that of a backend with a Depth above 1 they
	// outlive Starts. An error means that the state is unknown.
	Finish() (out schedule.Outcome, rows []sample.Row, err error)
	// Row gives the whole row of output i of the batch that was finished last:
	// where a draw needs more than was thought. It is called before the next
	// Finish; there may have been a Start if Depth is above 1.
	Row(i int) ([]float32, error)
}

// Vocabulary is what the loop needs of a tokenizer.
type Vocabulary interface {
	Vocabulary() int
	IsEnd(token int32) bool
	Piece(token int32, special bool) []byte
}
