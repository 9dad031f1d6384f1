package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// maxLine bounds one message on stdin; the same as a body of the API.
const maxLine = 16 << 20

// Stdio speaks the protocol on a pair of streams, one JSON message a line,
// until in ends or ctx does. Nothing else may write to out.
func Stdio(ctx context.Context, in io.Reader, out io.Writer, o Options) error {
	s, err := New(o)
	if err != nil {
		return err
	}
	w := &messages{w: out}
	err = s.Run(ctx, &sdk.IOTransport{Reader: &lines{in: bufio.NewReaderSize(in, 64<<10), out: w}, Writer: w})
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, io.EOF):
		return nil
	}
	return err
}

// messages writes whole messages, of the library and of lines.
type messages struct {
	mu sync.Mutex
	w  io.Writer // guarded by mu
}

func (m *messages) Write(b []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.w.Write(b)
}

// Close leaves the stream to its owner.
func (m *messages) Close() error { return nil }

// lines passes on the lines that are JSON, and answers the others: the library
// would end the session without a word. One goroutine reads.
type lines struct {
	in   *bufio.Reader
	out  *messages
	rest []byte // of the line that is being read
}

func (l *lines) Read(b []byte) (int, error) {
	for len(l.rest) == 0 {
		line, err := l.next()
		if err != nil {
			return 0, err
		}
		if line == nil {
			continue
		}
		l.rest = append(line, '\n')
	}
	n := copy(b, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}

// next gives a line that is a JSON value, nil for one that was skipped.
func (l *lines) next() ([]byte, error) {
	var line []byte
	tooLong := false
	for {
		part, err := l.in.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			tooLong, line = true, nil
		}
		if !tooLong {
			line = append(line, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil && (len(part) == 0 || !errors.Is(err, io.EOF)) {
			return nil, err
		}
		break
	}
	line = bytes.TrimSpace(line)
	switch {
	case tooLong:
		return nil, l.refuse(fmt.Sprintf("the message is longer than the %d bytes that are read; send less text", maxLine))
	case len(line) == 0:
		return nil, nil
	}
	var v json.RawMessage
	if err := json.Unmarshal(line, &v); err != nil {
		return nil, l.refuse(ParseError(err))
	}
	return line, nil
}

// ParseError says what is wrong with a message that is no JSON.
func ParseError(err error) string {
	return fmt.Sprintf("the message is not JSON (%v); send one JSON-RPC 2.0 object a message, such as {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}", err)
}

// Malformed is the answer to a message without an id that could be read.
func Malformed(code int, message string) []byte {
	data, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": nil, "error": map[string]any{"code": code, "message": message}})
	if err != nil {
		panic(fmt.Sprintf("agent: encode a message: %v", err)) // strings and numbers always can be
	}
	return data
}

func (l *lines) refuse(message string) error {
	_, err := l.out.Write(append(Malformed(codeParse, message), '\n'))
	return err
}

// codeParse is JSON-RPC's code of a message that is no JSON.
const codeParse = -32700

// Close leaves the stream to its owner.
func (l *lines) Close() error { return nil }
