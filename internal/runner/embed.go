package runner

import (
	"fmt"
	"io"

	"github.com/skein-run/skein/internal/gguf"
	"github.com/skein-run/skein/internal/gguf/slice"
	"github.com/skein-run/skein/internal/runner/schedule"
)

// embedder looks up rows of the embedding table in the model's file. The pages
// that are used often are the system's to keep.
type embedder struct {
	table      slice.Embed
	width      int // elements of a row
	part       io.ReaderAt
	dequantize func(t gguf.TensorType, data []byte, out []float32) error
	row        []byte // reused
}

func newEmbedder(e *slice.Embed, width int, parts []io.ReaderAt, dequantize func(gguf.TensorType, []byte, []float32) error) (*embedder, error) {
	if e == nil || e.Rows.Part < 0 || e.Rows.Part >= len(parts) {
		return nil, fmt.Errorf("embeddings: the table is not in the %d files of the model", len(parts))
	}
	return &embedder{table: *e, width: width, part: parts[e.Rows.Part], dequantize: dequantize, row: make([]byte, e.Row)}, nil
}

// Embed fills dst with a row for each item.
func (e *embedder) Embed(dst []float32, items []schedule.Item) error {
	rows := e.table.Rows.Bytes() / e.table.Row
	for i := range items {
		t := int64(items[i].Token)
		if t < 0 || t >= rows {
			return fmt.Errorf("token %d: the embedding table has %d rows", t, rows)
		}
		if _, err := e.part.ReadAt(e.row, e.table.Rows.Offset+t*e.table.Row); err != nil {
			return fmt.Errorf("read the embedding of token %d: %w", t, err)
		}
		out := dst[i*e.width : (i+1)*e.width]
		if err := e.dequantize(e.table.Type, e.row, out); err != nil {
			return err
		}
		if s := e.table.Scale; s != 1 {
			for k := range out {
				out[k] *= s
			}
		}
	}
	return nil
}
