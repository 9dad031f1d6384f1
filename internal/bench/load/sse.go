package load

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// maxEvent bounds one event: a server that never ends a line is not waited for.
const maxEvent = 4 << 20

// eventReader takes the data of server-sent events out of a stream. Names and
// ids of events are skipped: OpenAI's streams have none.
type eventReader struct {
	r    *bufio.Reader
	data []byte // reused
}

func newEventReader(r io.Reader) *eventReader {
	return &eventReader{r: bufio.NewReaderSize(r, 32<<10)}
}

// next gives the data of the next event, valid until the following call. The
// end of the stream is io.EOF, within an event io.ErrUnexpectedEOF.
func (e *eventReader) next() ([]byte, error) {
	e.data = e.data[:0]
	any := false
	for {
		line, err := e.line()
		if err != nil {
			if errors.Is(err, io.EOF) && (any || len(line) > 0) {
				return nil, io.ErrUnexpectedEOF
			}
			return nil, err
		}
		switch {
		case len(line) == 0:
			if any {
				return e.data, nil
			}
		case line[0] == ':': // keep-alive
		default:
			value, ok := bytes.CutPrefix(line, []byte("data:"))
			if !ok {
				continue
			}
			if any {
				e.data = append(e.data, '\n')
			}
			any = true
			e.data = append(e.data, bytes.TrimPrefix(value, []byte(" "))...)
			if len(e.data) > maxEvent {
				return nil, fmt.Errorf("an event is longer than %d bytes", maxEvent)
			}
		}
	}
}

// line reads up to a newline and leaves it, and a carriage return, away.
func (e *eventReader) line() ([]byte, error) {
	line, err := e.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		long := bytes.Clone(line)
		for errors.Is(err, bufio.ErrBufferFull) {
			line, err = e.r.ReadSlice('\n')
			if long = append(long, line...); len(long) > maxEvent {
				return nil, fmt.Errorf("an event is longer than %d bytes", maxEvent)
			}
		}
		line = long
	}
	if err != nil {
		return line, err
	}
	return bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r")), nil
}
